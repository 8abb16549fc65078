"""What the training loop costs: moenda, a bare `deepspeed.initialize` loop and HF Trainer, taking turns in one job.

    deepspeed --num_accelerators 2 bench/overhead.py [--config ds_configs/smoke_cpu.json] [--rounds 60] [--output table.json]
    deepspeed --num_accelerators 2 bench/overhead.py --ways all [--rounds 30]      # beside bare DeepSpeed, split every way

The three train the run file's model from random weights with the same DeepSpeed configuration, batch, precision and
optimizer, on the same shards, each in its own real loop: `trainer.train.train`, the loop of DeepSpeed's tutorial (for stages,
that of its pipeline tutorial), and `transformers.Trainer`. Each loop runs in a thread of its own and is held after every turn,
so that all see the same machine; only one runs at a time. Every loop logs as often as the run file says. Prints medians over
the rounds of the tokens/s of all devices, and the medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)
# the same threads for all three: accelerate would else give each rank as many as the machine has cores
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_SIZE", "1")))))

import torch
import transformers
from deepspeed.accelerator import get_accelerator
from torch import distributed as dist

import trainer.train
from bench.overhead_rivals import bare_loop, bare_pipeline_loop, hugging_face_loop
from trainer.data.loader import Loader
from trainer.devices import process_group
from trainer.hosts.disks import Disk
from trainer.hosts.launch_env import current_process
from trainer.preflight import RunPlan, prepare

M_ARENA_MAX = -8
"""Parameter of mallopt(3)."""
OURS, BARE, HF = "moenda", "bare DeepSpeed", "HF Trainer"
WAYS = {
    "ZeRO-0": {"zero_stage": 0, "pipeline_stages": 1},
    "ZeRO-1": {"zero_stage": 1, "pipeline_stages": 1},
    "ZeRO-2": {"zero_stage": 2, "pipeline_stages": 1},
    "ZeRO-3": {"zero_stage": 3, "pipeline_stages": 1},
    "2 stages": {"zero_stage": 0, "pipeline_stages": 2},
    "2 stages + ZeRO-1": {"zero_stage": 1, "pipeline_stages": 2},
}
"""The pipelines last: DeepSpeed keeps their topology in a global that its ZeRO engine then trips over."""


class Finished(BaseException):
    """Raised inside a loop to end it: nothing in a loop should catch it."""


class Turns:
    """Lets several loops run by turns; each calls `step_done` after every optimizer step."""

    def __init__(self, steps: int):
        self._steps = steps
        self._go = {}
        self._handed_back = threading.Semaphore(0)
        self._left = 0
        self._stopping = False

    def start(self, name: str, loop: Callable[[Callable[[], None]], None]) -> None:
        """Begin a loop in its thread and run it to the end of its first (warm-up) step."""
        self._go[name] = threading.Semaphore(0)

        def run() -> None:
            get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
            try:
                loop(lambda: self._step_done(name))
            except Finished:
                pass
            finally:
                self._handed_back.release()

        self._left = 1
        threading.Thread(target=run, name=name, daemon=True).start()
        self._handed_back.acquire()

    def _step_done(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            self._handed_back.release()
            self._go[name].acquire()
        if self._stopping:
            raise Finished

    def take(self, name: str) -> float:
        """One turn; returns its seconds, from all ranks ready to all ranks done."""
        self._left = self._steps
        dist.barrier()
        began = time.perf_counter()
        self._go[name].release()
        self._handed_back.acquire()
        get_accelerator().synchronize()
        dist.barrier()
        return time.perf_counter() - began

    def stop(self) -> None:
        """End every loop."""
        self._stopping = True
        for go in self._go.values():
            go.release()
            self._handed_back.acquire()


def our_loop(plan: RunPlan, step_done: Callable[[], None], device: torch.device) -> None:
    """The product: `trainer.train.train` itself."""

    class Counted(Loader):
        def steps(self, tokens_seen: int, total_tokens: int) -> Iterator[Any]:
            for batch in super().steps(tokens_seen, total_tokens):
                yield batch
                step_done()

    trainer.train.Loader = Counted
    process = current_process()
    trainer.train.train(plan, process, device, Disk.of_all(process.world_size))


def measure(
    plan: RunPlan, device: torch.device, steps: int, rounds: int, folder: Path, rivals: list[str]
) -> dict[str, list[float]]:
    """Tokens/s of all devices of each contestant, one value per round."""
    bare = bare_pipeline_loop if plan.topology.pipeline_stages > 1 else bare_loop
    loops: dict[str, Callable[[Callable[[], None]], None]] = {
        OURS: lambda done: our_loop(plan, done, device),
        BARE: lambda done: bare(plan, done),
        HF: lambda done: hugging_face_loop(plan, done, folder),
    }
    names, turns = [OURS, *rivals], Turns(steps)
    for name in names:
        turns.start(name, loops[name])
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds + 2):
        for name in names[index % len(names) :] + names[: index % len(names)]:  # no contestant always follows the same one
            seconds = turns.take(name)
            if index >= 2:
                speeds[name].append(steps * plan.batch.global_batch_tokens / seconds)
        if dist.get_rank() == 0:
            shown = ", ".join(f"{name} {speeds[name][-1]:,.0f}" for name in names) if index >= 2 else "warm-up"
            print(f"round {index - 1}/{rounds}: {shown}", file=sys.stderr, flush=True)
    turns.stop()
    return speeds


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="ds_configs/smoke_cpu.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--ways", nargs="+", choices=["all", *WAYS], metavar="WAY", help=", ".join(["all", *WAYS]))
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps per turn")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--local_rank", type=int)
    options = parser.parse_args()
    one_heap()
    process = current_process()
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    os.environ.setdefault("LOCAL_RANK", str(process.local_rank))
    with process_group(process) as device:
        name = [tempfile.mkdtemp(prefix="moenda-overhead-") if process.is_first else None]
        dist.broadcast_object_list(name)
        tables = []
        for way in WAYS if options.ways == ["all"] else options.ways or [None]:
            folder = Path(name[0]) / (way or "run")
            plan = prepare(options.config, [*options.set, *overrides(way, folder)], process.world_size)
            plan.folder.mkdir(parents=True, exist_ok=True)
            rivals = [BARE] if way or plan.topology.pipeline_stages > 1 else [BARE, HF]
            with open(os.devnull, "w") as silence, redirect_stdout(silence):
                speeds = measure(plan, device, options.steps, options.rounds, folder, rivals)
            if process.is_first:
                tables.append(report(plan, speeds, way, options))
    if process.is_first and options.output:
        options.output.write_text(json.dumps(tables, indent=1) + "\n")
    return 0


def one_heap() -> None:
    """Let the loops' threads allocate as a process does in its main thread, where each loop runs in real life: glibc's heaps of
    threads give memory back whatever mallopt(3) says."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)


def overrides(way: str | None, folder: Path) -> list[str]:
    """Settings of the run file for one way: nothing but steps."""
    never = ["schedule.total_tokens=1000000000000000", "evaluation.every_steps=1000000000", "checkpoint.every_steps=1000000000"]
    parallel = [f"parallel.{key}={value}" for key, value in WAYS[way].items()] if way else []
    return [*parallel, f"run.folder={folder / 'ours'}", *never]


def median_interval(values: list[float]) -> tuple[float, float]:
    """95% confidence interval of the median, from order statistics (normal approximation of the binomial)."""
    ordered, half = sorted(values), 0.98 * len(values) ** 0.5
    low, high = (round(len(values) / 2 + sign * half) for sign in (-1, 1))
    return ordered[max(0, low)], ordered[min(len(values) - 1, high)]


def report(plan: RunPlan, speeds: dict[str, list[float]], way: str | None, options: argparse.Namespace) -> dict[str, Any]:
    """Print medians and ratios, and return them."""
    rivals = [name for name in speeds if name != OURS]
    ratios = {name: [a / b for a, b in zip(speeds[OURS], speeds[name], strict=True)] for name in rivals}
    table = {
        "config": options.config,
        "way": way,
        "device": "cpu" if get_accelerator().device_name() == "cpu" else get_accelerator().get_device_name(),
        "ranks": plan.topology.world_size,
        "steps_per_turn": options.steps,
        "rounds": options.rounds,
        "tokens_per_second": {name: round(statistics.median(values)) for name, values in speeds.items()},
        "ratio": {f"{OURS} / {name}": round(statistics.median(values), 4) for name, values in ratios.items()},
        "ratio_interval": {
            f"{OURS} / {name}": [round(bound, 4) for bound in median_interval(values)] for name, values in ratios.items()
        },
    }
    print(f"{way}: {plan.batch.describe()}" if way else plan.batch.describe())
    for name, value in table["tokens_per_second"].items():
        print(f"{name:<16}{value:>12,} tokens/s (median of {options.rounds} turns of {options.steps} steps)")
    for name, value in table["ratio"].items():
        low, high = table["ratio_interval"][name]
        print(f"{name:<26}{value:.3f} (95% interval of the median: {low:.3f} to {high:.3f})", flush=True)
    return table


if __name__ == "__main__":
    sys.exit(main())
