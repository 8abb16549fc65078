"""Policies: what the recipe does with opt-out signals and licences that the sources recorded."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal

from license_expression import ExpressionError, get_spdx_licensing
from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.settings import FilterSettings


class OptOut(FilterSettings):
    """Drops documents whose owner said no to training: robots.txt against AI crawlers, noai, TDM reservation."""

    type: Literal["opt_out"]
    ignore: list[str] = Field(default_factory=list)
    """Signals to pass over, as patterns such as "robots.txt: *"."""


class LicencePolicy(FilterSettings):
    """Keeps documents under the licences given."""

    type: Literal["licence"]
    allow: list[str] = Field(min_length=1)
    """SPDX ids or patterns of them, such as "CC-BY-*" or "CC0-1.0"; case counts."""
    unknown: Literal["keep", "drop"] = "drop"
    """What becomes of documents without a licence."""


def apply_opt_out(document: Document, settings: OptOut) -> Document | Drop:
    """Looks at the metadata's `opt_out` only: what the sources found."""
    signals = [s for s in document.metadata.get("opt_out", []) if not any(fnmatchcase(s, p) for p in settings.ignore)]
    return Drop("opted out", "; ".join(signals)) if signals else document


def apply_licence(document: Document, settings: LicencePolicy) -> Document | Drop:
    """Looks at the metadata's `licence` only. Of an SPDX expression, one side of an OR and both of an AND must be allowed."""
    licence = document.metadata.get("licence")
    if not licence:
        return Drop("licence unknown") if settings.unknown == "drop" else document
    if not _allowed(str(licence), tuple(settings.allow)):
        return Drop("licence not allowed", str(licence))
    return document


@lru_cache(maxsize=4096)
def _allowed(licence: str, patterns: tuple[str, ...]) -> bool:
    if any(fnmatchcase(licence, pattern) for pattern in patterns):
        return True
    if not re.search(r"\b(?:AND|OR)\b", licence):
        return False
    try:
        tree = get_spdx_licensing().parse(licence)
    except ExpressionError:
        return False
    return _holds(tree, patterns)


def _holds(tree: Any, patterns: tuple[str, ...]) -> bool:
    if getattr(tree, "operator", "").strip() in ("AND", "OR"):
        combine = all if tree.operator.strip() == "AND" else any
        return combine(_holds(part, patterns) for part in tree.args)
    return any(fnmatchcase(str(tree), pattern) for pattern in patterns)
