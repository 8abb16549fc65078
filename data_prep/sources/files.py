"""What the sources share: finding input files, and reading text of any encoding."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pydantic import Field

from strict_json import ConfigError, StrictModel


class SourceSettings(StrictModel):
    """What every source has."""

    name: str = Field(min_length=1)
    """Name of the source, kept with each document and used in data mixtures."""
    paths: list[str] = Field(min_length=1)
    """Files, folders (searched through) or glob patterns; relative to the recipe's folder."""
    licence: str | None = None
    """Licence of all its documents, best as an SPDX id; kept with each document that names none itself."""


@dataclass(frozen=True)
class Piece:
    """One unit of input: a file, or a range of rows of one."""

    path: Path
    name: str
    """The path relative to the source's common folder: the stem of document ids."""
    size: int
    """Bytes, for planning and progress."""
    rows: tuple[int, int] | None = None


def find_files(settings: SourceSettings, base: Path, suffixes: tuple[str, ...] | None = None) -> list[Piece]:
    """All files of a source, sorted. `suffixes` limits what is taken from folders.

    Raises ConfigError naming each path that matches nothing.
    """
    found: set[Path] = set()
    for entry in settings.paths:
        pattern = os.path.join(base, os.path.expanduser(entry))
        matches = [Path(match) for match in glob(pattern, recursive=True)] if has_magic(entry) else [Path(pattern)]
        files = set()
        for match in matches:
            if match.is_dir():
                inside = [path for path in match.rglob("*") if path.is_file() and not _hidden(path, match)]
                files |= {path for path in inside if suffixes is None or path.name.endswith(suffixes)}
            elif match.is_file():
                files.add(match)
        if not files:
            wanted = f" with {', '.join(suffixes)}" if suffixes else ""
            raise ConfigError(f"source {settings.name}: {entry} matches no file{wanted} (looked for {pattern}).")
        found |= {Path(os.path.abspath(path)) for path in files}
    common = Path(os.path.commonpath([path.parent for path in found]))
    return [Piece(path, path.relative_to(common).as_posix(), path.stat().st_size) for path in sorted(found)]


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def decode(raw: bytes) -> tuple[str, str]:
    """(text, encoding) of a whole text file: UTF-8 with or without mark, UTF-16 with mark, else Windows-1252, else Latin-1."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16"), "utf-16"
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return raw.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1"), "latin-1"


def normalise_newlines(text: str) -> str:
    """Unix line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def open_compressed(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressing .gz and .zst (any number of frames) by its name."""
    with path.open("rb") as file:
        if path.suffix == ".gz":
            with gzip.open(file) as stream:
                yield stream
        elif path.suffix == ".zst":
            # Arrow's reader says when an archive was cut off; python-zstandard's stream_reader ends as if all were well
            with pa.CompressedInputStream(file, "zstd") as stream:
                yield io.BufferedReader(stream, 1 << 16)
        else:
            yield file
