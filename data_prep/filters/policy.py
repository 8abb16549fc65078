"""Policies: what the recipe does with opt-out signals and licences that the sources recorded."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.settings import FilterSettings
from data_prep.sources import licences


class OptOut(FilterSettings):
    """Drops documents whose owner said no to training: robots.txt against AI crawlers, noai, TDM reservation."""

    type: Literal["opt_out"]
    ignore: list[str] = Field(default_factory=list)
    """Signals to pass over, as patterns such as "robots.txt: *"."""


class LicencePolicy(FilterSettings):
    """Keeps documents under the licences given."""

    type: Literal["licence"]
    allow: list[str] = Field(min_length=1)
    """SPDX ids, other names of licences ("CC BY 4.0"), or patterns of ids; case counts in patterns. "CC-BY-*" also takes
    CC-BY-NC-ND-4.0: "CC-BY-[0-9]*" is Attribution alone. A name without a version is an id of its own: "LicenseRef-CC-BY"
    allows documents that say no more than "CC BY"."""
    unknown: Literal["keep", "drop"] = "drop"
    """Fate of documents that name no licence, and whose source has none."""
    not_understood: Literal["keep", "drop"] = "drop"
    """Fate of documents that name a licence whose text is none that is known, and is not among `allow` as it stands."""


def apply_opt_out(document: Document, settings: OptOut) -> Document | Drop:
    """Looks at the metadata's `opt_out` only: what the sources found."""
    signals = [s for s in document.metadata.get("opt_out", []) if not any(fnmatchcase(s, p) for p in settings.ignore)]
    return Drop("opted out", "; ".join(signals)) if signals else document


def apply_licence(document: Document, settings: LicencePolicy) -> Document | Drop:
    """Looks at the metadata's `licence` only. Of an SPDX expression, one side of an OR and both of an AND must be allowed."""
    licence = document.metadata.get("licence")
    if not licence:
        return Drop("licence unknown") if settings.unknown == "drop" else document
    verdict = _allowed(str(licence), tuple(settings.allow))
    if verdict is None:
        return Drop("licence not understood", str(licence)[:200]) if settings.not_understood == "drop" else document
    return document if verdict else Drop("licence not allowed", str(licence))


@lru_cache(maxsize=4096)
def _allowed(licence: str, patterns: tuple[str, ...]) -> bool | None:
    """Whether a licence is among those allowed; None for one that is not understood."""
    patterns += tuple(filter(None, (licences.spdx(pattern) for pattern in patterns if not set(pattern) & set("*?["))))
    if licence in patterns:
        return True
    expression = licences.spdx(licence)
    if expression is None:
        return True if any(fnmatchcase(licence, pattern) for pattern in patterns if pattern != "*") else None
    return _holds(licences.parse(expression), patterns)


def _holds(tree: Any, patterns: tuple[str, ...]) -> bool:
    operator = str(getattr(tree, "operator", "")).strip()
    if operator in ("AND", "OR"):
        combine = all if operator == "AND" else any
        return combine(_holds(part, patterns) for part in tree.args)
    return any(fnmatchcase(str(tree), pattern) for pattern in patterns)
