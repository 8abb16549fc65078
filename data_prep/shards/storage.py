"""Bytes of files by place, from a local folder or any fsspec URL.

Local files are read with preadv and not mapped: pages of a map count as the process's memory and are never given back by
themselves, a file that was truncated would end the process (SIGBUS) instead of raising, and a read of some KiB takes as long as
a slice of numpy.memmap. Remote files come in chunks through a cache on the local disk (remote.py, cache.py).
"""

from __future__ import annotations

import io
import os
import resource
import weakref
from collections import deque
from pathlib import Path
from typing import Protocol

import numpy as np

from data_prep.shards.cache import CacheSettings
from data_prep.shards.format import MissingError, ShardError

MAX_DESCRIPTORS = 4096
"""Files held open per process, at most; a quarter of what the system allows where that is less."""


class ByteFile(Protocol):
    """A file that does not change, read by place."""

    url: str
    """Path or URL, for messages."""
    size: int
    """Bytes."""
    stable: bool
    """Whether bytes once found right stay so: false where they may be fetched anew."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes, writable) from `offset` on. Raises ShardError when the file ends before, or cannot be read."""

    def read(self, offset: int, length: int) -> np.ndarray:
        """uint8 [length], writable. Raises ShardError as `read_into`."""

    def is_at_hand(self, offset: int, length: int) -> bool:
        """Whether `fetch` would be of no use, as far as is known without a look."""

    def fetch(self, offset: int, length: int) -> None:
        """Have these bytes at hand for a later read."""

    def refetch(self, offset: int, length: int) -> bool:
        """Get these bytes, found damaged, from their origin again; false where there is no other origin."""


class _Descriptor:
    """An open file, closed when nobody uses it any more: also a thread that still reads while it is taken off the list."""

    __slots__ = ("number",)

    def __init__(self, path: Path):
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


_opened: deque[weakref.ref[LocalFile]] = deque()
"""Files with a descriptor, the longest open first, over all corpora of the process."""


def _most_open() -> int:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_DESCRIPTORS if allowed == resource.RLIM_INFINITY else max(1, min(MAX_DESCRIPTORS, allowed // 4))


class LocalFile:
    """A local file; of many, the longest open are closed and opened again when they are needed."""

    stable = True

    def __init__(self, path: Path):
        self.path, self.url = path, str(path)
        self._identity: tuple[int, ...] | None = None
        self._descriptor: _Descriptor | None = None
        self._open()

    def _open(self) -> _Descriptor:
        try:
            descriptor = _Descriptor(self.path)
            status = os.fstat(descriptor.number)
        except OSError as error:
            kind = MissingError if isinstance(error, FileNotFoundError) else ShardError
            raise kind(f"{self.path}: cannot be read: {error.strerror}.") from None
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if self._identity not in (None, identity):
            raise ShardError(f"{self.path}: was replaced or changed while it was in use. Start again with the files at rest.")
        self._identity, self.size, self._descriptor = identity, status.st_size, descriptor
        while len(_opened) >= _most_open():
            oldest = _opened.popleft()()
            if oldest is not None:
                oldest._descriptor = None
        _opened.append(weakref.ref(self))
        return descriptor

    def read_into(self, offset: int, buffer: memoryview) -> None:
        descriptor = self._descriptor or self._open()
        try:
            done = os.preadv(descriptor.number, (buffer,), offset)
            while done < len(buffer):  # beyond 2 GiB, or a signal came
                more = os.preadv(descriptor.number, (buffer[done:],), offset + done)
                if not more:
                    raise ShardError(f"{self.path}: ends at byte {offset + done:,}, {len(buffer) - done:,} too early.")
                done += more
        except OSError as error:
            raise ShardError(f"{self.path}: cannot be read from byte {offset:,}: {error.strerror}.") from None

    def read(self, offset: int, length: int) -> np.ndarray:
        out = np.empty(length, np.uint8)
        self.read_into(offset, memoryview(out))
        return out

    def is_at_hand(self, offset: int, length: int) -> bool:
        return True

    def fetch(self, offset: int, length: int) -> None:
        """Nothing: the system reads ahead."""

    def refetch(self, offset: int, length: int) -> bool:
        return False


class ByteStream(io.RawIOBase):
    """A file as a stream, for readers that want one."""

    def __init__(self, file: ByteFile):
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:
        count = max(0, min(len(buffer), self._file.size - self._place))
        if count:
            self._file.read_into(self._place, memoryview(buffer)[:count])
        self._place += count
        return count


def is_remote(url: str | Path) -> bool:
    """Whether it is a URL of fsspec (s3://, gs://, https://, memory://, file://, ...), and not a path."""
    return isinstance(url, str) and "://" in url


def path_or_url(text: str | Path) -> str | Path:
    """What a user wrote for a folder."""
    return text if is_remote(text) else Path(text)


def join(folder: str | Path, *names: str) -> str | Path:
    """A file below a folder."""
    return "/".join([folder.rstrip("/"), *names]) if is_remote(folder) else Path(folder, *names)


def open_bytes(url: str | Path, cache: CacheSettings | None = None, version: str = "") -> ByteFile:
    """Open a file that does not change. `version`: a fingerprint of its content, so that a file built anew under the same name
    is never mixed with cached chunks of the old one. Raises MissingError when there is none, ShardError for other failures."""
    cache = cache or CacheSettings()
    if not is_remote(url) and not cache.always:
        return LocalFile(Path(url))
    from data_prep.shards.remote import RemoteFile

    return RemoteFile(url if is_remote(url) else f"file://{Path(url).absolute()}", cache, version)


def names_in(folder: str | Path, cache: CacheSettings | None = None) -> list[str]:
    """Names of the files in a folder, in order; none where there is no such folder, or a server lists none. Raises ShardError
    when it cannot be read."""
    if is_remote(folder):
        from data_prep.shards.remote import names

        return names(str(folder), cache or CacheSettings())
    try:
        return sorted(path.name for path in Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ShardError(f"{folder}: cannot be read: {error.strerror}.") from None


def read_whole(url: str | Path, cache: CacheSettings | None = None, first: int | None = None) -> bytes | None:
    """Content of a small file that may change (a manifest, a ledger), or the `first` bytes of any: as they are now, never from
    the cache; None when there is none. Raises ShardError when it cannot be read."""
    if is_remote(url):
        from data_prep.shards.remote import fetch_whole

        return fetch_whole(url, cache or CacheSettings(), first)
    try:
        with Path(url).open("rb") as file:
            return file.read(first)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ShardError(f"{url}: cannot be read: {error.strerror}.") from None
