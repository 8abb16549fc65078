"""On-disk form of pack plans, version 1: which pieces of a token stream stand in which window. All numbers little-endian.

A plan `plans/best_fit-2048.plan` in the folder of its shards:

    4096 bytes   header (PlanHeader), zero-padded
    pieces       12 bytes each: uint64 first token in the stream, uint32 tokens; the highest bit: the document goes on
    zeros        up to a multiple of 8 bytes
    windows      uint64 x (windows + 1): window i is the pieces windows[i] to windows[i + 1], one behind the other, then padding
    blocks       uint64: xxh3-64 of each 64 KiB of pieces, zeros and windows

A piece is of one document. A piece whose document goes on fills its window. The header carries its own checksum and one of the
blocks table. Opening reads the header alone; each block is checked when it is first touched, and a changed entry of the blocks
table is a block that does not match. So truncation and any flipped bit are refused before they could move a token.
"""

from __future__ import annotations

import glob
import os
import shlex
import struct
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO

import numpy as np
import xxhash

from data_prep.shards import locks
from data_prep.shards.blocks import BlockChecksums, Blocks
from data_prep.shards.cache import CacheSettings
from data_prep.shards.format import HEADER_BYTES, MANIFEST, ShardError, blocks_of
from data_prep.shards.megatron_format import FOLDER_SUFFIX
from data_prep.shards.storage import is_remote, join, open_bytes, read_whole
from data_prep.shards.writer import sync_folder

MAGIC = b"MOENDAPP"
VERSION = 1
FILED = ("best_fit", "pad")
"""Ways of packing that need a file; "concatenate" is arithmetic."""
PIECE = np.dtype([("start", "<u8"), ("size", "<u4")])
GOES_ON = 1 << 31
"""Bit of a piece's size: its document goes on behind it, so that the last input's target is the document's next token."""

_FIELDS = struct.Struct("<8sI16s16sIIQQQQQQ16s")
_CHECKSUM_AT = HEADER_BYTES - 16


def plan_name(way: str, window: int, max_documents: int | None = None) -> str:
    """best_fit-2048, best_fit-2048-max64, ... Raises ValueError for a cap that does not go with the way, or is below 1."""
    if max_documents is None:
        return f"{way}-{window}"
    if way != "best_fit":
        raise ValueError(f'max_documents {max_documents} goes with packing "best_fit", not "{way}".')
    if max_documents < 1:
        raise ValueError(f"a window holds at least 1 document, not {max_documents}.")
    return f"{way}-{window}-max{max_documents}"


def plan_path(folder: str | Path, way: str, window: int, max_documents: int | None = None) -> str | Path:
    """Where the plan of a folder of shards is: a path, or a URL."""
    return join(folder, "plans", f"{plan_name(way, window, max_documents)}.plan")


@dataclass(frozen=True)
class Packed:
    """Windows made of pieces of a stream: window i is the pieces first[i] to first[i + 1], in a row, then padding."""

    starts: np.ndarray
    """int64 [pieces]: first token of each piece."""
    sizes: np.ndarray
    """int32 [pieces]: its tokens."""
    goes_on: np.ndarray
    """bool [pieces]: its document goes on behind it."""
    first: np.ndarray
    """int64 [windows + 1]."""

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, index: int) -> list[tuple[int, int]]:
        """(start, stop) of each piece of a window."""
        pieces = slice(self.first[index], self.first[index + 1])
        return [
            (start, start + size) for start, size in zip(self.starts[pieces].tolist(), self.sizes[pieces].tolist(), strict=True)
        ]


@dataclass(frozen=True)
class PlanHeader:
    """What a plan says of itself."""

    way: str
    window: int
    """Tokens per window."""
    max_documents: int | None
    """Most pieces in one window; None: any number."""
    corpus_fingerprint: str
    """Of the shards that it was made for."""
    windows: int = 0
    pieces: int = 0
    tokens: int = 0
    """Tokens in the windows."""
    documents: int = 0
    documents_cut: int = 0
    """Documents that would fit a window and stand in two or more."""
    documents_split: int = 0
    """Documents longer than a window."""
    blocks_checksum: bytes = bytes(16)
    """xxh3-128 of the blocks table."""

    @property
    def padding(self) -> int:
        """Places of the windows without a token."""
        # windows of documents in a row may hold the corpus's last token as a target only
        return max(0, self.windows * self.window - self.tokens)

    @property
    def windows_offset(self) -> int:
        """Where the windows table starts behind the header."""
        return -(-self.pieces * PIECE.itemsize // 8) * 8

    @property
    def body_bytes(self) -> int:
        """Size of pieces, zeros and windows."""
        return self.windows_offset + 8 * (self.windows + 1)

    @property
    def blocks(self) -> int:
        """Number of checksummed blocks."""
        return blocks_of(self.body_bytes)

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return HEADER_BYTES + self.body_bytes + 8 * self.blocks

    def with_more(self, packed: Packed, documents: int, split: int) -> PlanHeader:
        """The totals with windows made of so many more documents, `split` of them longer than a window."""
        return replace(
            self,
            windows=self.windows + len(packed),
            pieces=self.pieces + len(packed.starts),
            tokens=self.tokens + int(packed.sizes.sum(dtype=np.int64)),
            documents=self.documents + documents,
            documents_split=self.documents_split + split,
        )

    def pack(self) -> bytes:
        """The 4096 bytes at the start of the file."""
        fields = _FIELDS.pack(
            MAGIC,
            VERSION,
            self.way.encode(),
            bytes.fromhex(self.corpus_fingerprint),
            self.window,
            self.max_documents or 0,
            self.windows,
            self.pieces,
            self.tokens,
            self.documents,
            self.documents_cut,
            self.documents_split,
            self.blocks_checksum,
        )
        body = fields.ljust(_CHECKSUM_AT, b"\0")
        return body + xxhash.xxh3_128_digest(body)

    @property
    def fingerprint(self) -> str:
        """The header's checksum, hex: identifies the plan's whole content."""
        return self.pack()[_CHECKSUM_AT:].hex()

    @classmethod
    def unpack(cls, raw: bytes) -> PlanHeader:
        """Read a header. Raises ShardError that says what is wrong with it, to follow the name of the file."""
        if len(raw) < HEADER_BYTES:
            raise ShardError(f"{len(raw)} bytes, less than the {HEADER_BYTES} of a plan's header")
        magic, version, way, corpus, window, most, *numbers, blocks = _FIELDS.unpack_from(raw)
        if magic != MAGIC:
            raise ShardError(f"not a pack plan (it starts with {raw[:8]!r})")
        if raw[_CHECKSUM_AT:] != xxhash.xxh3_128_digest(raw[:_CHECKSUM_AT]):
            raise ShardError("the header is damaged (its checksum does not match)")
        if version != VERSION:
            raise ShardError(f"format version {version}; this moenda reads version {VERSION}")
        return cls(way.rstrip(b"\0").decode(), window, most or None, corpus.hex(), *numbers, blocks_checksum=blocks)


class PlanFile:
    """A plan; opening and the look-up of any window take the same time and memory whatever its size."""

    def __init__(self, url: str | Path, header: PlanHeader, cache: CacheSettings | None):
        self.header = header
        file = open_bytes(url, cache, version=header.fingerprint)
        if file.size != header.file_bytes:
            state = "truncated" if file.size < header.file_bytes else "longer than written"
            raise ShardError(f"{url}: {state}: {file.size:,} bytes, its header says {header.file_bytes:,}. {_remedy(url)}")
        self._blocks = Blocks(
            file, HEADER_BYTES, header.body_bytes, header.blocks_checksum, check_table=False, remedy=_remedy(url)
        )

    @classmethod
    def open(cls, url: str | Path, corpus_fingerprint: str, cache: CacheSettings | None = None) -> PlanFile:
        """Open the plan of the shards with this fingerprint.

        Raises ShardError, with the command that makes the plan, when it is missing, incomplete, damaged or of other shards.
        """
        raw = read_whole(url, cache, first=HEADER_BYTES)
        if raw is None:
            raise ShardError(f"{url}: this pack plan has not been made. {_remedy(url)}")
        try:
            header = PlanHeader.unpack(raw)
        except ShardError as error:
            raise ShardError(f"{url}: {error}. {_remedy(url)}") from None
        if header.corpus_fingerprint != corpus_fingerprint:
            raise ShardError(
                f"{url}: made for shards {header.corpus_fingerprint}, these are {corpus_fingerprint}: the corpus was built "
                f"anew. {_remedy(url)}"
            )
        name = plan_name(header.way, header.window, header.max_documents)
        if name != PurePosixPath(url).stem:
            raise ShardError(f"{url}: the plan inside is {name}: it was renamed. {_remedy(url)}")
        return cls(url, header, cache)

    def pieces(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pieces of windows, in order: (pieces of each window, first tokens in the stream, tokens: int64; bool goes on).

        Raises ShardError when what it reads is damaged.
        """
        bounds = np.empty((len(indices), 2), "<i8")
        self._read(self.header.windows_offset + 8 * indices, np.full(len(indices), 16), bounds.reshape(-1))
        counts = bounds[:, 1] - bounds[:, 0]
        found = np.empty(int(counts.sum()), PIECE)
        self._read(PIECE.itemsize * bounds[:, 0], PIECE.itemsize * counts, found)
        sizes = found["size"].astype(np.int64)
        goes_on = sizes >= GOES_ON
        return counts, found["start"].astype(np.int64), sizes & (GOES_ON - 1), goes_on

    def _read(self, starts: np.ndarray, sizes: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` with the bytes [starts[k], starts[k] + sizes[k]) of the body, for all k one after the other."""
        buffer, done = memoryview(out.view(np.uint8)), 0
        read_into = self._blocks.read_into
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            read_into(start, buffer[done : done + size])
            done += size

    def verify(self) -> None:
        """Check every byte. Raises ShardError for damage."""
        self._blocks.verify_all()


class PlanWriter:
    """Writes a plan, some windows at a time; used as a context manager.

    The file appears under its name, whole and flushed to disk, when the block ends without an error. Memory: 8 bytes per 64 KiB
    of the file. The windows table waits in a file without a name until the pieces are all written.
    """

    def __init__(self, path: Path, header: PlanHeader):
        """`header`: way, window, cap and corpus; its totals are counted here, and known when the plan is written."""
        self.path, self.header = path, header
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._checksums = BlockChecksums()

    def __enter__(self) -> PlanWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _clear_partials(self.path)
        self._file: BinaryIO = open(self._partial, "wb")
        with suppress(OSError):
            locks.flock(self._file.fileno(), False, self._partial)
        self._windows = tempfile.TemporaryFile(dir=self.path.parent)
        self._file.write(bytes(HEADER_BYTES))
        self._windows.write(bytes(8))
        return self

    def add(self, packed: Packed, documents: int, split: int) -> None:
        """Append windows made of so many documents, `split` of them longer than a window."""
        pieces = np.empty(len(packed.starts), PIECE)
        pieces["start"], pieces["size"] = packed.starts, packed.sizes
        pieces["size"][packed.goes_on] |= np.uint32(GOES_ON)
        self._windows.write((packed.first[1:] + self.header.pieces).astype("<u8").data)
        self.header = self.header.with_more(packed, documents, split)
        self._write(pieces.view(np.uint8).data)

    def _write(self, content: bytes | memoryview) -> None:
        self._checksums.add(content)
        self._file.write(content)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._windows, self._file:
                if kind is None:
                    self._finish()
            if kind is None:
                os.replace(self._partial, self.path)
                sync_folder(self.path.parent)
        finally:
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        header = self.header
        self._write(bytes(header.windows_offset - header.pieces * PIECE.itemsize))
        self._windows.seek(0)
        while content := self._windows.read(1 << 20):
            self._write(content)
        blocks = self._checksums.table()
        self._file.write(blocks)
        self.header = replace(header, blocks_checksum=xxhash.xxh3_128_digest(blocks))
        self._file.seek(0)
        self._file.write(self.header.pack())
        self._file.flush()
        os.fsync(self._file.fileno())


def _remedy(url: str | Path) -> str:
    """The command that makes a plan, from its name; of a Megatron corpus, which has no manifest, with its tokenizer."""
    folder, _, name = str(url).rpartition("/plans/")
    way, _, rest = name.removesuffix(".plan").partition("-")
    window, _, most = rest.partition("-max")
    options = f"--length {window} --way {way}" + (f" --max-documents {most}" if most else "")
    if is_remote(url):
        command = f"python -m data_prep pack COPY {options}"
        return f"Plans are made on a local copy of the shards: {command}. Then copy its plans/{name} to {url}"
    if not Path(folder, MANIFEST).is_file():
        folder, options = folder.removesuffix(FOLDER_SUFFIX), f"{options} --tokenizer FOLDER"
    return f"Make it with: python -m data_prep pack {shlex.quote(folder)} {options}"


def _clear_partials(path: Path) -> None:
    """Remove what killed processes left of this plan; one that lives, on this host or another, holds a lock on its file."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):  # locked, or removed meanwhile
            if Path("/proc", partial.name.split(".")[-2]).exists():
                continue
            with partial.open("rb+") as file:
                if locks.flock(file.fileno(), False, partial):
                    partial.unlink()
