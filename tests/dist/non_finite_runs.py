"""Training with numbers that are not finite put into chosen steps.

    deepspeed --num_accelerators 2 tests/dist/non_finite_runs.py --bad '{"3": "gradient"}' --config FILE [--set ...]
    deepspeed --num_accelerators 2 tests/dist/non_finite_runs.py --table FILE [--only "ZeRO-3 bf16" ...]

The first trains one run file, as trainer/train.py does. The second trains a tiny model in every way of splitting the work, at
one go and stopped half-way, and writes a row for each.
"""

# ruff: noqa: E402 - started by a launcher, it puts the repository on the path first
from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import torch
from deepspeed.accelerator import get_accelerator
from torch import distributed as dist

import trainer.train
from strict_json import ConfigError
from tests.corpora import write_shards
from tests.models import run_file
from trainer import run_folder
from trainer.devices import process_group
from trainer.engine import PipelineEngine, ZeroEngine
from trainer.hosts.disks import Disk
from trainer.hosts.launch_env import Process, current_process
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.preflight import RunPlan, prepare

STEP_TOKENS, STEPS, SAVE_EVERY, HALF = 512, 10, 4, 4
BAD = {2: "gradient", 4: "gradient", 5: "infinite loss", 7: "loss", 8: "loss"}
"""By step. 4 and 8 are save steps; half-way, after 4, two steps in a row are bad."""
VALUES = {"loss": float("nan"), "infinite loss": float("inf")}
"""Added to a loss. Adding infinity leaves the gradient as it is: only the loss tells."""


class BadNumbers:
    """Puts numbers that are not finite into the steps `bad` of the engine that the trainer builds, each on one rank alone."""

    def __init__(self, bad: dict[int, str]):
        self.bad, self.kind = bad, None
        self.changed: list[int] = []
        """Bad steps in which a weight or a moment of this rank changed."""

    @contextmanager
    def installed(self) -> Iterator[BadNumbers]:
        """Train with them within a `with` block."""
        build = trainer.train.build_engine
        trainer.train.build_engine = lambda plan, device: self._poison(build(plan, device), plan)
        try:
            yield self
        finally:
            trainer.train.build_engine = build

    def _poison(self, worker: ZeroEngine | PipelineEngine, plan: RunPlan) -> ZeroEngine | PipelineEngine:
        first, last = dist.get_rank() == 0, dist.get_rank() == dist.get_world_size() - 1
        step, train_step = plan.start.step, worker.train_step

        def counted(batch: Any) -> Any:
            nonlocal step
            step += 1
            self.kind = self.bad.get(step)
            before = [tensor.clone() for tensor in held(worker)] if self.kind else []
            result = train_step(batch)
            if self.kind and not all(torch.equal(now, then) for now, then in zip(held(worker), before, strict=True)):
                self.changed.append(step)
            self.kind = None
            return result

        worker.train_step = counted
        if last:  # a pipeline's loss is made on its last rank
            if isinstance(worker, PipelineEngine):
                nll_sum = worker._loss_of_logits
                worker._loss_of_logits = lambda logits, targets: nll_sum(logits, targets) + VALUES.get(self.kind, 0)
            else:
                losses = worker._losses
                worker._losses = lambda *given: (lambda loss, rest: (loss + VALUES.get(self.kind, 0), rest))(*losses(*given))
        if first:
            parameter = next(worker.deepspeed.module.parameters())
            parameter.register_hook(lambda gradient: one_nan(gradient) if self.kind == "gradient" else gradient)
        return worker


def one_nan(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient with its first number replaced."""
    gradient = gradient.clone()
    gradient.view(-1)[0] = float("nan")
    return gradient


def held(worker: ZeroEngine | PipelineEngine) -> list[torch.Tensor]:
    """This rank's weights, as computed with and as the optimizer keeps them, and its moments."""
    wrapped = worker.deepspeed
    tensors = [getattr(parameter, "ds_tensor", parameter) for parameter in wrapped.module.parameters()]
    for group in wrapped.basic_optimizer.param_groups:
        tensors += group["params"]
    tensors += getattr(wrapped.optimizer, "fp32_partitioned_groups_flat", [])
    for state in wrapped.basic_optimizer.state.values():
        tensors += [value for value in state.values() if torch.is_tensor(value)]
    return [tensor.detach() for tensor in tensors]


@dataclass(frozen=True)
class Way:
    """A way of splitting the work, and a precision."""

    parallel: dict[str, int]
    precision: str
    zero: dict[str, Any] = field(default_factory=dict)
    """Of the `deepspeed` section's zero_optimization."""
    optimizer: dict[str, Any] = field(default_factory=dict)


CPU = {"device": "cpu"}
PRECISIONS = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 8, "hysteresis": 1}},
}
TWO_RANKS: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    **{f"ZeRO-{stage}": ({"zero_stage": stage}, {}) for stage in range(4)},
    **{f"ZeRO-{stage} optimizer cpu": ({"zero_stage": stage}, {"offload_optimizer": CPU}) for stage in (1, 2, 3)},
    "ZeRO-3 both cpu": ({"zero_stage": 3}, {"offload_optimizer": CPU, "offload_param": CPU}),
    **{f"2 slices, ZeRO-{stage}": ({"zero_stage": stage, "tensor": 2}, {}) for stage in range(4)},
    **{f"2 parts, ZeRO-{stage}": ({"zero_stage": stage, "sequence": 2}, {}) for stage in range(4)},
    **{f"2 stages, ZeRO-{stage}": ({"zero_stage": stage, "pipeline_stages": 2}, {}) for stage in (0, 1)},
}
FOUR_RANKS: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    **{f"2 slices x 2 replicas, ZeRO-{stage}": ({"zero_stage": stage, "tensor": 2}, {}) for stage in (0, 1, 3)},
    "2 slices x 2 parts, ZeRO-1": ({"zero_stage": 1, "tensor": 2, "sequence": 2}, {}),
    **{f"2 stages x 2 replicas, ZeRO-{stage}": ({"zero_stage": stage, "pipeline_stages": 2}, {}) for stage in (0, 1)},
    **{f"2 stages x 2 slices, ZeRO-{stage}": ({"zero_stage": stage, "pipeline_stages": 2, "tensor": 2}, {}) for stage in (0, 1)},
    "2 stages x 2 parts, ZeRO-1": ({"zero_stage": 1, "pipeline_stages": 2, "sequence": 2}, {}),
}
"""Pipelines last: DeepSpeed keeps their topology in a global that its ZeRO engine then trips over."""


def ways(world_size: int) -> dict[str, Way]:
    """All that a job of so many ranks can do."""
    splits = {2: TWO_RANKS, 4: FOUR_RANKS}[world_size]
    named = {f"{name} {precision}": Way(parallel, precision, zero) for name, (parallel, zero) in splits.items() for precision in PRECISIONS}
    named["ZeRO-0 fp32 unclipped"] = Way({"zero_stage": 0}, "fp32", optimizer={"gradient_clipping": 0.0})
    named["ZeRO-1 bf16 unclipped"] = Way({"zero_stage": 1}, "bf16", optimizer={"gradient_clipping": 0.0})
    return dict(sorted(named.items(), key=lambda item: "pipeline_stages" in item[1].parallel))


class Job:
    """Runs in folders of their own, one after the other."""

    def __init__(self, process: Process, device: torch.device, folder: Path):
        self.process, self.device, self.folder = process, device, folder

    def row(self, name: str, way: Way) -> dict[str, Any]:
        """What became of a way: `refused` with the reason, or its numbers."""
        try:
            whole = self._train(name, "whole", way, STEPS)
            self._train(name, "halves", way, HALF)
            halves = self._train(name, "halves", way, STEPS)
        except ConfigError as error:
            return {"way": name, "refused": str(error)}
        changed: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(changed, whole.changed)
        return {"way": name, "changed": changed, **self._recorded(name, "whole"), "resumed": self._same(name)}

    def _recorded(self, name: str, kind: str) -> dict[str, Any]:
        folder = self.folder / name / kind
        saved = run_folder.checkpoints_in(folder / "checkpoints")
        rows = [row for row in read_metrics(folder / METRICS_FILE) if "loss" in row]
        return {
            "skipped_after": {row["step"]: row["skipped_steps"] for row in rows},
            "loss_missing": [row["step"] for row in rows if row["loss"] is None],
            "norm_missing": [row["step"] for row in rows if row["grad_norm"] is None],
            "rates": [row["learning_rate"] for row in rows],
            "saved": [path.name for path in saved],
            "state": run_folder.read_state(saved[-1])["state"],
        }

    def _same(self, name: str) -> bool:
        """Whether the resumed run's metrics, state and probe are those of the whole one."""
        kinds = [self.folder / name / kind for kind in ("whole", "halves")]
        kept = ("step", "tokens", "loss", "learning_rate", "grad_norm", "skipped_steps")
        curves = [[[row.get(key) for key in kept] for row in read_metrics(folder / METRICS_FILE)] for folder in kinds]
        last = [run_folder.read_state(run_folder.checkpoints_in(folder / "checkpoints")[-1]) for folder in kinds]
        return curves[0] == curves[1] and all(last[0][key] == last[1][key] for key in ("state", "probe", "chain"))

    def _train(self, name: str, kind: str, way: Way, steps: int) -> BadNumbers:
        file = self.folder / "run.json"
        if self.process.is_first:
            (self.folder / name).mkdir(exist_ok=True)
            config = run_file(
                self.folder / name / kind, self.folder / "train", parallel=way.parallel, optimizer=way.optimizer,
                deepspeed=PRECISIONS[way.precision] | {"zero_optimization": way.zero},
                checkpoint={"every_steps": SAVE_EVERY, "keep": 1},
                schedule={"type": "constant", "total_tokens": steps * STEP_TOKENS},
            )  # fmt: skip
            file.write_text(json.dumps(config))
        dist.barrier()
        plan = prepare(file, [], self.process.world_size)
        dist.barrier()
        lock = run_folder.take(plan.folder, plan.record) if self.process.is_first else None
        dist.barrier()
        with BadNumbers(BAD).installed() as bad, open(os.devnull, "w") as silence, redirect_stdout(silence):
            trainer.train.train(plan, self.process, self.device, Disk.of_all(self.process.world_size))
        if lock:
            lock.close()
        dist.barrier()
        return bad


def write_table(file: Path, only: list[str] | None) -> None:
    """Train every way and write its row."""
    process = current_process()
    logging.disable(logging.WARNING)
    get_accelerator().is_fp16_supported = lambda: True  # torch has it for CPUs, but too slow for DeepSpeed to count it in
    rows = []
    with process_group(process) as device:
        shared = [tempfile.mkdtemp(prefix="moenda-non-finite-") if process.is_first else None]
        dist.broadcast_object_list(shared)
        job = Job(process, device, Path(shared[0]))
        if process.is_first:
            write_shards(job.folder / "train")
        dist.barrier()
        for name, way in ways(process.world_size).items():
            if only and name not in only:
                continue
            rows.append(job.row(name, way))
            if process.is_first:
                print(json.dumps(rows[-1]), flush=True)
    if process.is_first:
        shutil.rmtree(job.folder)
        file.write_text(json.dumps(rows, indent=1) + "\n")


def main() -> int:
    """Train one run, or all ways."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bad", type=json.loads, default={}, help="JSON: step -> gradient, loss or infinite loss")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--local_rank", type=int)
    options, rest = parser.parse_known_args()
    if options.table:
        write_table(options.table, options.only)
        return 0
    with BadNumbers({int(step): kind for step, kind in options.bad.items()}).installed():
        return trainer.train.main(rest)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
