"""MFU on one GPU: moenda, a bare DeepSpeed loop and HF Trainer with DeepSpeed, one after another in one run, and a profile.

    deepspeed --num_gpus 1 bench/mfu.py [--sizes 125M 350M 1.3B] [--lengths 2048 8192] [--output table.json]
    deepspeed --num_accelerators 1 bench/mfu.py --smoke         # a tiny model, to see that all of it runs; also without a GPU

Every contestant trains the same Llama-style model (the sizes of GPT-3, ds_configs/gpt3_*_llama_*.json) in bf16 with
torch.compile, flash attention (flash-attn where it is installed, else that of torch's sdpa) and ZeRO-1, from the same shards,
with the same batch. Micro-batches halve where they do not fit the device. Prints tokens/s and MFU (`trainer.flops`) of each,
the memory it took, and where the time of moenda's steps goes: the kernels that took longest, by torch.profiler.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import transformers
from deepspeed.accelerator import get_accelerator
from torch.profiler import ProfilerActivity, profile

from bench.overhead import Finished, our_loop
from bench.overhead_rivals import bare_loop, hugging_face_loop
from tests.corpora import write_shards
from trainer import flops
from trainer.devices import device_name, process_group
from trainer.hosts.launch_env import current_process
from trainer.model import build
from trainer.preflight import RunPlan, prepare

PRESETS = {"125M": "gpt3_125m_llama_zero1", "350M": "gpt3_350m_llama_zero1", "1.3B": "gpt3_1.3b_llama_zero2"}
STEP_TOKENS = 2**17
"""Tokens of a step: four micro-batches or more."""
MICRO_TOKENS = {"125M": 2**15, "350M": 2**15, "1.3B": 2**14}
"""Tokens of the micro-batch that is tried first."""
VOCABULARY = 50_257
SMOKE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
OURS, BARE, HF = "moenda", "bare DeepSpeed", "HF Trainer"


class Clock:
    """Called after every optimizer step: times `steps` of them after some to warm up, profiles `profiled` more, then ends the
    loop."""

    def __init__(self, warm_up: int, steps: int, profiled: int = 0):
        self._warm_up, self._steps, self._profiled, self._done = warm_up, steps, profiled, 0
        self.seconds = 0.0
        self.table: str | None = None
        self._profile: profile | None = None

    def __call__(self) -> None:
        self._done += 1
        timed = self._done - self._warm_up
        if timed == 0:
            get_accelerator().synchronize()
            self._began = time.perf_counter()
        elif timed == self._steps:
            get_accelerator().synchronize()
            self.seconds = (time.perf_counter() - self._began) / self._steps
            if not self._profiled:
                raise Finished
            gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *gpu])
            self._profile.start()
        elif timed == self._steps + self._profiled:
            get_accelerator().synchronize()
            assert self._profile is not None
            self._profile.stop()
            key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            self.table = self._profile.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=70)
            raise Finished


def run_file(size: str, length: int, micro: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The run of one size at one length."""
    preset = json.loads((Path(sys.path[0]) / "ds_configs" / f"{PRESETS[size]}.json").read_text())
    model = preset["model"]["config"] | {"max_position_embeddings": "auto"} | (SMOKE if options.smoke else {})
    tokens = 8 * length if options.smoke else max(STEP_TOKENS, micro * length)
    flash = torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
    return {
        "run": {"folder": str(folder / "run")},
        "model": {"config": model, "attention": "flash_attention_2" if flash else "sdpa", "compile": not options.no_compile},
        "data": {"train": str(folder / "train"), "sequence_length": length},
        "batch": {"global_batch_tokens": tokens, "micro_batch_size": micro},
        "parallel": {"zero_stage": 1},
        "optimizer": {"learning_rate": 1e-4},
        "schedule": {"total_tokens": 10**15},
        "evaluation": {"every_steps": 10**9},
        "checkpoint": {"every_steps": 10**9},
        "monitor": {"tensorboard": False, "log_every": 10**9},
        "deepspeed": {"bf16": {"enabled": True}},
    }


def contest(plan: RunPlan, device: torch.device, options: argparse.Namespace, folder: Path) -> dict[str, tuple[Clock, int]]:
    """Each contestant's clock, and the most bytes of device memory it held."""
    compiled = not options.no_compile
    loops: dict[str, Callable[[Callable[[], None]], None]] = {
        OURS: lambda done: our_loop(plan, done, device),
        BARE: lambda done: bare_loop(plan, done, compiled),
        HF: lambda done: hugging_face_loop(plan, done, folder, compiled),
    }
    results = {}
    for name in options.contestants:
        loop = loops[name]
        clock = Clock(options.warm_up, options.steps, options.profiled if name == OURS else 0)
        get_accelerator().reset_peak_memory_stats()
        try:
            with open(os.devnull, "w") as silence, redirect_stdout(silence):
                loop(clock)
        except Finished:
            pass
        results[name] = (clock, get_accelerator().max_memory_allocated())
        gc.collect()
        torch.compiler.reset()
        get_accelerator().empty_cache()
    return results


def measure(size: str, length: int, device: torch.device, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A row of the table, with the largest of the halved micro-batches that fits all contestants."""
    micro = 2 if options.smoke else max(1, MICRO_TOKENS[size] // length)
    while True:
        file = folder / "run.json"
        file.write_text(json.dumps(run_file(size, length, micro, folder, options)))
        shutil.rmtree(folder / "run", ignore_errors=True)
        plan = prepare(file, [], 1)
        plan.folder.mkdir(parents=True, exist_ok=True)
        try:
            results = contest(plan, device, options, folder)
            break
        except torch.OutOfMemoryError:
            if micro == 1:
                return {"size": size, "length": length, "error": "out of memory at micro-batch 1"}
            micro //= 2
        gc.collect()
        get_accelerator().empty_cache()
    needed = flops.training_flops_per_token(build.shape(build.skeleton(plan.hf_config), length))
    peak = flops.peak_flops(device_name(device))
    rates = {name: plan.batch.global_batch_tokens / clock.seconds for name, (clock, _) in results.items()}
    return {
        "size": size,
        "length": length,
        "device": device_name(device),
        "micro_batch_size": micro,
        "attention": plan.config.model.attention,
        "compile": plan.config.model.compile,
        "tokens_per_second": rates,
        "mfu": {name: flops.mfu(rate, needed, 1, peak) if peak else None for name, rate in rates.items()},
        "gigabytes": {name: memory / 1e9 for name, (_, memory) in results.items()},
        "profile": results[OURS][0].table if OURS in results else None,
    }


def shown(row: dict[str, Any]) -> str:
    """A row for a person."""
    name = f"{row['size']} at {row['length']}"
    if "error" in row:
        return f"{name}: {row['error']}"
    lines = [f"{name}, micro-batch {row['micro_batch_size']}, {row['attention']}, compiled: {row['compile']}, {row['device']}"]
    for contestant, rate in row["tokens_per_second"].items():
        mfu = "unknown peak" if row["mfu"][contestant] is None else f"MFU {row['mfu'][contestant]:.1%}"
        lines.append(f"  {contestant:<16}{rate:>12,.0f} tokens/s   {mfu}   {row['gigabytes'][contestant]:.1f} GB")
    return "\n".join(lines)


def main() -> int:
    """Measure and print every size at every length, then the profiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048, 8192])
    parser.add_argument("--contestants", nargs="+", choices=[OURS, BARE, HF], default=[OURS, BARE, HF])
    parser.add_argument("--warm-up", type=int, default=5, help="steps before the clock starts: compilation, caches")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--profiled", type=int, default=2, help="steps of moenda's that are profiled after the timed ones")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="a tiny model at 64 tokens, two steps")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--local_rank", type=int)
    options = parser.parse_args()
    if options.smoke:
        options.sizes, options.lengths, options.warm_up, options.steps, options.profiled = ["125M"], [64], 1, 2, 1
    elif get_accelerator().device_name() == "cpu":
        parser.error("there is no GPU here, and a CPU would take hours for these models. --smoke shows that all of it runs.")
    process = current_process()
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    os.environ.setdefault("LOCAL_RANK", str(process.local_rank))
    rows = []
    with process_group(process) as device, tempfile.TemporaryDirectory(prefix="moenda-mfu-") as name:
        folder = Path(name)
        write_shards(folder / "train", documents=40 if options.smoke else 8000, vocab_size=VOCABULARY)
        for size in options.sizes:
            for length in options.lengths:
                rows.append(measure(size, length, device, options, folder))
                print(shown(rows[-1]), flush=True)
                if options.output:
                    options.output.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        if not row.get("profile"):
            continue
        print(f"\nWhere a step of moenda's goes, {row['size']} at {row['length']}:\n{row['profile']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
