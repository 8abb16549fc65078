"""Packing of ten million document lengths: seconds, peak memory, padding, documents cut.

    python bench/packing.py [--documents 10000000] [--windows 1024 2048 4096 32768] [--rounds 5] [--shards FOLDER]

Lengths are log-normal like those of web pages (median about 400 tokens, mean about 900), or those of a corpus. The rival is the
usual way of best-fit decreasing, one document at a time with a sorted list of open windows, on the first 200,000 documents.
Each figure is of a process of its own; the peak is its VmHWM above that of the process before it packs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from bisect import bisect_left, insort
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from data_prep import packing
from data_prep.shards import TokenShards

RIVAL_DOCUMENTS = 200_000


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


def lengths_of(options: argparse.Namespace) -> np.ndarray:
    if options.shards:
        shards = TokenShards.open(options.shards)
        return np.diff(shards.document_starts().astype(np.int64), append=shards.tokens)
    rng = np.random.default_rng(0)
    return np.maximum(2, rng.lognormal(6.0, 1.27, options.documents)).astype(np.int64)


def measure(options: argparse.Namespace) -> dict:
    method, window = options.measure[0], int(options.measure[1])
    lengths = lengths_of(options)
    before = peak_megabytes()
    start = time.perf_counter()
    if method == "one at a time":
        lengths = lengths[:RIVAL_DOCUMENTS]
        windows = one_at_a_time(lengths, window)
        padding, cut = windows * window - int(lengths.sum()), 0
    else:
        windows = padding = cut = 0
        for plan in packing.plan(lengths, window, method):
            windows, padding, cut = windows + len(plan), padding + plan.padding, cut + plan.documents_cut
    seconds = time.perf_counter() - start
    return {
        "documents": len(lengths),
        "seconds": seconds,
        "peak_mb": peak_megabytes() - before,
        "padding": padding / (windows * window),
        "cut": cut / len(lengths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--windows", type=int, nargs="+", default=[1024, 2048, 4096, 32768])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    print(
        f"{'window':>8} {'way':<14}{'documents':>12}{'seconds':>9}{'M documents/s':>15}{'peak MB':>9}{'padding':>9}{'cut':>8}"
    )
    for window in options.windows:
        for method in (*packing.METHODS, "one at a time"):
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", method, str(window)]
            rows = [
                json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(options.rounds)
            ]
            seconds, peak = (statistics.median(row[key] for row in rows) for key in ("seconds", "peak_mb"))
            row = rows[0]
            print(
                f"{window:8} {method:<14}{row['documents']:12,}{seconds:9.2f}{row['documents'] / seconds / 1e6:15.2f}"
                f"{peak:9.0f}{row['padding']:9.3%}{row['cut']:8.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
