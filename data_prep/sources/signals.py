"""Licences, from the names and links that texts and pages give them."""

from __future__ import annotations

import re
from functools import lru_cache

from license_expression import get_spdx_licensing
from resiliparse.parse.html import HTMLTree

_CC = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)/(\d\.\d)|publicdomain/(zero|mark)/(\d\.\d))", re.IGNORECASE)
_TERMS = r"(?:[\s-]*(?:non-?commercial|no-?deriv\w*|share-?alike))*"
_CC_NAME = re.compile(
    rf"\b(?:cc|creative commons)[\s_-]*(by(?:[\s_-]*(?:nc|nd|sa))*|zero|0|attribution{_TERMS})"
    r"(?:[\s_-]*(?:licen[cs]e)?[\s_-]*v?(\d\.\d))?",
    re.IGNORECASE,
)
_WORDS = (("attribution", "by"), ("noncommercial", "nc"), ("non-commercial", "nc"), ("sharealike", "sa"), ("share-alike", "sa"))
_COMMON = {
    "apache license 2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "mit license": "MIT",
    "the mit license": "MIT",
    "gplv2": "GPL-2.0-only",
    "gplv3": "GPL-3.0-only",
    "lgplv3": "LGPL-3.0-only",
    "bsd license": "BSD-3-Clause",
    "public domain": "LicenseRef-public-domain",
    "psf": "PSF-2.0",
    "gfdl": "GFDL-1.3-or-later",
    "odc-by": "ODC-By-1.0",
    "odbl": "ODbL-1.0",
}
_RIGHTS = ("dc.rights", "dcterms.license", "dcterms.rights", "dc.rights.license", "license")


@lru_cache(maxsize=4096)
def spdx(text: str) -> str | None:
    """The SPDX id of a licence's name, URL or expression; None when it is none that is known."""
    text = " ".join(text.split())
    if match := _CC.search(text):
        kind, version, tool, _ = match.groups()
        if tool:
            return "CC0-1.0" if tool.lower() == "zero" else "LicenseRef-public-domain-mark"
        return f"CC-{kind.upper()}-{version}"
    lower = text.lower().strip(" .")
    if lower in _COMMON:
        return _COMMON[lower]
    licensing = get_spdx_licensing()
    info = licensing.validate(text)
    if not info.errors and info.normalized_expression:
        return str(info.normalized_expression)
    if match := _CC_NAME.search(text):
        kind = match.group(1).lower()
        if kind in ("zero", "0"):
            return "CC0-1.0"
        for word, short in _WORDS:
            kind = kind.replace(word, short)
        parts = [part for part in ("by", "nc", "nd", "sa") if part in re.split(r"[\s_-]+", kind)]
        return f"CC-{'-'.join(parts).upper()}-{match.group(2) or '4.0'}" if "by" in parts else None
    return None


def licence_of(tree: HTMLTree) -> tuple[str | None, list[str]]:
    """(SPDX id, evidence) of a page. Marks that speak for the page (rel=license, dcterms) come before links to Creative
    Commons anywhere in it; where either disagree among themselves the licence is None and the evidence says why."""
    marked = [node.getattr("href") or "" for node in _all(tree, "a[rel~='license'], link[rel~='license']")]
    for node in _all(tree, "meta[name]"):
        if (node.getattr("name") or "").lower() in _RIGHTS:
            marked.append(node.getattr("content") or "")
    linked = [node.getattr("href") or "" for node in _all(tree, "a[href*='creativecommons.org/']")]
    for how, texts in (("marked", marked), ("linked", linked)):
        found = sorted({identifier for text in texts if (identifier := spdx(text))})
        if found:
            return (found[0] if len(found) == 1 else None), [f"{how}: {identifier}" for identifier in found]
    return None, []


def _all(tree: HTMLTree, selector: str) -> list:
    return list(tree.document.query_selector_all(selector)) if tree.document else []
