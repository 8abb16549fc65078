"""Memory of a rank by where ZeRO-3 keeps its states: with the device, in the CPU's memory, on disks.

    python bench/offload_memory.py [--ways none "optimizer nvme" ...] [--width 1024] [--layers 16] [--output table.json]

For each way a run of two ranks takes two steps of a Llama and saves; the same command then resumes it for a third. Prints, of
the rank that takes most, the peak of its memory beyond the imports while it builds and steps, while it saves and while it
resumes, and what was on the disk. Memory is the private one: what is mapped from files the kernel may drop at any time. Without
a GPU all of it is the CPU's.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tests import launch
from tests.models import run_file

CPU, NVME = {"device": "cpu"}, {"device": "nvme"}
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "optimizer cpu": {"offload_optimizer": CPU},
    "optimizer nvme": {"offload_optimizer": NVME},
    "both nvme": {"offload_optimizer": NVME, "offload_param": NVME | {"max_in_cpu": 0}},
}
TOKENS = 128
"""Of a step: two windows of 32 on each rank."""


def private_memory() -> int:
    """Bytes of this process that no file stands behind."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["RssAnon"].split()[0]) * 1024


@contextmanager
def peak(found: dict[str, int], phase: str) -> Iterator[None]:
    """Note the most private memory within a `with` block."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            found[phase] = max(found.get(phase, 0), private_memory())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def rank(folder: Path) -> None:
    """One rank of a run: writes its peaks beside the run file, the files on the disk included."""
    from trainer import checkpoint
    from trainer import train as training
    from trainer.hosts.launch_env import current_process

    logging.disable(logging.WARNING)
    process, found = current_process(), {"imports": private_memory(), "disk": 0}
    save, load = checkpoint.save, checkpoint.load

    def saving(*arguments: Any) -> Path:
        found["disk"] = sum(file.stat().st_size for file in (folder / "nvme").rglob("*.swp"))
        with peak(found, "save"):
            return save(*arguments)

    def loading(*arguments: Any) -> None:
        with peak(found, "load"):
            load(*arguments)

    checkpoint.save, checkpoint.load = saving, loading
    with open(os.devnull, "w") as silence, redirect_stdout(silence), peak(found, "all"):
        code = training.main(["--config", str(folder / "run.json")])
    assert code == 0, code
    (folder / f"peaks-{process.rank}.json").write_text(json.dumps(found))


def measure(way: str, model: dict[str, Any], bf16: bool) -> dict[str, Any]:
    """Peaks in GB, of the rank that takes most."""
    from tests.corpora import write_shards

    row: dict[str, Any] = {"way": way}
    with tempfile.TemporaryDirectory(prefix="moenda-memory-") as name:
        folder = Path(name)
        (folder / "nvme").mkdir()
        write_shards(folder / "train")
        path = {"nvme_path": str(folder / "nvme")}
        zero = {key: section | path if section["device"] == "nvme" else section for key, section in WAYS[way].items()}
        for steps in (2, 3):
            config = run_file(
                folder / "run", folder / "train", model={"config": model}, parallel={"zero_stage": 3},
                batch={"global_batch_tokens": TOKENS}, checkpoint={"every_steps": 10**6, "keep": 1},
                deepspeed={"zero_optimization": zero, "bf16": {"enabled": bf16}},
                schedule={"type": "constant", "total_tokens": steps * TOKENS, "warmup_tokens": 0},
            )  # fmt: skip
            (folder / "run.json").write_text(json.dumps(config))
            done = launch.run(2, "bench/offload_memory.py", "--rank-of", str(folder), timeout=3600)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            ranks = [json.loads((folder / f"peaks-{number}.json").read_text()) for number in range(2)]
            if steps == 2:
                row |= {"steps": beyond(ranks, "all"), "save": beyond(ranks, "save"), "disk": ranks[0]["disk"] / 1e9}
            else:
                row |= {"resume": beyond(ranks, "load")}
    return row


def beyond(ranks: list[dict[str, int]], phase: str) -> float:
    """GB above the imports."""
    return max(one[phase] - one["imports"] for one in ranks) / 1e9


def main() -> int:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        rank(options.rank_of)
        return 0
    model = {
        "model_type": "llama", "hidden_size": options.width, "intermediate_size": 8 * options.width // 3 // 64 * 64,
        "num_hidden_layers": options.layers, "num_attention_heads": options.width // 64,
        "num_key_value_heads": options.width // 64, "vocab_size": options.vocabulary, "max_position_embeddings": "auto",
        "tie_word_embeddings": False,
    }  # fmt: skip
    rows = []
    for way in options.ways:
        rows.append(measure(way, model, options.bf16))
        row = rows[-1]
        figures = "  ".join(f"{phase} {row[phase]:.2f}" for phase in ("steps", "save", "resume"))
        print(f"{way:<16} GB of a rank: {figures}  on the disk, both ranks: {row['disk']:.2f}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
