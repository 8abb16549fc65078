"""Parquet files, one document per row, read a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, Unreadable, find_files, open_raw
from data_prep.sources.tables import ROWS, TableSettings, choose, documents

SUFFIXES = (".parquet",)


class ParquetSource(TableSettings):
    """Parquet with a text column. Pages that carry checksums are checked against them."""

    type: Literal["parquet"]

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: ParquetSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .parquet."""
    return find_files(settings, base)


def read(piece: Piece, settings: ParquetSource) -> Iterator[Document | SetAside]:
    """Documents of one file; a row without text is set aside by its number."""
    with open_raw(piece.path) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
        try:
            columns = choose(file.schema_arrow, settings)
        except Unreadable as error:
            yield SetAside(piece.path, str(error))
            return
        start = 0
        for group in range(file.num_row_groups):
            # one after the other: damage in one leaves the others, and Arrow cannot join nested dictionaries of several
            rows = file.metadata.row_group(group).num_rows
            where = f"{piece.path}, row group {group} (rows {start} to {start + rows - 1})"
            batches = file.iter_batches(batch_size=ROWS, row_groups=[group], columns=columns.names)
            try:
                found = yield from documents(batches, columns, piece, settings, start)
                if found != start + rows:
                    yield SetAside(where, f"damaged: it gave {found - start} rows")
            except (pa.ArrowException, OSError) as error:
                if getattr(error, "errno", None) is not None:  # the system's; Arrow's for damaged pages have no number
                    raise
                yield SetAside(where, f"damaged: {error}")
            start += rows
