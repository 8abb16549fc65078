"""Superscripts and subscripts in plain text, so that 10 to the 6 does not become 106."""

from __future__ import annotations

import re

_ORDINAL = re.compile(r"(?:st|nd|rd|th|er|re|e|o|a|º|ª|TM|SM|®|™)\Z", re.IGNORECASE)
_ONE = re.compile(r"[-+−–]?\w+\Z|[^\w\s]\Z")


def raised(text: str) -> str:
    """Text of a superscript: ^6, ^-3, ^(n + 1); ordinals as in 1st stay as they are."""
    text = text.strip()
    if not text or _ORDINAL.match(text):
        return text
    return f"^{text}" if _ONE.match(text) else f"^({text})"


def lowered(text: str, before: str = "", after: str = "") -> str:
    """Text of a subscript between two characters: CO2 stays plain, an index that would run into figures is marked: _10 5."""
    text = text.strip()
    if not text:
        return ""
    if text.isdigit() and (before.isalpha() or (before and before in ")]")) and not after.isdigit():
        return text
    gap = " " if after.isdigit() and text[-1].isdigit() else ""
    return f"_{text}{gap}" if _ONE.match(text) else f"_({text})"
