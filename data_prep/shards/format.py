"""On-disk form of token shards, version 2. All numbers little-endian.

A shard `shard-00000.tokens`:

    4096 bytes   header (below), zero-padded
    tokens       uint16 or uint32, each document followed by the end-of-document token
    zeros        up to a multiple of 8 bytes
    documents    uint64 x documents: index of each document's first token in this shard
    blocks       uint64 x blocks: xxh3-64 of each 64 KiB of tokens, zeros and documents

The header's own checksum (xxh3-128, over all 4096 bytes with its field zeroed) covers the counts and the checksum of the blocks
table; that table covers all else. So this one checksum is the fingerprint of the whole shard, and the file's size follows
from the header: truncation, extension and any flipped bit are detected, each when it is touched.

`manifest.json` holds the totals of a folder of shards and the checksum of `shards.index`, which lists the shards in order with
their fingerprints (index.py). The manifest is written last: a folder without it is an unfinished build.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

MAGIC = b"MOENDATK"
VERSION = 2
MANIFEST_VERSION = 2
HEADER_BYTES = 4096
BLOCK_BYTES = 64 * 1024
MANIFEST = "manifest.json"
INDEX = "shards.index"
SUFFIX = ".tokens"
REBUILD = "Run `python -m data_prep run` with the recipe again: it rebuilds what is missing or damaged and keeps the rest."

_DTYPES = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_FIELDS = struct.Struct("<8sIIQQQQQ32s16s")
_CHECKSUM = struct.Struct("<16s")
_CHECKSUM_AT = HEADER_BYTES - _CHECKSUM.size


class ShardError(ValueError):
    """A shard or manifest is missing, incomplete, damaged, or not what it should be; the message says which and what to do."""


class MissingError(ShardError):
    """There is no such file."""


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every id of the vocabulary fits, else uint32."""
    return _DTYPES[2 if vocab_size <= 2**16 else 4]


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself."""

    tokens: int
    documents: int
    text_bytes: int
    """UTF-8 bytes of the documents' texts."""
    vocab_size: int
    eod_id: int
    tokenizer_fingerprint: str
    """SHA-256, hex."""
    blocks_checksum: bytes = bytes(16)
    """xxh3-128 of the blocks table."""

    @property
    def dtype(self) -> np.dtype:
        """Type of one token."""
        return token_dtype(self.vocab_size)

    @property
    def token_bytes(self) -> int:
        """Size of the token section."""
        return self.tokens * self.dtype.itemsize

    @property
    def documents_offset(self) -> int:
        """Where the documents table starts, counted from the end of the header."""
        return -(-self.token_bytes // 8) * 8

    @property
    def body_bytes(self) -> int:
        """Size of what the blocks cover."""
        return self.documents_offset + 8 * self.documents

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return HEADER_BYTES + self.body_bytes + 8 * blocks_of(self.body_bytes)

    def pack(self) -> bytes:
        """The 4096 bytes at the start of the file."""
        fields = _FIELDS.pack(
            MAGIC,
            VERSION,
            self.dtype.itemsize,
            self.tokens,
            self.documents,
            self.text_bytes,
            self.vocab_size,
            self.eod_id,
            bytes.fromhex(self.tokenizer_fingerprint),
            self.blocks_checksum,
        )
        body = fields.ljust(_CHECKSUM_AT, b"\0")
        return body + xxhash.xxh3_128_digest(body)

    @property
    def fingerprint(self) -> str:
        """The header's checksum, hex: identifies the shard's whole content."""
        return self.pack()[_CHECKSUM_AT:].hex()

    @classmethod
    def unpack(cls, raw: bytes, path: Path | str) -> ShardHeader:
        """Read a header. Raises ShardError that tells a foreign file from a newer, an incomplete and a damaged one."""
        if len(raw) < HEADER_BYTES:
            raise ShardError(f"{path}: {len(raw)} bytes, less than the {HEADER_BYTES} of a shard's header. {REBUILD}")
        magic, version, itemsize, *numbers, fingerprint, blocks = _FIELDS.unpack_from(raw)
        if magic != MAGIC:
            what = "an incomplete shard: its header was never written" if not any(raw) else "not a moenda token shard"
            raise ShardError(f"{path}: {what} (it starts with {raw[:8]!r}). {REBUILD}")
        if raw[_CHECKSUM_AT:] != xxhash.xxh3_128_digest(raw[:_CHECKSUM_AT]):
            raise ShardError(f"{path}: the header is damaged (its checksum does not match). {REBUILD}")
        if version != VERSION:
            raise ShardError(
                f"{path}: format version {version}; this moenda reads version {VERSION}. Build the shards anew with it, or use "
                f"the moenda that wrote them."
            )
        header = cls(*numbers, tokenizer_fingerprint=fingerprint.hex(), blocks_checksum=blocks)
        if itemsize != header.dtype.itemsize:
            raise ShardError(f"{path}: {itemsize}-byte tokens for a vocabulary of {header.vocab_size}. {REBUILD}")
        return header


def blocks_of(size: int) -> int:
    """Number of checksummed blocks over so many bytes."""
    return -(-size // BLOCK_BYTES)


def corpus_fingerprint(shard_fingerprints: Iterable[str]) -> str:
    """Fingerprint (xxh3-128, hex) of a sequence of shards: their content and their order."""
    return xxhash.xxh3_128_hexdigest("\n".join(shard_fingerprints).encode())


def manifest_text(manifest: dict[str, Any]) -> str:
    """The one way to write a manifest: with a checksum (xxh3-128, hex) over all else, so that any changed byte shows."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    checksum = xxhash.xxh3_128_hexdigest(json.dumps(content, indent=1).encode())
    return json.dumps({**content, "checksum": checksum}, indent=1) + "\n"
