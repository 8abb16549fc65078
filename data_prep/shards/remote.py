"""Files behind a URL of fsspec, read in chunks through the cache; a request that fails is tried again, with growing waits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import xxhash

from data_prep.shards import credentials
from data_prep.shards.cache import CacheSettings, ChunkCache
from data_prep.shards.format import HEADER_BYTES, MissingError, ShardError

T = TypeVar("T")
LONGEST_WAIT = 30.0
"""Seconds."""


class RemoteFile:
    """A remote file that does not change."""

    stable = False

    def __init__(self, url: str, settings: CacheSettings, version: str):
        self.url, self._settings = url, settings
        self.size = _retried(url, settings, lambda fs, path: _size_of(fs.info(path)["size"]))
        if self.size is None:
            raise MissingError(f"{url}: cannot be read: no such file.")
        self._cache = _cache(settings)
        identity = f"{url}\n{version}\n{self.size}\n{settings.chunk_bytes}"
        self._folder = f"{self._cache.folder}/{xxhash.xxh3_128_hexdigest(identity.encode())}/"

    def _chunks(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(number, first byte, byte after the last) of the chunks with these bytes. Borders lie HEADER_BYTES behind
        multiples of the chunk's size, so that no checksummed block lies in two chunks."""
        size = self._settings.chunk_bytes
        for number in range(max(0, offset - HEADER_BYTES) // size, max(0, offset + length - 1 - HEADER_BYTES) // size + 1):
            start = number * size + HEADER_BYTES if number else 0
            yield number, start, min((number + 1) * size + HEADER_BYTES, self.size)

    def _get(self, start: int, stop: int) -> bytes:
        content = _retried(self.url, self._settings, lambda fs, path: _part(fs, path, start, stop))
        if content is None:
            raise ShardError(f"{self.url}: is gone since it was opened.")
        return content

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if end > self.size:
            raise ShardError(f"{self.url}: ends at byte {self.size:,}, {end - self.size:,} too early.")
        if offset == end:
            return
        for number, start, stop in self._chunks(offset, len(buffer)):
            first, last = max(start, offset), min(stop, end)
            part = buffer[first - offset : last - offset]
            self._cache.read_into(f"{self._folder}{number}", first - start, part, self._getter(start, stop))

    def _getter(self, start: int, stop: int) -> Callable[[], bytes]:
        return lambda: self._get(start, stop)

    def read(self, offset: int, length: int) -> np.ndarray:
        out = np.empty(length, np.uint8)
        self.read_into(offset, memoryview(out))
        return out

    def fetch(self, offset: int, length: int) -> None:
        for number, start, stop in self._chunks(offset, min(length, self.size - offset)):
            self._cache.fetch(f"{self._folder}{number}", self._getter(start, stop))

    def is_at_hand(self, offset: int, length: int) -> bool:
        return all(self._cache.has_read(f"{self._folder}{number}") for number, _, _ in self._chunks(offset, length))

    def refetch(self, offset: int, length: int) -> bool:
        for number, _, _ in self._chunks(offset, length):
            self._cache.remove(f"{self._folder}{number}")
        return True


@lru_cache(maxsize=8)
def _cache(settings: CacheSettings) -> ChunkCache:
    return ChunkCache(settings)


def fetch_whole(url: str, settings: CacheSettings, first: int | None) -> bytes | None:
    """Content of a small file, or its `first` bytes; None when there is none. Raises ShardError after the last attempt."""

    def whole(fs: Any, path: str) -> bytes:
        size = _size_of(fs.info(path)["size"])
        if first is not None:
            return _part(fs, path, 0, min(first, size))
        content = fs.cat_file(path)
        if len(content) != size:
            raise OSError(f"{len(content):,} bytes came of {size:,}")
        return content

    return _retried(url, settings, whole)


def names(url: str, settings: CacheSettings) -> list[str]:
    """Names of the files in a folder, in order; none where it is missing, or the server lists nothing. Raises ShardError after
    the last attempt."""

    def listed(fs: Any, path: str) -> list[str]:
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=True))

    return _retried(url, settings, listed) or []


def _size_of(size: Any) -> int:
    if not isinstance(size, int):
        raise OSError("the server does not say the file's size")
    return size


def _part(fs: Any, path: str, start: int, stop: int) -> bytes:
    if start >= stop:  # s3fs gives the whole object for an empty range
        return b""
    content = fs.cat_file(path, start=start, end=stop)
    if len(content) != stop - start:  # a broken transfer, or a server without byte ranges
        raise OSError(f"{len(content):,} bytes came for bytes {start:,} to {stop:,}")
    return content


class _UrlError(Exception):
    """No file system goes by this URL."""


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path there. It may connect at once, and so fail as a request does."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url, use_listings_cache=False)
    except TypeError:  # what it is made of takes no such option
        return url_to_fs(url)
    except ValueError as error:
        raise _UrlError(str(error)) from None


def _retried(url: str, settings: CacheSettings, request: Callable[[Any, str], T]) -> T | None:
    """What the request returns; None when there is no such file. fsspec's file systems raise errors of their own libraries, so
    any error but a missing file, missing rights and bad credentials may pass by itself."""
    for attempt in range(1, settings.attempts + 1):
        try:
            return request(*_file_system(url))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ImportError, _UrlError) as error:
            raise ShardError(f"{url}: cannot be read: {error}.") from None
        except Exception as error:
            if told := credentials.hint(error, url):
                raise ShardError(f"{url}: {told}") from error
            if attempt == settings.attempts:
                raise ShardError(
                    f"{url}: could not be read in {attempt} attempts; the last: {type(error).__name__}: {error}."
                ) from error
        time.sleep(min(LONGEST_WAIT, settings.first_wait * 2 ** (attempt - 1)) * random.uniform(0.5, 1))
    raise AssertionError("unreachable")
