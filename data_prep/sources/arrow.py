"""Arrow IPC: .arrow and .feather files, in the file or the stream format, one document per row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, Unreadable, find_files, open_compressed
from data_prep.sources.tables import TableSettings, choose, documents

SUFFIXES = tuple(kind + packed for kind in (".arrow", ".arrows", ".feather", ".ipc") for packed in ("", ".gz", ".zst"))


class ArrowSource(TableSettings):
    """Arrow IPC files or streams with a text column."""

    type: Literal["arrow"]

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: ArrowSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .arrow, .arrows, .feather or .ipc."""
    return find_files(settings, base)


def read(piece: Piece, settings: ArrowSource) -> Iterator[Document | SetAside]:
    """Documents of one file; a row without text is set aside by its number."""
    with open_compressed(piece.path) as file:
        batches = _batches(file)
        first = next(batches)
        assert isinstance(first, pa.Schema)
        try:
            columns = choose(first, settings)
        except Unreadable as error:
            yield SetAside(piece.path, str(error))
            return
        yield from documents(batches, columns, piece, settings)  # type: ignore[arg-type]


def _batches(file: BinaryIO) -> Iterator[pa.Schema | pa.RecordBatch]:
    """The schema, then the batches, of a file of either format. Raises Unreadable for Feather's first version, ArrowInvalid for
    damaged ones."""
    head = file.read(6) if file.seekable() else b""
    if head:
        file.seek(0)
    if head[:4] == b"FEA1":
        raise Unreadable("Feather in its first version, of 2016; write it again as Arrow IPC or Parquet")
    if head == b"ARROW1":
        table = pa.ipc.open_file(pa.PythonFile(file, "r"))
        yield table.schema
        for number in range(table.num_record_batches):
            yield table.get_batch(number)
    else:
        stream = pa.ipc.open_stream(pa.PythonFile(file, "r"))
        yield stream.schema
        yield from stream
