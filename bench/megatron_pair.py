"""Megatron corpora: time to open, random windows, memory, and conversion both ways.

    python bench/megatron_pair.py [--tokens 200_000_000] [--sparse 1_000_000_000_000] [--rounds 5]

A corpus of random ids in documents of 100 to 1,900 tokens is written as Megatron's pair and converted; windows of 2,048 tokens
are read in random order from the pair as it is, from the converted shards, and from numpy.memmap. The sparse pair holds zeros,
which are end-of-document tokens, in documents of 100,000: opening it and reading its first windows must not take longer than
for the small one. Memory is the growth of what the process holds, mapped pages included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import psutil

from data_prep import convert
from data_prep.shards import MegatronWriter, TokenShards, Windows, open_shards
from data_prep.stage import Runner

LENGTH, READS = 2048, 4000
VOCABULARY = 50_000


def write_tokenizer(folder: Path) -> Path:
    folder.mkdir()
    words = ["".join(letters) for letters in islice(product("abcdefghijklmnopqrstuvwxyz", repeat=4), VOCABULARY - 1)]
    vocabulary = {"</s>": 0} | {f"Ġ{word}": index for index, word in enumerate(words, 1)}
    described = {"version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "</s>"}}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    described |= {"added_tokens": [], "pre_tokenizer": byte_level, "decoder": byte_level}
    (folder / "tokenizer.json").write_text(json.dumps(described))
    return folder


def write_corpus(prefix: Path, tokens: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(100, 1900, tokens // 1000)
    with MegatronWriter(prefix, np.dtype("<u2"), len(lengths)) as writer:
        for part in np.array_split(lengths, max(1, len(lengths) // 1000)):
            ids = rng.integers(1, VOCABULARY, part.sum())
            ids[np.cumsum(part) - 1] = 0
            writer.add_many(ids, part)


def write_sparse(prefix: Path, tokens: int, document: int = 100_000) -> None:
    count = tokens // document
    with MegatronWriter(prefix, np.dtype("<u2"), 0):
        pass
    with Path(f"{prefix}.bin").open("wb") as file:
        file.truncate(2 * count * document)
    header = Path(f"{prefix}.idx").read_bytes()[:18] + np.array([count, count + 1], "<u8").tobytes()
    with Path(f"{prefix}.idx").open("wb") as file:
        file.write(header + np.full(count, document, "<i4").tobytes())
        file.write((2 * document * np.arange(count, dtype="<i8")).tobytes() + np.arange(count + 1, dtype="<i8").tobytes())


def report(name: str, opened: float, rates: list[float], before: int) -> None:
    grown = (psutil.Process().memory_info().rss - before) / 2**20
    print(f"{name:<34}{opened * 1e3:10.1f} ms to first batch{np.median(rates):12,.0f} windows/s{grown:10.1f} MiB")


def measure(name: str, path: Path, tokenizer: Path, rounds: int) -> None:
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    windows = Windows(open_shards(path, tokenizer), LENGTH)
    windows.read(np.arange(8))
    opened, rates, rng = time.perf_counter() - start, [], np.random.default_rng(1)
    for _ in range(rounds):
        indices = rng.integers(0, len(windows), READS).reshape(-1, 8)
        start = time.perf_counter()
        for batch in indices:
            windows.read(batch)
        rates.append(READS / (time.perf_counter() - start))
    report(name, opened, rates, before)


def measure_raw(name: str, prefix: Path, rounds: int) -> None:
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    data = np.memmap(f"{prefix}.bin", np.uint16, "r")
    opened, rates, rng = time.perf_counter() - start, [], np.random.default_rng(1)
    for _ in range(rounds):
        indices = rng.integers(0, len(data) // LENGTH - 1, READS).reshape(-1, 8)
        start = time.perf_counter()
        for batch in indices.tolist():
            np.stack([data[i * LENGTH : (i + 1) * LENGTH + 1] for i in batch]).astype(np.int64)
        rates.append(READS / (time.perf_counter() - start))
    report(name, opened, rates, before)


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000_000)
    parser.add_argument("--sparse", type=int, default=1_000_000_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        tokenizer, pair = write_tokenizer(work / "tokenizer"), work / "pair"
        write_corpus(pair, options.tokens)
        tokens = os.path.getsize(f"{pair}.bin") // 2
        with Runner(1) as runner:
            taken = seconds(convert.to_shards, pair, work / "out", tokenizer, None, "train", runner)
        print(f"to shards {tokens / taken / 1e6:.0f} M tokens/s, bytes of text counted")
        shards = TokenShards.open(work / "out" / "shards" / "train")
        print(f"to a pair {tokens / seconds(convert.to_megatron, shards.folder, work / 'back') / 1e6:.0f} M tokens/s")
        for suffix in (".bin", ".idx"):
            assert Path(f"{pair}{suffix}").read_bytes() == Path(f"{work / 'back'}{suffix}").read_bytes()
        write_sparse(work / "sparse", options.sparse)
        measure(f"pair, {tokens:,} tokens", pair, tokenizer, options.rounds)
        measure(f"shards, {tokens:,} tokens", shards.folder, tokenizer, options.rounds)
        measure(f"sparse pair, {options.sparse:,} tokens", work / "sparse", tokenizer, options.rounds)
        measure_raw("numpy.memmap", pair, options.rounds)
        shutil.rmtree(work / "out")


if __name__ == "__main__":
    main()
