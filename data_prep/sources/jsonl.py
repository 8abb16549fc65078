"""JSON lines, plain or compressed: The Pile's {"text": ..., "meta": {"pile_set_name": ...}}, or other keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings, find_files, open_compressed, read_lines
from data_prep.sources.loose_json import loads

SUFFIXES = tuple(kind + packed for kind in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst", ".bz2", ".xz"))
SUFFIXES += (".zst",)  # lm_dataformat, which wrote The Pile, numbers the members of its archives: 1.zst

JSON_NAMES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number"}
JSON_NAMES |= {list: "a list", dict: "an object", str: "a string"}


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

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: JsonlSource, base: Path) -> list[Piece]:
    """Input files; from folders those whose names end as JSON lines do."""
    return find_files(settings, base)


def read(piece: Piece, settings: JsonlSource) -> Iterator[Document | SetAside]:
    """Documents of one file; a bad line is set aside by its number. A file that is one JSON array, or one object over many
    lines, is read as that."""
    with open_compressed(piece.path) as file:
        lines = read_lines(file, settings)
        for number, line in lines:
            where = f"{piece.path}:{number}"
            if line is None:
                yield SetAside(where, f"longer than max_document_megabytes ({settings.max_document_megabytes})")
                continue
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            try:
                record = loads(line)
            except ValueError as error:
                if number == 1 and line.strip()[:1] in (b"[", b"{"):
                    whole = _whole(line, lines, settings)
                    if whole is not None:
                        for entry, record in enumerate(whole, 1):
                            yield _document(record, f"{piece.path}, entry {entry}", f"{piece.name}#{entry}", settings)
                        return
                    yield SetAside(where, f"not JSON: {error}; nor is the file as a whole")
                    yield from _lines_again(piece, settings)
                    return
                yield SetAside(where, f"not JSON: {error}")
                continue
            if number == 1 and isinstance(record, list):
                for entry, item in enumerate(record, 1):
                    yield _document(item, f"{where}, entry {entry}", f"{piece.name}#{entry}", settings)
                continue
            yield _document(record, where, f"{piece.name}#{number}", settings)


def _whole(first: bytes, lines: Iterator[tuple[int, bytes | None]], settings: JsonlSource) -> list[Any] | None:
    """The entries of a file that is one JSON value over many lines, within the limit of a document; None when it is not."""
    parts, size = [first], len(first)
    for _, line in lines:
        size += len(line or b"")
        if line is None or size > settings.max_document_bytes:
            return None
        parts.append(line)
    try:
        value = loads(b"".join(parts))
    except ValueError:
        return None
    return value if isinstance(value, list) else [value]


def _lines_again(piece: Piece, settings: JsonlSource) -> Iterator[Document | SetAside]:
    """The lines behind a bad first one, which was taken for the beginning of something larger."""
    with open_compressed(piece.path) as file:
        for number, line in read_lines(file, settings):
            where = f"{piece.path}:{number}"
            if line is None:
                yield SetAside(where, f"longer than max_document_megabytes ({settings.max_document_megabytes})")
            elif number > 1 and line.strip():
                try:
                    record = loads(line)
                except ValueError as error:
                    yield SetAside(where, f"not JSON: {error}")
                else:
                    yield _document(record, where, f"{piece.name}#{number}", settings)


def _document(record: Any, where: str, name: str, settings: JsonlSource) -> Document | SetAside:
    if isinstance(record, dict) and isinstance(record.get(settings.text_key), str):
        return Document(f"{settings.name}/{name}", record[settings.text_key], settings.name, _meta(record, settings))
    has = f"it has {', '.join(list(record)[:12])}" if isinstance(record, dict) else f"it is {JSON_NAMES[type(record)]}"
    if isinstance(record, dict) and settings.text_key in record:
        has = f"it is {JSON_NAMES[type(record[settings.text_key])]}"
    return SetAside(where, f'no string under "{settings.text_key}": {has}')


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
