"""The pipeline's bubble, measured, against (p - 1) / (m + p - 1) for p stages and m micro-batches.

    deepspeed --num_accelerators 2 bench/bubble.py [--micro-batches 1 2 4 8 16] [--steps 10] [--output table.json]

One stage per rank (p = the number of ranks), on the CPU each rank on a core of its own; the trainer's own engine and loader.
The formula (GPipe, arXiv 1811.06965, section 2.3; the same for DeepSpeed's 1F1B schedule) takes every stage to need the same
time for a micro-batch, and everything else to need none. Measured is the part of a schedule in which a rank does not compute:

    measured = 1 - compute / (compute + exchange)

compute: seconds in forward and backward passes; exchange: seconds in sends and receives, which wait for the neighbour. So
beside the bubble it has the copying of activations and gradients, and what one stage waits for the other because their layers
do not take equally long (head and loss stand in the last stage only). The exchange without any bubble is shown as `copies`:
what the ranks need to hand the same tensors to and fro with nobody computing. Loading, gradient reduction and the optimizer's
step are left out, and shown as `rest`.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from deepspeed.runtime.pipe import engine as pipe_engine
from deepspeed.runtime.pipe import schedule
from torch import distributed as dist

from tests.corpora import write_shards
from trainer.data.loader import Loader
from trainer.devices import process_group
from trainer.engine import build_engine
from trainer.hosts.launch_env import Process, current_process
from trainer.preflight import prepare

LENGTH, MICRO, WIDTH, WARM_UP = 256, 4, 256, 2
MODEL = {
    "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": "auto", "max_position_embeddings": "auto",
    "tie_word_embeddings": False,
}  # fmt: skip
COMPUTE = (schedule.ForwardPass, schedule.BackwardPass)
EXCHANGE = (schedule.SendActivation, schedule.RecvActivation, schedule.SendGrad, schedule.RecvGrad)


class Stopwatch:
    """Seconds of DeepSpeed's pipeline instructions by kind."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("compute", "exchange"), 0.0)
        table = pipe_engine.PipelineEngine._INSTRUCTION_MAP
        for kind, instructions in (("compute", COMPUTE), ("exchange", EXCHANGE)):
            for instruction in instructions:
                table[instruction] = self._timed(table[instruction], kind)

    def _timed(self, function: Callable[..., None], kind: str) -> Callable[..., None]:
        def run(*arguments: Any, **options: Any) -> None:
            began = time.perf_counter()
            function(*arguments, **options)
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            self.seconds[kind] += time.perf_counter() - began

        return run

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        taken, self.seconds = self.seconds, dict.fromkeys(self.seconds, 0.0)
        return taken


def run_file(count: int, stages: int, folder: Path) -> dict[str, Any]:
    """A run of `count` micro-batches a step."""
    return {
        "run": {"folder": str(folder / "run")},
        "model": {"config": MODEL},
        "data": {"train": str(folder / "train"), "sequence_length": LENGTH},
        "batch": {"global_batch_tokens": LENGTH * MICRO * count, "micro_batch_size": MICRO},
        "parallel": {"zero_stage": 0, "pipeline_stages": stages},
        "optimizer": {"learning_rate": 1e-4},
        "schedule": {"total_tokens": 10**9},
    }


def measure(count: int, steps: int, watch: Stopwatch, process: Process, device: torch.device, folder: Path) -> dict[str, float]:
    """This rank's median seconds of a step, by kind."""
    file = folder / f"run-{process.rank}.json"
    file.write_text(json.dumps(run_file(count, process.world_size, folder)))
    plan = prepare(file, [], process.world_size)
    worker = build_engine(plan, device)
    batches = Loader(plan.corpus, plan.batches, plan.topology.data_rank(process.rank)).steps(0, 10**9)
    rows = []
    for _ in range(WARM_UP + steps):
        worker.set_learning_rate(plan.config.schedule, plan.batch.global_batch_tokens)
        batch = next(batches)
        dist.barrier()
        watch.take()
        began = time.perf_counter()
        worker.train_step(batch)
        rows.append({"step": time.perf_counter() - began, **watch.take()})
    del worker
    gc.collect()
    return {key: statistics.median(row[key] for row in rows[WARM_UP:]) for key in rows[0]}


def copies(count: int, steps: int, process: Process, device: torch.device) -> float:
    """Median seconds to hand `count` micro-batches of activations to the next rank and their gradients back."""
    hidden, times = torch.zeros(MICRO, LENGTH, WIDTH, device=device), []
    for _ in range(WARM_UP + steps):
        dist.barrier()
        began = time.perf_counter()
        for _ in range(count):
            if process.rank > 0:
                dist.recv(hidden, process.rank - 1)
                dist.send(hidden, process.rank - 1)
            if process.rank + 1 < process.world_size:
                dist.send(hidden, process.rank + 1)
                dist.recv(hidden, process.rank + 1)
        times.append(time.perf_counter() - began)
    return statistics.median(times[WARM_UP:])


def row_of(count: int, everyone: list[dict[str, float]]) -> dict[str, Any]:
    """A row of the table from what each rank measured."""
    stages = len(everyone)
    waits = [one["exchange"] / (one["compute"] + one["exchange"]) for one in everyone]
    rest = [one["step"] - one["compute"] - one["exchange"] for one in everyone]
    return {
        "micro_batches": count,
        "formula": (stages - 1) / (count + stages - 1),
        "measured": statistics.mean(waits),
        "by_rank": waits,
        "step_seconds": max(one["step"] for one in everyone),
        "compute_seconds": [one["compute"] for one in everyone],
        "copies_seconds": max(one["copies"] for one in everyone),
        "rest_seconds": max(rest),
    }


def shown(row: dict[str, Any]) -> str:
    """A row for a person."""
    by_rank = " ".join(f"{value:.3f}" for value in row["by_rank"])
    compute = " ".join(f"{1e3 * value:.0f}" for value in row["compute_seconds"])
    return (
        f"{row['micro_batches']:>13}{row['formula']:>10.3f}{row['measured']:>10.3f}   {by_rank:<16}"
        f"{1e3 * row['step_seconds']:>9.0f}   {compute:<16}{1e3 * row['copies_seconds']:>9.1f}{1e3 * row['rest_seconds']:>9.0f}"
    )


HEAD = (
    f"{'micro-batches':>13}{'formula':>10}{'measured':>10}   {'by rank':<16}{'step ms':>9}   {'compute ms':<16}{'copies ms':>9}"
    f"{'rest ms':>9}"
)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--local_rank", type=int)
    options = parser.parse_args()
    process, rows = current_process(), []
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= process.local_world_size:
        os.sched_setaffinity(0, {cores[process.local_rank]})
    logging.disable(logging.WARNING)
    watch = Stopwatch()
    with process_group(process) as device:
        name = [tempfile.mkdtemp(prefix="moenda-bubble-") if process.is_first else None]
        dist.broadcast_object_list(name)
        folder = Path(name[0])
        if process.is_first:
            write_shards(folder / "train", documents=400)
            print(HEAD, flush=True)
        dist.barrier()
        for count in options.micro_batches:
            with open(os.devnull, "w") as silence, redirect_stdout(silence):
                mine = measure(count, options.steps, watch, process, device, folder)
            mine["copies"] = copies(count, options.steps, process, device)
            everyone: list[Any] = [None] * process.world_size
            dist.all_gather_object(everyone, mine)
            rows.append(row_of(count, everyone))
            if process.is_first:
                print(shown(rows[-1]), flush=True)
    if process.is_first and options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
