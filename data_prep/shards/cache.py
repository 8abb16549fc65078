"""A bounded cache of chunks of remote files in a folder on the local disk, shared by all processes of a node.

    FOLDER/moenda-chunks/<file>/<chunk>    the chunk's bytes, then their xxh3-128
                         size              bytes of all chunks, uint64: never less than there are
                         lock, lock-000 .. locks: one for every change of the folder, the others for fetching (so that ranks
                                           that want the same chunk fetch it once)

A chunk appears whole under its name, by a rename. Before one is added that does not fit, those used longest ago are removed,
and nothing that is not named like a chunk in there; only then it is written, so the bound holds at every moment. What a crash
left behind goes with the next removal. Checksums are checked at a process's first use of a chunk: what a power cut or a bad
disk left is fetched again.

Reading a chunk that is there needs no right to write: a folder that is read-only serves all that it holds.
"""

from __future__ import annotations

import errno
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from data_prep.shards import locks
from data_prep.shards.format import BLOCK_BYTES, ShardError

DIGEST_BYTES = 16
SUBFOLDER = "moenda-chunks"
"""Of the folder that a user names: what else is in that is not the cache's."""
TOUCH_SECONDS = 60
"""A chunk in use is marked as used this often."""
MAX_KNOWN = 100_000
"""Chunks that a process remembers as checked."""
LOCKS = 256
FREED_AT_ONCE = 0.1
"""Share of the cache that is freed when it is full, since finding the chunks used longest ago takes a look at all."""


_FILE, _CHUNK = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9]+(\.partial)?")


@dataclass(frozen=True)
class CacheSettings:
    """Where chunks of remote shards are kept, and how they are fetched."""

    folder: Path | None = None
    """On a local disk; null: moenda/shards in $XDG_CACHE_HOME or ~/.cache."""
    max_bytes: int = 100 * 10**9
    """The folder never holds more."""
    chunk_bytes: int = 1 << 20
    """Bytes fetched at a time, a multiple of 64 KiB."""
    always: bool = False
    """Read local paths through the cache, too: for a slow mount."""
    attempts: int = 6
    """Tries of a request before it is an error, with twice the wait after each."""
    first_wait: float = 0.5
    """Seconds before the second try."""

    def __post_init__(self) -> None:
        if self.chunk_bytes < BLOCK_BYTES or self.chunk_bytes % BLOCK_BYTES:
            raise ValueError(f"a chunk of {self.chunk_bytes:,} bytes: a multiple of {BLOCK_BYTES:,} is needed.")
        if self.max_bytes < 16 * self.chunk_bytes:
            needed = 16 * self.chunk_bytes
            raise ValueError(
                f"a cache of {self.max_bytes:,} bytes holds less than 16 chunks of {self.chunk_bytes:,}: give it at least "
                f"{needed:,} bytes ({math.ceil(needed / 1e4) / 1e5:g} GB), or make the chunks smaller."
            )
        if self.attempts < 1:
            raise ValueError(f"{self.attempts} attempts: at least 1 is needed.")

    @property
    def path(self) -> Path:
        """The folder."""
        if self.folder is not None:
            return Path(self.folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moenda" / "shards"


class ChunkCache:
    """The folder of a cache; chunks go by their paths. Safe among threads, processes, and processes that die."""

    def __init__(self, settings: CacheSettings):
        self.settings, self.folder = settings, settings.path / SUBFOLDER
        self._known: dict[str, tuple[int, int, float]] = {}  # chunk -> inode, time written, time marked as used

    def read_into(self, chunk: str, offset: int, buffer: memoryview, fetch: Callable[[], bytes]) -> None:
        """Fill `buffer` from byte `offset` of a chunk; `fetch()` gets its content where it is missing or damaged."""
        if not self._read(chunk, offset, buffer):
            content = self._fetched(chunk, fetch)
            if content is not None:
                buffer[:] = content[offset : offset + len(buffer)]
            elif not self._read(chunk, offset, buffer):  # removed since another process fetched it
                buffer[:] = fetch()[offset : offset + len(buffer)]

    def fetch(self, chunk: str, fetch: Callable[[], bytes]) -> None:
        """Have a chunk in the cache."""
        if not self._read(chunk, 0, memoryview(bytearray(0))):
            self._fetched(chunk, fetch)

    def has_read(self, chunk: str) -> bool:
        """Whether this process has read the chunk; it may have gone since."""
        return chunk in self._known

    def remove(self, chunk: str) -> None:
        """Forget a chunk that was found wrong."""
        with self._locked("lock"):
            self._known.pop(chunk, None)
            Path(chunk).unlink(missing_ok=True)

    def _read(self, chunk: str, offset: int, buffer: memoryview) -> bool:
        """Whether the chunk is there and whole; then `buffer` is filled."""
        try:
            descriptor = os.open(chunk, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unusable(error) from None
        try:
            status = os.fstat(descriptor)
            inode, written, used = self._known.get(chunk, (0, 0, 0.0))
            # marking a chunk as used sets its access time and keeps the time it was written, by which it is known
            if (inode, written) != (status.st_ino, status.st_mtime_ns) and not self._is_whole(descriptor, status.st_size):
                return False
            if time.monotonic() - used > TOUCH_SECONDS or (inode, written) != (status.st_ino, status.st_mtime_ns):
                self._mark(chunk, descriptor, status)
            return os.preadv(descriptor, (buffer,), offset) == len(buffer) if len(buffer) else True
        except OSError:  # a bad disk: as good as missing
            return False
        finally:
            os.close(descriptor)

    def _mark(self, chunk: str, descriptor: int, status: os.stat_result) -> None:
        with suppress(OSError):  # another user's, or a file system that is read alone
            os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[chunk] = (status.st_ino, status.st_mtime_ns, time.monotonic())

    @staticmethod
    def _is_whole(descriptor: int, size: int) -> bool:
        raw = os.pread(descriptor, size, 0)
        return size > DIGEST_BYTES and len(raw) == size and _digest(raw[:-DIGEST_BYTES]) == raw[-DIGEST_BYTES:]

    def _fetched(self, chunk: str, fetch: Callable[[], bytes]) -> bytes | None:
        """Fetch a chunk, store it and return its content; None when another process did it meanwhile."""
        with self._locked(f"lock-{xxhash.xxh3_64_intdigest(chunk.encode()) % LOCKS:03d}"):
            if self._read(chunk, 0, memoryview(bytearray(0))):
                return None
            content = fetch()
            try:
                self._store(chunk, content)
            except OSError as error:
                raise self._unusable(error) from None
            return content

    def _store(self, chunk: str, content: bytes) -> None:
        size = len(content) + DIGEST_BYTES
        with self._locked("lock"):
            total = self._total()
            if total + size > self.settings.max_bytes:
                total = self._make_room(size)
            partial = Path(f"{chunk}.partial")
            _write_size(self.folder / "size", total + size)
            partial.parent.mkdir(exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.write(_digest(content))
            os.replace(partial, chunk)

    def _total(self) -> int:
        """Bytes in the folder, or more, by what is written down; what cannot be is over the bound, so that it is counted."""
        try:
            raw = (self.folder / "size").read_bytes()
        except FileNotFoundError:
            raw = b""
        return int.from_bytes(raw, "little") if len(raw) == 8 else self.settings.max_bytes

    def _make_room(self, needed: int) -> int:
        """Remove chunks, those used longest ago first; returns the bytes that stay. Under the lock nobody writes."""
        chunks, total = [], 0
        for path, status in self._chunks():
            if path.suffix == ".partial":  # left by a process that died
                path.unlink(missing_ok=True)
                continue
            chunks.append((status.st_atime_ns, status.st_size, path))
            total += status.st_size
        goal = min(self.settings.max_bytes * (1 - FREED_AT_ONCE), self.settings.max_bytes - needed)
        for _, size, path in sorted(chunks):
            if total <= goal:
                break
            path.unlink(missing_ok=True)
            total -= size
            with suppress(OSError):  # not empty
                path.parent.rmdir()
        return total

    def _chunks(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in os.scandir(self.folder):
            if _FILE.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False):
                for entry in os.scandir(folder.path):
                    if _CHUNK.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        yield Path(entry.path), entry.stat(follow_symlinks=False)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have emptied a cache folder while it is in use
            lock = locks.hold(self.folder / name, wait=True)
        except OSError as error:
            raise self._unusable(error) from None
        with lock:
            yield

    def _unusable(self, error: OSError) -> ShardError:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and self.folder.is_dir():
            return ShardError(
                f"{self.folder}: the cache of remote shards cannot be used: {error.strerror}. What it holds can be read, but a "
                f"part is asked for that is not in it, or is damaged there. Let a run that may write there fill it, with the "
                f"same chunk_kib, or name another folder (data.cache of the run file)."
            )
        return ShardError(
            f"{error.filename or self.folder}: the cache of remote shards cannot be used: {error.strerror}. Name a folder on a "
            f"local disk with room for {self.settings.max_bytes:,} bytes (data.cache of the run file)."
        )


def _digest(content: bytes) -> bytes:
    return xxhash.xxh3_128_digest(content)


def _write_size(path: Path, total: int) -> None:
    partial = path.with_name("size.partial")
    partial.write_bytes(np.uint64(total).tobytes())
    os.replace(partial, path)
