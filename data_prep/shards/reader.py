"""Reading shards: what does not match is refused, with the file, the numbers and the way out."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.shards.format import (
    BLOCK_BYTES,
    HEADER_BYTES,
    MANIFEST,
    REBUILD,
    VERSION,
    ShardError,
    ShardHeader,
    corpus_fingerprint,
    manifest_text,
)
from data_prep.shards.takedown import read_takedowns

_MANIFEST_KEYS = {
    "tokens": int,
    "documents": int,
    "text_bytes": int,
    "vocab_size": int,
    "eod_id": int,
    "tokenizer_fingerprint": str,
    "fingerprint": str,
    "shards": list,
}


class _Shard:
    """One memory-mapped shard whose blocks are verified when first touched."""

    def __init__(self, path: Path, fingerprint: str, verify: bool):
        self.path, self._verify = path, verify
        try:
            with path.open("rb") as file:
                raw = file.read(HEADER_BYTES)
                size = file.seek(0, 2)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read: {error.strerror}. {REBUILD}") from None
        self.header = ShardHeader.unpack(raw, path)
        if size != self.header.file_bytes:
            state = "truncated or half-written" if size < self.header.file_bytes else "longer than written"
            raise ShardError(f"{path}: {state}: {size:,} bytes, its header says {self.header.file_bytes:,}. {REBUILD}")
        if self.header.fingerprint != fingerprint:
            raise ShardError(
                f"{path}: not the shard that the manifest lists (fingerprint {self.header.fingerprint}, listed "
                f"{fingerprint}): it was replaced after the build. {REBUILD}"
            )
        self._opened = False

    def _open(self) -> None:
        header = self.header
        # a plain array over the map: slices of a np.memmap take a microsecond more each
        self._bytes = np.asarray(np.memmap(self.path, np.uint8, "r", HEADER_BYTES, (header.token_bytes,)))
        self._tokens = self._bytes.view(header.dtype)
        tables = np.memmap(self.path, np.uint8, "r", header.tables_offset, (8 * (header.documents + header.blocks),))
        if xxhash.xxh3_128_digest(tables) != header.tables_checksum:
            raise ShardError(f"{self.path}: the document or checksum table is damaged. {REBUILD}")
        tables = np.asarray(tables).view("<u8")
        self.starts, self._checksums = tables[: header.documents], tables[header.documents :]
        self._verified = bytearray(header.blocks)
        self._tokens_per_block = BLOCK_BYTES // header.dtype.itemsize
        self._opened = True

    def document_starts(self) -> np.ndarray:
        if not self._opened:
            self._open()
        return self.starts

    def lengths(self, most: int) -> Iterator[np.ndarray]:
        opened, starts = self._opened, self.document_starts()
        for first in range(0, len(starts), most):
            part = starts[first : first + most + 1].astype(np.int64)
            yield np.diff(part) if len(part) > most else np.diff(part, append=self.header.tokens)
        if not opened:  # what was opened for its lengths alone leaves memory: a corpus's tables may be larger than it
            del starts, self.starts, self._checksums, self._bytes, self._tokens
            self._opened = False

    def read(self, start: int, stop: int) -> np.ndarray:
        if not self._opened:
            self._open()
        if self._verify and stop > start:
            first, last = start // self._tokens_per_block, (stop - 1) // self._tokens_per_block
            if not (self._verified[first] and self._verified[last] and last - first < 2):
                self._verify_blocks(first, last + 1)
        return self._tokens[start:stop]

    def _verify_blocks(self, first: int, last: int) -> None:
        for block in range(first, last):
            if self._verified[block]:
                continue
            if xxhash.xxh3_64_intdigest(self._bytes[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]) != int(
                self._checksums[block]
            ):
                raise ShardError(
                    f"{self.path}: block {block} of {len(self._verified)} (64 KiB from byte "
                    f"{HEADER_BYTES + block * BLOCK_BYTES:,}) is damaged: its checksum does not match. {REBUILD}"
                )
            self._verified[block] = 1

    def verify(self) -> None:
        if not self._opened:
            self._open()
        self._verified = bytearray(len(self._verified))
        self._verify_blocks(0, len(self._verified))


class TokenShards:
    """A folder of shards as one stream of tokens. Opening reads the manifest and the headers only."""

    def __init__(self, folder: Path, manifest: dict[str, Any], verify: bool):
        self.folder = folder
        self.tokens: int = manifest["tokens"]
        self.documents: int = manifest["documents"]
        self.text_bytes: int = manifest["text_bytes"]
        self.vocab_size: int = manifest["vocab_size"]
        self.eod_id: int = manifest["eod_id"]
        self.tokenizer_fingerprint: str = manifest["tokenizer_fingerprint"]
        self.fingerprint: str = manifest["fingerprint"]
        self._shards = [_Shard(folder / entry["name"], entry["fingerprint"], verify) for entry in manifest["shards"]]
        self.takedowns = read_takedowns(folder, self.fingerprint)
        """Documents that nobody may learn from any more."""
        self._starts = [0, *accumulate(shard.header.tokens for shard in self._shards)]
        self._starts_array = np.array(self._starts, dtype=np.int64)

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> TokenShards:
        """Open a folder that holds manifest.json and its shards.

        With `verify`, each 64 KiB block is checked when it is first read. Raises ShardError for anything that is missing,
        half-written, damaged, replaced, or from another build.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        absent = [entry["name"] for entry in manifest["shards"] if not (folder / entry["name"]).is_file()]
        if absent:
            raise ShardError(
                f"{folder}: {len(absent)} of {len(manifest['shards'])} shards are missing, first {absent[0]}. {REBUILD}"
            )
        shards = cls(folder, manifest, verify)
        shards._check_consistency(manifest)
        return shards

    def _check_consistency(self, manifest: dict[str, Any]) -> None:
        for shard in self._shards:
            for key in ("vocab_size", "eod_id", "tokenizer_fingerprint"):
                found, listed = getattr(shard.header, key), manifest[key]
                if found != listed:
                    raise ShardError(
                        f"{shard.path}: written with another tokenizer than the manifest says: {key} {found}, listed "
                        f"{listed}. {REBUILD}"
                    )
        for key in ("tokens", "documents", "text_bytes"):
            total = sum(getattr(shard.header, key) for shard in self._shards)
            if total != manifest[key]:
                raise ShardError(f"{self.folder / MANIFEST}: says {manifest[key]} {key}, the shards hold {total}. {REBUILD}")
        if corpus_fingerprint([shard.header.fingerprint for shard in self._shards]) != self.fingerprint:
            raise ShardError(f"{self.folder / MANIFEST}: its fingerprint is not that of the shards it lists. {REBUILD}")

    def shard_spans(self) -> Iterator[tuple[str, int, int]]:
        """(name, first token, token after the last) of each shard in the stream."""
        for shard, (start, stop) in zip(self._shards, pairwise(self._starts), strict=True):
            yield shard.path.name, start, stop

    @property
    def dtype(self) -> np.dtype:
        """uint16 or uint32, by vocabulary."""
        return self._shards[0].header.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """A copy of the tokens [start, stop) of the stream, across shard borders."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        parts, index = [], bisect_right(self._starts, start) - 1
        while start < stop:
            offset = self._starts[index]
            end = min(stop, self._starts[index + 1])
            parts.append(self._shards[index].read(start - offset, end - offset))
            start, index = end, index + 1
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def document_starts(self) -> np.ndarray:
        """uint64 positions in the stream at which documents start, ascending. O(documents) memory."""
        offsets = self._starts[:-1]
        return np.concatenate([s.document_starts() + np.uint64(o) for s, o in zip(self._shards, offsets, strict=True)])

    def read_into(self, starts: np.ndarray, sizes: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """Copy the tokens [starts[k], starts[k] + sizes[k]) of the stream to out[places[k]:places[k] + sizes[k]], for all k.

        Arguments are int64 [spans], but `out`, integers [any].
        """
        if not len(starts):
            return
        stops = starts + sizes
        if starts.min() < 0 or stops.max() > self.tokens:
            raise IndexError(f"tokens {starts.min()} to {stops.max()} of {self.tokens}")
        borders = self._starts_array
        which = np.searchsorted(borders, starts, side="right") - 1
        offsets = borders[which]
        inside = stops <= borders[which + 1]
        columns = (which, starts - offsets, stops - offsets, places, places + sizes, inside)
        for index, start, stop, place, end, whole in zip(*(column.tolist() for column in columns), strict=True):
            if whole:
                out[place:end] = self._shards[index].read(start, stop)
            else:
                offset = self._starts[index]
                out[place:end] = self.read(start + offset, stop + offset)

    def document_starts_in(self, start: int, stop: int) -> np.ndarray:
        """int64 positions in [start, stop) of the stream at which documents start, ascending."""
        found, index = [], max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._shards) and self._starts[index] < stop:
            offset, starts = self._starts[index], self._shards[index].document_starts()
            low, high = starts.searchsorted(np.array([max(0, start - offset), stop - offset], starts.dtype)).tolist()
            found.append(starts[low:high].astype(np.int64) + offset)
            index += 1
        return found[0] if len(found) == 1 else np.concatenate([np.empty(0, np.int64), *found])

    def document_lengths(self, most: int = 1 << 20) -> Iterator[np.ndarray]:
        """int64 tokens of the documents in order, their end-of-document tokens included, at most `most` at a time."""
        for shard in self._shards:
            yield from shard.lengths(most)

    def verify_all(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Check every byte of every shard; `progress(tokens done, tokens in all)` is called after each shard."""
        for index, shard in enumerate(self._shards):
            shard.verify()
            progress(self._starts[index + 1], self.tokens)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder. Build the shards first: python -m data_prep run RECIPE.")
    if not path.is_file():
        raise ShardError(f"{folder}: no {MANIFEST}: not a folder of shards, or its build did not finish. {REBUILD}")
    try:
        text = path.read_bytes().decode()
        manifest = json.loads(text)
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: damaged: {error}. {REBUILD}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != "moenda token shards":
        raise ShardError(f"{path}: not a manifest of moenda token shards.")
    if manifest.get("version") != VERSION:
        raise ShardError(f"{path}: format version {manifest.get('version')}; this moenda reads version {VERSION}.")
    if text != manifest_text(manifest):
        raise ShardError(f"{path}: damaged or edited: its checksum does not match. {REBUILD}")
    wrong = [key for key, kind in _MANIFEST_KEYS.items() if not isinstance(manifest.get(key), kind)]
    if wrong or not manifest["shards"]:
        raise ShardError(f"{path}: damaged: {', '.join(wrong) or 'shards'} missing or of the wrong type. {REBUILD}")
    for entry in manifest["shards"]:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).name != name or not isinstance(entry.get("fingerprint"), str):
            raise ShardError(f"{path}: damaged: {entry!r} is not an entry for a shard in this folder. {REBUILD}")
    return manifest
