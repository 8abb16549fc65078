"""Licences, from the names and links that texts and pages give them."""

from __future__ import annotations

from resiliparse.parse.html import HTMLTree

from data_prep.sources.licences import spdx

_RIGHTS = ("dc.rights", "dcterms.license", "dcterms.rights", "dc.rights.license", "license")


def licence_of(tree: HTMLTree) -> tuple[str | None, list[str]]:
    """(licence, evidence) of a page. Marks that speak for the page (rel=license, dcterms) come before links to Creative
    Commons anywhere in it; where either disagree among themselves the licence is None and the evidence says why. A mark that is
    not understood is the licence as its own text."""
    marked = [node.getattr("href") or "" for node in _all(tree, "a[rel~='license'], link[rel~='license']")]
    for node in _all(tree, "meta[name]"):
        if (node.getattr("name") or "").lower() in _RIGHTS:
            marked.append(node.getattr("content") or "")
    linked = [node.getattr("href") or "" for node in _all(tree, "a[href*='creativecommons.org/']")]
    for how, texts in (("marked", marked), ("linked", linked)):
        found = sorted({identifier for text in texts if (identifier := spdx(text))})
        if found:
            return (found[0] if len(found) == 1 else None), [f"{how}: {identifier}" for identifier in found]
        unknown = next((text.strip() for text in texts if text.strip()), None) if how == "marked" else None
        if unknown:
            return unknown, [f"marked: {unknown}"]
    return None, []


def _all(tree: HTMLTree, selector: str) -> list:
    return list(tree.document.query_selector_all(selector)) if tree.document else []
