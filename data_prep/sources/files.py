"""What the sources share: finding input files wherever they lie, and reading them without trusting them.

A path is a local file, a folder, a glob pattern, an archive (zip, or tar, packed or not: its members are the files, also
those of an archive in it), or any URL that fsspec opens (s3://bucket/x.jsonl.zst, https://..., zip://*.txt::books.zip).
"""

from __future__ import annotations

import errno
import logging
import os
import posixpath
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO, TypeVar

import fsspec
from pydantic import Field

from data_prep.document import SetAside
from data_prep.shards import credentials
from data_prep.sources import archives
from data_prep.sources.archives import member_name, printable
from data_prep.sources.unpacking import EXPANSION, EXPANSION_FLOOR, MAGIC, BytesBehind, Unpacked, Unreadable, packing_of
from strict_json import ConfigError, StrictModel

Made = TypeVar("Made")

logger = logging.getLogger(__name__)
__all__ = ["EXPANSION", "EXPANSION_FLOOR", "Unreadable"]

VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified")
"""What file systems call the version of a file."""


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
    """Files, folders, glob patterns, archives (zip, or tar packed or not) or fsspec URLs; relative to the recipe's folder."""
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
    """Local path with other bytes than UTF-8 as \\\\xNN, or a URL; for open_raw."""
    name: str
    """The path from the recipe's folder on, a URL without its protocol, an archive's name and the member's: the stem of ids."""
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
    """All files of a source, sorted; members of an archive in its order.

    Raises ConfigError naming each path that matches nothing.
    """
    found: dict[str, Piece] = {}
    listing = _Listing(base, settings.suffixes)
    for entry in settings.paths:
        pieces = list(listing.pieces(entry))
        if not pieces:
            wanted = f" with {', '.join(settings.suffixes)}" if settings.suffixes else ""
            place = entry if "://" in entry else os.path.join(base, os.path.expanduser(entry))
            raise ConfigError(f"source {settings.name}: {entry} matches no file{wanted} (looked for {place}).")
        found |= {piece.path: piece for piece in pieces}
    return sorted(found.values(), key=lambda piece: piece.path.rpartition("::")[2])  # stable: members keep their order


def passed_over(settings: SourceSettings, base: Path) -> dict[str, int]:
    """Files of the source's folders and archives that its suffixes leave out, counted by ending in lower case, with the one of
    compression (".csv.gz"); "(none)" for names without."""
    listing = _Listing(base, settings.suffixes)
    if settings.suffixes is not None:
        for entry in settings.paths:
            for _ in listing.pieces(entry):
                pass
    return dict(sorted(Counter(map(_ending, listing.left_out)).items()))


def _ending(path: str) -> str:
    """Of a local path, or of an archive's member."""
    stem, ending = os.path.splitext(path.split("::")[0].rpartition("/")[2].lower())
    return (os.path.splitext(stem)[1] + ending if ending in MAGIC else ending) or "(none)"


def name_of(path: str, base: Path) -> str:
    """What ids call a local file, whatever else is in the corpus: its path from the recipe's folder on, or from the root, when
    they share no other folder."""
    path, start = os.path.abspath(path), os.path.abspath(base)
    shared = os.path.commonpath([path, start])
    return printable(Path(path.lstrip("/") if shared == os.path.dirname(shared) else os.path.relpath(path, start)).as_posix())


class _Listing:
    """Finds the files of paths; those that are left out for their endings are remembered by their paths."""

    def __init__(self, base: Path, suffixes: tuple[str, ...] | None):
        self._base, self._suffixes = base, suffixes
        self.left_out: dict[str, None] = {}

    def pieces(self, entry: str) -> Iterator[Piece]:
        """What a path of the recipe stands for."""
        entry = re.sub(r"\A(?:file|local)://", "", entry)
        return self._remote(entry) if "://" in entry else self._local(entry)

    def _wants(self, name: str, path: str) -> bool:
        wanted = self._suffixes is None or name.lower().endswith(self._suffixes)
        if not wanted:
            self.left_out[path] = None
        return wanted

    def _local(self, entry: str) -> Iterator[Piece]:
        pattern = os.path.join(self._base, os.path.expanduser(entry))
        matches = glob(pattern, recursive=True) if has_magic(entry) and not os.path.exists(pattern) else [pattern]
        for match in matches:
            if os.path.isdir(match):
                yield from self._folder(match)
            elif os.path.isfile(match):
                yield from self._file(os.path.abspath(match))

    def _folder(self, folder: str) -> Iterator[Piece]:
        problems: list[OSError] = []
        seen: set[tuple[int, int]] = set()  # links may lead back to where they stand
        _is_new(folder, seen)
        for place, folders, names in os.walk(folder, onerror=problems.append, followlinks=True):
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and _is_new(os.path.join(place, name), seen)
            )
            for name in names:
                path = os.path.abspath(os.path.join(place, name))
                if name.startswith(".") or not (archives.kind_of(name) or self._wants(name, path)):
                    continue
                if os.path.isfile(path):
                    yield from self._file(path)
                else:
                    problem = "a broken link, or no file: a pipe, a socket, a device"
                    yield Piece(printable(path), name_of(path, self._base), 0, problem=problem)
        for error in problems:
            path = os.path.abspath(str(error.filename))
            yield Piece(printable(path), name_of(path, self._base), 0, problem=printable(str(error)))

    def _file(self, path: str) -> Iterator[Piece]:
        status = os.stat(path)
        piece = Piece(printable(path), name_of(path, self._base), status.st_size, str(status.st_mtime_ns))
        return self._expanded(piece)

    def _expanded(self, piece: Piece, depth: int = 0) -> Iterator[Piece]:
        """The file, or the members of an archive, and of archives in it; not those of archives in these."""
        kind = archives.kind_of(piece.path.split("::")[0])
        if kind is None:
            yield piece
            return
        if depth > 1:
            problem = "an archive in an archive in an archive: only one level within another is read. Unpack the outer one"
            yield replace(piece, problem=problem)
            return
        for member in archives.members(kind, piece.path, open_raw):
            path = f"{kind}://{member.name}::{piece.path}"
            if member.problem:
                yield replace(piece, problem=f"not a readable archive, or only to some point: {member.problem}")
            elif not any(part.startswith((".", "__MACOSX")) for part in member.name.split("/") if part not in (".", "..")):
                inside = archives.kind_of(member.name)
                if inside or self._wants(member.name, path):
                    found = Piece(path, f"{piece.name}/{member.name}", member.size, piece.changed)
                    yield from self._expanded(found, depth + 1)

    def _remote(self, entry: str) -> Iterator[Piece]:
        """Pieces of an fsspec URL; the local end of a chain such as zip://*.txt::books.zip starts from the recipe's folder."""
        *chain, last = entry.split("::")
        local = "://" not in last
        if local:
            last = os.path.abspath(os.path.join(self._base, os.path.expanduser(last)))
        try:
            system, path = fsspec.core.url_to_fs("::".join([*chain, last]))
            if has_magic(path):
                found = system.glob(path, detail=True)
            elif system.isdir(path):
                found = {k: v for k, v in system.find(path, detail=True).items() if archives.kind_of(k) or self._wants(k, k)}
            else:
                found = {path: system.info(path)}
        except FileNotFoundError:
            return
        except Exception as error:  # those of the libraries of two dozen stores
            told = credentials.hint(error, last) or (
                str(error) if isinstance(error, (ImportError, ValueError)) else describe(error)
            )
            raise ConfigError(f"source path {entry}: {told}") from None
        first = (chain or [last])[0]
        protocol = first.split("://", 1)[0]
        rest = [*chain, last][1:]
        for name, info in found.items():
            if info["type"] == "file":
                inner = name.removeprefix(f"{protocol}://")
                url = "::".join([f"{protocol}://{member_name(inner) if protocol in ('zip', 'tar') else inner}", *rest])
                changed = next((str(info[key]) for key in VERSIONS if info.get(key)), "")
                shown = [part.split("://", 1)[-1].strip("/") for part in reversed(url.split("::"))]
                if local:
                    shown[0] = name_of(last, self._base)
                yield from self._expanded(Piece(url, posixpath.normpath("/".join(shown)), info["size"] or 0, changed))


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


def normalise_newlines(text: str) -> str:
    """Unix line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def open_raw(path: str) -> BinaryIO:
    """Open a piece's path for reading its bytes as they are stored. Raises Unreadable for an encrypted archive member."""
    if "://" not in path:
        return open(_stored(path), "rb")
    try:
        first, _, chain = path.partition("::")
        kind, _, name = first.partition("://")
        if chain and kind in ("zip", "tar"):
            return archives.open_member(kind, name, chain, open_raw)
        return fsspec.open(path, "rb").open()
    except Exception as error:  # those of archives, and of the libraries of two dozen stores
        if told := credentials.hint(error, path):
            raise PermissionError(errno.EACCES, told) from None  # so that the next run tries again
        if not isinstance(error, (RuntimeError, NotImplementedError, KeyError)):
            raise
        raise Unreadable(f"{path}: {error}") from None


def _stored(path: str) -> str | bytes:
    """The path that a printable one stands for: names that are not UTF-8 have their other bytes as \\xNN there."""
    if "\\x" not in path or os.path.exists(path):
        return path
    return re.sub(rb"\\x([89a-f][0-9a-f])", lambda found: bytes.fromhex(found[1].decode()), path.encode())


@contextmanager
def open_compressed(path: str) -> Iterator[BinaryIO]:
    """Open for reading bytes, decompressing gzip, bzip2, xz and zstd (any number of frames), known by name or first bytes.

    A read that meets damage, an early end or a decompression bomb gives what lies before it; the next one raises Unreadable.
    A read of all raises at once. Bytes of another kind behind the compressed ones are told by BytesBehind, when all is read.
    """
    with open_raw(path) as file:
        packing = packing_of(path.split("::")[0], file)
        if packing is None:
            yield file
            return
        with Unpacked(file, packing) as stream:
            yield stream
            if stream.frames.behind:
                raise stream.frames.behind


def read_whole(piece: Piece, settings: SourceSettings) -> bytes:
    """A file that is one document, decompressed. Raises Unreadable when it is empty or longer than max_document_megabytes."""
    data = b""
    try:
        with open_compressed(piece.path) as file:
            while part := file.read(settings.max_document_bytes + 1 - len(data)):
                data += part
    except BytesBehind as behind:
        logger.warning("%s: %s", piece.path, behind)
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
