"""Small token shards for tests, without text: learnable walks over a small vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.shards import ShardWriter, TokenShards, write_manifest

FINGERPRINT = "ab" * 32


def write_documents(folder: Path, parts: list[Sequence[int]]) -> TokenShards:
    """Write one shard per part, of documents of these lengths, end-of-document token (id 0) included; ids count 1, 2, 3, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"shard-{index:05d}.tokens" for index in range(len(parts))]
    for name, lengths in zip(names, parts, strict=True):
        ends = np.concatenate([[0], np.cumsum(np.asarray(lengths) - 1)])
        with ShardWriter(folder / name, 300, 0, FINGERPRINT) as writer:
            writer.add_many(np.arange(ends[-1]) % 299 + 1, ends, text_bytes=3 * int(ends[-1]))
    write_manifest(folder, names)
    return TokenShards.open(folder)


def write_shards(
    folder: Path, documents: int = 60, vocab_size: int = 300, shards: int = 2, seed: int = 0, fingerprint: str = FINGERPRINT
) -> Path:
    """Write `documents` random walks of 5 to 300 tokens, divided over `shards` files, and return the folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = [f"shard-{index:05d}.tokens" for index in range(shards)]
    for name in names:
        with ShardWriter(folder / name, vocab_size, eod_id=0, tokenizer_fingerprint=fingerprint) as writer:
            for _ in range(documents // shards):
                steps = rng.integers(0, 3, rng.integers(5, 300))
                ids = np.cumsum(steps) % (vocab_size - 1) + 1
                writer.add(ids, text_bytes=3 * len(ids))
    write_manifest(folder, names)
    return folder
