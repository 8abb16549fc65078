"""The rules of C4 (Raffel et al. 2020, section 2.2)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import SENTENCE_END, pieces

_TERMINAL = (".", "?", "!", '"', "'", "”", "’", "。", "！", "？", "؟", "।")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[\d{1,3}\]|\[edit\]|\[citation needed\]", re.IGNORECASE)


class C4(FilterSettings):
    """Keeps lines that look like sentences; drops pages that are code, placeholders, or too short."""

    type: Literal["c4"]
    terminal_punctuation: bool = True
    """Remove lines that do not end in a punctuation mark."""
    min_words_per_line: int = Field(default=3, ge=0)
    min_sentences: int = Field(default=5, ge=0)


def apply(document: Document, settings: C4) -> Document | Drop:
    """Lines without terminal punctuation, of too few words, on javascript or cookies are removed, citation marks cut out; pages
    with "lorem ipsum", a curly bracket, or too few sentences are dropped.

    Not implemented here: the bad-words list (see the toxicity filter), three-sentence spans that occur elsewhere (see
    deduplication), langdetect at 0.99 (see the language filter).
    """
    if any("lorem ipsum" in piece.lower() for piece in pieces(document.text)):
        return Drop("lorem ipsum")
    if "{" in document.text:
        return Drop("curly bracket")
    text = "\n".join(_kept_lines(piece.removesuffix("\n"), settings) for piece in pieces(document.text)).strip()
    sentences = sum(1 for _ in SENTENCE_END.finditer(text))
    if sentences < settings.min_sentences:
        return Drop("too few sentences", f"{sentences} in the lines kept, at least {settings.min_sentences}")
    return document if text == document.text else replace(document, text=text)


def _kept_lines(text: str, settings: C4) -> str:
    kept: list[str] = []
    for line in text.split("\n"):
        line = _CITATION.sub("", line).strip()
        small = line.lower()
        wrong_end = settings.terminal_punctuation and (not line.endswith(_TERMINAL) or line.endswith(("...", "…")))
        if not line:
            if kept and kept[-1]:
                kept.append("")
        elif not (
            wrong_end
            or len(line.split()) < settings.min_words_per_line
            or "javascript" in small
            or any(phrase in small for phrase in _POLICY)
        ):
            kept.append(line)
    return "\n".join(kept)
