"""What the sources share: finding input files wherever they lie, and reading them without trusting them.

A path is a local file, a folder, a glob pattern, an archive (.zip, .tar, .tar.gz: its members are the files), or any URL that
fsspec opens (s3://bucket/x.jsonl.zst, https://..., zip://*.txt::books.zip).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO, TypeVar

import fsspec
import pyarrow as pa
from pydantic import Field

from data_prep.document import SetAside
from strict_json import ConfigError, StrictModel

Made = TypeVar("Made")

ARCHIVES = {".zip": "zip", ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar"}
MAGIC = {
    ".gz": rb"\x1f\x8b\x08",
    ".bz2": rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)",
    ".xz": rb"\xfd7zXZ\0",
    ".zst": rb"\x28\xb5\x2f\xfd",
}
"""How compressed files are named, and begin."""
VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified")
"""What file systems call the version of a file."""
EXPANSION = 1000
"""A compressed file that grows by more than this is taken for a decompression bomb, once it is above EXPANSION_FLOOR."""
EXPANSION_FLOOR = 256 << 20


class Unreadable(ValueError):
    """An input that cannot be read further; the message says why. Its file is set aside, the rest goes on."""


def guarded(where: str, make: Callable[..., Made], *arguments: object) -> Made | SetAside:
    """What `make(*arguments)` returns, or why this one record cannot be read: the others of its file go on."""
    try:
        return make(*arguments)
    except MemoryError:
        raise
    except Exception as error:  # parsers of two dozen formats, met with other people's records, raise anything
        return SetAside(where, describe(error))


def describe(error: Exception) -> str:
    """An error as the reason of a SetAside: its own words, with kind and place where it was not meant for a person."""
    if isinstance(error, Unreadable):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


class SourceSettings(StrictModel):
    """What every source has."""

    name: str = Field(min_length=1)
    """Name of the source, kept with each document and used in data mixtures."""
    paths: list[str] = Field(min_length=1)
    """Files, folders, glob patterns, archives (.zip, .tar) or fsspec URLs; relative to the recipe's folder."""
    licence: str | None = None
    """Licence of all its documents, best as an SPDX id; kept with each document that names none itself."""
    max_document_megabytes: int = Field(default=256, ge=1)
    """A longer document (or line, or file that is one document) is set aside: what it holds is rarely text."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        """Endings, in lower case, of the files that are taken from folders and archives; None: all."""
        return None

    @property
    def max_document_bytes(self) -> int:
        """The same in bytes."""
        return self.max_document_megabytes << 20


@dataclass(frozen=True)
class Piece:
    """One unit of input: a file, or a range of rows of one."""

    path: str
    """Local path, or a URL for fsspec."""
    name: str
    """The path relative to the source's common folder: the stem of document ids."""
    size: int
    """Bytes, for planning and progress."""
    changed: str = ""
    """Tells whether the file is the one that was read before: time of change, or the store's checksum."""
    rows: tuple[int, int] | None = None
    problem: str = ""
    """Why the file cannot even be listed; it is set aside."""
    beside: str = ""
    """Folder of further files that this one is read with."""


def find_files(settings: SourceSettings, base: Path) -> list[Piece]:
    """All files of a source, sorted.

    Raises ConfigError naming each path that matches nothing.
    """
    suffixes = settings.suffixes
    found: dict[str, Piece] = {}
    for entry in settings.paths:
        pieces = list(_remote(entry, base, suffixes) if "://" in entry else _local(entry, base, suffixes))
        if not pieces:
            wanted = f" with {', '.join(suffixes)}" if suffixes else ""
            place = entry if "://" in entry else os.path.join(base, os.path.expanduser(entry))
            raise ConfigError(f"source {settings.name}: {entry} matches no file{wanted} (looked for {place}).")
        found |= {piece.path: piece for piece in pieces}
    common = os.path.commonpath([os.path.dirname(piece.name) for piece in found.values()])
    relative = [_replace_name(piece, os.path.relpath(piece.name, common)) for piece in found.values()]
    return sorted(relative, key=lambda piece: piece.path)


def _replace_name(piece: Piece, name: str) -> Piece:
    return Piece(piece.path, Path(name).as_posix(), piece.size, piece.changed, problem=piece.problem)


def _local(entry: str, base: Path, suffixes: tuple[str, ...] | None) -> Iterator[Piece]:
    """Pieces of a local path or pattern; their names are absolute paths here."""
    pattern = os.path.join(base, os.path.expanduser(entry))
    matches = glob(pattern, recursive=True) if has_magic(entry) and not os.path.exists(pattern) else [pattern]
    for match in matches:
        if os.path.isdir(match):
            yield from _folder(match, suffixes)
        elif os.path.isfile(match):
            yield from _file(os.path.abspath(match), suffixes)


def _folder(folder: str, suffixes: tuple[str, ...] | None) -> Iterator[Piece]:
    problems: list[OSError] = []
    seen: set[tuple[int, int]] = set()  # links may lead back to where they stand
    _is_new(folder, seen)
    for place, folders, names in os.walk(folder, onerror=problems.append, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and _is_new(os.path.join(place, name), seen))
        for name in names:
            wanted = suffixes is None or name.endswith(suffixes) or _archive(name)
            path = os.path.abspath(os.path.join(place, name))
            if not wanted or name.startswith("."):
                continue
            if os.path.isfile(path):
                yield from _file(path, suffixes)
            else:
                yield Piece(path, path, 0, problem="a broken link, or no file: a pipe, a socket, a device")
    for error in problems:
        yield Piece(str(error.filename), os.path.abspath(str(error.filename)), 0, problem=str(error))


def _is_new(folder: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder was not met before, under whatever name; now it was."""
    try:
        status = os.stat(folder)
    except OSError:  # os.walk tells of it
        return True
    key = (status.st_dev, status.st_ino)
    new = key not in seen
    seen.add(key)
    return new


def _file(path: str, suffixes: tuple[str, ...] | None) -> Iterator[Piece]:
    """The file, or the members of an archive."""
    status = os.stat(path)
    changed = str(status.st_mtime_ns)
    protocol = _archive(path)
    if protocol is None:
        yield Piece(path, path, status.st_size, changed)
        return
    try:
        inside = fsspec.filesystem(protocol, fo=path)
        members = {name: info for name, info in inside.find("", detail=True).items() if info["type"] == "file"}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        yield Piece(path, path, status.st_size, changed, problem=f"not a readable archive: {error}")
        return
    for name, info in members.items():
        hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
        if not hidden and (suffixes is None or name.endswith(suffixes)):
            yield Piece(f"{protocol}://{name}::{path}", f"{path}/{name}", info["size"] or 0, changed)


def _archive(name: str) -> str | None:
    """fsspec's protocol for an archive, None for other files."""
    lower = name.lower()
    return next((protocol for suffix, protocol in ARCHIVES.items() if lower.endswith(suffix)), None)


def _remote(entry: str, base: Path, suffixes: tuple[str, ...] | None) -> Iterator[Piece]:
    """Pieces of an fsspec URL; the local end of a chain such as zip://*.txt::books.zip starts from `base`."""
    *chain, last = entry.split("::")
    if "://" not in last:
        last = os.path.abspath(os.path.join(base, os.path.expanduser(last)))
    try:
        system, path = fsspec.core.url_to_fs("::".join([*chain, last]))
        if has_magic(path):
            found = system.glob(path, detail=True)
        elif system.isdir(path):
            found = {k: v for k, v in system.find(path, detail=True).items() if suffixes is None or k.endswith(suffixes)}
        else:
            found = {path: system.info(path)}
    except (ImportError, ValueError) as error:  # an unknown protocol, or one whose package is not installed
        raise ConfigError(f"source path {entry}: {error}") from None
    except FileNotFoundError:
        return
    first = (chain or [last])[0]
    protocol = first.split("://", 1)[0]
    rest = "".join(f"::{part}" for part in [*chain, last][1:])
    for name, info in found.items():
        if info["type"] == "file":
            url = f"{protocol}://{name.removeprefix(f'{protocol}://')}{rest}"
            changed = next((str(info[key]) for key in VERSIONS if info.get(key)), "")
            shown = [part.split("://", 1)[-1].strip("/") for part in reversed(url.split("::"))]
            yield Piece(url, os.path.normpath("/" + "/".join(shown)), info["size"] or 0, changed)


def normalise_newlines(text: str) -> str:
    """Unix line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def open_raw(path: str) -> BinaryIO:
    """Open a local path or URL for reading its bytes as they are stored. Raises Unreadable for an encrypted archive member."""
    if "://" not in path:
        return open(path, "rb")
    try:
        if "::" not in path:
            return fsspec.open(path, "rb").open()
        first, chain = path.split("::", 1)
        protocol, inside = first.split("://", 1)
        return _archive_system(protocol, chain).open(inside, "rb")
    except (RuntimeError, NotImplementedError, KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise Unreadable(f"{path}: {error}") from None


@lru_cache(maxsize=4)
def _archive_system(protocol: str, chain: str) -> fsspec.AbstractFileSystem:
    """An archive, kept open: its members are read one after the other."""
    return fsspec.core.url_to_fs(f"{protocol}://::{chain}")[0]


@contextmanager
def open_compressed(path: str) -> Iterator[BinaryIO]:
    """Open for reading bytes, decompressing gzip, bzip2, xz and zstd (any number of frames), known by name or first bytes.

    The stream raises Unreadable when it turns out to be a decompression bomb, and what its format raises when it is damaged.
    """
    with open_raw(path) as file:
        packing = _packing(path.split("::")[0].lower(), file)
        if packing == ".gz":
            stream: BinaryIO = gzip.GzipFile(fileobj=file)
        elif packing == ".bz2":
            stream = bz2.BZ2File(file)
        elif packing == ".xz":
            stream = lzma.LZMAFile(file)  # noqa: SIM115 (closed with the guard below)
        elif packing == ".zst":
            # Arrow's reader says when an archive was cut off; python-zstandard's stream_reader ends as if all were well
            stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
        else:
            yield file
            return
        with stream, io.BufferedReader(_Guard(stream, file), 1 << 20) as guarded:
            yield guarded


def _packing(name: str, file: BinaryIO) -> str | None:
    """The name's ending for a compressed file, also where the name does not tell."""
    named = next((packing for packing in MAGIC if name.endswith(packing)), None)
    if named or not file.seekable():
        return named
    head = file.read(10)
    file.seek(0)
    return next((packing for packing, magic in MAGIC.items() if re.match(magic, head)), None)


class _Guard(io.RawIOBase):
    """Passes a decompressed stream on until it has grown beyond belief."""

    def __init__(self, stream: BinaryIO, compressed: BinaryIO):
        self._stream, self._compressed, self._bytes = stream, compressed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self._stream.read(min(len(buffer), 1 << 20))
        buffer[: len(data)] = data
        self._bytes += len(data)
        if self._bytes > EXPANSION_FLOOR and self._bytes > EXPANSION * self._compressed.tell():
            raise Unreadable(f"grew more than {EXPANSION}-fold to {self._bytes:,} bytes: a decompression bomb?")
        return len(data)


def read_whole(piece: Piece, settings: SourceSettings) -> bytes:
    """A file that is one document, decompressed. Raises Unreadable when it is empty or longer than max_document_megabytes."""
    with open_compressed(piece.path) as file:
        data = file.read(settings.max_document_bytes + 1)
    if not data:
        raise Unreadable("an empty file")
    if len(data) > settings.max_document_bytes:
        raise Unreadable(f"longer than max_document_megabytes ({settings.max_document_megabytes})")
    return data


def read_lines(file: BinaryIO, settings: SourceSettings) -> Iterator[tuple[int, bytes | None]]:
    """(line number from 1, line) of a file; None for a line longer than max_document_megabytes, never held in memory."""
    limit, number = settings.max_document_bytes, 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) <= limit:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(1 << 20)
        yield number, None
