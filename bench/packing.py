"""Pack plans of ten million documents, as users write them: seconds, peak memory, size of the plan, padding, documents cut.

    python bench/packing.py [--documents 10000000] [--windows 1024 2048 4096 32768] [--rounds 5] [--shards FOLDER]

Each figure is of a process of its own that opens a folder of shards and writes one plan; the peak is its VmHWM above that of
the process before it packs. Without --shards, a folder is made whose document tables are whole and whose tokens are a hole in
the file: lengths are log-normal like those of web pages (median about 400 tokens, mean about 900). The rival is the usual way
of best-fit decreasing, one document at a time with a sorted list of open windows, on the first 200,000 documents, in memory
alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left, insort
from dataclasses import replace
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import xxhash

from data_prep import packing
from data_prep.shards import ShardHeader, TokenShards, write_manifest
from data_prep.shards.format import BLOCK_BYTES, HEADER_BYTES
from data_prep.shards.windows import WAYS

RIVAL, RIVAL_DOCUMENTS = "one at a time", 200_000
DOCUMENTS_PER_SHARD = 1 << 18


def write_lengths(folder: Path, documents: int) -> None:
    """Shards with so many documents of random lengths, whose tokens take no room on the disk."""
    rng = np.random.default_rng(0)
    names = []
    for first in range(0, documents, DOCUMENTS_PER_SHARD):
        count = min(DOCUMENTS_PER_SHARD, documents - first)
        lengths = np.maximum(2, rng.lognormal(6.0, 1.27, count)).astype(np.int64)
        header = ShardHeader(int(lengths.sum()), count, 4 * int(lengths.sum()), 50_257, 50_256, "00" * 32)
        starts = (np.cumsum(lengths) - lengths).astype("<u8").tobytes()
        empty, rest = divmod(header.documents_offset, BLOCK_BYTES)
        tail = bytes(rest) + starts
        sums = [xxhash.xxh3_64_intdigest(tail[at : at + BLOCK_BYTES]) for at in range(0, len(tail), BLOCK_BYTES)]
        table = np.array([xxhash.xxh3_64_intdigest(bytes(BLOCK_BYTES))] * empty + sums, "<u8").tobytes()
        header = replace(header, blocks_checksum=xxhash.xxh3_128_digest(table))
        names.append(f"shard-{len(names):05d}.tokens")
        with open(folder / names[-1], "wb") as file:
            file.write(header.pack())
            file.seek(HEADER_BYTES + header.documents_offset)
            file.write(starts + table)
    write_manifest(folder, names)


def one_at_a_time(lengths: np.ndarray, window: int) -> int:
    """Windows that plain best-fit decreasing fills."""
    rooms: list[int] = []
    windows = 0
    pieces = np.concatenate([np.full(int((lengths // window).sum()), window), lengths % window])
    for piece in np.sort(pieces[pieces > 0])[::-1].tolist():
        place = bisect_left(rooms, piece)
        if place < len(rooms):
            room = rooms.pop(place)
        else:
            room, windows = window, windows + 1
        if room > piece:
            insort(rooms, room - piece)
    return windows


def peak_megabytes() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def measure(folder: Path, way: str, window: int) -> dict:
    shards = TokenShards.open(folder)
    if way == RIVAL:
        parts = islice(shards.document_lengths(1 << 12), RIVAL_DOCUMENTS // (1 << 12) + 1)
        lengths = np.concatenate([*parts])[:RIVAL_DOCUMENTS]
    before = peak_megabytes()
    start = time.perf_counter()
    if way == RIVAL:
        windows = one_at_a_time(lengths, window)
        seconds, tokens, plan_bytes = time.perf_counter() - start, int(lengths.sum()), 0
        documents, padding, cut, lost = len(lengths), windows * window - tokens, 0, 0
    else:
        made = packing.make(shards, way, window)
        header = made.header
        seconds, plan_bytes = time.perf_counter() - start, made.path.stat().st_size if made.path else 0
        assert not made.kept
        if made.path:
            made.path.unlink()
        documents, padding, cut, lost = header.documents, header.padding, header.documents_cut, made.tokens_lost
        windows = header.windows
    return {
        "documents": documents,
        "seconds": seconds,
        "peak_mb": peak_megabytes() - before,
        "plan_mb": plan_bytes / 1e6,
        "padding": padding / (windows * window),
        "cut": cut / documents,
        "lost": lost,
    }


def compare(folder: Path, options: argparse.Namespace) -> None:
    print(
        f"{'window':>8} {'way':<14}{'documents':>12}{'seconds':>9}{'M documents/s':>15}{'peak MB':>9}{'plan MB':>9}"
        f"{'padding':>9}{'cut':>8}{'tokens lost':>13}"
    )
    for window in options.windows:
        for way in (*WAYS, RIVAL):
            command = [sys.executable, __file__, "--shards", str(folder), "--measure", way, str(window)]
            rows = [
                json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(options.rounds)
            ]
            seconds, peak = (statistics.median(row[key] for row in rows) for key in ("seconds", "peak_mb"))
            row = rows[0]
            print(
                f"{window:8} {way:<14}{row['documents']:12,}{seconds:9.2f}{row['documents'] / seconds / 1e6:15.2f}"
                f"{peak:9.0f}{row['plan_mb']:9.0f}{row['padding']:9.3%}{row['cut']:8.2%}{row['lost']:13,}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--windows", type=int, nargs="+", default=[1024, 2048, 4096, 32768])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=Path, help="a folder without these plans")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.shards, options.measure[0], int(options.measure[1]))))
    elif options.shards:
        compare(options.shards, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_lengths(Path(folder), options.documents)
            compare(Path(folder), options)


if __name__ == "__main__":
    main()
