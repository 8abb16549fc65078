"""Small token shards for tests, without text: learnable walks over a small vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.shards import ShardWriter, write_manifest

FINGERPRINT = "ab" * 32


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
