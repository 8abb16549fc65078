"""What every filter's settings have."""

from __future__ import annotations

from strict_json import StrictModel


class FilterSettings(StrictModel):
    """A step of the recipe's `clean` list."""

    only_sources: list[str] | None = None
    """Names of the sources whose documents it looks at; null: all. Rules made for web pages harm books and poems."""
