"""Spam: advertising and fraud, by a classifier of messages, and by the marks of pages made for search engines."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.linear_text import LinearText
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import lines, words

SEGMENT = 300
"""Characters per segment of a longer text: about the length of the messages that the classifier learnt from."""
_URL = re.compile(r"\b(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|co\.uk|net|org|info|biz)\b\S*", re.IGNORECASE)
_MONEY = re.compile(r"[£$€]\s?\d[\d,.]*|\d+\s?p\b")
_LONG_NUMBER = re.compile(r"\b\d{5,}\b")


class Spam(FilterSettings):
    """Drops texts that are mostly spam, and pages that repeat a phrase for search engines."""

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
    stuffed, phrase = _phrase_share(document.text)
    if stuffed > settings.max_phrase_share:
        return Drop("keyword stuffing", f'"{phrase}" makes up {stuffed:.1%} of the words')
    known = {**document.metadata.get("scores", {}), "spam": round(share, 4)}
    return replace(document, metadata={**document.metadata, "scores": known})


def segment_scores(text: str) -> np.ndarray:
    """Probability of spam per segment."""
    return LinearText.load("spam").scores([normalise(segment) for segment in segments(text)])


def segments(text: str) -> list[str]:
    """The text in pieces of whole lines of about SEGMENT characters; at most 64, spread evenly over it."""
    pieces, current = [], ""
    for line in lines(text):
        for start in range(0, len(line), 2 * SEGMENT):
            current = f"{current} {line[start : start + 2 * SEGMENT]}".strip()
            if len(current) >= SEGMENT:
                pieces.append(current)
                current = ""
    if current and (not pieces or len(current) > SEGMENT // 3):
        pieces.append(current)
    return pieces if len(pieces) <= 64 else [pieces[int(i * len(pieces) / 64)] for i in range(64)]


def normalise(text: str) -> str:
    """Addresses, sums and long numbers as one word each: which number it is says nothing."""
    text = _URL.sub(" urlmark ", text)
    text = _MONEY.sub(" moneymark ", text)
    return _LONG_NUMBER.sub(" numbermark ", text)


def _phrase_share(text: str) -> tuple[float, str]:
    """(share of words covered, phrase) of the most frequent three words in a row."""
    tokens = [token.lower() for token in words(text) if token[0].isalnum()]
    if len(tokens) < 100:
        return 0.0, ""
    phrase, count = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False)).most_common(1)[0]
    return 3 * count / len(tokens), " ".join(phrase)
