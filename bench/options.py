"""Options that cost or save time and memory, and must not change the loss curve: offload, torch.compile, fp16.

    deepspeed --num_accelerators 2 bench/options.py [--ways "ZeRO-2 optimizer cpu" ...] [--precision bf16] [--output table.json]

Each way trains twice through the trainer's own loop: at one go, and stopped half-way and resumed from its checkpoint. Prints
the largest relative difference of a loss from the run without the option, and whether the resumed curve is bitwise the other.
fp16 runs on CPUs, too, slowly; one way begins with a loss scale that is too large, so that its first steps are skipped and its
curve is another one.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from deepspeed.accelerator import get_accelerator
from torch import distributed as dist

from tests.corpora import write_shards
from tests.models import FAMILIES, run_file
from trainer import run_folder
from trainer.engine import process_group
from trainer.hosts.disks import Disk
from trainer.hosts.launch_env import Process, current_process
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.preflight import prepare
from trainer.train import train

STEP_TOKENS, STEPS = 512, 8


@dataclass(frozen=True)
class Way:
    """An option, as changes of the run file."""

    parallel: dict[str, Any]
    zero: dict[str, Any] = field(default_factory=dict)
    """Of the `deepspeed` section's zero_optimization."""
    model: dict[str, Any] = field(default_factory=dict)
    fp16: dict[str, Any] | None = None
    tolerance: float = 1e-5


CPU = {"device": "cpu"}
COMPILE = {"compile": True}
FP16 = {"enabled": True, "initial_scale_power": 12}
TOO_LARGE = {"enabled": True, "initial_scale_power": 24, "hysteresis": 1}
ZERO1, ZERO2, ZERO3 = ({"zero_stage": stage} for stage in (1, 2, 3))
STAGES = {"zero_stage": 1, "pipeline_stages": 2}
WAYS = {
    "ZeRO-1 optimizer cpu": Way(ZERO1, {"offload_optimizer": CPU}),
    "ZeRO-2 optimizer cpu": Way(ZERO2, {"offload_optimizer": CPU}),
    "ZeRO-3 optimizer cpu": Way(ZERO3, {"offload_optimizer": CPU}),
    "ZeRO-3 parameters cpu": Way(ZERO3, {"offload_param": CPU}),
    "ZeRO-3 both cpu": Way(ZERO3, {"offload_optimizer": CPU, "offload_param": CPU}),
    "ZeRO-1 compile": Way(ZERO1, model=COMPILE),
    "ZeRO-3 compile": Way(ZERO3, model=COMPILE),
    "ZeRO-3 compile, checkpointing": Way(ZERO3, model=COMPILE | {"activation_checkpointing": True}),
    "ZeRO-1 fp16": Way(ZERO1, fp16=FP16, tolerance=2e-3),
    "ZeRO-1 fp16, steps skipped": Way(ZERO1, fp16=TOO_LARGE, tolerance=math.inf),
    "ZeRO-3 fp16": Way(ZERO3, fp16=FP16, tolerance=2e-3),
    "2 stages by cost": Way(STAGES | {"pipeline_partition": "cost"}),
    "2 stages compile": Way(STAGES, model=COMPILE),
    "2 stages fp16": Way(STAGES, fp16=FP16, tolerance=2e-3),
}
"""The pipelines last: DeepSpeed keeps their topology in a global that its ZeRO engine then trips over."""


class Job:
    """The process group's runs, each in a folder of its own."""

    def __init__(self, process: Process, device: torch.device, precision: str, folder: Path):
        self.process, self.device, self.precision, self.folder = process, device, precision, folder

    def rows(self, name: str, way: Way, *ends: int) -> list[dict[str, Any]]:
        """The metrics of a run that ends, and is started again, after each of these numbers of steps."""
        family = {"config": {**FAMILIES["llama"], "vocab_size": "auto", "tie_word_embeddings": False}}
        deepspeed: dict[str, Any] = {"zero_optimization": way.zero}
        if way.fp16:
            deepspeed["fp16"] = way.fp16
        elif self.precision == "bf16":
            deepspeed["bf16"] = {"enabled": True}
        for steps in ends:
            config = run_file(
                self.folder / name, self.folder / "train", model=family | way.model, parallel=way.parallel, deepspeed=deepspeed,
                schedule={"type": "constant", "total_tokens": steps * STEP_TOKENS}, checkpoint={"every_steps": 10**6},
            )  # fmt: skip
            self._train(config)
        return [row for row in read_metrics(self.folder / name / METRICS_FILE) if "loss" in row]

    def _train(self, config: dict[str, Any]) -> None:
        file = self.folder / "run.json"
        if self.process.is_first:
            file.write_text(json.dumps(config))
        dist.barrier()
        plan = prepare(file, [], self.process.world_size)
        dist.barrier()
        lock = run_folder.take(plan.folder, plan.record) if self.process.is_first else None
        dist.barrier()
        with open(os.devnull, "w") as silence, redirect_stdout(silence):
            train(plan, self.process, self.device, Disk.of_all(self.process.world_size))
        if lock:
            lock.close()
        dist.barrier()

    def compare(self, name: str, way: Way, plain: list[dict[str, Any]]) -> dict[str, Any]:
        """A row of the table."""
        whole, halves = self.rows(f"{name}, whole", way, STEPS), self.rows(f"{name}, halves", way, STEPS // 2, STEPS)
        kept = ("loss", "grad_norm", "skipped_steps")
        pairs = zip(whole, plain, strict=True)
        return {
            "way": name,
            "precision": "fp16" if way.fp16 else self.precision,
            "loss": max(abs(ours["loss"] - theirs["loss"]) / theirs["loss"] for ours, theirs in pairs),
            "skipped_steps": whole[-1]["skipped_steps"],
            "resumed": [[row[key] for key in kept] for row in halves] == [[row[key] for key in kept] for row in whole],
        }


def main() -> int:
    """Run every way and print the table; the exit code is 1 when a curve is apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all ways but fp16")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--tolerance", type=float, help="largest relative difference of a loss")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--local_rank", type=int)
    options = parser.parse_args()
    process = current_process()
    logging.disable(logging.WARNING)
    get_accelerator().is_fp16_supported = lambda: True  # torch has it for CPUs, but too slow for DeepSpeed to count it in
    rows: list[dict[str, Any]] = []
    plain: dict[str, list[dict[str, Any]]] = {}
    with process_group(process) as device:
        shared = [tempfile.mkdtemp(prefix="moenda-options-") if process.is_first else None]
        dist.broadcast_object_list(shared)
        job = Job(process, device, options.precision, Path(shared[0]))
        if process.is_first:
            write_shards(job.folder / "train")
        for name in sorted(options.ways, key=list(WAYS).index):
            way = WAYS[name]
            split = "-".join(map(str, way.parallel.values()))
            if split not in plain:
                plain[split] = job.rows(f"plain-{split}", Way(way.parallel), STEPS)
            rows.append(job.compare(name, way, plain[split]))
            if process.is_first:
                row = rows[-1]
                resumed = "bitwise" if row["resumed"] else "APART"
                print(f"{name:<40} loss {row['loss']:.1e}  resumed {resumed}  skipped {row['skipped_steps']}", flush=True)
    if process.is_first and options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(not row["resumed"] or row["loss"] > (options.tolerance or WAYS[row["way"]].tolerance) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
