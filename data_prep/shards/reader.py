"""Reading shards: what does not match is refused, with the file, the numbers and the way out."""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shards.cache import CacheSettings
from data_prep.shards.format import (
    HEADER_BYTES,
    MANIFEST,
    MANIFEST_VERSION,
    REBUILD,
    ShardError,
    ShardHeader,
    corpus_fingerprint,
    manifest_text,
    token_dtype,
)
from data_prep.shards.index import ShardEntry, ShardIndex
from data_prep.shards.prefetch import Prefetcher
from data_prep.shards.shard import Shard
from data_prep.shards.storage import is_remote, join, path_or_url, read_whole
from data_prep.shards.takedown import read_takedowns

_MANIFEST_KEYS = {
    "tokens": int,
    "documents": int,
    "text_bytes": int,
    "vocab_size": int,
    "eod_id": int,
    "tokenizer_fingerprint": str,
    "fingerprint": str,
    "shards": int,
    "index_checksum": str,
}
MAX_SHARDS = 4096
"""Shards of a folder of which a process remembers what it checked: about 5 KiB each; 1.1 T tokens in shards of 2**28."""
LOOKED_FOR = 1000
"""Local shards whose files are looked for, with the right size, when the folder is opened."""
LOOKED_INTO = 16
"""Local shards whose headers are read then, too."""


class TokenShards:
    """A folder of shards as one stream of tokens. Time and memory to open it and to read from it do not grow with the corpus:
    shards are opened when they are first read, and the least recently used of many are let go."""

    def __init__(self, folder: str | Path, manifest: dict[str, Any], verify: bool, cache: CacheSettings | None):
        self.folder, self.cache = folder, cache
        """Path, or str where it is a URL; settings of the cache, for other files in the folder."""
        self.tokens: int = manifest["tokens"]
        self.documents: int = manifest["documents"]
        self.text_bytes: int = manifest["text_bytes"]
        self.vocab_size: int = manifest["vocab_size"]
        self.eod_id: int = manifest["eod_id"]
        self.tokenizer_fingerprint: str = manifest["tokenizer_fingerprint"]
        self.fingerprint: str = manifest["fingerprint"]
        self.dtype = token_dtype(self.vocab_size)
        """uint16 or uint32, by vocabulary."""
        self._manifest, self._verify = manifest, verify
        self._index = ShardIndex(folder, manifest, cache, verify)
        self._first = memoryview(self._index.first)  # of single numbers bisect is faster than numpy
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._lock = threading.Lock()
        self._prefetcher: Prefetcher | None = None
        self.is_fetched = is_remote(folder) or (cache is not None and cache.always)
        """Whether tokens come through a cache, so that `prefetch` is of use."""
        self.takedowns = read_takedowns(folder, self.fingerprint, cache)
        """Documents that nobody may learn from any more."""

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True, cache: CacheSettings | None = None) -> TokenShards:
        """Open a folder that holds manifest.json and its shards, by path or by any URL of fsspec (s3://bucket/shards/train).

        With `verify`, each 64 KiB block is checked when it is first read. `cache` says how remote shards are kept on the local
        disk. Raises ShardError for anything that is missing, half-written, damaged, replaced, or from another build: manifest
        and index at once, so the first shards; the others when they are first read.
        """
        folder = path_or_url(folder)
        shards = cls(folder, _read_manifest(folder, cache), verify, cache)
        shards._look_for_shards()
        return shards

    def _look_for_shards(self) -> None:
        if self.is_fetched:  # each look is a request; the first tells a wrong URL
            self._shard(0)
            return
        folder, missing = Path(self.folder), []
        entries = self._index.entries(0, min(LOOKED_FOR, self.shard_count))
        for index, entry in enumerate(entries):
            try:
                size = (folder / entry.name).stat().st_size
            except OSError:
                missing.append(entry.name)
                continue
            if index < LOOKED_INTO or size != self._file_bytes(entry):
                self._shard(index)  # says what is wrong with it
        if missing:
            among = "" if len(entries) == self.shard_count else f"the first {len(entries):,} of "
            raise ShardError(
                f"{folder}: {len(missing)} of {among}{self.shard_count} shards are missing, first {missing[0]}. {REBUILD}"
            )

    def _file_bytes(self, entry: ShardEntry) -> int:
        header = ShardHeader(entry.tokens, entry.documents, 0, self.vocab_size, self.eod_id, self.tokenizer_fingerprint)
        return header.file_bytes

    @property
    def shard_count(self) -> int:
        """Number of shards."""
        return self._index.count

    def _shard(self, index: int) -> Shard:
        shard = self._shards.get(index)
        if shard is None:
            entry = self._index.entries(index, index + 1)[0]
            shard = Shard(join(self.folder, entry.name), entry, self._manifest, self.cache, self._verify)
            with self._lock:
                self._shards[index] = shard
                while len(self._shards) > MAX_SHARDS:
                    self._shards.popitem(last=False)
        elif len(self._shards) == MAX_SHARDS:  # the order matters only where one may have to go
            with self._lock:
                if index in self._shards:  # another thread may have let it go meanwhile
                    self._shards.move_to_end(index)
        return shard

    def shard_spans(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[str, int, int]]:
        """(name, first token, token after the last) of each shard with tokens in [start, stop) of the stream, in order."""
        stop = self.tokens if stop is None else stop
        index = bisect_right(self._first, start) - 1
        while index < self.shard_count and self._first[index] < stop:
            some = self._index.entries(index, min(index + LOOKED_FOR, self.shard_count))
            for place, entry in enumerate(some, index):
                if max(start, self._first[place]) < min(stop, self._first[place + 1]):
                    yield entry.name, self._first[place], self._first[place + 1]
            index += len(some)

    def shard_fingerprint(self, position: int) -> str:
        """Fingerprint, as hex, of the shard that holds the token at a position of the stream."""
        index = bisect_right(self._first, position) - 1
        return self._index.entries(index, index + 1)[0].fingerprint

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard, offset in it), int64 like `positions`, of tokens of the stream. Raises IndexError for others."""
        positions = np.asarray(positions, np.int64)
        if positions.size and not 0 <= int(positions.min()) <= int(positions.max()) < self.tokens:
            raise IndexError(f"tokens {positions.min()} to {positions.max()} of {self.tokens}")
        shards = np.searchsorted(self._index.first, positions, side="right") - 1
        return shards, positions - self._index.first[shards]

    def read(self, start: int, stop: int) -> np.ndarray:
        """A copy of the tokens [start, stop) of the stream, across shard borders."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        out = np.empty(stop - start, self.dtype)
        self._read_raw(start, memoryview(out).cast("B"))
        return out

    def _read_raw(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of the tokens from `start` on."""
        index, size, done = bisect_right(self._first, start) - 1, self.dtype.itemsize, 0
        while done < len(buffer):
            offset = start - self._first[index]
            count = min((len(buffer) - done) // size, self._first[index + 1] - start)
            self._shard(index).read_into(offset * size, buffer[done : done + count * size])
            start, index, done = start + count, index + 1, done + count * size

    def read_into(self, starts: np.ndarray, sizes: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """Copy the tokens [starts[k], starts[k] + sizes[k]) of the stream to out[places[k]:places[k] + sizes[k]], for all k.

        Arguments are int64 [spans], but `out`, integers [any], read in place where they are of the shards' type. Raises
        IndexError for what is not in the stream.
        """
        if not len(starts):
            return
        stops = starts + sizes
        if sizes.min() < 0 or starts.min() < 0 or stops.max() > self.tokens:
            raise IndexError(f"tokens {starts.min()} to {stops.max()} of {self.tokens}")
        if self.is_fetched and len(starts) > 1:
            self.prefetch(starts, sizes)
        first, width = self._index.first, self.dtype.itemsize
        shards = np.minimum(np.searchsorted(first, starts, side="right"), self.shard_count) - 1
        inside = stops <= first[shards + 1]
        raw = out if out.dtype == self.dtype and out.flags.c_contiguous and out.size else np.empty(int(sizes.max()), self.dtype)
        buffer = memoryview(raw).cast("B")
        into = places * width if raw is out else np.zeros_like(places)
        offsets = (starts - first[shards]) * width
        whole = np.flatnonzero(inside & (sizes > 0))
        readers = self._checked(shards[whole], offsets[whole], offsets[whole] + sizes[whole] * width)
        columns = (shards, offsets, sizes, inside, starts, places, into)
        for index, offset, size, one, start, place, at in zip(*(column.tolist() for column in columns), strict=True):
            part = buffer[at : at + size * width]
            if one and size:
                readers[index](HEADER_BYTES + offset, part)
            else:
                self._read_raw(start, part)
            if raw is not out:
                out[place : place + size] = raw[:size]

    def _checked(
        self, shards: np.ndarray, starts: np.ndarray, stops: np.ndarray
    ) -> dict[int, Callable[[int, memoryview], None]]:
        """By shard, what reads its file: the bytes [starts, stops) behind the headers are checked here, all of a shard at once,
        since in Python a check costs more than the read."""
        readers = {}
        for index in set(shards.tolist()):
            mine, shard = shards == index, self._shard(index)
            shard.blocks.check(starts[mine], stops[mine])
            readers[index] = shard.file.read_into
        return readers

    def prefetch(self, starts: np.ndarray, sizes: np.ndarray) -> None:
        """Say which spans of the stream are read soon (int64 [spans]): remote shards are fetched in the background."""
        if not self.is_fetched:
            return
        self._prefetcher = self._prefetcher or Prefetcher()
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            index = bisect_right(self._first, start) - 1
            shard, width = self._shards.get(index), self.dtype.itemsize
            if shard is None or not shard.is_at_hand((start - self._first[index]) * width, size * width):
                self._prefetcher.hint(partial(self._fetch, start, min(start + size, self.tokens)))

    def _fetch(self, start: int, stop: int) -> None:
        index, width = bisect_right(self._first, start) - 1, self.dtype.itemsize
        while start < stop:
            offset, end = self._first[index], min(stop, self._first[index + 1])
            self._shard(index).fetch((start - offset) * width, (end - start) * width)
            start, index = end, index + 1

    def document_starts_in(self, start: int, stop: int) -> np.ndarray:
        """int64 positions in [start, stop) of the stream at which documents start, ascending."""
        found, index = [], max(0, bisect_right(self._first, start) - 1)
        while index < self.shard_count and self._first[index] < stop:
            offset = self._first[index]
            found.append(self._shard(index).starts_in(max(0, start - offset), stop - offset) + offset)
            index += 1
        return found[0] if len(found) == 1 else np.concatenate([np.empty(0, np.int64), *found])

    def document_lengths(self, most: int = 1 << 20) -> Iterator[np.ndarray]:
        """int64 tokens of the documents in order, their end-of-document tokens included, at most `most` at a time."""
        for index in range(self.shard_count):
            shard = self._shard(index)
            for first in range(0, shard.header.documents, most):
                part = shard.starts(first, first + most + 1)
                yield np.diff(part) if len(part) > most else np.diff(part, append=shard.header.tokens)

    def document_starts(self) -> np.ndarray:
        """uint64 positions in the stream at which documents start, ascending. O(documents) memory."""
        parts = [self._shard(index).starts() + self._first[index] for index in range(self.shard_count)]
        return np.concatenate(parts).astype(np.uint64)

    def verify_all(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Check every byte of every file; `progress(tokens done, tokens in all)` is called after each shard."""
        self._index.verify_all()
        fingerprints = []
        for index in range(self.shard_count):
            shard = self._shard(index)
            shard.verify_all()
            fingerprints.append(shard.header.fingerprint)
            progress(self._first[index + 1], self.tokens)
        if corpus_fingerprint(fingerprints) != self.fingerprint:
            raise ShardError(f"{join(self.folder, MANIFEST)}: its fingerprint is not that of the shards it lists. {REBUILD}")


def _read_manifest(folder: str | Path, cache: CacheSettings | None) -> dict[str, Any]:
    path = join(folder, MANIFEST)
    if not is_remote(folder) and not Path(folder).is_dir():
        raise ShardError(f"{folder}: no such folder. Build the shards first: python -m data_prep run RECIPE.")
    content = read_whole(path, cache)
    if content is None and is_remote(folder):
        raise ShardError(f"{folder}: no {MANIFEST} there. Check the URL; it must name a folder of finished shards.")
    if content is None:
        raise ShardError(f"{folder}: no {MANIFEST}: not a folder of shards, or its build did not finish. {REBUILD}")
    try:
        text = content.decode()
        manifest = json.loads(text)
    except ValueError as error:
        raise ShardError(f"{path}: damaged: {error}. {REBUILD}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != "moenda token shards":
        raise ShardError(f"{path}: not a manifest of moenda token shards.")
    if manifest.get("version") != MANIFEST_VERSION:
        raise ShardError(
            f"{path}: format version {manifest.get('version')}; this moenda reads version {MANIFEST_VERSION}. Build the shards "
            f"anew with it (`python -m data_prep run RECIPE --rebuild`), or use the moenda that wrote them."
        )
    if text != manifest_text(manifest):
        raise ShardError(f"{path}: damaged or edited: its checksum does not match. {REBUILD}")
    wrong = [key for key, kind in _MANIFEST_KEYS.items() if not isinstance(manifest.get(key), kind)]
    if wrong or manifest["shards"] < 1:
        raise ShardError(f"{path}: damaged: {', '.join(wrong) or 'shards'} missing or of the wrong type. {REBUILD}")
    return manifest
