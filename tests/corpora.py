"""Small token shards for tests, without text: learnable walks over a small vocabulary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash

from data_prep.shards import ShardHeader, ShardWriter, TokenShards, write_manifest
from data_prep.shards.format import (
    BLOCK_BYTES,
    HEADER_BYTES,
    INDEX,
    MANIFEST,
    MANIFEST_VERSION,
    blocks_of,
    corpus_fingerprint,
    manifest_text,
)
from data_prep.shards.index import index_bytes

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


def synthetic_manifest(
    folder: Path, tokens: int, per_shard: int = 2**28, document_tokens: int = 1024, vocab_size: int = 50_257, files: int = 4096
) -> Path:
    """Write a folder that says it holds at least `tokens` tokens (10**12, 10**14), all of them zero, and return it.

    All shards of `per_shard` tokens (a multiple of 32 Ki) are one sparse file under up to `files` names, in turn; index,
    headers and checksums are true, so that every window is read and checked as in a real corpus."""
    folder.mkdir(parents=True)
    documents = per_shard // document_tokens
    header = ShardHeader(per_shard, documents, 4 * per_shard, vocab_size, 0, FINGERPRINT)
    starts = np.arange(0, per_shard, document_tokens, dtype="<u8").tobytes()
    zeros = xxhash.xxh3_64_intdigest(bytes(BLOCK_BYTES))
    assert header.documents_offset % BLOCK_BYTES == 0, "tokens must fill whole blocks"
    rest = [xxhash.xxh3_64_intdigest(starts[at : at + BLOCK_BYTES]) for at in range(0, len(starts), BLOCK_BYTES)]
    table = np.array([zeros] * blocks_of(header.documents_offset) + rest, "<u8").tobytes()
    header = replace(header, blocks_checksum=xxhash.xxh3_128_digest(table))
    with (folder / "sparse.tokens").open("wb") as file:
        file.write(header.pack())
        file.seek(HEADER_BYTES + header.documents_offset)
        file.write(starts + table)
    count = -(-tokens // per_shard)
    names = [f"shard-{index:05d}.tokens" for index in range(min(count, files))]
    for name in names:
        (folder / name).symlink_to("sparse.tokens")
    names = [names[index % len(names)] for index in range(count)]
    counts = {key: np.full(count, getattr(header, key)) for key in ("tokens", "documents", "text_bytes")}
    index, checksum = index_bytes(names, [header.fingerprint] * count, **counts)
    (folder / INDEX).write_bytes(index)
    manifest = {
        "format": "moenda token shards",
        "version": MANIFEST_VERSION,
        **{key: getattr(header, key) for key in ("vocab_size", "eod_id", "tokenizer_fingerprint")},
        **{key: int(column.sum()) for key, column in counts.items()},
        "fingerprint": corpus_fingerprint([header.fingerprint] * count),
        "shards": count,
        "index_checksum": checksum,
    }
    (folder / MANIFEST).write_text(manifest_text(manifest))
    return folder


def build_corpus(folder: Path, name: str, licence: str, documents: int, tokenizer: dict) -> Path:
    """Build a corpus of short documents with data_prep, and return its training shards; one document is much longer."""
    from data_prep import corpus, recipe
    from data_prep.stage import Runner

    rows = [{"text": f"{name} {n}: the mill turns {n % 7} times. " * (12 if n == 3 else n % 3 + 1), "url": f"https://{name}.org/{n}"}
            for n in range(documents)]  # fmt: skip
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = {
        "output": name,
        "sources": [{"type": "jsonl", "name": name, "paths": [f"{name}.jsonl"], "licence": licence}],
        "tokenizer": tokenizer,
        "shards": {"tokens_per_shard": 150, "validation_fraction": 0},
    }
    (folder / f"{name}.json").write_text(json.dumps(described))
    corpus.run(recipe.load(folder / f"{name}.json", []), Runner(1))
    return folder / name / "shards" / "train"
