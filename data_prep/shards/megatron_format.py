"""Megatron's pairs of .bin and .idx (megatron-core's `IndexedDataset`), version 1. All numbers little-endian.

    .bin   the tokens of all sequences, one type for all: raw, without header
    .idx   9 bytes "MMIDIDX\\0\\0", uint64 version 1, uint8 type of a token, uint64 sequences, uint64 entries in `documents`
           lengths    int32 x sequences: tokens of each
           pointers   int64 x sequences: the byte of .bin at which each starts
           documents  int64 x entries: the first sequence of each document, then the number of sequences
           modes      int8 x sequences, in multimodal files only: 0 where a sequence is text

A document is one sequence, or several where sentences were split. megatron-core writes sequences one after the other without
gaps, so a pointer is the sum of what lies before it. Nothing carries a checksum or names a tokenizer.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xxhash

from data_prep.shards.format import MissingError, ShardError
from data_prep.shards.storage import LocalFile
from data_prep.shards.writer import sync_folder

MAGIC = b"MMIDIDX\0\0"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: np.dtype("u1"), 2: np.dtype("i1"), 3: np.dtype("<i2"), 4: np.dtype("<i4"), 5: np.dtype("<i8"), 8: np.dtype("<u2")}
"""The whole numbers among megatron-core's `DType` codes."""
_FLOATS = {6: "float64", 7: "float32"}
RESTORE = "Copy the pair again from where it was written."
CONVERT = "`python -m data_prep convert` makes moenda's shards of it"
FOLDER_SUFFIX = ".moenda"
"""PREFIX.moenda holds what goes with a pair: plans, the ledger of takedowns."""
_SAMPLES, _SAMPLE_BYTES = 32, 4096
_BLOCK = 512
"""Entries of a table that are read together."""


def megatron_dtype(vocab_size: int) -> np.dtype:
    """megatron-core's own choice (`DType.optimal_dtype`): uint16 below 65,500 ids, else int32."""
    return DTYPES[8 if vocab_size < 65_500 else 4]


@dataclass(frozen=True)
class IndexHeader:
    """What a .idx says of itself."""

    dtype: np.dtype
    sequences: int
    entries: int
    """Of the documents table: documents + 1."""

    def pack(self) -> bytes:
        """The 34 bytes at the start of the file."""
        code = next(code for code, dtype in DTYPES.items() if dtype == self.dtype)
        return HEADER.pack(MAGIC, VERSION, code, self.sequences, self.entries)

    @property
    def offsets(self) -> tuple[int, int, int, int]:
        """Where lengths, pointers, documents and modes start."""
        lengths = HEADER.size
        pointers = lengths + 4 * self.sequences
        documents = pointers + 8 * self.sequences
        return lengths, pointers, documents, documents + 8 * self.entries

    @classmethod
    def unpack(cls, raw: bytes, size: int, path: Path) -> IndexHeader:
        """Read the header of a .idx of `size` bytes. Raises ShardError for what is no such file, cut short, or of floats."""
        magic = raw[: len(MAGIC)]
        if magic != MAGIC:
            what = "cut short" if MAGIC.startswith(magic) else "not a Megatron .idx"
            raise ShardError(f"{path}: {what} (it starts with {magic!r}, not {MAGIC!r}). {RESTORE}")
        if len(raw) < HEADER.size:
            raise ShardError(f"{path}: cut short: {size} bytes, its header alone has {HEADER.size}. {RESTORE}")
        _, version, code, sequences, entries = HEADER.unpack(raw)
        if version != VERSION:
            raise ShardError(f"{path}: .idx version {version}; moenda reads version {VERSION}, as megatron-core writes it.")
        if code in _FLOATS:
            raise ShardError(f"{path}: holds {_FLOATS[code]} numbers (type {code}), which are no token ids.")
        if code not in DTYPES:
            raise ShardError(f"{path}: unknown type of tokens {code}; known are {sorted(DTYPES)}. Damaged? {RESTORE}")
        header = cls(DTYPES[code], sequences, entries)
        end = header.offsets[-1]
        if size not in (end, end + sequences):
            state = "cut short" if size < end else "damaged or longer than written"
            raise ShardError(
                f"{path}: {state}: {size:,} bytes, its header says {end:,} ({sequences:,} sequences, {entries - 1:,} "
                f"documents), or {end + sequences:,} with modes. {RESTORE}"
            )
        if entries < 1:
            raise ShardError(f"{path}: its table of documents is empty. {RESTORE}")
        return header


class _Table:
    """Numbers in a file: one by one through a small cache, since a binary search meets the same ones again, or as slices."""

    def __init__(self, file: LocalFile, offset: int, count: int, dtype: str):
        self._file, self._offset, self._count, self._dtype = file, offset, count, np.dtype(dtype)
        self._block = lru_cache(64)(lambda block: self[block * _BLOCK : (block + 1) * _BLOCK])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            start, stop, _ = index.indices(self._count)
            size = self._dtype.itemsize
            return self._file.read(self._offset + start * size, max(0, stop - start) * size).view(self._dtype)
        index += self._count if index < 0 else 0
        if not 0 <= index < self._count:
            raise IndexError(f"entry {index} of {self._count}")
        return int(self._block(index // _BLOCK)[index % _BLOCK])


class MegatronPair:
    """One .bin and its .idx. Opening reads the header and a few entries of the index."""

    def __init__(self, prefix: Path):
        """`prefix`: the path without .bin and .idx. Raises ShardError when a file is missing, cut short or damaged."""
        self.prefix = prefix
        self.idx, self.bin = _with_suffix(prefix, ".idx"), _with_suffix(prefix, ".bin")
        try:
            self._data, self._index = LocalFile(self.bin), LocalFile(self.idx)
        except MissingError as error:
            raise MissingError(f"{error} A Megatron corpus is a .bin and a .idx of one name.") from None
        self.bin_bytes = self._data.size
        start = self._index.read(0, min(HEADER.size, self._index.size)).tobytes()
        self.header = IndexHeader.unpack(start, self._index.size, self.idx)
        sequences, entries = self.header.sequences, self.header.entries
        lengths, pointers, documents, modes = self.header.offsets
        self.lengths = _Table(self._index, lengths, sequences, "<i4")
        self.pointers = _Table(self._index, pointers, sequences, "<i8")
        self.documents = _Table(self._index, documents, entries, "<i8")
        self.modes = _Table(self._index, modes, self._index.size - modes, "i1")
        """Empty where the file has none."""
        if self.documents[0] != 0 or self.documents[-1] != sequences:
            raise ShardError(
                f"{self.idx}: damaged: its documents go from sequence {self.documents[0]:,} to {self.documents[-1]:,}, not "
                f"from 0 to {sequences:,}. {RESTORE}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """xxh3-128 (hex) of both sizes and of 32 pieces of 4 KiB, evenly spread from the first byte to the last, of each file:
        the same for every copy on every host, in the same time for any size. Another corpus, another order or another tokenizer
        changes it; a few bytes changed in place may lie between the pieces, and no field of the format would tell."""
        digest = xxhash.xxh3_128(struct.pack("<QQ", self._index.size, self._data.size))
        for file in (self._index, self._data):
            last = max(0, file.size - _SAMPLE_BYTES)
            for start in sorted({last * piece // (_SAMPLES - 1) for piece in range(_SAMPLES)}):
                digest.update(file.read(start, min(_SAMPLE_BYTES, file.size - start)))
        return digest.hexdigest()

    def sequence(self, index: int) -> np.ndarray:
        """Tokens of one sequence, wherever its pointer says. Raises ShardError when that is outside of the .bin."""
        start, length = self.pointers[index], self.lengths[index]
        stop = start + length * self.header.dtype.itemsize
        if length < 0 or start < 0 or stop > self.bin_bytes:
            raise ShardError(
                f"{self.idx}: sequence {index:,} has {length:,} tokens from byte {start:,}, outside of the {self.bin_bytes:,} "
                f"bytes of {self.bin.name}. {RESTORE}"
            )
        return self._data.read(start, stop - start).view(self.header.dtype)

    def sequences(self, first: int, last: int) -> np.ndarray:
        """Tokens of the sequences [first, last), joined, wherever their pointers say."""
        size, lengths = self.header.dtype.itemsize, self.lengths[first:last].astype(np.int64)
        if not len(lengths):
            return np.empty(0, self.header.dtype)
        pointers = self.pointers[first:last].astype(np.int64)
        start, stop = int(pointers[0]), int(pointers[-1] + lengths[-1] * size)
        in_a_row = (np.diff(pointers) == lengths[:-1] * size).all() and (lengths >= 0).all()
        if in_a_row and start >= 0 and stop <= self.bin_bytes:
            return self._data.read(start, stop - start).view(self.header.dtype)
        return np.concatenate([self.sequence(index) for index in range(first, last)])

    def check_modes(self, first: int, last: int) -> None:
        """Raises ShardError when one of the sequences [first, last) is not text."""
        modes = self.modes[first:last]
        if modes.any():
            number = int(np.flatnonzero(modes)[0])
            raise ShardError(
                f"{self.idx}: sequence {first + number:,} has mode {modes[number]}: it is not text (a multimodal corpus). "
                f"Leave such sequences out with the program that wrote them."
            )

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the .bin as it lies."""
        size = self.header.dtype.itemsize
        return self._data.read(start * size, (stop - start) * size).view(self.header.dtype)

    def document_sequences(self, start: int, stop: int) -> np.ndarray:
        """int64 [stop - start + 1] first sequence of each document in [start, stop), and the end of the last.

        Raises ShardError when they do not ascend within the sequences there are."""
        found = self.documents[start : stop + 1].astype(np.int64)
        if found[0] < 0 or found[-1] > self.header.sequences or (found[1:] < found[:-1]).any():
            raise ShardError(
                f"{self.idx}: damaged: documents {start:,} to {stop:,} are not in ascending order within the "
                f"{self.header.sequences:,} sequences. {RESTORE}"
            )
        return found


class MegatronWriter:
    """Writes a pair as megatron-core's `IndexedDatasetBuilder` would, one sequence per document; a context manager.

    Flat memory: the number of documents is declared first, so each table's place is known. The pair appears when the block ends
    without an error, .bin first.
    """

    def __init__(self, prefix: Path, dtype: np.dtype, documents: int):
        self._header = IndexHeader(dtype, documents, documents + 1)
        self._paths = [_with_suffix(prefix, suffix) for suffix in (".bin", ".idx")]
        self._partials = [path.with_name(f".{path.name}.{os.getpid()}.partial") for path in self._paths]
        self._documents = self._bytes = 0

    def __enter__(self) -> MegatronWriter:
        self._bin, self._idx = (partial.open("wb") for partial in self._partials)
        self._idx.write(self._header.pack())
        self._put(self._header.offsets[2], np.zeros(1, "<i8"))
        return self

    def _put(self, offset: int, values: np.ndarray) -> None:
        self._idx.seek(offset)
        self._idx.write(values.tobytes())

    def add_many(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Append documents that lie one after the other in `tokens`, `lengths` of each. Raises ShardError for ids and lengths
        that the format has no room for."""
        assert lengths.sum() == tokens.size
        limits = np.iinfo(self._header.dtype)
        if tokens.size and not limits.min <= int(tokens.min()) <= int(tokens.max()) <= limits.max:
            raise ShardError(f"{self._paths[0]}: ids {tokens.min()} to {tokens.max()} do not fit {self._header.dtype}.")
        if lengths.size and int(lengths.max()) >= 2**31:
            raise ShardError(f"{self._paths[1]}: a document of {lengths.max():,} tokens; Megatron's lengths end at 2^31 - 1.")
        at_lengths, at_pointers, at_documents, _ = self._header.offsets
        ends = self._bytes + np.cumsum(lengths.astype("<i8")) * self._header.dtype.itemsize
        pointers = ends - lengths.astype("<i8") * self._header.dtype.itemsize
        stop = self._documents + len(lengths)
        self._bin.write(tokens.astype(self._header.dtype).tobytes())
        self._put(at_lengths + 4 * self._documents, lengths.astype("<i4"))
        self._put(at_pointers + 8 * self._documents, pointers)
        self._put(at_documents + 8 * (self._documents + 1), np.arange(self._documents + 1, stop + 1, dtype="<i8"))
        self._documents, self._bytes = stop, int(ends[-1]) if len(ends) else self._bytes

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._bin, self._idx:
                if kind is None:
                    for file in (self._bin, self._idx):
                        file.flush()
                        os.fsync(file.fileno())
            if kind is None:
                declared = self._header.sequences
                assert self._documents == declared, f"{self._documents} documents, {declared} declared"
                for partial, path in zip(self._partials, self._paths, strict=True):
                    os.replace(partial, path)
                sync_folder(self._paths[0].parent)
        finally:  # of a full disk, too, where closing a file fails
            for partial in self._partials:
                partial.unlink(missing_ok=True)


def prefix_of(path: str | Path) -> Path:
    """The path without .bin or .idx: either file, or their prefix, names the pair."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".bin", ".idx") else path


def _with_suffix(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)  # a prefix may itself hold dots
