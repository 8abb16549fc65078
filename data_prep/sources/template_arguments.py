"""Arguments of a template, and the data and languages that those who show it need."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from babel import Locale, UnknownLocaleError

from data_prep.sources.raised import Style

_YES = ("y", "yes", "1", "on", "true", "s", "sí", "ja", "oui")


class Arguments:
    """Arguments of one template, rendered when they are asked for."""

    def __init__(
        self, values: dict[str, Any], render: Callable[[Any], str], language: str, around: tuple[str, str], style: Style
    ):
        self._values, self._render, self.language = values, render, language
        self.before, self.after = around
        """The characters next to the template, "" at the start and end."""
        self.style = style
        self._text: dict[str, str] = {}
        self.count = 0
        """Unnamed arguments, counted to the last one of an unbroken row."""
        while str(self.count + 1) in values:
            self.count += 1
        self.named = sum(not key.isdigit() for key in values)

    def first(self, *names: str) -> str:
        """The first argument of these that is not empty, "" if there is none; "-1" is the last unnamed one."""
        for name in names:
            key = str(self.count) if name == "-1" else name
            if key not in self._values:
                continue
            if key not in self._text:
                self._text[key] = self._render(self._values[key]).strip()
            if self._text[key]:
                return self._text[key]
        return ""

    def unnamed(self) -> list[str]:
        """All unnamed arguments, with the empty ones."""
        return [self.first(str(number)) for number in range(1, self.count + 1)]

    def yes(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.first(name).lower() in _YES


@cache
def template_data() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "data" / "wikipedia_templates.json").read_text(encoding="utf-8"))


@cache
def locale(language: str) -> Locale:
    """Babel's locale of a wiki's language; English where it has none."""
    try:
        return Locale.parse(language.replace("-", "_")) if language else Locale("en")
    except (UnknownLocaleError, ValueError):
        return Locale("en")
