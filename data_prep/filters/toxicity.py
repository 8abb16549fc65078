"""Toxic text: an offline classifier, and a list of words."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.linear_text import FOLDER, LinearText
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import lines

SEGMENT = 200
"""Characters per segment of a longer text: about the length of the tweets that the classifier learnt from."""
_MENTION = re.compile(r"@\w+")
_URL = re.compile(r"https?://\S+")
_ENTITY = re.compile(r"&#?\w+;")
_WORD = re.compile(r"\w+")


class Toxicity(FilterSettings):
    """Drops texts with too many toxic segments, or with too many words of the list."""

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
    pieces = segments(document.text)
    judged = pieces
    if settings.need_listed_word and len(pieces) > 1:
        judged = [piece for piece in pieces if listed_words(piece)]
    scores = LinearText.load("toxicity").scores([normalise(piece) for piece in judged])
    share = float((scores >= settings.threshold).sum()) / max(1, len(pieces))
    if share > settings.max_toxic_share:
        return Drop("toxic", f"{share:.0%} of {len(pieces)} segments, highest score {scores.max():.2f}")
    if settings.max_listed_words is not None:
        found = listed_words(document.text)
        total = max(1, len(document.text.split()))
        if found > settings.max_listed_words * total:
            return Drop("listed words", f"{found} of {total} words")
    known = {**document.metadata.get("scores", {}), "toxicity": round(share, 4)}
    return replace(document, metadata={**document.metadata, "scores": known})


def segments(text: str) -> list[str]:
    """Pieces of whole sentences of about SEGMENT characters; a text of up to twice that is one piece."""
    if len(text) <= 2 * SEGMENT:
        return [text] if text.strip() else []
    pieces, current = [], ""
    for line in lines(text):
        for sentence in re.split(r"(?<=[.!?])\s+", line):
            for start in range(0, len(sentence), 2 * SEGMENT):
                current = f"{current} {sentence[start : start + 2 * SEGMENT]}".strip()
                if len(current) >= SEGMENT:
                    pieces.append(current)
                    current = ""
    return [*pieces, current] if current else pieces


def normalise(text: str) -> str:
    """Names and addresses as one word each."""
    return _ENTITY.sub(" ", _URL.sub(" urlmark ", _MENTION.sub(" mentionmark ", text)))


def listed_words(text: str) -> int:
    """How many words and phrases of the list a text has, whole ones, in any case."""
    words, phrases = _list()
    lower = text.lower()
    return sum(map(words.__contains__, _WORD.findall(lower))) + len(phrases.findall(lower))


@lru_cache(maxsize=1)
def _list() -> tuple[frozenset[str], re.Pattern[str]]:
    """(single words, what holds more than letters and digits)."""
    lines_of_list = (FOLDER / "ldnoobw_en.txt").read_text(encoding="utf-8").split("\n")
    entries = sorted({entry.strip().lower() for entry in lines_of_list if entry.strip()}, key=len, reverse=True)
    words = frozenset(entry for entry in entries if _WORD.fullmatch(entry))
    phrases = "|".join(re.escape(entry) for entry in entries if entry not in words)
    return words, re.compile(rf"(?<!\w)(?:{phrases})(?!\w)")
