"""Texts of evaluation sets, whatever their form: every string in JSON, cell of a table, or paragraph of a text."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard


class EvaluationSetError(ValueError):
    """An evaluation set cannot be read: a corpus must not pass as clean of what was not looked for."""


def find(paths: list[str], base: Path) -> list[Path]:
    """The files meant by `paths` (files, or folders with all files in them), relative to `base`, each once, in order."""
    files: dict[Path, None] = {}
    for entry in paths:
        path = (base / Path(entry).expanduser()).resolve()
        if path.is_dir():
            files |= dict.fromkeys(sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")))
        elif path.is_file():
            files[path] = None
        else:
            raise EvaluationSetError(f"evaluation set {path}: no such file. Correct the path, or take it out of the recipe.")
    if not files:
        raise EvaluationSetError(f"no evaluation set in {', '.join(paths)}: the folders are empty.")
    return list(files)


def read(path: Path) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of every text of a file: .json (SQuAD and the like), .jsonl, .csv, .tsv, .parquet, else plain
    text; .gz, .bz2 and .zst are decompressed. Raises EvaluationSetError."""
    try:
        suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _OPENERS]
        kind = suffixes[-1] if suffixes else ""
        with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
            for where, text in _READERS.get(kind, _paragraphs)(file):
                yield f"{path.name}: {where}", text
    except (OSError, EOFError, ValueError, csv.Error, zstandard.ZstdError, pa.ArrowException) as error:
        raise EvaluationSetError(f"evaluation set {path} cannot be read: {type(error).__name__}: {error}") from error


def _strings(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) and not v.count(" ") for v in value):
        yield where, " ".join(value)  # a text in tokens
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _strings(inner, f"{where}.{index}" if where else str(index))


def _json(file: BinaryIO) -> Iterator[tuple[str, str]]:
    content = file.read()
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        yield from _json_lines(io.BytesIO(content))  # many a .json holds JSON lines
        return
    yield from _strings(value, "")


def _json_lines(file: BinaryIO) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield from _strings(orjson.loads(line), f"line {number}")


def _table(file: BinaryIO, delimiter: str) -> Iterator[tuple[str, str]]:
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    for number, row in enumerate(csv.reader(text, delimiter=delimiter), 1):
        for column, cell in enumerate(row, 1):
            yield f"row {number}, column {column}", cell


def _parquet(file: BinaryIO) -> Iterator[tuple[str, str]]:
    number = 0
    for batch in pq.ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            yield from _strings(row, f"row {number}")
            number += 1


def _paragraphs(file: BinaryIO) -> Iterator[tuple[str, str]]:
    held, first = [], 1
    for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8-sig"), 1):
        if line.strip():
            first = first if held else number
            held.append(line)
        elif held:
            yield f"line {first}", "".join(held)
            held = []
    if held:
        yield f"line {first}", "".join(held)


_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".zst": zstandard.open}
_READERS = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": lambda file: _table(file, ","),
    ".tsv": lambda file: _table(file, "\t"),
    ".parquet": _parquet,
}
