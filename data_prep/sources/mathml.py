"""MathML (W3C MathML Core) written out on one line, so that powers, fractions and roots keep their meaning: x^2, (a+b)/c."""

from __future__ import annotations

import html
import re
from xml.etree import ElementTree

MAX_BYTES = 1 << 18
"""Bytes of one formula; a longer one gives its bare words."""
MAX_DEPTH = 200
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)(?:#\w+|\w+);")
_SPACED = frozenset("=<>≤≥≠≈≡∼≃∝∈∉⊂⊆∪∩→←↔⇒⇔↦±∓×⋅∧∨¬+−-")


def to_text(markup: str) -> str:
    """A formula's markup as text. Markup that is no XML, or is too long or too deep, gives its texts with spaces between."""
    markup = markup.replace("\ufdd0", "")  # page.parse marks lone characters with it
    named = _ENTITY.sub(
        lambda match: html.escape(html.unescape(match.group())), html.unescape(markup) if markup.startswith("&lt;") else markup
    )
    try:
        if len(named) > MAX_BYTES or "<!" in named:
            raise ElementTree.ParseError
        return " ".join(_written(ElementTree.fromstring(named), 0).split())
    except (ElementTree.ParseError, RecursionError):
        return " ".join(re.sub(r"<[^>]*>", " ", named).split())


def _written(node: ElementTree.Element, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise RecursionError
    tag = node.tag.rpartition("}")[2]
    if tag in ("annotation", "annotation-xml", "mphantom", "none", "mprescripts"):
        return ""
    parts = [_written(child, depth + 1) for child in node]
    if tag in ("mi", "mn", "mtext", "ms"):
        return " ".join("".join(node.itertext()).split())
    if tag == "mo":
        sign = "".join(node.itertext()).strip()
        return f" {sign} " if sign in _SPACED else "" if sign in "\u2061\u2062\u2063\u2064" else sign
    if tag in _FORMS and len(parts) >= _FORMS[tag][0]:
        return _FORMS[tag][1](*parts[: _FORMS[tag][0]])
    if tag == "mfenced":
        marks = node.get("separators", ",")[:1] or " "
        return node.get("open", "(") + f"{marks} ".join(parts) + node.get("close", ")")
    if tag == "mtable":
        return "[" + "; ".join(part for part in parts) + "]"
    if tag in ("mtr", "mlabeledtr"):
        return ", ".join(parts)
    if tag == "mspace":
        return " "
    if tag == "msqrt":
        return f"sqrt({_joined(parts).strip()})"
    return (node.text or "").strip() + _joined(parts)


def _joined(parts: list[str]) -> str:
    """Neighbours in a row; two figures or a name of several letters and what follows it keep a space between."""
    text = ""
    for part in filter(None, parts):
        if text and part[0].isalnum() and ((text[-1].isdigit() and part[0].isdigit()) or re.search(r"[^\W\d_]{2}$", text)):
            text += " "
        text += part
    return text


def _group(part: str) -> str:
    part = part.strip()
    return part if re.fullmatch(r"-?[\w.]*\w|[^\w\s]|\([^()]*\)|[\w.]+\([^()]*\)", part) else f"({part})"


def _short(part: str) -> str:
    """An exponent or index: primes stand without a mark, signs and single words without brackets."""
    part = re.sub(r"\s+", " ", part.strip())
    return part if re.fullmatch(r"[-−+]?\s?\w+|[^\w\s]", part) else f"({part})"


def _raise(base: str, power: str) -> str:
    power = power.strip()
    if set(power) <= set("′″‴'*†∗⊤") and power:
        return f"{base.strip()}{power}"
    return f"{_group(base)}^{_short(power).replace(' ', '')}" if power else base


def _lower(base: str, index: str) -> str:
    return f"{base.strip()}_{_short(index)}" if index.strip() else base


def _over(base: str, mark: str) -> str:
    mark = mark.strip()
    if mark in ("¯", "‾", "―", "_", "^", "ˆ", "~", "˜", "→", "⃗", "˙", ".", "¨"):
        names = {"^": "hat", "ˆ": "hat", "~": "tilde", "˜": "tilde", "→": "vec", "⃗": "vec", "˙": "dot", ".": "dot", "¨": "ddot"}
        return f"{names.get(mark, 'bar')}({base.strip()})"
    return f"{base.strip()}^{_short(mark)}" if mark else base


_FORMS = {
    "msup": (2, _raise),
    "msub": (2, _lower),
    "msubsup": (3, lambda base, index, power: _raise_indexed(base, index, power)),
    "mfrac": (2, lambda top, bottom: f"{_group(top)}/{_group(bottom)}"),
    "mroot": (2, lambda base, degree: f"root({degree.strip()}, {base.strip()})"),
    "mover": (2, _over),
    "munder": (2, _lower),
    "munderover": (3, lambda base, index, power: f"{_raise_indexed(base, index, power)} "),
    "mmultiscripts": (3, lambda base, index, power: _raise_indexed(base, index, power)),
}
"""Elements with a fixed number of children: the number, and how these are written."""


def _raise_indexed(base: str, index: str, power: str) -> str:
    indexed = _lower(base, index)
    power = power.strip()
    if not power:
        return indexed
    return f"{indexed}{power}" if set(power) <= set("′″‴'*†∗⊤") else f"{indexed}^{_short(power).replace(' ', '')}"
