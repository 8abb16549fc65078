"""CSV and TSV with a header, one document per row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings, find_files, open_compressed

SUFFIXES = tuple(kind + packed for kind in (".csv", ".tsv") for packed in ("", ".gz", ".zst", ".bz2", ".xz"))


class CsvSource(SourceSettings):
    """Tables as text (RFC 4180), their first row naming the columns."""

    type: Literal["csv"]
    text_column: str = "text"
    """Column of the text."""
    metadata_columns: list[str] | None = None
    """Columns kept as metadata; null: all others."""
    delimiter: str | None = None
    """Character between fields; null: a tab in .tsv files, else the one of , ; tab | that the header has most of."""
    encoding: str = "utf-8-sig"
    """Bytes that do not fit are replaced."""


def pieces(settings: CsvSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .csv or .tsv, packed or not."""
    return find_files(settings, base, SUFFIXES)


def read(piece: Piece, settings: CsvSource) -> Iterator[Document | SetAside]:
    """Documents of one table; a row of another number of fields than the header is set aside by its line."""
    csv.field_size_limit(settings.max_document_bytes)
    with open_compressed(piece.path) as raw, io.TextIOWrapper(raw, settings.encoding, "replace", newline="") as lines:
        header_line = lines.readline(1 << 20)
        delimiter = settings.delimiter or _delimiter(piece, header_line)
        header = next(csv.reader([header_line], delimiter=delimiter), [])
        missing = [name for name in [settings.text_column, *(settings.metadata_columns or [])] if name not in header]
        if missing:
            yield SetAside(piece.path, f"no column {', '.join(missing)}, it has {', '.join(header[:20]) or 'none'}")
            return
        kept = settings.metadata_columns or [n for n in header if n and n != settings.text_column]
        rows = csv.reader((line.replace("\0", "") for line in lines), delimiter=delimiter)
        while True:
            where = f"{piece.path}:{rows.line_num + 2}"
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield SetAside(where, f"not CSV: {error}")
                continue
            if not row:
                continue
            if len(row) != len(header):
                yield SetAside(where, f"{len(row)} fields, the header has {len(header)}")
                continue
            record = dict(zip(header, row, strict=True))
            identifier = f"{settings.name}/{piece.name}#{rows.line_num + 1}"
            yield Document(identifier, record[settings.text_column], settings.name, {name: record[name] for name in kept})


def _delimiter(piece: Piece, header: str) -> str:
    if ".tsv" in piece.path.split("::")[0][-8:]:
        return "\t"
    return max(",;\t|", key=header.count)
