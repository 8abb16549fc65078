"""CSV and TSV with a header, one document per row."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from data_prep.document import Document, SetAside
from data_prep.sources.fields import RecordSettings, document, fields_of, metadata_of
from data_prep.sources.files import Piece, find_files, guarded, normalise_newlines, open_compressed, read_lines
from data_prep.sources.text_encoding import LineDecoder, TextSettings, in_bytes_of_ascii

SUFFIXES = tuple(kind + packed for kind in (".csv", ".tsv") for packed in ("", ".gz", ".zst", ".bz2", ".xz"))
ROWS_IN_A_FIELD = 3
"""A field over this many lines, each a row of the table by itself, is no field: its quotation mark is a stray one."""


class CsvSource(RecordSettings, TextSettings):
    """Tables as text (RFC 4180), their first row naming the columns."""

    type: Literal["csv"]
    text_column: str = "text"
    """Column of the text."""
    metadata_columns: list[str] | None = None
    """Columns kept as metadata; null: all others; []: none."""
    id_column: str | None = None
    """Column of an id to keep in the metadata as `original_id`."""
    delimiter: str | None = None
    """Character between fields; null: a tab in .tsv files, else the one of , ; tab | that the header has most of."""
    quotes: bool = True
    """Whether fields may stand in quotation marks, as RFC 4180 has it; false: a quotation mark is a character like others."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: CsvSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .csv or .tsv, packed or not."""
    return find_files(settings, base)


def read(piece: Piece, settings: CsvSource) -> Iterator[Document | SetAside]:
    """Documents of one table. A row of another number of fields than the header is set aside by its line, and so is one with a
    quotation mark that nothing closes: the rows behind it are read."""
    csv.field_size_limit(settings.max_document_bytes)
    decoder = LineDecoder(settings.encoding, partial(open_compressed, piece.path))
    with open_compressed(piece.path) as packed, in_bytes_of_ascii(packed, settings.encoding) as file:
        lines = _lines(file, settings, decoder)
        _, first = next(lines, (1, ""))
        delimiter = settings.delimiter or _delimiter(piece, first or "")
        form: dict[str, Any] = {"delimiter": delimiter, "quoting": csv.QUOTE_MINIMAL if settings.quotes else csv.QUOTE_NONE}
        header = next(csv.reader([first or ""], **form), [])
        if problem := _problem(header, settings):
            yield SetAside(piece.path, problem)
            return
        for row in _rows(lines, len(header), form):
            if isinstance(row, SetAside):
                limit = f" ({settings.max_document_megabytes})" if row.reason.endswith("max_document_megabytes") else ""
                yield SetAside(f"{piece.path}:{row.where}", row.reason + limit)
                continue
            (start, end), fields = row
            identifier = f"{settings.name}/{piece.name}#{end}"
            yield guarded(
                f"{piece.path}:{start}", _document, dict(zip(header, fields, strict=True)), identifier, settings, decoder.facts
            )


def _problem(header: list[str], settings: CsvSource) -> str | None:
    """Why a table with this header cannot be read."""
    texts = fields_of(settings.text) if settings.text else [settings.text_column]
    chosen = [*(settings.metadata_columns or []), *([settings.id_column] if settings.id_column else [])]
    missing = [name for name in [*texts, *chosen] if name not in header]
    if missing and not (settings.text and set(texts) & set(header) and set(missing) <= set(texts)):
        return f"no column {', '.join(missing)}, it has {', '.join(header[:20]) or 'none'}"
    read = header if settings.metadata_columns is None else [*texts, *chosen]
    twice = next((name for name in read if name and header.count(name) > 1), None)
    if twice is None:
        return None
    way_out = "" if twice in texts else ', or choose "metadata_columns" without it'
    return f'{header.count(twice)} columns are named "{twice}": which is meant is not known. Rename them{way_out}'


def _document(record: dict[str, str], identifier: str, settings: CsvSource, facts: dict[str, Any]) -> Document:
    used = [settings.text_column, *(fields_of(settings.text) if settings.text else []), settings.id_column or "", ""]
    record = {name: normalise_newlines(value) for name, value in record.items()}
    details = metadata_of(record, settings.metadata_columns, used, ())
    if settings.id_column is not None:
        details["original_id"] = record[settings.id_column]
    return document(record, settings.text_column, identifier, details | facts, settings)


Line = tuple[int, str | None]
"""Its number, and what it holds; None for one that is too long."""


def _rows(lines: Iterator[Line], width: int, form: dict[str, Any]) -> Iterator[tuple[tuple[int, int], list[str]] | SetAside]:
    """((first line, last line), fields) of each row; a SetAside names a line only. After a quotation mark that is not closed,
    reading starts again with the next line."""
    again: deque[Line] = deque()
    while True:
        taken: list[Line] = []
        too_long: list[int] = []

        def feed(taken: list[Line] = taken, too_long: list[int] = too_long) -> Iterator[str]:
            while (line := again.popleft() if again else next(lines, None)) is not None:
                if line[1] is None:
                    too_long.append(line[0])
                else:
                    taken.append(line)
                    yield line[1]

        problem = ""
        try:
            row = next(csv.reader(feed(), **form), None)
        except csv.Error as error:
            row, problem = [], f"not CSV: {error}"
        yield from (SetAside(str(number), "longer than max_document_megabytes") for number in too_long)
        if row is None:
            return
        first, last = (taken[0][0], taken[-1][0]) if taken else (0, 0)
        if len(taken) > 1 and (problem or _is_stray([text or "" for _, text in taken], row, width, form)):
            again.extendleft(reversed(taken[1:]))
            yield SetAside(str(first), "a quotation mark that is not closed; the lines behind it are read as rows")
        elif problem:
            yield SetAside(str(first), problem)
        elif row and len(row) != width:
            yield SetAside(str(first), f"{len(row)} fields, the header has {width}")
        elif row:
            yield (first, last), row


def _is_stray(taken: list[str], row: list[str], width: int, form: dict[str, Any]) -> bool:
    """Whether a row over several lines comes of a stray quotation mark: it breaks the rules of quoting, or swallows lines that
    are rows themselves."""
    try:
        list(csv.reader(taken, strict=True, **form))
    except csv.Error:
        return True
    inner = taken[1:-1] if len(row) == width else taken[1:]
    alone = [next(csv.reader([line], **form), []) for line in inner if '"' not in line]
    return width > 1 and len(alone) >= ROWS_IN_A_FIELD and all(len(fields) == width for fields in alone)


def _lines(file: BinaryIO, settings: CsvSource, decoder: LineDecoder) -> Iterator[Line]:
    """The file's lines, without zero bytes."""
    for number, line in read_lines(file, settings):
        yield number, None if line is None else decoder.decode(line.replace(b"\0", b"")).text


def _delimiter(piece: Piece, header: str) -> str:
    if ".tsv" in piece.path.split("::")[0][-8:]:
        return "\t"
    return max(",;\t|", key=header.count)
