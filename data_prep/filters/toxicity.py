"""Toxic text: an offline classifier, and a list of words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.linear_text import FOLDER, LinearText
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import lines, pieces

SEGMENT = 200
"""Characters per segment of a longer text: about the length of the tweets that the classifier learnt from."""
_MENTION = re.compile(r"@\w+")
_URL = re.compile(r"https?://\S+")
_ENTITY = re.compile(r"&#?\w+;")
_WORD = re.compile(r"\w+")
_SENTENCE_GAP = re.compile(r"(?<=[.!?])\s+")


class Toxicity(FilterSettings):
    """Drops texts with too many toxic segments, or with too many words of the list. It knows English alone: short texts of
    other languages may be dropped by chance, so put the language filter before it, or name `only_sources`."""

    type: Literal["toxicity"]
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Probability from which a segment is toxic."""
    max_toxic_share: float = Field(default=0.2, ge=0, le=1)
    """Texts with a larger share of toxic segments (a short text is one segment) are dropped."""
    need_listed_word: bool = True
    """In texts of more than one segment, only segments with a word of the list or the learnt one count: a classifier of tweets
    errs on the prose of books."""
    max_listed_words: float | None = Field(default=None, ge=0, le=1)
    """Largest share of words on the list (0 is C4's rule: none at all); null: the list alone drops nothing."""


def apply(document: Document, settings: Toxicity) -> Document | Drop:
    """Trained on the tweets of Davidson et al. 2017 (hate or offensive against neither); the list is LDNOOBW, which C4 used.

    Limits: the tweets' labels are biased against African American English (Sap et al. 2019), lists against words that groups
    use of themselves; irony, threats without such words and other languages are not seen. Look at what is dropped.
    """
    count, scores = judge_segments(document.text, settings.need_listed_word)
    share = float((scores >= settings.threshold).sum()) / max(1, count)
    if share > settings.max_toxic_share:
        return Drop("toxic", f"{share:.0%} of {count} segments, highest score {scores.max():.2f}")
    if settings.max_listed_words is not None:
        found = sum(map(listed_words, pieces(document.text)))
        total = max(1, sum(len(piece.split()) for piece in pieces(document.text)))
        if found > settings.max_listed_words * total:
            return Drop("listed words", f"{found} of {total} words")
    known = {**document.metadata.get("scores", {}), "toxicity": round(share, 4)}
    return replace(document, metadata={**document.metadata, "scores": known})


def judge_segments(text: str, need_listed_word: bool) -> tuple[int, np.ndarray]:
    """Return (number of segments, probabilities of toxicity of those that were judged: float64 [segments judged])."""
    several = len(list(islice(segments(text), 2))) > 1
    candidates = _present(text) if need_listed_word and several else None
    if candidates == []:
        return 2, np.empty(0)  # two or more: none of them counts
    count, scores, batch = 0, [], []
    for segment in segments(text):
        count += 1
        if candidates is None or _has_one(segment, candidates):
            batch.append(normalise(segment))
        if len(batch) == 1000:
            scores.append(LinearText.load("toxicity").scores(batch))
            batch = []
    scores.append(LinearText.load("toxicity").scores(batch))
    return count, np.concatenate(scores)


def _present(text: str) -> list[str]:
    """Return the entries of the list that may be in the text: words that are, and phrases all of whose words are."""
    words, phrases, _ = _list()
    found: set[str] = set()
    for piece in pieces(text):
        found.update(_WORD.findall(piece.lower()))
    present = (phrase for phrase, parts in phrases.items() if (parts <= found if parts else phrase in text))
    return [*(words & found), *present]


def _has_one(segment: str, candidates: list[str]) -> bool:
    lower = segment.lower()
    return any(entry in lower for entry in candidates) and listed_words(segment) > 0


def segments(text: str) -> Iterator[str]:
    """Yield pieces of whole sentences of about SEGMENT characters; a text of up to twice that is one piece."""
    if len(text) <= 2 * SEGMENT:
        if text.strip():
            yield text
        return
    current = ""
    for line in (line for piece in pieces(text) for line in lines(piece)):
        for sentence in _SENTENCE_GAP.split(line):
            parts = (sentence,)
            if len(sentence) > 2 * SEGMENT:
                parts = tuple(sentence[start : start + 2 * SEGMENT].strip() for start in range(0, len(sentence), 2 * SEGMENT))
            for part in parts:
                current = f"{current} {part}" if current else part
                if len(current) >= SEGMENT:
                    yield current
                    current = ""
    if current:
        yield current


def normalise(text: str) -> str:
    """Names and addresses as one word each."""
    return _ENTITY.sub(" ", _URL.sub(" urlmark ", _MENTION.sub(" mentionmark ", text)))


def listed_words(text: str) -> int:
    """How many words and phrases of the list a text has, whole ones, in any case."""
    words, _, phrases = _list()
    lower = text.lower()
    return sum(map(words.__contains__, _WORD.findall(lower))) + len(phrases.findall(lower))


@lru_cache(maxsize=1)
def _list() -> tuple[frozenset[str], dict[str, frozenset[str]], re.Pattern[str]]:
    """Return (single words, phrase -> its words, a pattern of all phrases). A phrase holds more than letters and digits."""
    lines_of_list = (FOLDER / "ldnoobw_en.txt").read_text(encoding="utf-8").split("\n")
    entries = sorted({entry.strip().lower() for entry in lines_of_list if entry.strip()}, key=len, reverse=True)
    words = frozenset(entry for entry in entries if _WORD.fullmatch(entry))
    phrases = {entry: frozenset(_WORD.findall(entry)) for entry in entries if entry not in words}
    return words, phrases, re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, phrases))})(?!\w)")
