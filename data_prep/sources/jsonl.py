"""JSON lines, plain or compressed: The Pile's {"text": ..., "meta": {"pile_set_name": ...}}, or other keys.

Lines are read here, each by itself. `datasets` is not used for it: it decides each key's type by the first block of a file, and
turns later objects into JSON text where the first were strings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from data_prep.document import Document, SetAside
from data_prep.sources.fields import MISSING, NAMES, RecordSettings, document, fields_of, lookup, metadata_of
from data_prep.sources.files import Piece, Unreadable, find_files, guarded, open_compressed, read_lines
from data_prep.sources.loose_json import loads
from data_prep.sources.metadata import NESTED
from data_prep.sources.text_encoding import AUTO, LineDecoder, TextSettings, in_bytes_of_ascii
from data_prep.sources.values import plain

SUFFIXES = tuple(kind + packed for kind in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst", ".bz2", ".xz"))
SUFFIXES += (".zst",)  # lm_dataformat, which wrote The Pile, numbers the members of its archives: 1.zst


class JsonlSource(RecordSettings, TextSettings):
    """One JSON object per line; .gz, .zst, .bz2 and .xz are decompressed."""

    type: Literal["jsonl"]
    text_key: str = "text"
    """Key or path of the text: a string, or a conversation (a list of messages)."""
    meta_key: str | None = "meta"
    """Key of an object whose entries become metadata, beside the other keys with text or numbers; "meta" also finds "metadata",
    as Dolma and datatrove write; null: all other keys do."""
    metadata_keys: list[str] | None = None
    """Keys or paths kept as metadata, in place of those of `meta_key`; []: none."""
    id_key: str | None = None
    """Key or path of an id to keep in the metadata as `original_id`. Integers beyond 64 bits are kept as text."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: JsonlSource, base: Path) -> list[Piece]:
    """Input files; from folders those whose names end as JSON lines do."""
    return find_files(settings, base)


def read(piece: Piece, settings: JsonlSource) -> Iterator[Document | SetAside]:
    """Documents of one file; a bad line is set aside by its number. A file that is one JSON array, or one object over many
    lines, is read as that."""
    decoder = LineDecoder(settings.encoding, partial(open_compressed, piece.path))
    with _open(piece, settings) as file:
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
                record = _loads(line, decoder)
            except ValueError as error:
                if number == 1 and line.strip()[:1] in (b"[", b"{"):
                    whole = _whole(line, lines, settings, decoder)
                    if whole is not None:
                        yield from _entries(whole, piece.path, piece, settings, decoder)
                        return
                    yield SetAside(where, f"not JSON: {error}; nor is the file as a whole")
                    yield from _lines_again(piece, settings, decoder)
                    return
                yield SetAside(where, f"not JSON: {error}")
                continue
            if number == 1 and isinstance(record, list):
                yield from _entries(record, where, piece, settings, decoder)
                continue
            yield guarded(where, _document, record, f"{settings.name}/{piece.name}#{number}", settings, decoder.facts)


@contextmanager
def _open(piece: Piece, settings: JsonlSource) -> Iterator[BinaryIO]:
    with open_compressed(piece.path) as file, in_bytes_of_ascii(file, settings.encoding) as lines:
        yield lines


def _loads(raw: bytes, decoder: LineDecoder) -> Any:
    """The value of a line; what the recipe's encoding, or the file's, makes of it where it is no UTF-8."""
    if decoder.encoding != AUTO:
        raw = decoder.decode(raw).text.encode()
    return loads(raw, decoder.decode)


def _entries(
    values: list[Any], where: str, piece: Piece, settings: JsonlSource, decoder: LineDecoder
) -> Iterator[Document | SetAside]:
    """Documents of a JSON array."""
    for entry, record in enumerate(values, 1):
        identifier = f"{settings.name}/{piece.name}#{entry}"
        yield guarded(f"{where}, entry {entry}", _document, record, identifier, settings, decoder.facts)


def _whole(
    first: bytes, lines: Iterator[tuple[int, bytes | None]], settings: JsonlSource, decoder: LineDecoder
) -> list[Any] | None:
    """The entries of a file that is one JSON value over many lines, within the limit of a document; None when it is not."""
    parts, size = [first], len(first)
    for _, line in lines:
        size += len(line or b"")
        if line is None or size > settings.max_document_bytes:
            return None
        parts.append(line)
    try:
        value = _loads(b"".join(parts), decoder)
    except ValueError:
        return None
    return value if isinstance(value, list) else [value]


def _lines_again(piece: Piece, settings: JsonlSource, decoder: LineDecoder) -> Iterator[Document | SetAside]:
    """The lines behind a bad first one, which was taken for the beginning of something larger."""
    with _open(piece, settings) as file:
        for number, line in read_lines(file, settings):
            where = f"{piece.path}:{number}"
            if line is None:
                yield SetAside(where, f"longer than max_document_megabytes ({settings.max_document_megabytes})")
            elif number > 1 and line.strip():
                try:
                    record = _loads(line, decoder)
                except ValueError as error:
                    yield SetAside(where, f"not JSON: {error}")
                else:
                    identifier = f"{settings.name}/{piece.name}#{number}"
                    yield guarded(where, _document, record, identifier, settings, decoder.facts)


def _document(record: Any, identifier: str, settings: JsonlSource, facts: dict[str, Any]) -> Document:
    if not isinstance(record, dict):
        raise Unreadable(f'no string under "{settings.text_key}": it is {NAMES[type(record)]}')
    return document(record, settings.text_key, identifier, _meta(record, settings) | facts, settings)


def _meta(record: dict[str, Any], settings: JsonlSource) -> dict[str, Any]:
    used = [settings.text_key, *(fields_of(settings.text) if settings.text else []), settings.id_key or ""]
    if settings.meta_key is None and settings.metadata_keys is None:
        metadata = {key: plain(value) for key, value in record.items() if key not in used[:-1]}
    else:
        nested = NESTED[:1] if settings.meta_key == "meta" and record.get("meta") is not None else NESTED
        nested = nested if settings.meta_key == "meta" else (str(settings.meta_key),)
        metadata = metadata_of(record, settings.metadata_keys, used, nested)
    if settings.id_key is not None:
        value = lookup(record, settings.id_key)
        metadata["original_id"] = None if value is MISSING else plain(value)
    return metadata
