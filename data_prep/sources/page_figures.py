"""Raised and lowered figures and formulas of pages as text that means the same: 10<sup>6</sup> is 10^6 and never 106.

Formulas become TeX between dollar signs where the page carries it (MathJax, KaTeX, MathML annotations, alternative texts of
pictures); MathML without TeX is written out by mathml.
"""

from __future__ import annotations

import re
from typing import Literal

from resiliparse.parse.html import DOMNode, HTMLTree

from data_prep.sources import mathml

Powers = Literal["caret", "unicode", "plain"]
MAX_FIGURES = 20_000
"""Raised and lowered texts of a page that are looked at."""
_RAISED = dict(zip("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ", strict=True))
_LOWERED = dict(zip("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎", strict=True))
_UNITS = frozenset("metre metres meter meters foot feet inch inches mile miles yard yards sec second seconds".split())  # noqa: SIM905
_ORDINALS = frozenset("st nd rd th e er ère re ème ième nd nde d ds o os a as º ª te ter de".split())  # noqa: SIM905
_EXPRESSION = re.compile(
    r"[+\-−–±]?(?:\d+(?:[.,/]\d+)*|[A-Za-zα-ωΑ-Ω])(?:\s?[+\-−–·*/]\s?(?:\d+|[A-Za-zα-ω]))*[+\-−–]?|[+\-−–]\Z"
)
_FORMULAS = (
    ".katex", "mjx-container", ".mwe-math-element", "math", "script[type^='math/']", "img.latex", "img.tex", "img.mwe-math",
    "img[class*='math-fallback']", "img[src*='latex.php']", "img.math",
)  # fmt: skip
_RENDERED = ".MathJax, .MathJax_Display, .MathJax_Preview, .MathJax_SVG, .MathJax_CHTML, .mjx-chtml, .MathJax_SVG_Display"


def write_out(tree: HTMLTree, powers: Powers) -> None:
    """Replace formulas and raised and lowered texts in the tree by text."""
    if tree.body is None:
        return
    _write_formulas(tree)
    if powers == "plain":
        return
    for node in tree.body.query_selector_all("sup, sub")[:MAX_FIGURES]:
        text = " ".join(node.text.replace("\ufdd0", "").split())
        if not text or len(text) > 20 or node.query_selector("sup, sub, img, br, p, div") is not None:
            continue
        before, after = _text_before(node), _text_after(node)
        if node.tag == "sup":
            linked = node.query_selector("a[href*='#']") is not None or node.closest("a[href*='#']") is not None
            written = _raised(text, before, after, linked, powers)
        else:
            written = _lowered(text, before, after, powers)
        if written != text:
            node.replace_with(tree.create_text_node(written))


def _raised(text: str, before: str, after: str, linked: bool, powers: Powers) -> str:
    """A raised text: a power, a fraction's top, a note's number, an ordinal's end, or as it is."""
    if not before or before[-1].isspace():
        return text
    if re.match(r"\s*[/⁄]", after) and text.isdigit():
        return f" {text}" if before[-1].isdigit() else text
    word = re.search(r"[^\W\d_]*$", before).group()
    if linked and re.fullmatch(r"\(?[\d*†‡§]{1,4}\)?|[a-z]", text):
        return f"[{text}]"
    if not _EXPRESSION.fullmatch(text):
        return text
    if text.isalpha():
        base = before[-1].isdigit() or (len(word) == 1 and text not in _ORDINALS)
        return _power(text, powers) if base and text.lower() not in _ORDINALS else text
    if before[-1].isalnum() or before[-1] in ")]}|²³′'":
        note = text.isdigit() and len(word) > 3 and word.lower() not in _UNITS
        return f"[{text}]" if note else _power(text, powers)
    return f"[{text}]" if text.isdigit() and before[-1] in '.,;:!?"”»’' else text


def _lowered(text: str, before: str, after: str, powers: Powers) -> str:
    """A lowered text: CO2 stays plain; an index that would run into figures, or of letters, is marked."""
    if not before or before[-1].isspace() or re.search(r"[/⁄]\s*$", before) or not _EXPRESSION.fullmatch(text):
        return text
    if powers == "unicode" and all(sign in _LOWERED for sign in text):
        return "".join(_LOWERED[sign] for sign in text)
    runs_on = before[-1].isdigit() or after[:1].isdigit()
    if text.isdigit() and not runs_on:
        return text if before[-1].isalpha() or before[-1] in ")]" else f"_{text}"
    gap = " " if after[:1].isalnum() else ""
    return f"_{text}{gap}" if len(text) == 1 or text.isdigit() else f"_({text})"


def _power(text: str, powers: Powers) -> str:
    if powers == "unicode" and all(sign in _RAISED for sign in text):
        return "".join(_RAISED[sign] for sign in text)
    text = text.replace("−", "-").replace("–", "-")
    return f"^{text}" if re.fullmatch(r"[+-]?(?:\d+(?:\.\d+)?|\w)|[+-]|\d+[+-]", text) else f"^({text})"


def _text_before(node: DOMNode) -> str:
    """Up to 30 characters in front of a node, on its line; of an inline parent's, when it is the first in it."""
    return _beside(node, "prev", slice(-30, None))


def _text_after(node: DOMNode) -> str:
    return _beside(node, "next", slice(0, 30))


def _beside(node: DOMNode, way: str, part: slice) -> str:
    for _ in range(3):
        beside = getattr(node, way)
        while beside is not None and not (text := beside.text.replace("\ufdd0", "")) and beside.tag == "#text":
            beside = getattr(beside, way)
        if beside is not None:
            return (
                ""
                if beside.tag in ("br", "p", "div", "li", "img") or (way == "next" and beside.tag in ("sup", "sub"))
                else text[part]
            )
        node = node.parent
        if node is None or node.tag not in ("i", "b", "em", "strong", "span", "a", "var", "font"):
            return ""
    return ""


def _write_formulas(tree: HTMLTree) -> None:
    rendered = tree.body.query_selector_all(_RENDERED)
    sources = tree.body.query_selector("script[type^='math/'], .MJX_Assistive_MathML, [data-mathml]")
    if sources is not None:
        for node in rendered:
            markup = node.getattr("data-mathml") or next(
                (n.getattr("data-mathml") for n in node.query_selector_all("[data-mathml]")), None
            )
            follows = node.next is not None and node.next.tag == "script"
            if markup and not follows and node.parent is not None:
                node.replace_with(tree.create_text_node(mathml.to_text(markup)))
            elif node.parent is not None:
                node.decompose()
    for node in tree.body.query_selector_all(", ".join(_FORMULAS))[:MAX_FIGURES]:
        if node.parent is None:
            continue
        written = _formula(node)
        if written is not None:
            node.replace_with(tree.create_text_node(written))


def _formula(node: DOMNode) -> str | None:
    """The text of a formula; None for a node that is none."""
    if node.tag == "img":
        alternative = (node.getattr("alt") or "").strip()
        return _dollars(alternative) if alternative else None
    if node.tag == "script":
        return _dollars(node.text) if "tex" in (node.getattr("type") or "") else mathml.to_text(node.text)
    annotation = node.query_selector("annotation[encoding*='tex' i]")
    if annotation is not None and annotation.text.strip():
        return _dollars(annotation.text)
    formula = node if node.tag == "math" else node.query_selector("math")
    if formula is not None:
        return mathml.to_text(formula.html)
    picture = node.query_selector("img[alt]")
    return _dollars(picture.getattr("alt")) if picture is not None and picture.getattr("alt") else None


def _dollars(tex: str) -> str:
    """TeX between dollar signs, on one line, without MediaWiki's \\displaystyle and the dollars it already has."""
    tex = " ".join(tex.replace("\ufdd0", "").split()).strip("$ ")
    if match := re.fullmatch(r"\{\\displaystyle (.*)\}", tex):
        tex = match.group(1).strip()
    return f"${tex}$" if tex else ""
