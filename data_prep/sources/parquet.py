"""Parquet files, one document per row, read a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings, decode, find_files, open_raw

SUFFIXES = (".parquet",)


class ParquetSource(SourceSettings):
    """Parquet with a text column."""

    type: Literal["parquet"]
    text_column: str = "text"
    """Column of the text."""
    metadata_columns: list[str] | None = None
    """Columns kept as metadata; null: all others that hold text, numbers or booleans."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: ParquetSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .parquet."""
    return find_files(settings, base)


def read(piece: Piece, settings: ParquetSource) -> Iterator[Document | SetAside]:
    """Documents of one file; a row without text is set aside by its number."""
    with open_raw(piece.path) as raw, pq.ParquetFile(raw) as file:
        schema = file.schema_arrow
        if settings.text_column not in schema.names:
            yield SetAside(piece.path, f'no column "{settings.text_column}", it has {", ".join(schema.names)}')
            return
        columns = settings.metadata_columns
        if columns is None:
            columns = [f.name for f in schema if f.name != settings.text_column and _is_simple(f.type)]
        missing = [name for name in columns if name not in schema.names]
        if missing:
            yield SetAside(piece.path, f"no column {', '.join(missing)}, it has {', '.join(schema.names)}")
            return
        row = 0
        for batch in file.iter_batches(batch_size=1024, columns=[settings.text_column, *columns]):
            for record in batch.to_pylist():
                text: Any = record.pop(settings.text_column)
                text = decode(text)[0] if isinstance(text, bytes) else text  # older writers do not mark text as such
                if isinstance(text, str):
                    yield Document(f"{settings.name}/{piece.name}#{row}", text, settings.name, _jsonable(record))
                else:
                    yield SetAside(f"{piece.path}, row {row}", f'no text in column "{settings.text_column}"')
                row += 1


def _is_simple(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(test(kind) for test in tests) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def _jsonable(record: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value) if hasattr(value, "isoformat") else value for key, value in record.items()}
