"""One shard: its header is checked when it is opened, every block when it is first touched."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shards.blocks import Blocks, read_checked
from data_prep.shards.cache import CacheSettings
from data_prep.shards.format import HEADER_BYTES, MANIFEST, REBUILD, ShardError, ShardHeader, token_dtype
from data_prep.shards.index import ShardEntry
from data_prep.shards.storage import open_bytes

STRIDE = 1024
"""One of so many document starts is kept in memory."""
_AT_ONCE = 1 << 20


class Shard:
    """An open shard. Memory: about 3 KiB, and 2 KiB more once documents are looked up in it, for 2**28 tokens."""

    def __init__(self, url: str | Path, entry: ShardEntry, manifest: dict[str, Any], cache: CacheSettings | None, verify: bool):
        """Raises ShardError when it is missing, half-written, damaged, replaced, or of another tokenizer than the manifest."""
        self.url = str(url)
        try:
            self.file = open_bytes(url, cache, version=entry.fingerprint)
        except ShardError as error:
            raise ShardError(f"{error} {REBUILD}") from None
        self.header = self._read_header(entry)
        if self.file.size != self.header.file_bytes:
            state = "truncated or half-written" if self.file.size < self.header.file_bytes else "longer than written"
            raise ShardError(f"{url}: {state}: {self.file.size:,} bytes, its header says {self.header.file_bytes:,}. {REBUILD}")
        if self.header.fingerprint != entry.fingerprint:
            raise ShardError(
                f"{url}: not the shard that the manifest lists (fingerprint {self.header.fingerprint}, listed "
                f"{entry.fingerprint}): it was replaced after the build. {REBUILD}"
            )
        for key in ("vocab_size", "eod_id", "tokenizer_fingerprint"):
            found, listed = getattr(self.header, key), manifest[key]
            if found != listed:
                raise ShardError(
                    f"{url}: written with another tokenizer than the manifest says: {key} {found}, listed {listed}. {REBUILD}"
                )
        for key in ("tokens", "documents", "text_bytes"):
            found, listed = getattr(self.header, key), getattr(entry, key)
            if found != listed:
                raise ShardError(f"{url}: holds {found} {key}, listed beside {MANIFEST} with {listed}. {REBUILD}")
        self.blocks = Blocks(self.file, HEADER_BYTES, self.header.body_bytes, self.header.blocks_checksum, verify)
        self._documents, self._documents_offset = self.header.documents, self.header.documents_offset
        self.read_into = self.blocks.read_into
        """(byte behind the header, buffer): fill the buffer, not empty, from there on, checked."""
        self._sparse: memoryview | None = None

    def _read_header(self, entry: ShardEntry) -> ShardHeader:
        """The header, fetched again where it is not the listed one: what a cache holds may be damaged."""
        length = min(HEADER_BYTES, self.file.size)

        def is_listed(raw: np.ndarray) -> bool:
            return raw.tobytes()[-16:].hex() == entry.fingerprint and self._unpacks(raw)

        raw = read_checked(self.file, 0, length, is_listed)
        return ShardHeader.unpack((self.file.read(0, length) if raw is None else raw).tobytes(), self.url)

    def _unpacks(self, raw: np.ndarray) -> bool:
        try:
            ShardHeader.unpack(raw.tobytes(), self.url)
        except ShardError:
            return False
        return True

    def is_at_hand(self, start: int, length: int) -> bool:
        """Whether `fetch` would be of no use, as far as is known."""
        return self.file.is_at_hand(HEADER_BYTES + start, length)

    def fetch(self, start: int, length: int) -> None:
        """Have these bytes of the tokens at hand for a later read."""
        self.file.fetch(HEADER_BYTES + start, length)

    def starts(self, first: int = 0, stop: int | None = None) -> np.ndarray:
        """int64: first tokens, in this shard, of the documents [first, stop)."""
        stop = self._documents if stop is None else min(stop, self._documents)
        out = np.empty(stop - first, "<i8")
        if len(out):
            self.read_into(self._documents_offset + 8 * first, memoryview(out).cast("B"))
        return out

    def starts_in(self, start: int, stop: int) -> np.ndarray:
        """int64: places in [start, stop) of this shard at which documents start, ascending."""
        if self._sparse is None:
            self._sparse = memoryview(self.starts()[::STRIDE].copy())  # of single numbers bisect is faster than numpy
        low, high = bisect_left(self._sparse, start), bisect_left(self._sparse, stop)
        part = self.starts(max(0, low - 1) * STRIDE, high * STRIDE)
        low, high = part.searchsorted((start, stop)).tolist()
        return part[low:high]

    def verify_all(self) -> None:
        """Check every byte, and that each document ends with the one end-of-document token it has. Raises ShardError."""
        self.blocks.verify_all()
        self._verify_ends()

    def _verify_ends(self) -> None:
        dtype, found = token_dtype(self.header.vocab_size), 0
        expected = np.append(self.starts()[1:], self.header.tokens)[: self.header.documents] - 1
        for first in range(0, self.header.tokens, _AT_ONCE):
            tokens = np.empty(min(_AT_ONCE, self.header.tokens - first), dtype)
            self.read_into(first * dtype.itemsize, memoryview(tokens).cast("B"))
            ends = np.flatnonzero(tokens == self.header.eod_id) + first
            if not np.array_equal(ends, expected[found : found + len(ends)]):
                raise ShardError(self._WRONG_ENDS.format(self.url, self.header.eod_id, self.header.documents))
            found += len(ends)
        if found != self.header.documents:
            raise ShardError(self._WRONG_ENDS.format(self.url, self.header.eod_id, self.header.documents))

    _WRONG_ENDS = (
        "{}: the end-of-document token ({}) stands elsewhere than at the end of each of its {} documents: a text that spells "
        f"it may have been read as the token. {REBUILD}"
    )
