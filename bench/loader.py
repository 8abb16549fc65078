"""From a corpus on disk to batches of 2048-token windows in shuffled order: start-up, memory, windows/s, beside three rivals.

    python bench/loader.py --rivals PYTHON [--tokens 1e7 1e8 1e9] [--rounds 5] [--quick] [--work FOLDER]
    python bench/loader.py --only waiting          # what part of the steps of a real run waits for data

The same documents (random uint16 ids, lengths like those of web pages) are written by each format's own writer: moenda's
ShardWriter, megatron-core's IndexedDatasetBuilder, litdata's optimize, mosaicml-streaming's MDSWriter. Each figure is of a
process of its own, the ways take turns, --rounds times; printed are medians, with the files in the page cache:

  first s     from the first constructor to the first batch in hand, imports before it; indexes built before, where not said
  MB, own     growth of resident memory above the imports, at the first batch and after all windows; own: without file pages
  windows/s   in training order, batches of 16 as tensors of inputs and targets: the first windows read, and later ones

Megatron is read through GPTDataset (one source) and BlendedDataset (70/30) with its native index builders, its fast cache load
and deferred maps where the indexes are built; the others by their StreamingDataset with their own shuffles; all with torch's
DataLoader (litdata: its StreamingDataLoader) in the one process, for the largest corpus also with 2 workers. moenda's figures
are of the trainer's own Loader: a first step of one batch, then steps of 16 (0.5 M tokens, GPT-3's smallest). It checks each
block of 64 KiB when it is first touched, which the first windows pay; "whole epoch" is the mean over all windows, "verified
before" an epoch's end. Its ids are uint16 as they are stored, and widened on the device that trains; the rivals' are int64. The
ceiling is numpy.memmap: rows copied, as they are, at shuffled places into one array, used again.

mosaicml-streaming asks for transformers < 5 and numpy < 2.2, and two of the rivals bring torchvision, whose CUDA build
transformers cannot import beside a CPU torch. So the rivals have an environment of their own, whose python is --rivals (without
it they are left out):

    pip install -c constraints.txt 'litdata>=0.2.76,<0.3' 'megatron-core>=0.16,<0.17' 'mosaicml-streaming>=0.13,<0.14'

1 T and 100 T tokens are one sparse shard under many names with a true index. What the rivals would need for them is computed,
from how much they grew between the two largest corpora that they did hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np

from bench.loader_ways import BATCH, LENGTH, WAYS, WITH_WORKERS, WRITERS, write_moenda

MOST_WINDOWS = 16_384
"""Windows of one measurement, at most; never more than a fifth of an epoch."""
RIVALS = ("Megatron", "litdata", "mosaic")


# one measurement, in a process of its own


def memory() -> tuple[float, float]:
    """(resident MB, of them without file pages)."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident, anonymous, shared = (int(rows[key].split()[0]) / 1024 for key in ("VmRSS", "RssAnon", "RssShmem"))
    return resident, anonymous + shared


def windows_per_second(batches: Iterator, count: int) -> float:
    begin, done = time.perf_counter(), 0
    while done < count:
        inputs, targets = next(batches)
        done += len(inputs)
    rate = done / (time.perf_counter() - begin)
    check(inputs, targets)
    return rate


def check(inputs, targets) -> None:
    """The same work from every way; targets that do not count are negative."""
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    assert inputs.shape == targets.shape == (BATCH, LENGTH) and inputs.dtype == targets.dtype
    assert ((inputs[:, 1:] == targets[:, :-1]) | (targets[:, :-1] < 0)).all()


def measure(way: str, work: Path, windows: int) -> dict[str, float]:
    make = {**WAYS, **WITH_WORKERS}[way][1](work)
    before = memory()
    begin = time.perf_counter()
    batches = make()
    next(batches)
    found = {"first": time.perf_counter() - begin}
    found["mb"], found["own"] = (now - then for now, then in zip(memory(), before, strict=True))
    if way.endswith("verified before"):
        make.verify()
    found["early"] = windows_per_second(batches, windows)
    if way.endswith("whole epoch"):
        rest = make.epoch() - BATCH - windows
        found["later"] = (rest + windows) / (rest / windows_per_second(batches, rest) + windows / found["early"])
    else:
        found["later"] = statistics.median(windows_per_second(batches, windows) for _ in range(3))
    found["mb_end"], found["own_end"] = (now - then for now, then in zip(memory(), before, strict=True))
    return found


def child(python: str, *arguments: str) -> str:
    """Standard output's last line of this script in a process of its own."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [python, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout.splitlines()[-1] if done.stdout else ""


# the tables


def prepare(work: Path, tokens: int, formats: list[str], pythons: dict[str, str]) -> None:
    """Write the corpora that are not there, and bring all into the page cache."""
    for form in formats:
        for seed, (name, share) in enumerate((("a", 1.0), ("b", 0.3))[: 1 if form == "numpy" else 2]):
            folder = work / f"{form}-{name}"
            if not (work / f"{folder.name}.done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                begin = time.perf_counter()
                child(pythons[form], "--write", form, str(folder), str(int(tokens * share)), str(seed))
                (work / f"{folder.name}.done").touch()
                print(
                    f"  {folder.name}: {tokens * share:.0e} tokens written in {time.perf_counter() - begin:.0f} s", flush=True
                )
    for file in work.rglob("*"):
        if file.is_file():
            with file.open("rb") as content:
                while content.read(1 << 24):
                    pass


HEADER = (
    f"{'tokens':>8} {'way':<30}{'first s':>9}{'MB':>8}{'own':>8}{'MB end':>9}{'own':>8}{'windows/s: first':>18}{'later':>10}"
)


def row(tokens: float, way: str, found: dict[str, float], ceiling: float | None = None) -> None:
    share = f"{found['later'] / ceiling:8.0%} of memmap" if ceiling else ""
    print(
        f"{tokens:8.0e} {way:<30}{found['first']:9.3f}{found['mb']:8.1f}{found['own']:8.1f}{found['mb_end']:9.1f}"
        f"{found['own_end']:8.1f}{found['early']:18,.0f}{found['later']:10,.0f}{share}",
        flush=True,
    )


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in rows) for key in rows[0]}


def compare(options: argparse.Namespace, scratch: Path) -> None:
    pythons = {form: options.rivals if form in RIVALS else sys.executable for form in WRITERS}
    formats = [form for form in WRITERS if pythons[form]]
    results: dict[tuple[int, str], dict[str, float]] = {}
    for tokens in map(int, options.tokens):
        work = scratch / f"{tokens:.0e}"
        work.mkdir(parents=True, exist_ok=True)
        prepare(work, tokens, formats, pythons)
        ways = {**WAYS, **WITH_WORKERS} if tokens == int(options.tokens[-1]) else WAYS
        ways = {name: form for name, (form, _) in ways.items() if form in formats}
        count = min(MOST_WINDOWS, tokens // LENGTH // 5)
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, form in ways.items():
                rows[name].append(json.loads(child(pythons[form], "--measure", name, str(work), str(count))))
        print(HEADER)
        for name, found in rows.items():
            ratios = [one["later"] / bare["later"] for one, bare in zip(found, rows["numpy.memmap"], strict=True)]
            middle = results[tokens, name] = medians(found)
            row(tokens, name, middle, middle["later"] / statistics.median(ratios))
    extrapolate([int(tokens) for tokens in options.tokens], results)


def extrapolate(sizes: list[int], results: dict[tuple[int, str], dict[str, float]]) -> None:
    if len(sizes) < 2:
        return
    less, more = sizes[-2:]
    for name in ("Megatron, building its index", "litdata", "mosaic"):
        if (more, name) not in results:
            continue
        grown = {key: (results[more, name][key] - results[less, name][key]) / (more - less) for key in ("first", "own")}
        text = [
            f"{tokens:.0e} tokens {max(0, grown['first'] * tokens):,.0f} s and {max(0, grown['own'] * tokens / 1024):,.0f} GB"
            for tokens in (1e12, 1e14)
        ]
        print(f"computed by its growth from {less:.0e} to {more:.0e} tokens: {name}, first batch of {', of '.join(text)}")


def synthetic(options: argparse.Namespace, scratch: Path) -> None:
    from tests.corpora import synthetic_manifest

    print(f"synthetic corpora\n{HEADER}")
    for tokens in (10**12, 10**14):
        work = scratch / f"synthetic-{tokens:.0e}"
        if not (work / "moenda-a" / "manifest.json").exists():
            shutil.rmtree(work, ignore_errors=True)
            synthetic_manifest(work / "moenda-a", tokens)
        found = [
            json.loads(child(sys.executable, "--measure", "moenda", str(work), str(MOST_WINDOWS)))
            for _ in range(options.rounds)
        ]
        row(tokens, "moenda", medians(found))


def waiting(options: argparse.Namespace, scratch: Path) -> None:
    """A run of the demo's model through the launcher: its own metrics say how long each step waited for data."""
    corpus, run = scratch / "waiting-corpus", scratch / "waiting-run"
    if not (corpus / "manifest.json").exists():
        shutil.rmtree(corpus, ignore_errors=True)
        write_moenda(corpus, 10**7, 0, vocabulary=4096)
    shutil.rmtree(run, ignore_errors=True)
    config = json.loads((ROOT / "ds_configs" / "smoke_cpu.json").read_text())
    config.pop("$schema")
    config.pop("evaluation")
    config["run"]["folder"] = str(run)
    config["data"] = {"train": str(corpus), "sequence_length": config["data"]["sequence_length"]}
    config["schedule"]["total_tokens"] = options.steps * config["batch"]["global_batch_tokens"]
    config["schedule"]["warmup_tokens"] = config["batch"]["global_batch_tokens"]
    config["checkpoint"]["every_steps"] = options.steps
    config["monitor"] = {"log_every": 1, "tensorboard": False}
    (scratch / "waiting.json").write_text(json.dumps(config))
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    command = [
        launcher,
        "--num_accelerators",
        "1",
        str(ROOT / "trainer" / "train.py"),
        "--config",
        str(scratch / "waiting.json"),
    ]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-3000:])
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, *shares = [line["data_share"] for line in found if "data_share" in line]
    rate = statistics.median(line["tokens_per_second"] for line in found if "tokens_per_second" in line)
    print(
        f"waiting for data, {len(shares) + 1} steps at {rate:,.0f} tokens/s: median {statistics.median(shares):.4%} of a step, "
        f"worst {max(shares):.4%}; of the first step {first:.4%}"
    )


PARTS = {"compare": compare, "synthetic": synthetic, "waiting": waiting}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, nargs="+", default=[1e7, 1e8, 1e9], help="sizes of the corpora, ascending")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="10 M and 100 M tokens, 2 rounds: under 8 minutes")
    parser.add_argument("--work", type=Path, help="folder that keeps the corpora for later runs (12 GB); else a temporary one")
    parser.add_argument("--rivals", help="python of an environment with the rivals; without it they are left out")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=80, help="of the run that is asked how long it waits")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, work, windows = options.measure
        with contextlib.redirect_stdout(sys.stderr):
            found = measure(way, Path(work), int(windows))
        print(json.dumps(found), flush=True)
        os._exit(0)  # the rivals' threads need not be waited for
    if options.write:
        form, folder, tokens, seed = options.write
        WRITERS[form](Path(folder), int(tokens), int(seed))
        return
    if options.quick:
        options.tokens, options.rounds = [1e7, 1e8], 2
    with tempfile.TemporaryDirectory() as scratch:
        for part in options.only:
            PARTS[part](options, options.work or Path(scratch))


if __name__ == "__main__":
    main()
