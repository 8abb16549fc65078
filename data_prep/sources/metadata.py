"""The well-known keys of a document's metadata, from the names that data sets give them."""

from __future__ import annotations

from typing import Any

from data_prep.sources import signals

NAMES = {
    "licence": ("license", "licence", "license_type", "license_name", "license_url", "licenses", "rights", "dc.rights"),
    "url": ("url", "source_url", "uri", "link", "warc_target_uri"),
    "date": ("date", "timestamp", "published", "published_date", "publication_date", "created", "created_at"),
    "language": ("language", "lang", "language_code"),
    "title": ("title", "headline"),
}
"""Names, in lower case, under which Dolma, RedPajama, FineWeb, The Stack, CCNet and others keep each."""


def complete(metadata: dict[str, Any], licence: str | None) -> None:
    """Add the well-known keys that are missing, in place; other keys stay. A licence that is known becomes its SPDX id;
    `licence`, that of the whole source, holds where a document names none."""
    lower = {key.lower(): value for key, value in metadata.items()}
    for key, names in NAMES.items():
        value = metadata.get(key) or next((found for name in names if (found := _text(lower.get(name)))), None)
        if value:
            metadata[key] = value
    named = metadata.get("licence")
    if isinstance(named, str):
        metadata["licence"] = signals.spdx(named) or named
    elif licence:
        metadata["licence"] = licence


def _text(value: Any) -> Any:
    """A text, or the one of a list; numbers (years, times) as they are."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return value.strip()
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
