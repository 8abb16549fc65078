"""On-disk form of `shards.index`, the list of a folder's shards: opened without a look at each.

    tokens       uint64 x (shards + 1): tokens of the stream before each shard, and in all
    shards       96 bytes x (shards + 1), below: counts before each shard, its fingerprint and name; the last holds the totals
    blocks       uint64: xxh3-64 of each 64 KiB of both

The manifest has the number of shards, and so the file's size, and the checksum (xxh3-128) of the blocks table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.shards.blocks import BlockChecksums, Blocks
from data_prep.shards.cache import CacheSettings
from data_prep.shards.format import INDEX, MANIFEST, REBUILD, ShardError, blocks_of
from data_prep.shards.storage import join, open_bytes

NAME_BYTES = 64
RECORD = np.dtype([("documents", "<u8"), ("text_bytes", "<u8"), ("fingerprint", "V16"), ("name", f"S{NAME_BYTES}")])


@dataclass(frozen=True)
class ShardEntry:
    """What the index says of a shard."""

    name: str
    fingerprint: str
    """Its header's checksum, hex."""
    tokens: int
    documents: int
    text_bytes: int


def index_bytes(
    names: list[str], fingerprints: list[str], tokens: np.ndarray, documents: np.ndarray, text_bytes: np.ndarray
) -> tuple[bytes, str]:
    """(content of the file, checksum of its blocks table in hex). Counts are int64 [shards]; a name is a file's, in ASCII.

    Raises ShardError for a name that does not fit.
    """
    for name in names:
        if not _is_name(name) or len(name) > NAME_BYTES:
            raise ShardError(f"{name!r}: not a name for a shard: up to {NAME_BYTES} ASCII characters of one file's name.")
    records = np.zeros(len(names) + 1, RECORD)
    records["documents"][1:] = np.cumsum(documents)
    records["text_bytes"][1:] = np.cumsum(text_bytes)
    records["fingerprint"][:-1] = np.frombuffer(bytes.fromhex("".join(fingerprints)), "V16")
    records["name"][:-1] = [name.encode() for name in names]
    body = np.concatenate([[0], np.cumsum(tokens)]).astype("<u8").tobytes() + records.tobytes()
    checksums = BlockChecksums()
    checksums.add(body)
    table = checksums.table()
    return body + table, xxhash.xxh3_128_hexdigest(table)


def _is_name(name: str) -> bool:
    return name.isascii() and name.isprintable() and Path(name).name == name


class ShardIndex:
    """The list of shards of a folder. Memory: 8 bytes per shard."""

    def __init__(self, folder: str | Path, manifest: dict[str, Any], cache: CacheSettings | None, verify: bool):
        """Raises ShardError when the file is missing, truncated or damaged, or does not go with the manifest."""
        self._url, self.count = join(folder, INDEX), manifest["shards"]
        checksum = manifest["index_checksum"]
        file = open_bytes(self._url, cache, version=checksum)
        self._records_offset = 8 * (self.count + 1)
        body = self._records_offset + RECORD.itemsize * (self.count + 1)
        expected = body + 8 * blocks_of(body)
        if file.size != expected:
            raise ShardError(
                f"{self._url}: {file.size:,} bytes, {expected:,} are needed for the {self.count:,} shards that {MANIFEST} "
                f"counts: truncated, or of another build. {REBUILD}"
            )
        self._blocks = Blocks(file, 0, body, bytes.fromhex(checksum), verify)
        self.first = self._blocks.read(0, self._records_offset).view("<i8")
        """int64 [shards + 1]: tokens of the stream before each shard, and in all."""
        totals = self._records(self.count, 1)[0]
        found = {"tokens": self.first[-1], "documents": totals["documents"], "text_bytes": totals["text_bytes"]}
        for key, total in found.items():
            if total != manifest[key]:
                raise ShardError(f"{join(folder, MANIFEST)}: says {manifest[key]} {key}, the shards hold {total}. {REBUILD}")

    def _records(self, start: int, count: int) -> np.ndarray:
        offset = self._records_offset + RECORD.itemsize * start
        return self._blocks.read(offset, RECORD.itemsize * count).view(RECORD)

    def entries(self, start: int, stop: int) -> list[ShardEntry]:
        """The shards [start, stop). Raises ShardError where the index is damaged."""
        records = self._records(start, stop - start + 1)
        tokens, documents, text_bytes = (
            np.diff(column.astype(np.int64)).tolist()
            for column in (self.first[start : stop + 1], records["documents"], records["text_bytes"])
        )
        entries = []
        for index, record in enumerate(records[:-1]):
            name = record["name"].decode("ascii", "replace")
            if not _is_name(name):
                raise ShardError(f"{self._url}: damaged: {name!r} is not the name of a shard in this folder. {REBUILD}")
            entry = ShardEntry(name, record["fingerprint"].tobytes().hex(), tokens[index], documents[index], text_bytes[index])
            entries.append(entry)
        return entries

    def verify_all(self) -> None:
        """Check every byte."""
        self._blocks.verify_all()
