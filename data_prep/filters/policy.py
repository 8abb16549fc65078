"""Policies: what the recipe does with opt-out signals and licences that the sources recorded."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

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
    """Looks at the metadata's `licence` only. Not implemented: expressions (MIT OR Apache-2.0) are one name."""
    licence = document.metadata.get("licence")
    if not licence:
        return Drop("licence unknown") if settings.unknown == "drop" else document
    if not any(fnmatchcase(str(licence), pattern) for pattern in settings.allow):
        return Drop("licence not allowed", str(licence))
    return document
