"""CSV and TSV with a header, one document per row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings, decode, find_files, open_compressed, read_lines

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
    quotes: bool = True
    """Whether fields may stand in quotation marks, as RFC 4180 has it; false: a quotation mark is a character like others."""
    encoding: str | None = None
    """null: UTF-8, lines that are none in Windows-1252, UTF-16 by its mark. Bytes that do not fit a given one are replaced."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: CsvSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .csv or .tsv, packed or not."""
    return find_files(settings, base)


def read(piece: Piece, settings: CsvSource) -> Iterator[Document | SetAside]:
    """Documents of one table; a row of another number of fields than the header is set aside by its line."""
    csv.field_size_limit(settings.max_document_bytes)
    with open_compressed(piece.path) as file:
        too_long: list[int] = []
        lines = _lines(file, settings, too_long)
        header_line = next(lines, "")
        delimiter = settings.delimiter or _delimiter(piece, header_line)
        form: dict[str, Any] = {"delimiter": delimiter, "quoting": csv.QUOTE_MINIMAL if settings.quotes else csv.QUOTE_NONE}
        header = next(csv.reader([header_line], **form), [])
        missing = [name for name in [settings.text_column, *(settings.metadata_columns or [])] if name not in header]
        if missing:
            yield SetAside(piece.path, f"no column {', '.join(missing)}, it has {', '.join(header[:20]) or 'none'}")
            return
        kept = settings.metadata_columns or [n for n in header if n and n != settings.text_column]
        rows = csv.reader(lines, **form)
        while True:
            where = f"{piece.path}:{rows.line_num + 2}"
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield SetAside(where, f"not CSV: {error}")
                continue
            for number in too_long:
                limit = settings.max_document_megabytes
                yield SetAside(f"{piece.path}:{number}", f"longer than max_document_megabytes ({limit})")
            too_long.clear()
            if row is None:
                return
            if not row:
                continue
            if len(row) != len(header):
                yield SetAside(where, f"{len(row)} fields, the header has {len(header)}")
                continue
            record = dict(zip(header, row, strict=True))
            identifier = f"{settings.name}/{piece.name}#{rows.line_num + 1}"
            yield Document(identifier, record[settings.text_column], settings.name, {name: record[name] for name in kept})


def _lines(file: BinaryIO, settings: CsvSource, too_long: list[int]) -> Iterator[str]:
    """The file's lines, without zero bytes; the numbers of those beyond max_document_megabytes go into `too_long`."""
    raw = io.BufferedReader(file) if not hasattr(file, "peek") else file
    utf_16 = raw.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
    if settings.encoding or utf_16:
        text = io.TextIOWrapper(raw, settings.encoding or "utf-16", "replace", newline="")
        while line := text.readline(settings.max_document_bytes):
            yield line.replace("\0", "").removeprefix("\ufeff")
        return
    for number, line in read_lines(raw, settings):
        if line is None:
            too_long.append(number)
        else:
            yield decode(line)[0].replace("\0", "")


def _delimiter(piece: Piece, header: str) -> str:
    if ".tsv" in piece.path.split("::")[0][-8:]:
        return "\t"
    return max(",;\t|", key=header.count)
