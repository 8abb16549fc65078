"""Options that cost or save time and memory, and must not change the loss curve: offload, torch.compile, fp16.

    deepspeed --num_accelerators 2 bench/options.py [--ways "ZeRO-2 optimizer cpu" ...] [--precision bf16] [--output table.json]

Each way trains twice through the trainer's own loop: at one go, and stopped half-way and resumed from its checkpoint. Prints
the largest relative difference of a loss from the run without the option, and whether the resumed curve is bitwise the other.
fp16 runs on CPUs, too, slowly; one way begins with a loss scale that is too large, so that its first steps are skipped and its
curve is another one. What goes to disks ("nvme": files in the bench's temporary folder) is of a larger model, as DeepSpeed
leaves tensors below 1 MiB in memory; some of these ways resume what another kind of offload has saved, and all are exported.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shutil
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
from trainer.devices import process_group
from trainer.export import export
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
    before: dict[str, Any] | None = None
    """`zero` of the first half, where it is another one."""
    resumed: float = 0.0
    """Largest relative difference of a resumed curve in fp32 (in bf16 a thousand times that): another optimizer's sums, and
    norms of other sub-groups, are added up in another order."""
    fp16: dict[str, Any] | None = None
    tolerance: float = 1e-5


CPU = {"device": "cpu"}
COMPILE = {"compile": True}
LLAMA = {**FAMILIES["llama"], "vocab_size": "auto", "tie_word_embeddings": False}
LARGER = {"config": LLAMA | {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 2048}}
TIED = {"config": LARGER["config"] | {"tie_word_embeddings": True}}
PARTS = {"sub_group_size": 600_000}
"""Several of them, of which the last stays in memory."""
NVME = {"device": "nvme", "nvme_path": "nvme"}
"""In the job's folder."""
OVERLAPPED = NVME | {"pipeline_read": True, "pipeline_write": True, "buffer_count": 12}
OPTIMIZER_CPU, OPTIMIZER_NVME = ({"offload_optimizer": device, **PARTS} for device in (CPU, NVME))
ALL_NVME = {"offload_optimizer": NVME, "offload_param": NVME | {"max_in_cpu": 0}, **PARTS}
FP16 = {"enabled": True, "initial_scale_power": 12}
TOO_LARGE = {"enabled": True, "initial_scale_power": 24, "hysteresis": 1}
ZERO1, ZERO2, ZERO3 = ({"zero_stage": stage} for stage in (1, 2, 3))
STAGES = {"zero_stage": 1, "pipeline_stages": 2}
WAYS = {
    "ZeRO-1 optimizer cpu": Way(ZERO1, {"offload_optimizer": CPU}),
    "ZeRO-2 optimizer cpu": Way(ZERO2, {"offload_optimizer": CPU}),
    "ZeRO-2 optimizer cpu, after none": Way(ZERO2, {"offload_optimizer": CPU}, before={}, resumed=1e-6),
    "ZeRO-1 none, after optimizer cpu": Way(ZERO1, before={"offload_optimizer": CPU}, resumed=1e-6),
    "ZeRO-3 optimizer cpu": Way(ZERO3, {"offload_optimizer": CPU}),
    "ZeRO-3 parameters cpu": Way(ZERO3, {"offload_param": CPU}),
    "ZeRO-3 both cpu": Way(ZERO3, {"offload_optimizer": CPU, "offload_param": CPU}),
    "ZeRO-3 optimizer nvme": Way(ZERO3, OPTIMIZER_NVME, LARGER),
    "ZeRO-3 optimizer nvme, overlapped": Way(ZERO3, {"offload_optimizer": OVERLAPPED, **PARTS}, LARGER),
    "ZeRO-3 optimizer nvme, after cpu": Way(ZERO3, OPTIMIZER_NVME, LARGER, before=OPTIMIZER_CPU),
    "ZeRO-3 optimizer cpu, after nvme": Way(ZERO3, OPTIMIZER_CPU, LARGER, before=OPTIMIZER_NVME),
    "ZeRO-3 parameters nvme": Way(ZERO3, {"offload_param": NVME | {"max_in_cpu": 0}, **PARTS}, LARGER),
    "ZeRO-3 parameters nvme, some in memory": Way(
        ZERO3, {"offload_optimizer": CPU, "offload_param": NVME | {"max_in_cpu": 1_600_000}, **PARTS}, LARGER
    ),
    "ZeRO-3 both nvme, tied": Way(ZERO3, ALL_NVME, TIED),
    "ZeRO-3 both nvme, after none, tied": Way(ZERO3, ALL_NVME, TIED, before={}, resumed=1e-6),
    "ZeRO-3 none, after both nvme": Way(ZERO3, {}, LARGER, before=ALL_NVME, resumed=1e-6),
    "ZeRO-3 both nvme, fp16": Way(ZERO3, ALL_NVME, LARGER, fp16=FP16, tolerance=2e-3),
    "ZeRO-3 both nvme, fp16, steps skipped": Way(ZERO3, ALL_NVME, LARGER, fp16=TOO_LARGE, tolerance=math.inf),
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
        deepspeed: dict[str, Any] = {}
        if way.fp16:
            deepspeed["fp16"] = way.fp16
        elif self.precision == "bf16":
            deepspeed["bf16"] = {"enabled": True}
        for steps in ends:
            first_half = way.before is not None and steps < STEPS
            deepspeed["zero_optimization"] = self._with_disk(way.before if first_half else way.zero)
            config = run_file(
                self.folder / name, self.folder / "train", model={"config": LLAMA} | way.model, parallel=way.parallel,
                deepspeed=deepspeed, checkpoint={"every_steps": 10**6},
                schedule={"type": "constant", "total_tokens": steps * STEP_TOKENS},
            )  # fmt: skip
            self._train(config)
        return [row for row in read_metrics(self.folder / name / METRICS_FILE) if "loss" in row]

    def _with_disk(self, zero: dict[str, Any]) -> dict[str, Any]:
        """Sections of zero_optimization with a folder for what goes to a disk."""
        disk = self.folder / "nvme"
        disk.mkdir(exist_ok=True)
        assert not any(disk.iterdir()), "a run has left files there"
        sections = {key: value for key, value in zero.items() if isinstance(value, dict) and "nvme_path" in value}
        return zero | {key: section | {"nvme_path": str(disk)} for key, section in sections.items()}

    def _export(self, name: str) -> None:
        """Raises ExportError when the exported model is not the trained one."""
        if self.process.is_first:
            export(self.folder / name, self.folder / f"{name}-exported")
        dist.barrier()

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
        if "nvme" in name:
            self._export(f"{name}, halves")
        apart = max(difference(halves, whole, key) for key in ("loss", "grad_norm", "skipped_steps"))
        return {
            "way": name,
            "precision": "fp16" if way.fp16 else self.precision,
            "loss": difference(whole, plain, "loss"),
            "skipped_steps": whole[-1]["skipped_steps"],
            "resumed": apart <= way.resumed * (1 if self.precision == "fp32" else 1000),
            "resumed_apart": apart,
        }


def difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str) -> float:
    """The largest of any step, relative; a gradient norm that overflowed (fp16) is no number in both."""
    pairs = [(mine[key], other[key]) for mine, other in zip(ours, theirs, strict=True)]
    apart = [abs(a - b) / abs(b) if b else math.inf for a, b in pairs if repr(a) != repr(b)]
    return math.inf if any(map(math.isnan, apart)) else max(apart, default=0.0)


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
            model = way.model if "config" in way.model else {}
            split = json.dumps([way.parallel, model])
            if split not in plain:
                plain[split] = job.rows(f"plain-{len(plain)}", Way(way.parallel, model=model), STEPS)
            rows.append(job.compare(name, way, plain[split]))
            if process.is_first:
                row = rows[-1]
                resumed = f"{row['resumed_apart']:.1e}" if row["resumed_apart"] else "bitwise"
                resumed += "" if row["resumed"] else " (APART)"
                print(f"{name:<40} loss {row['loss']:.1e}  resumed {resumed}  skipped {row['skipped_steps']}", flush=True)
    if process.is_first:
        shutil.rmtree(job.folder)
    if process.is_first and options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(not row["resumed"] or row["loss"] > (options.tolerance or WAYS[row["way"]].tolerance) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
