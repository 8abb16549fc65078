"""FineWeb's own rules (Penedo et al. 2024, section 3.5), found by what differs between good and bad crawls."""

from __future__ import annotations

from typing import Literal

from data_prep.document import Document, Drop
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import lines, pieces, repeated

_STOPS = (".", "?", "!", '"', "'", "”", "’", "。", "！", "？", "…", ":", ";", "؟", "।")


class FineWeb(FilterSettings):
    """Line punctuation, repeated characters, short lines."""

    type: Literal["fineweb"]
    min_punctuated_lines: float = 0.12
    """Documents whose share of lines that end in punctuation is not above this are dropped."""
    max_duplicate_line_characters: float = 0.10
    max_short_lines: float = 0.67
    short_line: int = 30
    """A line of at most this many characters is short."""


def apply(document: Document, settings: FineWeb) -> Document | Drop:
    """The paper's three rules. Not implemented: the experiments on lists and on mean line length that the paper gave up."""
    total = ending = short = characters = size = 0
    for piece in pieces(document.text):
        rows = lines(piece)
        total += len(rows)
        ending += sum(row.endswith(_STOPS) for row in rows)
        short += sum(len(row) <= settings.short_line for row in rows)
        characters += repeated(rows)[1]
        size += sum(map(len, rows))
    if not total:
        return Drop("no lines")
    if ending <= settings.min_punctuated_lines * total:
        return Drop("few lines end in punctuation", f"{ending} of {total}")
    if short > settings.max_short_lines * total:
        return Drop("mostly short lines", f"{short} of {total}")
    if characters > settings.max_duplicate_line_characters * size:
        return Drop("repeated lines", f"{characters / size:.1%} of characters")
    return document
