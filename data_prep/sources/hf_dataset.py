"""A Hugging Face dataset on the local disk, one document per row. Nothing is downloaded, no dataset script is run."""

from __future__ import annotations

from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings
from strict_json import ConfigError

ROWS_PER_PIECE = 100_000
WRITTEN = ("dataset_dict.json", "state.json", "dataset_info.json")
"""What save_to_disk writes beside the tables."""


class HFDatasetSource(SourceSettings):
    """Folders written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""

    type: Literal["hf_dataset"]
    split: str | None = None
    """Split to take from a DatasetDict; null: all of them."""
    text_column: str = "text"
    """Column of the text."""
    metadata_columns: list[str] = Field(default_factory=list)
    """Columns kept as metadata."""


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
                splits = _splits(folder, settings)
            except ConfigError:
                raise
            except Exception as error:  # its loader raises anything for damaged files
                found.append(Piece(str(folder), folder.name, 0, problem=f"a damaged dataset: {type(error).__name__}: {error}"))
                continue
            for split, dataset in splits:
                size = sum(Path(file["filename"]).stat().st_size for file in dataset.cache_files)
                changed = str(max(Path(file["filename"]).stat().st_mtime_ns for file in dataset.cache_files))
                name = f"{folder.name}/{split}" if split else folder.name
                for start in range(0, max(1, len(dataset)), ROWS_PER_PIECE):
                    stop = min(start + ROWS_PER_PIECE, len(dataset))
                    share = size * (stop - start) // max(1, len(dataset))
                    path = folder / split if split else folder
                    found.append(Piece(str(path), name, share, changed, (start, stop)))
    return found


def _splits(folder: Path, settings: HFDatasetSource) -> list[tuple[str, Any]]:
    import datasets

    if not any((folder / name).is_file() for name in WRITTEN):
        raise ConfigError(
            f"source {settings.name}: {folder}: not a dataset written by save_to_disk: it has none of {', '.join(WRITTEN)}. "
            f"Folders of parquet or jsonl files are read by the sources of those types."
        )
    loaded = datasets.load_from_disk(str(folder))
    if not isinstance(loaded, datasets.DatasetDict):
        if settings.split is not None:
            raise ConfigError(f'source {settings.name}: {folder} has no splits; remove "split": "{settings.split}".')
        return [("", loaded)]
    if settings.split is not None and settings.split not in loaded:
        raise ConfigError(f'source {settings.name}: {folder} has no split "{settings.split}", it has {", ".join(loaded)}.')
    return [(name, loaded[name]) for name in loaded if settings.split in (None, name)]


def read(piece: Piece, settings: HFDatasetSource) -> Iterator[Document | SetAside]:
    """Documents of one row range; a row without text is set aside by its number."""
    import datasets

    dataset = datasets.load_from_disk(piece.path)
    needed = [settings.text_column, *settings.metadata_columns]
    missing = [name for name in needed if name not in dataset.column_names]
    if missing:
        yield SetAside(piece.path, f"no column {', '.join(missing)}, it has {', '.join(dataset.column_names)}")
        return
    dataset = dataset.select_columns(needed)
    licence = {"license": dataset.info.license} if dataset.info.license else {}
    for row in range(*piece.rows):
        record = licence | dataset[row]
        text = record.pop(settings.text_column)
        if isinstance(text, str):
            yield Document(f"{settings.name}/{piece.name}#{row}", text, settings.name, record)
        else:
            yield SetAside(f"{piece.path}, row {row}", f'no text in column "{settings.text_column}"')
