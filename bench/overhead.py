"""What the training loop costs: moenda, a bare `deepspeed.initialize` loop and HF Trainer, taking turns in one job.

    deepspeed --num_accelerators 2 bench/overhead.py [--config ds_configs/smoke_cpu.json] [--rounds 60] [--output table.json]

The three train the run file's model from random weights with the same DeepSpeed configuration, batch, precision and
optimizer, on the same shards, each in its own real loop: `trainer.train.train`, the loop of DeepSpeed's tutorial, and
`transformers.Trainer`. Each loop runs in a thread of its own and is held after every turn, so that all see the same
machine; only one runs at a time. Every loop logs as often as the run file says. Prints medians over the rounds of the
tokens/s of all devices, and the medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import copy
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

import deepspeed
import torch
import transformers
from deepspeed.accelerator import get_accelerator
from torch import distributed as dist
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import trainer.train
from data_prep.shards import Windows
from trainer.data.loader import Loader
from trainer.disks import Disk
from trainer.engine import DTYPES, process_group
from trainer.launch_env import current_process
from trainer.preflight import RunPlan, prepare

OURS, BARE, HF = "moenda", "bare DeepSpeed", "HF Trainer"


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


class WindowDataset(Dataset):
    """The shards' full windows as the rivals take them; their models shift the labels themselves."""

    def __init__(self, windows: Windows):
        self._windows = windows

    def __len__(self) -> int:
        return self._windows.shards.tokens // self._windows.sequence_length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        length = self._windows.sequence_length
        tokens = torch.from_numpy(self._windows.shards.read(index * length, (index + 1) * length).astype("int64"))
        return {"input_ids": tokens, "labels": tokens}


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


def stock_model(plan: RunPlan) -> torch.nn.Module:
    """The model as Hugging Face users make it."""
    config = copy.deepcopy(plan.hf_config)
    config.use_cache = False
    attention = plan.config.model.attention
    with torch.device(get_accelerator().current_device_name()):
        return transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, dtype=DTYPES[plan.precision]
        )


def optimizer_of(plan: RunPlan) -> dict[str, Any]:
    """DeepSpeed's own optimizer section with the run file's numbers."""
    section = plan.config.optimizer
    values = {"lr": section.learning_rate, "betas": list(section.betas), "eps": section.eps}
    values |= {"weight_decay": section.weight_decay, "torch_adam": True}
    return {"type": "AdamW", "params": values}


def bare_loop(plan: RunPlan, step_done: Callable[[], None]) -> None:
    """The loop of DeepSpeed's getting-started page over the stock model."""
    model = stock_model(plan)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={**copy.deepcopy(plan.ds_config), "optimizer": optimizer_of(plan)},
    )
    dataset = WindowDataset(plan.corpus.windows[0])
    micro = plan.batch.micro_batch_size
    engine.train()
    micro_batches = step = 0
    for epoch in range(10**9):
        sampler = DistributedSampler(dataset, shuffle=True, drop_last=True)
        sampler.set_epoch(epoch)
        for batch in DataLoader(dataset, batch_size=micro, sampler=sampler, drop_last=True):
            loss = engine(**{key: value.to(engine.device) for key, value in batch.items()}).loss
            engine.backward(loss)
            engine.step()
            micro_batches += 1
            if micro_batches % plan.batch.gradient_accumulation_steps:
                continue
            step += 1
            if step % plan.config.monitor.log_every == 0:
                print(step, loss.item())
            step_done()


def hugging_face_loop(plan: RunPlan, step_done: Callable[[], None], folder: Path) -> None:
    """transformers.Trainer with the same DeepSpeed configuration."""
    section, monitor = plan.config.optimizer, plan.config.monitor

    class Count(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            step_done()

    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "hf"),
        deepspeed={**copy.deepcopy(plan.ds_config), "optimizer": optimizer_of(plan)},
        per_device_train_batch_size=plan.batch.micro_batch_size,
        gradient_accumulation_steps=plan.batch.gradient_accumulation_steps,
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        adam_beta1=section.betas[0],
        adam_beta2=section.betas[1],
        adam_epsilon=section.eps,
        max_grad_norm=section.gradient_clipping,
        lr_scheduler_type="constant",
        bf16=plan.precision == "bf16",
        fp16=plan.precision == "fp16",
        max_steps=10**9,
        logging_steps=monitor.log_every,
        report_to=["tensorboard"] if monitor.tensorboard else [],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=get_accelerator().device_name() == "cpu",
        dataloader_drop_last=True,
    )
    dataset = WindowDataset(plan.corpus.windows[0])
    transformers.Trainer(stock_model(plan), arguments, train_dataset=dataset, callbacks=[Count()]).train()


def measure(plan: RunPlan, device: torch.device, steps: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Tokens/s of all devices of each contestant, one value per round."""
    turns = Turns(steps)
    turns.start(OURS, lambda done: our_loop(plan, done, device))
    turns.start(BARE, lambda done: bare_loop(plan, done))
    turns.start(HF, lambda done: hugging_face_loop(plan, done, folder))
    names = [OURS, BARE, HF]
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds + 2):
        for name in names[index % 3 :] + names[: index % 3]:  # no contestant always follows the same one
            seconds = turns.take(name)
            if index >= 2:
                speeds[name].append(steps * plan.batch.global_batch_tokens / seconds)
        if dist.get_rank() == 0:
            shown = ", ".join(f"{name} {speeds[name][-1]:,.0f}" for name in names) if index >= 2 else "warm-up"
            print(f"round {index - 1}/{rounds}: {shown}", file=sys.stderr, flush=True)
    turns.stop()
    return speeds


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="ds_configs/smoke_cpu.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps per turn")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--local_rank", type=int)
    options = parser.parse_args()
    process = current_process()
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    os.environ.setdefault("LOCAL_RANK", str(process.local_rank))
    with process_group(process) as device:
        name = [tempfile.mkdtemp(prefix="moenda-overhead-") if process.is_first else None]
        dist.broadcast_object_list(name)
        folder = Path(name[0])
        never = [
            "schedule.total_tokens=1000000000000000",
            "evaluation.every_steps=1000000000",
            "checkpoint.every_steps=1000000000",
        ]
        plan = prepare(options.config, [*options.set, f"run.folder={folder / 'ours'}", *never], process.world_size)
        plan.folder.mkdir(parents=True, exist_ok=True)
        with open(os.devnull, "w") as silence, redirect_stdout(silence):
            speeds = measure(plan, device, options.steps, options.rounds, folder)
        if process.is_first:
            report(plan, speeds, options)
    return 0


def median_interval(values: list[float]) -> tuple[float, float]:
    """95% confidence interval of the median, from order statistics (normal approximation of the binomial)."""
    ordered, half = sorted(values), 0.98 * len(values) ** 0.5
    low, high = (round(len(values) / 2 + sign * half) for sign in (-1, 1))
    return ordered[max(0, low)], ordered[min(len(values) - 1, high)]


def report(plan: RunPlan, speeds: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Print (and write) medians and ratios."""
    ratios = {name: [a / b for a, b in zip(speeds[OURS], speeds[name], strict=True)] for name in (BARE, HF)}
    table = {
        "config": options.config,
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
    print(plan.batch.describe())
    for name, value in table["tokens_per_second"].items():
        print(f"{name:<16}{value:>12,} tokens/s (median of {options.rounds} turns of {options.steps} steps)")
    for name, value in table["ratio"].items():
        low, high = table["ratio_interval"][name]
        print(f"{name:<26}{value:.3f} (95% interval of the median: {low:.3f} to {high:.3f})")
    if options.output:
        options.output.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
