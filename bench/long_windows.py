"""Memory of one training step against the length of its window, and the longest window that fits: moenda and HF Trainer.

    python bench/long_windows.py memory [--windows 1024 2048 ...] [--plot windows.png] [--output table.json]
    python bench/long_windows.py longest [--gigabytes 2]
    python bench/long_windows.py loss                             # head and loss alone: whole, torch's function, ours

A small Llama with a vocabulary of 50,304 takes an optimizer step on one window, in a process of its own for every figure:
moenda by its engine, Hugging Face's by transformers.Trainer on the same stock model, optimizer and precision, with its option
gradient_checkpointing off and on. (Its option use_liger_kernel, a fused loss too, needs a GPU and liger-kernel; it is used
where both are there.) Memory is what the process takes beyond its imports: on CPUs the peak of its resident set, with
`longest` under a limit that the kernel enforces; on a GPU, PyTorch's peak and the whole of the device.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

VOCABULARY = 50_304
MODEL = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2**20,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}
WAYS: dict[str, dict[str, Any]] = {
    "moenda": {"fused": True, "checkpointing": False},
    "moenda, activation checkpointing": {"fused": True, "checkpointing": True},
    "moenda, fused_loss false": {"fused": False, "checkpointing": False},
    "HF Trainer": {"checkpointing": False},
    "HF Trainer, gradient checkpointing": {"checkpointing": True},
}
FORK = multiprocessing.get_context("fork")
STEP = 512
"""`longest` tells windows apart by this many tokens."""


def our_step(way: dict[str, Any], window: int, folder: Path) -> Callable[[], Any]:
    """The product's engine and a step of its loader."""
    from data_prep.shards import TokenShards
    from tests.corpora import write_shards
    from tests.models import run_file
    from trainer.data.loader import Loader
    from trainer.devices import init_distributed
    from trainer.engine import build_engine
    from trainer.hosts.launch_env import current_process
    from trainer.preflight import prepare

    shards = write_shards(folder / "train", documents=2 * (window // 100 + 2), vocab_size=50_257)
    assert TokenShards.open(shards).tokens > window
    config = run_file(
        folder / "run",
        shards,
        model={"config": MODEL, "fused_loss": way["fused"], "activation_checkpointing": way["checkpointing"]},
        data={"train": str(shards), "sequence_length": window},
        batch={"global_batch_tokens": window, "micro_batch_size": 1},
        schedule={"total_tokens": window, "warmup_tokens": 0},
        deepspeed={"bf16": {"enabled": _on_gpu()}},
    )
    (folder / "run.json").write_text(json.dumps(config))
    plan = prepare(folder / "run.json", [], 1)
    worker = build_engine(plan, init_distributed(current_process()))
    batch = next(iter(Loader(plan.corpus, plan.batches, 0).steps(0, window)))
    return lambda: worker.train_step(batch).loss.item()


def hugging_face_step(way: dict[str, Any], window: int, folder: Path) -> Callable[[], Any]:
    """transformers.Trainer for one step."""
    import torch
    import transformers

    values = {key: value for key, value in MODEL.items() if key != "model_type"}
    config = transformers.AutoConfig.for_model("llama", **values, use_cache=False)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "hf"),
        per_device_train_batch_size=1,
        max_steps=1,
        lr_scheduler_type="constant",
        gradient_checkpointing=way["checkpointing"],
        gradient_checkpointing_kwargs={"use_reentrant": False} if way["checkpointing"] else None,
        use_liger_kernel=_on_gpu() and importlib.util.find_spec("liger_kernel") is not None,
        bf16=_on_gpu(),
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=not _on_gpu(),
    )
    tokens = torch.randint(VOCABULARY, (window,))
    dataset = [{"input_ids": tokens, "labels": tokens}]
    return transformers.Trainer(model, arguments, train_dataset=dataset).train


def point(name: str, window: int, gigabytes: float | None) -> dict[str, Any]:
    """Two figures of a step in this very process: bytes beyond the imports, and seconds."""
    import torch

    way = WAYS[name]
    before = _resident()
    if gigabytes is not None and not _on_gpu():
        limit = _private() + int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        step = (our_step if "fused" in way else hugging_face_step)(way, window, Path(folder))
        began = time.perf_counter()
        step()
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    taken = torch.cuda.max_memory_allocated() if _on_gpu() else peak - before
    return {"way": name, "window": window, "bytes": taken, "seconds": seconds}


def measure(name: str, window: int, gigabytes: float | None = None) -> dict[str, Any] | None:
    """`point` in a process of its own, a copy of this one; None when the memory doesn't suffice."""
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_child, args=(send, name, window, gigabytes))
    process.start()
    send.close()
    try:
        row, error = receive.recv()
    except EOFError:  # C++ code that gets no memory may abort
        row, error = None, "bad_alloc" if gigabytes is not None else "the process died"
    process.join()
    if row is None and not any(sign in error for sign in ("allocate memory", "bad_alloc", "MemoryError", "OutOfMemoryError")):
        raise RuntimeError(f"{name}, {window} tokens: {error}")
    return row


def _child(send: Any, name: str, window: int, gigabytes: float | None) -> None:
    try:
        with open(os.devnull, "w") as silence, redirect_stdout(silence), redirect_stderr(silence):
            row, error = point(name, window, gigabytes), ""
    except (RuntimeError, MemoryError, OSError) as failure:
        row, error = None, f"{type(failure).__name__}: {failure}"
    send.send((row, error))
    os._exit(0)  # DeepSpeed's own clean-up has nothing to clean


def _import_everything() -> None:
    """What both sides import, before the processes that are measured."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import deepspeed
    import transformers

    import trainer.train

    assert deepspeed and trainer.train
    _ = transformers.Trainer, transformers.TrainingArguments
    import transformers.models.llama.modeling_llama

    import trainer.model.pipeline


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _resident() -> int:
    return _status("VmRSS")


def _private() -> int:
    """What the kernel counts against RLIMIT_DATA."""
    return _status("VmData")


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Bytes for every way and window, up to `--ceiling` gigabytes a point."""
    rows = []
    for name in options.ways:
        for window in options.windows:
            row = measure(name, window, options.ceiling)
            if row is None:
                print(f"{name:<36} {window:>8,} tokens: more than {options.ceiling} GB", flush=True)
                break
            rows.append(row)
            print(f"{name:<36} {window:>8,} tokens: {row['bytes'] / 1e9:6.2f} GB, {row['seconds']:6.1f} s", flush=True)
    if options.plot:
        _plot(rows, options.plot)
    return rows


def longest(options: argparse.Namespace) -> list[dict[str, Any]]:
    """By bisection, to STEP tokens, between a window that fits and one that doesn't."""
    rows = []
    for name in options.ways:
        low, high = 0, STEP
        while high <= options.at_most and measure(name, high, options.gigabytes):
            low, high = high, high * 2
        high = min(high, options.at_most + STEP)
        while high - low > max(STEP, low // 32):
            middle = (low + high) // 2 // STEP * STEP
            low, high = (middle, high) if measure(name, middle, options.gigabytes) else (low, middle)
        rows.append({"way": name, "gigabytes": options.gigabytes, "longest": low})
        more = " (not tried further)" if low + STEP > options.at_most else ""
        print(f"{name:<36} {options.gigabytes} GB: {low:>8,} tokens{more}", flush=True)
    return rows


def loss(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Head and loss alone, forward and backward, in every way there is."""
    rows = []
    for precision in ("float32", "bfloat16"):
        for way in ("whole", "torch", "ours"):
            line = [
                sys.executable,
                __file__,
                "loss-point",
                "--way",
                way,
                "--precision",
                precision,
                "--windows",
                str(options.tokens),
            ]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            rows.append(row := json.loads(done.stdout.splitlines()[-1]))
            print(
                f"{precision:<9} {way:<6} {row['seconds']:6.2f} s, {row['bytes'] / 1e9:5.2f} GB; relative error of the loss "
                f"{row['loss']:.1e}, of the gradients {row['hidden']:.1e} (hidden) {row['weight']:.1e} (weight)",
                flush=True,
            )
    return rows


def loss_point(way: str, precision: str, tokens: int) -> dict[str, Any]:
    """One way of `loss`, in this very process; errors against float64 on its first 1024 tokens."""
    import torch
    from torch import nn
    from torch.nn import functional

    from trainer.model.fused_loss import chunk_tokens, chunked_nll_sum
    from trainer.model.loss import nll_sum

    torch.manual_seed(0)
    dtype, width = getattr(torch, precision), 512
    hidden, targets = torch.randn(1, tokens, width).to(dtype), torch.randint(VOCABULARY, (1, tokens))
    head = nn.Linear(width, VOCABULARY, bias=False).to(dtype)
    chunk = chunk_tokens(VOCABULARY, torch.device("cpu"))

    def run(states: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        head.weight.grad, states = None, states.clone().requires_grad_()
        if way == "whole":
            nll = nll_sum(head(states), wanted)
        elif way == "ours":
            nll = chunked_nll_sum(head, [head.weight], states, wanted, chunk)
        else:
            choice = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)
            nll = functional.linear_cross_entropy(states[0], head.weight, wanted[0], reduction="sum", options=choice)
        nll.backward()
        return nll.detach(), states.grad, head.weight.grad

    before, seconds = _resident(), []
    for _ in range(3):
        began = time.perf_counter()
        run(hidden, targets)
        seconds.append(time.perf_counter() - began)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    some, few = hidden[:, :1024], targets[:, :1024]
    exact = [one.double().requires_grad_() for one in (some, head.weight.detach())]
    right = functional.cross_entropy(functional.linear(*exact)[0], few[0], reduction="sum")
    right.backward()
    pairs = zip(("loss", "hidden", "weight"), run(some, few), (right.detach(), *(one.grad for one in exact)), strict=True)
    errors = {name: float((got.double() - wanted).norm() / wanted.norm()) for name, got, wanted in pairs}
    return {"precision": precision, "way": way, "bytes": taken, "seconds": min(seconds), **errors}


def _plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name in dict.fromkeys(row["way"] for row in rows):
        points = [(row["window"], row["bytes"] / 1e9) for row in rows if row["way"] == name]
        dashed = name.startswith("HF") or "false" in name
        axes.plot(*zip(*points, strict=True), marker="o", linestyle="--" if dashed else "-", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row["window"] for row in rows}), labels=[f"{n:,}" for n in sorted({row["window"] for row in rows})])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("window, tokens")
    axes.set_ylabel("peak memory of a step beyond the imports, GB")
    axes.set_title(f"Llama, {MODEL['num_hidden_layers']} layers of {MODEL['hidden_size']}, vocabulary {VOCABULARY:,}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "longest", "loss", "loss-point"))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--windows", type=int, nargs="+", default=[1024 * 2**n for n in range(6)])
    parser.add_argument("--ceiling", type=float, default=5, help="gigabytes beyond which `memory` does not go")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of `longest`")
    parser.add_argument("--at-most", type=int, default=131_072, help="tokens beyond which `longest` does not go")
    parser.add_argument("--tokens", type=int, default=8192, help="of `loss`")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "loss-point":
        print(json.dumps(loss_point(options.way, options.precision, options.windows[0])))
        return 0
    _import_everything()
    rows = {"memory": memory, "longest": longest, "loss": loss}[options.what](options)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
