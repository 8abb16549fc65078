"""Part of a file in blocks of 64 KiB, behind it the table of their checksums: each block is checked when first touched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xxhash

from data_prep.shards.format import BLOCK_BYTES, REBUILD, ShardError, blocks_of
from data_prep.shards.storage import ByteFile


class BlockChecksums:
    """Checksums of blocks as their bytes come along, for writers. 8 bytes of memory per 64 KiB."""

    def __init__(self) -> None:
        self._sums: list[int] = []
        self._rest = bytearray()

    def add(self, content: bytes | memoryview) -> None:
        """Go on with these bytes."""
        view = memoryview(content)
        if self._rest:
            taken = BLOCK_BYTES - len(self._rest)
            self._rest += view[:taken]
            view = view[taken:]
            if len(self._rest) < BLOCK_BYTES:
                return
            self._sums.append(xxhash.xxh3_64_intdigest(self._rest))
            self._rest.clear()
        whole = len(view) // BLOCK_BYTES * BLOCK_BYTES
        self._sums += [xxhash.xxh3_64_intdigest(view[start : start + BLOCK_BYTES]) for start in range(0, whole, BLOCK_BYTES)]
        self._rest += view[whole:]

    def table(self) -> bytes:
        """The table as it is written, at the end."""
        last = [xxhash.xxh3_64_intdigest(self._rest)] if self._rest else []
        return np.array(self._sums + last, "<u8").tobytes()


def read_checked(file: ByteFile, offset: int, length: int, is_right: Callable[[np.ndarray], bool]) -> np.ndarray | None:
    """uint8 [length] that pass a check, fetched from their origin once more if need be; None when they are damaged there."""
    raw = file.read(offset, length)
    if is_right(raw):
        return raw
    if file.refetch(offset, length):
        raw = file.read(offset, length)
        if is_right(raw):
            return raw
    return None


class Blocks:
    """The bytes [offset, offset + size) of a file, checked. One bit of memory per block says that it was."""

    def __init__(
        self,
        file: ByteFile,
        offset: int,
        size: int,
        table_checksum: bytes,
        verify: bool = True,
        check_table: bool = True,
        remedy: str = REBUILD,
    ):
        """Without `verify` nothing is checked; without `check_table` not the table as a whole, for which all of it is read: a
        damaged entry shows as a block that does not match. Raises ShardError, which ends with `remedy`."""
        self.file, self.offset, self.size, self.count = file, offset, size, blocks_of(size)
        self._table_offset, self._table_checksum, self._remedy = offset + size, table_checksum, remedy
        self._read_file = file.read_into
        self._verified = bytearray(b"\0" if verify else b"\xff") * (-(-self.count // 8))
        self._verified_bits = np.frombuffer(self._verified, np.uint8)
        if verify and check_table:
            self._check_table()

    def _check_table(self) -> None:
        length = 8 * self.count
        if read_checked(self.file, self._table_offset, length, lambda raw: _digest(raw) == self._table_checksum) is None:
            raise ShardError(f"{self.file.url}: its table of checksums is damaged. {self._remedy}")

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer`, not empty, with the bytes from `start` on. Raises ShardError for a damaged block."""
        first, last, verified = start // BLOCK_BYTES, (start + len(buffer) - 1) // BLOCK_BYTES, self._verified
        # most spans lie in one block or two, and most blocks were touched before
        if last - first > 1 or not (verified[first >> 3] >> (first & 7) & verified[last >> 3] >> (last & 7) & 1):
            for block in range(first, last + 1):
                if not verified[block >> 3] >> (block & 7) & 1:
                    self._verify(block)
        self._read_file(self.offset + start, buffer)

    def check(self, starts: np.ndarray, stops: np.ndarray) -> None:
        """Verify the blocks of the bytes [starts, stops), int64 [spans], none empty. Raises ShardError for a damaged one."""
        first, last, bits = starts // BLOCK_BYTES, (stops - 1) // BLOCK_BYTES, self._verified_bits
        touched = (bits[first >> 3] >> (first & 7)) & (bits[last >> 3] >> (last & 7)) & 1
        for row in np.flatnonzero((touched == 0) | (last - first > 1)).tolist():
            for block in range(int(first[row]), int(last[row]) + 1):
                if not self._verified[block >> 3] >> (block & 7) & 1:
                    self._verify(block)

    def read(self, start: int, length: int) -> np.ndarray:
        """uint8 [length] from `start` on, as `read_into`."""
        out = np.empty(length, np.uint8)
        if length:
            self.read_into(start, memoryview(out))
        return out

    def _verify(self, block: int) -> None:
        start = block * BLOCK_BYTES
        length, place = min(BLOCK_BYTES, self.size - start), self._table_offset + 8 * block

        def is_right(raw: np.ndarray) -> bool:
            return xxhash.xxh3_64_intdigest(raw) == int(self.file.read(place, 8).view("<u8")[0])

        if read_checked(self.file, self.offset + start, length, is_right) is None:
            raise ShardError(
                f"{self.file.url}: block {block} of {self.count} (64 KiB from byte {self.offset + start:,}) is damaged: its "
                f"checksum does not match. {self._remedy}"
            )
        if self.file.stable:
            self._verified[block >> 3] |= 1 << (block & 7)

    def verify_all(self) -> None:
        """Check the table and every block, also those that were checked before."""
        self._check_table()
        for block in range(self.count):
            self._verify(block)


def _digest(raw: np.ndarray) -> bytes:
    return xxhash.xxh3_128_digest(raw)
