"""Writing shards: each atomically, so that parallel tasks can write theirs, and the manifest last."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

from data_prep.shards.blocks import BlockChecksums
from data_prep.shards.format import (
    BLOCK_BYTES,
    HEADER_BYTES,
    INDEX,
    MANIFEST,
    MANIFEST_VERSION,
    ShardError,
    ShardHeader,
    corpus_fingerprint,
    manifest_text,
    token_dtype,
)
from data_prep.shards.index import index_bytes

OF_DISKS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))
"""Errors of writing that the system reports without the file: full, over the quota, larger than the limit, failing."""


class ShardWriter:
    """Writes one shard, document by document; used as a context manager.

    The file appears under its name, whole and flushed to disk, when the block ends without an error. Memory: 8 bytes per
    document and per 64 KiB of tokens.
    """

    def __init__(self, path: str | Path, vocab_size: int, eod_id: int, tokenizer_fingerprint: str):
        if not 0 <= eod_id < vocab_size:
            raise ShardError(f"end-of-document id {eod_id} is outside the vocabulary of {vocab_size} ids.")
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._header = ShardHeader(0, 0, 0, vocab_size, eod_id, tokenizer_fingerprint)
        self._dtype = token_dtype(vocab_size)
        self._starts: list[np.ndarray] = []
        self._blocks = BlockChecksums()
        self._pending = bytearray()
        self._tokens = self._text_bytes = 0
        self.header: ShardHeader | None = None
        """The shard's header, once it is written."""

    @property
    def tokens(self) -> int:
        """Tokens added so far, end-of-document tokens included."""
        return self._tokens

    def __enter__(self) -> ShardWriter:
        self._file = open(self._partial, "wb")
        self._file.write(bytes(HEADER_BYTES))
        return self

    def add(self, token_ids: np.ndarray, text_bytes: int) -> None:
        """Append a document of integer ids without end-of-document token (it is added here), from `text_bytes` bytes of UTF-8.

        Raises ShardError for ids outside the vocabulary.
        """
        token_ids = np.asarray(token_ids)
        self.add_many(token_ids, np.array([0, token_ids.size]), text_bytes)

    def add_many(self, token_ids: np.ndarray, offsets: np.ndarray, text_bytes: int) -> None:
        """Append documents: number i is token_ids[offsets[i]:offsets[i + 1]]. As `add` otherwise; `text_bytes` of them all."""
        token_ids = token_ids[offsets[0] : offsets[-1]]
        self._check(token_ids)
        count = len(offsets) - 1
        ends = offsets[1:] - offsets[0] + np.arange(count)  # where each document's end-of-document token goes
        joined = np.empty(token_ids.size + count, self._dtype)
        start = 0
        for index, end in enumerate(ends.tolist()):
            joined[start:end] = token_ids[start - index : end - index]
            joined[end] = self._header.eod_id
            start = end + 1
        self._starts.append(self._tokens + np.concatenate([[0], ends[:-1] + 1]).astype("<u8"))
        self._text_bytes += text_bytes
        self._append(joined)

    def add_pieces(self, pieces: Iterable[np.ndarray], text_bytes: int) -> None:
        """Append one document whose ids come in pieces. As `add` otherwise."""
        self._starts.append(np.array([self._tokens], "<u8"))
        self._text_bytes += text_bytes
        for token_ids in pieces:
            self._check(token_ids)
            self._append(token_ids.astype(self._dtype))
        self._append(np.array([self._header.eod_id], self._dtype))

    def _check(self, token_ids: np.ndarray) -> None:
        if token_ids.size and not 0 <= int(token_ids.min()) <= int(token_ids.max()) < self._header.vocab_size:
            raise ShardError(
                f"{self.path}: token ids {token_ids.min()} to {token_ids.max()} are outside the vocabulary of "
                f"{self._header.vocab_size} ids: another tokenizer than the one declared."
            )

    def _append(self, tokens: np.ndarray) -> None:
        self._pending += tokens.data
        self._tokens += tokens.size
        whole = len(self._pending) // BLOCK_BYTES * BLOCK_BYTES
        if whole:
            self._flush(whole)

    def _flush(self, count: int) -> None:
        view = memoryview(self._pending)[:count]
        self._write(view)
        view.release()
        del self._pending[:count]

    def _write(self, content: bytes | memoryview) -> None:
        self._blocks.add(content)
        self._file.write(content)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._file:
                if kind is None:
                    self._finish()
            if kind is None:
                os.replace(self._partial, self.path)
                sync_folder(self.path.parent)
        finally:  # of a full disk, too, where closing the file fails
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._flush(len(self._pending))
        starts = np.concatenate([np.empty(0, "<u8"), *self._starts])
        header = replace(self._header, tokens=self._tokens, documents=len(starts), text_bytes=self._text_bytes)
        self._write(bytes(header.documents_offset - header.token_bytes))
        self._write(starts.tobytes())
        table = self._blocks.table()
        self._file.write(table)
        self.header = replace(header, blocks_checksum=xxhash.xxh3_128_digest(table))
        self._file.seek(0)
        self._file.write(self.header.pack())
        self._file.flush()
        os.fsync(self._file.fileno())


def write_manifest(folder: str | Path, names: list[str]) -> dict:
    """Close a folder of shards: list them in order, with fingerprints (shards.index), and the totals. Returns the manifest.

    Raises ShardError when there are none, when one has no token or is named twice, or when they disagree on tokenizer,
    vocabulary or end-of-document id.
    """
    folder = Path(folder)
    if not names:
        raise ShardError(f"{folder}: no shards to list; the corpus is empty.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ShardError(f"{folder}: {twice[0]} is listed {names.count(twice[0])} times; each shard stands once in a corpus.")
    headers = []
    for name in names:
        with (folder / name).open("rb") as file:
            headers.append(ShardHeader.unpack(file.read(HEADER_BYTES), folder / name))
    common = {key: getattr(headers[0], key) for key in ("vocab_size", "eod_id", "tokenizer_fingerprint")}
    for name, header in zip(names, headers, strict=True):
        if not header.tokens:
            raise ShardError(f"{folder / name}: holds no token. Leave it out of the corpus.")
        for key, value in common.items():
            if getattr(header, key) != value:
                raise ShardError(f"{folder / name}: {key} {getattr(header, key)}, but {names[0]} has {value}.")
    fingerprints = [header.fingerprint for header in headers]
    counts = {key: np.array([getattr(h, key) for h in headers], np.int64) for key in ("tokens", "documents", "text_bytes")}
    index, index_checksum = index_bytes(names, fingerprints, **counts)
    manifest = {
        "format": "moenda token shards",
        "version": MANIFEST_VERSION,
        **common,
        **{key: int(column.sum()) for key, column in counts.items()},
        "fingerprint": corpus_fingerprint(fingerprints),
        "shards": len(names),
        "index_checksum": index_checksum,
    }
    write_whole(folder / INDEX, index)
    write_whole(folder / MANIFEST, manifest_text(manifest).encode())
    return manifest


def remove_manifest(folder: str | Path) -> None:
    """Have a folder be none of shards: its split holds no document any more."""
    for name in (MANIFEST, INDEX):
        (Path(folder) / name).unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, flushed to disk."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have the errors of a disk that is full, over its quota or failing name the place where it was written."""
    try:
        yield
    except OSError as error:
        if error.errno in OF_DISKS and error.filename is None:
            error.filename = str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a renamed file survives a power cut under its new name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
