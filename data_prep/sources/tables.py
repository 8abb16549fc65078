"""Tables of Arrow (Parquet, IPC files, Hugging Face datasets): rows become documents, columns their text and metadata."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.document import Document, SetAside
from data_prep.sources import metadata
from data_prep.sources.fields import RecordSettings, document, fields_of, lookup, metadata_of
from data_prep.sources.files import Piece, Unreadable, guarded
from data_prep.sources.text_encoding import decode
from data_prep.sources.values import column_values, labels_of

ROWS = 1024
"""Rows held as Python objects at a time."""


class TableSettings(RecordSettings):
    """Settings of sources of tables. A column may be a path into nested ones: "meta.text"."""

    text_column: str = "text"
    """Column of the text: of strings, or of conversations (lists of messages)."""
    metadata_columns: list[str] | None = None
    """Columns, or paths, kept as metadata; null: all others with text, numbers, booleans or times, and those that everybody
    knows (licence, url, date, ...) in any form; []: none."""
    id_column: str | None = None
    """Column of an id to keep in the metadata as `original_id`."""


@dataclass(frozen=True)
class Columns:
    """The columns that a table is read by."""

    names: list[str]
    chosen: list[str] | None
    labels: dict[str, list[str]]


def choose(schema: pa.Schema, settings: TableSettings) -> Columns:
    """Columns to read of a table. Raises Unreadable naming those that it lacks, or has twice."""
    texts = fields_of(settings.text) if settings.text is not None else [settings.text_column]
    # a template's fields may be missing, but not all of them
    absent = [name for name in texts if _column(schema, name) is None]
    missing = absent if len(absent) == len(texts) else []
    chosen = settings.metadata_columns
    asked = [*(chosen or []), *([settings.id_column] if settings.id_column else [])]
    missing += [name for name in asked if _column(schema, name) is None]
    if missing:
        quoted = f'"{missing[0]}"' if len(missing) == 1 else ", ".join(missing)
        raise Unreadable(f"no column {quoted}, it has {', '.join(schema.names)}")
    needed = [column for name in (*texts, *asked) if (column := _column(schema, name))]
    if chosen is None:
        needed += [f.name for f in schema if is_simple(f.type) or metadata.is_well_known(f.name)]
    names = list(dict.fromkeys(needed))
    twice = [name for name in names if schema.names.count(name) > 1]
    if twice:
        raise Unreadable(f'more than one column "{twice[0]}"')
    return Columns(names, chosen, labels_of(schema))


def _column(schema: pa.Schema, path: str) -> str | None:
    """The column that a name or path begins with."""
    if path in schema.names:
        return path
    parts = path.split(".")
    heads = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    return next((head for head in heads if head in schema.names), None)


def is_simple(kind: pa.DataType) -> bool:
    """Whether a column holds text, numbers, booleans or times."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    tests += (pa.types.is_timestamp, pa.types.is_date, pa.types.is_time, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def documents(
    batches: Iterable[pa.RecordBatch], columns: Columns, piece: Piece, settings: TableSettings, row: int = 0
) -> Generator[Document | SetAside, None, int]:
    """Documents of a table's rows, from number `row`; a row without text, or with a fault, is set aside by its number.

    Returns the number behind the last row.
    """
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            for record in _records(batch.slice(start, ROWS), columns, settings):
                identifier = f"{settings.name}/{piece.name}#{row}"
                yield guarded(f"{piece.path}, row {row}", _document, record, identifier, columns, settings)
                row += 1
    return row


def _records(batch: pa.RecordBatch, columns: Columns, settings: TableSettings) -> Iterator[dict[str, Any]]:
    values = []
    for name in columns.names:
        try:
            column = batch.column(batch.schema.get_field_index(name))
        except KeyError:  # a type that pyarrow has no class for, such as intervals of months
            column = pa.nulls(batch.num_rows)
        if name == settings.text_column and (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            values.append([raw if raw is None else decode(raw).text for raw in column.to_pylist()])  # not marked as text
        else:
            values.append(column_values(column, columns.labels.get(name)))
    for row in range(batch.num_rows):
        yield {name: column[row] for name, column in zip(columns.names, values, strict=True)}


def _document(record: dict[str, Any], identifier: str, columns: Columns, settings: TableSettings) -> Document:
    if settings.text is None:
        value = lookup(record, settings.text_column)
        if not isinstance(value, (str, list)):
            raise Unreadable(f'no text in column "{settings.text_column}"')
    used = [settings.text_column, *(fields_of(settings.text) if settings.text else []), settings.id_column or ""]
    details = metadata_of(record, columns.chosen, used)
    if settings.id_column is not None:
        details["original_id"] = lookup(record, settings.id_column)
    return document(record, settings.text_column, identifier, details, settings)
