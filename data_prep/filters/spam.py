"""Spam: advertising and fraud, by a classifier of messages, and by the marks of pages made for search engines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.linear_text import LinearText
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import chain, code_points, lines, pieces, strings, words

SEGMENT = 300
"""Characters per segment of a longer text: about the length of the messages that the classifier learnt from."""
_LEAST_WORDS = 100
"""Words of a text below which a phrase that comes again is no stuffing."""
_URL = re.compile(r"\b(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|co\.uk|net|org|info|biz)\b\S*", re.IGNORECASE)
_MONEY = re.compile(r"[£$€]\s?\d[\d,.]*|\d+\s?p\b")
_URL_MARKS = ("http", "www.", ".com", ".co.uk", ".net", ".org", ".info", ".biz")
"""Each address has one of them."""
_DIGIT = re.compile(r"\d")
_LONG_NUMBER = re.compile(r"\b\d{5,}\b")


class Spam(FilterSettings):
    """Drops texts that are mostly spam, and pages that repeat a phrase for search engines. It knows messages and web pages:
    of changelogs it took a third for spam, of docstrings and help pages 4 to 7%: name `only_sources` for the others."""

    type: Literal["spam"]
    threshold: float = Field(default=0.35, ge=0, le=1)
    """Probability from which a segment is spam; the default is the best in cross-validation."""
    max_spam_share: float = Field(default=0.5, ge=0, le=1)
    """Texts with a larger share of spam segments (a short text is one segment) are dropped."""
    max_phrase_share: float = Field(default=0.12, ge=0, le=1)
    """Largest share of a text of 100 words or more that one phrase of three words may make up: keyword stuffing."""


def apply(document: Document, settings: Spam) -> Document | Drop:
    """Trained on the UCI SMS Spam Collection (Almeida et al. 2011), so best on short English messages and comments; a long text
    is judged by segments. Keyword stuffing follows Ntoulas et al. 2006, section 4. Not implemented: link farms, cloaking,
    host reputation, languages other than English."""
    scores = segment_scores(document.text)
    share = float((scores >= settings.threshold).mean()) if len(scores) else 0.0
    if share > settings.max_spam_share:
        return Drop("spam", f"{share:.0%} of {len(scores)} segments, highest score {scores.max():.2f}")
    stuffed = _phrase_share(document.text)
    if stuffed > settings.max_phrase_share:
        return Drop("keyword stuffing", f'"{_top_phrase(document.text)}" makes up {stuffed:.1%} of the words')
    known = {**document.metadata.get("scores", {}), "spam": round(share, 4)}
    return replace(document, metadata={**document.metadata, "scores": known})


def segment_scores(text: str) -> np.ndarray:
    """Probability of spam per segment."""
    return LinearText.load("spam").scores([normalise(segment) for segment in segments(text)])


def segments(text: str) -> list[str]:
    """Return the text in pieces of whole lines of about SEGMENT characters; at most 64, spread evenly over it."""
    found = list(_all_segments(text))
    return found if len(found) <= 64 else [found[int(i * len(found) / 64)] for i in range(64)]


def _all_segments(text: str) -> Iterator[str]:
    current, first = "", True
    for line in (line for piece in pieces(text) for line in lines(piece)):
        for start in range(0, len(line), 2 * SEGMENT):
            current = f"{current} {line[start : start + 2 * SEGMENT]}".strip()
            if len(current) >= SEGMENT:
                yield current
                current, first = "", False
    if current and (first or len(current) > SEGMENT // 3):
        yield current


def normalise(text: str) -> str:
    """Return the text with addresses, sums and long numbers as one word each: which number it is says nothing."""
    small = text.lower()
    if any(mark in small for mark in _URL_MARKS):
        text = _URL.sub(" urlmark ", text)
    if _DIGIT.search(text):
        text = _LONG_NUMBER.sub(" numbermark ", _MONEY.sub(" moneymark ", text))
    return text


def _phrase_share(text: str) -> float:
    """Return the share of words that the most frequent three words in a row make up, in each piece of a long text."""
    covered = total = 0
    for piece in pieces(text):
        if len(piece) < 2 * _LEAST_WORDS:
            continue
        _, keys = _lower_words(piece)
        total += len(keys)
        if len(keys) >= 3:
            ordered = np.sort(chain(chain(keys[:-2], keys[1:-1]), keys[2:]))
            bounds = np.flatnonzero(ordered[1:] != ordered[:-1])
            covered += 3 * int(np.diff(bounds, prepend=-1, append=len(ordered) - 1).max())
    return covered / total if total >= _LEAST_WORDS else 0.0


def _lower_words(piece: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (starts, keys) of the words that begin with a letter or digit, in lower case."""
    lower = piece.lower()
    found = words(lower)
    real = found.real
    if "_" in lower:
        real = real & (code_points(lower)[found.starts] != ord("_"))
    return found.starts[real], found.keys[real]


def _top_phrase(text: str) -> str:
    """Return the most frequent three words in a row of a text, or of the first piece of a long one."""
    piece = next(pieces(text))
    tokens = [token.lower() for token in strings(piece) if token[0].isalnum()]
    return " ".join(Counter(zip(tokens, tokens[1:], tokens[2:], strict=False)).most_common(1)[0][0])
