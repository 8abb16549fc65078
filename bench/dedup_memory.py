"""Memory of deduplication as documents grow tenfold: it should not grow with them.

    python bench/dedup_memory.py [--documents 20000 200000] [--records 1000000 10000000] [--memory-megabytes 64]

Each line is a process of its own that does a whole stage list alone; the peak is its VmHWM. "exact", "lines" and "minhash" run
over synthetic documents of about 60 words, of which every fifth is a near-copy of one before and every twentieth line stands in
many; "records" is the part of minhash whose data grow with the corpus, over band records alone: candidates from sorted runs,
then clusters, with every candidate taken as a link.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from data_prep.dedup import exact, lines, minhash, union_find
from data_prep.dedup.external_sort import Run, RunWriter, range_tasks, read_sorted
from data_prep.document import Document, write_documents
from data_prep.stage import Parts, Runner

PART_DOCUMENTS, PART_RECORDS = 5_000, 500_000


def write_parts(folder: Path, count: int) -> None:
    """Parts of short documents; the first documents are the same for every count."""
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "rt", "l", "sse", "mmy")]
    recent: list[list[str]] = []
    for part in range(-(-count // PART_DOCUMENTS)):
        rng, documents = random.Random(part), []
        for number in range(part * PART_DOCUMENTS, min(count, (part + 1) * PART_DOCUMENTS)):
            text = list(rng.choice(recent)) if recent and number % 5 == 0 else rng.choices(words, k=60)
            text[rng.randrange(60)] = rng.choice(words)
            recent = [*recent[-99:], text]
            notice = f"\nThis notice of publisher {number % 40} stands under many pages." if number % 20 == 0 else ""
            documents.append(Document(f"synthetic/{number}", " ".join(text) + notice, "synthetic", {}))
        write_documents(folder / f"part-{part:05d}.jsonl.zst", documents)


def write_records(folder: Path, count: int) -> None:
    """Runs of (band hash, document): half of the hashes are shared by two to four documents."""
    for part in range(-(-count // PART_RECORDS)):
        rng = np.random.default_rng(part)
        writer = RunWriter(folder, f"part-{part:05d}", 2**30)
        hashes = rng.integers(0, count, PART_RECORDS, np.uint64) * np.uint64(2**64 // count)
        writer.add(hashes, rng.integers(0, count // 20 + 1, PART_RECORDS).astype(np.uint64))
        writer.close()


def measure(kind: str, folder: Path, memory: int) -> dict[str, float]:
    """Do the stages; returns seconds, peak memory and bytes on disk."""
    start, out = time.perf_counter(), folder / kind
    files = sorted((folder / "parts").glob("*.jsonl.zst"))
    parts = Parts.of_files(files)
    settings = minhash.MinHashSettings(memory_megabytes=memory)
    with Runner(1) as runner:
        if kind == "exact":
            exact.MEMORY_BYTES = memory << 20
            exact.run(runner, out, parts)
        elif kind == "lines":
            lines.run(runner, out, parts, lines.RepeatedTextSettings(memory_megabytes=memory))
        elif kind == "minhash":
            minhash.run(runner, out, parts, settings, 0)
        else:
            runs = [Run(path) for path in sorted((folder / "records").glob("*.run"))]
            records = sum(run.path.stat().st_size for run in runs) // 16
            tasks = range_tasks(2**64, records, lambda low, high: (runs, low, high, settings), "")
            results = runner.run(out / "pairs", "pairs", {}, tasks, minhash.pair_work)
            links = [Run(out / "pairs" / name) for result in results for name in result["runs"]]
            (out / "scratch").mkdir()
            clusters = union_find.components(links, out / "scratch", settings.memory_bytes)
            assert sum(len(piece) for piece in read_sorted(clusters, settings.memory_bytes))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    disk = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"seconds": time.perf_counter() - start, "peak_mb": int(status["VmHWM"].split()[0]) / 1024, "disk_mb": disk / 2**20}


def measured(kind: str, folder: Path, memory: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", kind, str(folder), "--memory-megabytes", str(memory)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--records", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--memory-megabytes", type=int, default=64)
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    memory = arguments.memory_megabytes
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], Path(arguments.measure[1]), memory)))
        return
    print(f"{'':10}{'number':>12}{'peak MB':>10}{'disk MB':>10}{'seconds':>10}    memory_megabytes {memory}")
    for kinds, counts, write, name in (
        (("exact", "lines", "minhash"), arguments.documents, write_parts, "parts"),
        (("records",), arguments.records, write_records, "records"),
    ):
        for count in counts:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / name).mkdir()
                write(Path(folder) / name, count)
                for kind in kinds:
                    row = measured(kind, Path(folder), memory)
                    print(f"{kind:10}{count:12,}{row['peak_mb']:10.0f}{row['disk_mb']:10.0f}{row['seconds']:10.1f}", flush=True)


if __name__ == "__main__":
    main()
