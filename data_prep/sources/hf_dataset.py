"""A Hugging Face dataset on the local disk, one document per row. Nothing is downloaded, no dataset script is run."""

from __future__ import annotations

from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, Unreadable, name_of
from data_prep.sources.tables import ROWS, TableSettings, choose, documents
from strict_json import ConfigError

ROWS_PER_PIECE = 100_000
WRITTEN = ("dataset_dict.json", "state.json", "dataset_info.json")
"""What save_to_disk writes beside the tables."""


class HFDatasetSource(TableSettings):
    """Folders written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, in whatever format they were set to, and folders
    of the datasets cache (dataset_info.json with .arrow files)."""

    type: Literal["hf_dataset"]
    split: str | None = None
    """Split to take from a DatasetDict or a folder of the cache; null: all of them."""


def pieces(settings: HFDatasetSource, base: Path) -> list[Piece]:
    """Row ranges of every dataset folder; a damaged one has its problem named.

    Raises ConfigError for a folder that holds none.
    """
    found = []
    for entry in settings.paths:
        folders = [Path(match) for match in sorted(glob(str(base / entry)))]
        if not folders:
            raise ConfigError(f"source {settings.name}: {entry} matches no folder (looked for {base / entry}).")
        for folder in folders:
            try:
                tables = _tables(folder, settings)
            except ConfigError:
                raise
            except Exception as error:  # its loader raises anything for damaged files
                found.append(
                    Piece(
                        str(folder),
                        name_of(str(folder), base),
                        0,
                        problem=f"a damaged dataset: {type(error).__name__}: {error}",
                    )
                )
                continue
            for path, dataset in tables:
                found += _ranges(path, name_of(str(path), base), dataset)
    return found


def _ranges(path: Path, name: str, dataset: Any) -> list[Piece]:
    """Pieces of one table, ROWS_PER_PIECE rows each."""
    files = [Path(file["filename"]).stat() for file in dataset.cache_files]
    size, changed = sum(file.st_size for file in files), str(max((file.st_mtime_ns for file in files), default=0))
    starts = range(0, max(1, len(dataset)), ROWS_PER_PIECE)
    ranges = [(start, min(start + ROWS_PER_PIECE, len(dataset))) for start in starts]
    return [Piece(str(path), name, size * (b - a) // max(1, len(dataset)), changed, (a, b)) for a, b in ranges]


def _tables(folder: Path, settings: HFDatasetSource) -> list[tuple[Path, Any]]:
    """(path, dataset) of every table of a folder."""
    import datasets

    if not any((folder / name).is_file() for name in WRITTEN):
        raise ConfigError(
            f"source {settings.name}: {folder}: not a dataset written by save_to_disk: it has none of {', '.join(WRITTEN)}. "
            f"Folders of parquet, jsonl or arrow files are read by the sources of those types."
        )
    if not (folder / "dataset_dict.json").is_file() and not (folder / "state.json").is_file():
        return _cached(folder, settings)
    loaded = datasets.load_from_disk(str(folder))
    if not isinstance(loaded, datasets.DatasetDict):
        if settings.split is not None:
            raise ConfigError(f'source {settings.name}: {folder} has no splits; remove "split": "{settings.split}".')
        return [(folder, loaded)]
    if settings.split is not None and settings.split not in loaded:
        raise ConfigError(f'source {settings.name}: {folder} has no split "{settings.split}", it has {", ".join(loaded)}.')
    return [(folder / name, loaded[name]) for name in loaded if settings.split in (None, name)]


def _cached(folder: Path, settings: HFDatasetSource) -> list[tuple[Path, Any]]:
    """Tables of a folder of the cache: <dataset>-<split>.arrow, or <dataset>-<split>-00000-of-00002.arrow."""
    import datasets

    files = sorted(path for path in folder.glob("*.arrow") if not path.name.startswith(("cache-", "tmp")))
    if settings.split is not None:
        files = [path for path in files if f"-{settings.split}-" in path.name or path.stem.endswith(f"-{settings.split}")]
    if not files:
        wanted = f' of split "{settings.split}"' if settings.split is not None else ""
        raise ConfigError(f"source {settings.name}: {folder} has a dataset_info.json, but no .arrow files{wanted} beside it.")
    return [(path, datasets.Dataset.from_file(str(path))) for path in files]


def read(piece: Piece, settings: HFDatasetSource) -> Iterator[Document | SetAside]:
    """Documents of one row range; a row without text is set aside by its number."""
    import datasets

    path = Path(piece.path)
    dataset = datasets.Dataset.from_file(piece.path) if path.suffix == ".arrow" else datasets.load_from_disk(piece.path)
    schema = dataset.features.arrow_schema
    try:
        columns = choose(schema, settings)
    except Unreadable as error:
        yield SetAside(piece.path, str(error))
        return
    # Arrow's own form, whatever the format that the dataset was saved in
    table = dataset.select_columns(columns.names).with_format("arrow")
    start, stop = piece.rows or (0, len(dataset))
    batches = (batch for first in range(start, stop, ROWS) for batch in _batches(table[first : min(first + ROWS, stop)]))
    licence = dataset.info.license
    for item in documents(batches, columns, piece, settings, start):
        if isinstance(item, Document) and licence:
            item.metadata.setdefault("license", licence)
        yield item


def _batches(table: pa.Table) -> list[pa.RecordBatch]:
    return table.to_batches()
