"""What opening and reading shards costs, by size of the corpus: python bench/shards.py [--tokens 1e12 1e14]

Each corpus is synthetic (one sparse shard under many names, a true index), opened by a fresh process: seconds from
TokenShards.open to the first batch of 64 windows, resident memory above imports then and after many random windows, and
windows/s, the first time and again, beside slices of one numpy.memmap of a shard (the bare read of the same bytes).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from data_prep.shards import TokenShards

LENGTH, BATCH = 2048, 64


def resident_megabytes() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024


def windows_per_second(read, tokens: int, batches: int) -> float:
    rng = np.random.default_rng(0)
    sizes, places = np.full(BATCH, LENGTH + 1), np.arange(BATCH) * (LENGTH + 1)
    out = np.zeros(BATCH * (LENGTH + 1), np.int64)
    starts = [rng.integers(0, tokens - LENGTH - 1, BATCH) for _ in range(batches)]
    begin = time.perf_counter()
    for some in starts:
        read(some, sizes, out, places)
    return batches * BATCH / (time.perf_counter() - begin)


def measure(folder: Path, batches: int) -> dict[str, float]:
    """In a fresh process."""
    before = resident_megabytes()
    begin = time.perf_counter()
    shards = TokenShards.open(folder)
    opened = time.perf_counter() - begin
    sizes, places = np.full(BATCH, LENGTH + 1), np.arange(BATCH) * (LENGTH + 1)
    out = np.empty(BATCH * (LENGTH + 1), np.int64)
    starts = np.random.default_rng(1).integers(0, shards.tokens - LENGTH - 1, BATCH)
    shards.read_into(starts, sizes, out, places)
    first = time.perf_counter() - begin
    at_first = resident_megabytes() - before
    found = {"open": opened, "first": first, "at_first": at_first}
    found["cold"] = windows_per_second(shards.read_into, shards.tokens, batches)
    found["warm"] = max(windows_per_second(shards.read_into, shards.tokens, batches) for _ in range(3))
    for start in starts.tolist():
        shards.document_starts_in(start, start + LENGTH)
    found["at_end"] = resident_megabytes() - before
    bare = np.memmap(folder / "sparse.tokens", np.uint16, "r", 4096, (2**28,))
    span = len(bare)

    def read_bare(starts, sizes, out, places):
        for row, start in enumerate((starts % (span - LENGTH - 1)).tolist()):
            out[row * (LENGTH + 1) : (row + 1) * (LENGTH + 1)] = bare[start : start + LENGTH + 1]

    found["bare"] = max(windows_per_second(read_bare, shards.tokens, batches) for _ in range(3))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, nargs="+", default=[2**28, 1e12, 1e14])
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.batches)))
        return
    from tests.corpora import synthetic_manifest

    print(f"{'tokens':>9}{'open s':>9}{'first batch s':>15}{'MB then':>9}{'MB at end':>11}", end="")
    print(f"{'first windows/s':>17}{'again':>9}{'numpy.memmap':>14}")
    for tokens in options.tokens:
        with tempfile.TemporaryDirectory() as scratch:
            folder = synthetic_manifest(Path(scratch) / "shards", int(tokens))
            command = [sys.executable, __file__, "--measure", str(folder), "--batches", str(options.batches)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{tokens:9.0e}{found['open']:9.3f}{found['first']:15.3f}{found['at_first']:9.1f}{found['at_end']:11.1f}", end="")
        print(f"{found['cold']:17,.0f}{found['warm']:9,.0f}{found['bare']:14,.0f}", flush=True)


if __name__ == "__main__":
    main()
