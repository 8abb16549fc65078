"""Archives as folders: zip files, and tar files plain or packed. A member goes by zip://NAME::PATH or tar://NAME::PATH.

A packed tar file is read from its beginning on and never held: members are asked for in the archive's order, and the one asked
for waits on the disk.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any, BinaryIO

from data_prep.sources.unpacking import Unpacked, Unreadable, packing_of

_KINDS = {"zip": re.compile(r"\.zip\Z", re.I), "tar": re.compile(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?|txz|tzst)\Z", re.I)}
ERRORS = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, tarfile.TarError)
"""What reading a damaged, encrypted or foreign archive raises."""
IN_MEMORY = 1 << 24
"""Bytes of an unpacked member from which on it waits on the disk."""

Opener = Callable[[str], BinaryIO]


@dataclass(frozen=True)
class Member:
    """One file of an archive."""

    name: str
    """As in paths: printable, without "::"."""
    size: int
    problem: str = ""
    """Why it cannot be read; with an empty name, why the archive cannot be read further."""


def kind_of(name: str) -> str | None:
    """Return zip or tar, by a file's name in any letter case; None for other files."""
    return next((kind for kind, ending in _KINDS.items() if ending.search(name)), None)


def printable(name: str) -> str:
    r"""A file name as text that can be written: bytes that are no UTF-8 become \xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace") if not name.isascii() else name


def member_name(name: str) -> str:
    """A member's name as part of a path."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.replace("::", "%3A%3A").removeprefix("./")


class _View(io.RawIOBase):
    """A file that several read, each from its own place."""

    def __init__(self, file: IO[bytes], size: int):
        self._file, self._size, self._place = file, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = max(0, offset + (0, self._place, self._size)[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._place)
        data = self._file.read(len(buffer))
        memoryview(buffer).cast("B")[: len(data)] = data
        self._place += len(data)
        return len(data)


class CheckedInfo(tarfile.TarInfo):
    """Heads of members, for tarfile to raise at one that is damaged: by itself it would end there without a word."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Raises tarfile.ReadError for a damaged head, and where the tar file ends without the zeros that end one."""
        place = archive.offset
        try:
            return super().fromtarfile(archive)
        except tarfile.EmptyHeaderError:
            if not place:
                raise
            raise tarfile.ReadError("it ends without its last block of zeros: cut off behind a member, maybe") from None
        except (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:
            if not place:
                raise
            raise tarfile.ReadError(f"damaged at byte {place:,} ({error}); what lies behind is not read") from None


class _Zip:
    def __init__(self, file: BinaryIO):
        self._zip = zipfile.ZipFile(file)
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            self._infos.setdefault(member_name(info.filename), info)

    def members(self) -> list[Member]:
        return [Member(name, info.file_size) for name, info in self._infos.items() if not info.is_dir()]

    def open(self, name: str) -> BinaryIO:
        if name not in self._infos:
            raise FileNotFoundError(f"no member {name}")
        return self._zip.open(self._infos[name])  # type: ignore[return-value]


class _Tar:
    """A plain tar file: its members are found anywhere at once."""

    def __init__(self, file: BinaryIO):
        self._tar = tarfile.open(fileobj=file, mode="r:", tarinfo=CheckedInfo)  # noqa: SIM115 (kept open)
        self._infos: dict[str, tarfile.TarInfo] = {}
        self._problem = ""
        try:
            while (info := self._tar.next()) is not None:
                if info.isreg():
                    self._infos.setdefault(member_name(info.name), info)
        except ERRORS as error:
            self._problem = str(error)

    def members(self) -> list[Member]:
        found = [Member(name, info.size) for name, info in self._infos.items()]
        return [*found, Member("", 0, self._problem)] if self._problem else found

    def open(self, name: str) -> BinaryIO:
        if name not in self._infos:
            raise FileNotFoundError(f"no member {name}")
        return self._tar.extractfile(self._infos[name])  # type: ignore[return-value]


class _PackedTar:
    """A packed tar file: read on from the last member; from the beginning again for one that lies before it."""

    def __init__(self, begin: Callable[[], BinaryIO]):
        self._begin = begin
        self._tar: tarfile.TarFile | None = None
        self._last: tuple[str, IO[bytes], int] | None = None

    def members(self) -> list[Member]:
        found: dict[str, Member] = {}
        try:
            self._rewind()
            while (info := self._next()) is not None:
                name = member_name(info.name)
                found.setdefault(name, Member(name, info.size))
        except ERRORS as error:
            found[""] = Member("", 0, str(error))
        self._tar = None
        return list(found.values())

    def open(self, name: str) -> BinaryIO:
        if self._last is None or self._last[0] != name:
            self._last = self._find(name)
        _, file, size = self._last
        return io.BufferedReader(_View(file, size))

    def _find(self, name: str) -> tuple[str, IO[bytes], int]:
        for fresh in [True] if self._tar is None else [False, True]:
            if fresh:
                self._rewind()
            while (info := self._next()) is not None:
                if member_name(info.name) == name:
                    return name, self._copy(info), info.size
        self._tar = None
        raise FileNotFoundError(f"no member {name}")

    def _rewind(self) -> None:
        self._tar = tarfile.open(fileobj=self._begin(), mode="r|", tarinfo=CheckedInfo)  # noqa: SIM115 (kept open)

    def _next(self) -> tarfile.TarInfo | None:
        """The next regular file. A tar file that cannot be read on begins anew with the next member asked for."""
        assert self._tar is not None
        try:
            while (info := self._tar.next()) is not None and not info.isreg():
                pass
            self._tar.members = []  # they are not gone through again
            return info
        except ERRORS:
            self._tar = None
            raise

    def _copy(self, info: tarfile.TarInfo) -> IO[bytes]:
        assert self._tar is not None
        file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (its readers keep it)
        content = self._tar.extractfile(info)
        assert content is not None, "a regular file"
        try:
            shutil.copyfileobj(content, file, 1 << 20)
        except ERRORS:
            self._tar = None
            raise
        return file


@lru_cache(maxsize=4)
def _opened(kind: str, path: str, version: object, opener: Opener) -> _Zip | _Tar | _PackedTar:
    """An archive, kept open: its members are read one after the other. `version`: a changed file, or a forked process, whose
    files would share their places, opens it anew."""
    file = opener(path)
    if kind == "zip":
        return _Zip(file)
    packing = packing_of(path.split("::")[0], file)
    if packing is None:
        return _Tar(file)
    file.close()
    return _PackedTar(lambda: Unpacked(opener(path), packing))


def _archive(kind: str, path: str, opener: Opener) -> _Zip | _Tar | _PackedTar:
    last = path.rpartition("::")[2]
    try:
        status = os.stat(last)
        version: object = (os.getpid(), status.st_mtime_ns, status.st_size, status.st_ino)
    except (OSError, ValueError):
        version = os.getpid()
    return _opened(kind, path, version, opener)


def members(kind: str, path: str, opener: Opener) -> list[Member]:
    """All files of the archive at `path`, in its order, which `opener` opens; the first of each name. What keeps the archive
    from being read further is told by a last one without name."""
    try:
        return _archive(kind, path, opener).members()
    except ERRORS as error:
        return [Member("", 0, str(error))]


def open_member(kind: str, name: str, path: str, opener: Opener) -> BinaryIO:
    """Open a member of the archive at `path`. Raises Unreadable for one that is encrypted or damaged, FileNotFoundError for one
    that is not there."""
    try:
        return _archive(kind, path, opener).open(name)
    except FileNotFoundError:
        raise
    except ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unreadable(f"{kind}://{name}::{path}: {error}") from None
