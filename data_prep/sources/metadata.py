"""The well-known keys of a document's metadata, from the names that data sets give them."""

from __future__ import annotations

from typing import Any

import orjson

from data_prep.sources import licences

NAMES = {
    "url": ("url", "source_url", "uri", "link", "warc_target_uri"),
    "date": ("date", "timestamp", "published", "published_date", "publication_date", "created", "created_at"),
    "language": ("language", "lang", "language_code"),
    "title": ("title", "headline"),
}
"""Names, in lower case, under which Dolma, RedPajama, FineWeb, The Stack, CCNet and others keep each."""
LICENCE = ("licence", "license", "license_name", "license_id", "license_url", "licence_url", "licenses", "licences", "rights")
LICENCE += ("dc.rights", "dcterms.rights", "dcterms.license", "spdx_license", "spdx_license_id", "license_spdx")
"""Names of a document's own licence; where several are given, all of them hold."""
LICENCE_ELSE = ("detected_licenses", "max_stars_repo_licenses", "repo_license", "gha_license_id", "license_type")
"""The Stack's names: of the file, else of its repository. A type ("permissive") is no licence that is known."""
WELL_KNOWN = frozenset(name for names in (*NAMES.values(), LICENCE, LICENCE_ELSE) for name in names)
NESTED = ("meta", "metadata")
"""Keys of objects, or of JSON text of objects, whose entries are metadata, too."""
_ABSENT = {"", "nan", "null", "n/a", "<na>"}


def complete(metadata: dict[str, Any], licence: str | None) -> None:
    """Add the well-known keys that are missing, in place; other keys stay. A licence that is known becomes its SPDX expression,
    another one is kept as its own text. `licence`, that of the whole source, holds where a document names none whatever, and
    `licence_from` says so."""
    entries = _entries(metadata)
    for key, names in NAMES.items():
        value = metadata.get(key) or next((found for name in names if (found := _text(entries.get(name)))), None)
        if value:
            metadata[key] = value
    named = _licence(entries)
    if named is not None:
        metadata["licence"] = named
        return
    metadata.pop("licence", None)
    if licence and not metadata.get("licence_evidence"):  # evidence without a licence: marks that contradict each other
        metadata |= {"licence": licences.spdx(licence) or licence, "licence_from": "source"}


def facts(metadata: dict[str, Any]) -> dict[str, str]:
    """How each well-known fact of a completed document came to be known: {fact: how}."""
    licence = metadata.get("licence")
    if not licence:
        how = "contradictory" if metadata.get("licence_evidence") else "absent"
    elif metadata.get("licence_from") == "source":
        how = "of the source"
    else:
        how = "named by the document" if licences.spdx(str(licence)) else "not understood"
    found = {"licence": how}
    found |= {key: "named by the document" if metadata.get(key) else "absent" for key in ("language", "date", "url")}
    if encoding := metadata.get("encoding"):
        found["encoding"] = f"assumed {encoding}" if metadata.get("encoding_assumed") else str(encoding)
    return found


def is_well_known(name: str) -> bool:
    """Whether a column of this name is metadata that everybody knows, whatever its type."""
    return name.lower() in WELL_KNOWN or name.lower() in NESTED


def _entries(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata by names in lower case, with the entries of nested objects behind its own."""
    entries: dict[str, Any] = {}
    for name in NESTED:
        value = next((value for key, value in metadata.items() if key.lower() == name), None)
        if isinstance(value, str) and value.lstrip()[:1] == "{":
            try:
                value = orjson.loads(value)
            except ValueError:
                value = None
        if isinstance(value, dict):
            entries |= {str(key).lower(): entry for key, entry in value.items()}
    return entries | {key.lower(): value for key, value in metadata.items() if value is not None}


def _licence(entries: dict[str, Any]) -> str | None:
    """The licence that a document names: an SPDX expression, else its own text; None where it names none."""
    for names in (LICENCE, *((name,) for name in LICENCE_ELSE)):
        known, texts = [], []
        for name in names:
            expression, text = licences.named_by(entries.get(name))
            if expression:
                known.append(expression)
            elif text and text.lower() not in _ABSENT:
                texts.append(text)
        if known and not any(map(licences.is_restriction, texts)):
            return licences.merge(known)
        if texts:
            return texts[0]
    return None


def _text(value: Any) -> Any:
    """A text, or the one of a list; numbers (years, times) as they are."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return value.strip()
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
