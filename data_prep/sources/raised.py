"""Superscripts and subscripts in plain text: 10<sup>6</sup> is 10^6, never 106, and CO<sub>2</sub> is CO2."""

from __future__ import annotations

import re
from typing import Literal

Style = Literal["caret", "unicode", "plain"]
SUPERSCRIPTS = dict(zip("0123456789+-−()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾ⁿⁱ", strict=True))
SUBSCRIPTS = dict(zip("0123456789+-−()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₍₎", strict=True))
_NUMBER = re.compile(r"[-+−–±]?\d+(?:[.,]\d+)?[-+−–]?|[-+−–]\w")
_EXPRESSION = re.compile(r"(?=.*[\d+\-−*/=()])(?!.*[^\W\d_]{3})[\w+\-−*/=().,′'⁄ ]+")
_SLASHES = "/⁄∕"


def superscript(content: str, before: str, after: str, style: Style = "caret") -> str:
    """Plain text of a superscript between the characters `before` and `after` ("" at the start and end of a text).

    Exponents and charges get a caret or the characters of Unicode; ordinals (19th, XIXe), marks (TM) and the mass number in
    front of a symbol (14C) are written as they are. `before` that is a digit and `after` that is a slash make a mixed number.
    """
    text = content.strip()
    if not text or style == "plain":
        return text
    if text.isdigit() and after and after in _SLASHES:  # 1<sup>3</sup>/<sub>4</sub>
        return f" {text}" if before.isdigit() else text
    follows = before.isalnum() or before in tuple(")]}|°'’′")
    if not follows:
        return f"^{text} " if after.isdigit() and text[-1].isdigit() else text
    if text in ("+", "-", "−", "–", "*", "°", "′", "″") and not before.isdigit():
        return text
    if len(text) == 1 and text.isalpha():
        ordinal = text in "eoarʳᵉ" and (before.isdigit() or before in "IVXLCDMn")
        return text if ordinal or not text.isascii() else _raised(text, after, style)
    if _NUMBER.fullmatch(text):
        return _raised(text, after, style)
    if _EXPRESSION.fullmatch(text):
        return _raised(text, after, style, expression=True)
    return text


def subscript(content: str, before: str, after: str, style: Style = "caret") -> str:
    """Plain text of a subscript: as it is, but set off with an underscore where digits would run together (log_2 8)."""
    text = content.strip()
    if not text or style == "plain":
        return text
    if before and before in _SLASHES:
        return text
    if style == "unicode" and all(character in SUBSCRIPTS for character in text):
        return "".join(SUBSCRIPTS[character] for character in text)
    runs_on = text[-1].isdigit() and after.isdigit()
    if runs_on or (before.isdigit() and text[0].isdigit()):
        return f"_{text} " if runs_on else f"_{text}"
    return text


def _raised(text: str, after: str, style: Style, expression: bool = False) -> str:
    if style == "unicode" and all(character in SUPERSCRIPTS for character in text):
        return "".join(SUPERSCRIPTS[character] for character in text)
    written = f"^({text})" if expression else f"^{text}"
    return f"{written} " if after.isdigit() else written
