"""JSON lines, plain or compressed: The Pile's {"text": ..., "meta": {"pile_set_name": ...}}, or other keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings, find_files, open_compressed, read_lines

SUFFIXES = tuple(kind + packed for kind in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst", ".bz2", ".xz"))
SUFFIXES += (".zst",)  # lm_dataformat, which wrote The Pile, numbers the members of its archives: 1.zst

JSON_NAMES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}


class JsonlSource(SourceSettings):
    """One JSON object per line; .gz, .zst, .bz2 and .xz are decompressed."""

    type: Literal["jsonl"]
    text_key: str = "text"
    """Key of the text."""
    meta_key: str | None = "meta"
    """Key of an object whose entries become metadata, beside the other keys with text or numbers; "meta" also finds "metadata",
    as Dolma and datatrove write; null: all other keys do."""
    id_key: str | None = None
    """Key of an id to keep in the metadata as `original_id`."""


def pieces(settings: JsonlSource, base: Path) -> list[Piece]:
    """Input files; from folders those whose names end as JSON lines do."""
    return find_files(settings, base, SUFFIXES)


def read(piece: Piece, settings: JsonlSource) -> Iterator[Document | SetAside]:
    """Documents of one file; a bad line is set aside by its number."""
    with open_compressed(piece.path) as file:
        for number, line in read_lines(file, settings):
            where = f"{piece.path}:{number}"
            if line is None:
                yield SetAside(where, f"longer than max_document_megabytes ({settings.max_document_megabytes})")
                continue
            if not line.strip():
                continue
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                yield SetAside(where, f"not JSON: {error}")
                continue
            if not isinstance(record, dict) or not isinstance(record.get(settings.text_key), str):
                has = f"it has {', '.join(list(record)[:12])}" if isinstance(record, dict) else "it is no object"
                if isinstance(record, dict) and settings.text_key in record:
                    has = f"it is {JSON_NAMES[type(record[settings.text_key])]}"
                yield SetAside(where, f'no string under "{settings.text_key}": {has}')
                continue
            yield Document(
                f"{settings.name}/{piece.name}#{number}", record[settings.text_key], settings.name, _meta(record, settings)
            )


def _meta(record: dict[str, Any], settings: JsonlSource) -> dict[str, Any]:
    if settings.meta_key is None:
        metadata = {key: value for key, value in record.items() if key != settings.text_key}
    else:
        nested = record.get(settings.meta_key)
        if nested is None and settings.meta_key == "meta":
            nested = record.get("metadata")
        simple = (str, int, float, bool)
        metadata = {k: v for k, v in record.items() if k not in (settings.text_key, settings.id_key) and isinstance(v, simple)}
        metadata |= nested if isinstance(nested, dict) else {}
    if settings.id_key is not None:
        metadata["original_id"] = record.get(settings.id_key)
    return metadata
