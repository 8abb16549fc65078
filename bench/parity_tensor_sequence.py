"""Loss curves under tensor and sequence parallelism, beside a plain PyTorch loop.

    deepspeed --num_accelerators 2 bench/parity_tensor_sequence.py [--steps 10] [--telling] [--only sequence ZeRO-3]
                                                                   [--folder EMPTY] [--output table.json]

On 2 ranks: two slices of every matrix, or two parts of every window, with each ZeRO stage; on 4: that beside two replicas, both
at once, or either in each of two pipeline stages. The models: GPT-2, GPT-NeoX, Llama, Mistral, Qwen3, tied and untied, one
key head for two ranks, sliding windows; windows with padding, of several documents kept apart, of 32,768 tokens, and growing as
the batch does. Some runs lose their last checkpoint and go on from the one before, which must give the same steps bit for bit.
Then, on the first rank, the stock model in one process. Prints the largest relative differences of each curve. --telling: of
every way, one model. The run folders in --folder stay.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import distributed as dist
from torch.nn import functional

from bench import document_mask
from bench.parity import plain_model
from tests.corpora import write_shards
from tests.models import FAMILIES, MORE_FAMILIES, run_file
from trainer.data.loader import Loader
from trainer.devices import process_group
from trainer.hosts.disks import Disk
from trainer.hosts.launch_env import Process, current_process
from trainer.lr_schedule import learning_rate
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.model.loss import IGNORED
from trainer.preflight import RunPlan, prepare
from trainer.run_folder import CHECKPOINTS, checkpoints_in
from trainer.train import train

LLAMA = {**FAMILIES["llama"], "num_hidden_layers": 2, "tie_word_embeddings": False}
MODELS: dict[str, dict[str, Any]] = {
    "GPT-2, tied": {**FAMILIES["gpt2"], "n_layer": 2, "tie_word_embeddings": True},
    "GPT-NeoX": {**FAMILIES["gpt_neox"], "num_hidden_layers": 2, "tie_word_embeddings": False},
    "Llama": LLAMA,
    "Llama, tied": {**LLAMA, "tie_word_embeddings": True},
    "Llama, 1 key head": {**LLAMA, "num_key_value_heads": 1},
    "Mistral, window 12": {**LLAMA, "model_type": "mistral", "sliding_window": 12},
    "Qwen3, tied": {**LLAMA, "model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "Gemma 4": MORE_FAMILIES["gemma4_text"],
    "Llama, 1 layer": {**LLAMA, "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2},
}
LENGTH, TOKENS = 32, 512
"""Of windows, and of steps, unless a case says otherwise."""
TOLERANCE = {"fp32": (1e-5, 1e-4), "bf16": (1e-3, 3e-2)}
"""Largest relative differences of loss and gradient norm."""
NORM_OF = {"Gemma 4": 2e-3}
"""Of models whose gradients in float32 are no more exact than that."""


@dataclass(frozen=True)
class Case:
    """Curves to draw: how the work is split, for which models, and what else the run file says."""

    parallel: dict[str, int]
    models: tuple[str, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    resumes: bool = False
    """Whether it is continued from its first checkpoint, too."""

    @property
    def name(self) -> str:
        """As the table shows it."""
        axes = [f"{axis} {size}" for axis, size in self.parallel.items() if axis != "zero_stage"]
        changed = [f"{key} {value}" for section in self.changes.values() for key, value in section.items()]
        changed = [re.split(r" [{[]", text)[0].removesuffix(" True") for text in changed if "batch" not in text]
        return ", ".join([" x ".join([*axes, f"ZeRO-{self.parallel['zero_stage']}"]), *changed])

    @property
    def precision(self) -> str:
        """bf16 or fp32."""
        return "bf16" if "deepspeed" in self.changes else "fp32"


SEQUENCE = ("GPT-2, tied", "GPT-NeoX", "Llama", "Llama, 1 key head", "Mistral, window 12")
TENSOR = ("GPT-NeoX", "Llama", "Llama, tied", "Mistral, window 12", "Qwen3, tied")
DOCUMENTS = {"data": {"document_mask": True}, "model": {"activation_checkpointing": True}}
SELECTIVE = {"data": {"document_mask": True}, "model": {"activation_checkpointing": "selective"}}
BF16 = {"deepspeed": {"bf16": {"enabled": True}}}
GROWING = {
    "data": {"curriculum": [{"from_tokens": 0, "sequence_length": 8}, {"from_tokens": 2048, "sequence_length": 32}]},
    "batch": {"ramp": {"start_tokens": 256, "over_tokens": 1536}},
}
LONG = {"data": {"sequence_length": 32768}, "batch": {"global_batch_tokens": 32768, "micro_batch_size": 1}}
STAGES = {"pipeline_stages": 2, "tensor": 2}
STAGES_PARTS = {"pipeline_stages": 2, "sequence": 2}
LONG_CASE = Case({"sequence": 2, "zero_stage": 3}, ("Llama, 1 layer",), LONG)
CASES = {
    2: [
        *(Case({"tensor": 2, "zero_stage": stage}, TENSOR, resumes=stage in (1, 3)) for stage in range(4)),
        *(Case({"tensor": 2, "zero_stage": stage}, TENSOR, DOCUMENTS) for stage in (1, 3)),
        *(Case({"tensor": 2, "zero_stage": stage}, TENSOR, SELECTIVE) for stage in (1, 2)),
        *(Case({"tensor": 2, "zero_stage": stage}, ("Llama",), BF16) for stage in range(1, 4)),
        *(Case({"sequence": 2, "zero_stage": stage}, SEQUENCE, resumes=stage in (0, 3)) for stage in range(4)),
        *(Case({"sequence": 2, "zero_stage": stage}, SEQUENCE, DOCUMENTS) for stage in (1, 3)),
        *(Case({"sequence": 2, "zero_stage": stage}, ("Llama",), BF16) for stage in range(4)),
        *(Case({axis: 2, "zero_stage": stage}, ("Llama",), GROWING) for axis in ("tensor", "sequence") for stage in range(4)),
        LONG_CASE,
    ],
    4: [
        *(Case({"tensor": 2, "sequence": 2, "zero_stage": stage}, ("Llama",), GROWING) for stage in range(4)),
        *(Case({"tensor": 2, "zero_stage": stage}, TENSOR, resumes=stage == 2) for stage in range(4)),
        *(Case({"tensor": 2, "sequence": 2, "zero_stage": stage}, TENSOR, resumes=stage == 2) for stage in range(4)),
        *(Case({"sequence": 2, "zero_stage": stage}, SEQUENCE) for stage in range(4)),
        *(Case({"sequence": 4, "zero_stage": stage}, SEQUENCE) for stage in (1, 3)),
        *(Case(STAGES | {"zero_stage": stage}, TENSOR, resumes=True) for stage in (0, 1)),
        *(Case(STAGES | {"zero_stage": stage}, TENSOR, DOCUMENTS) for stage in (0, 1)),
        *(Case(STAGES | {"zero_stage": stage}, ("Llama",), GROWING) for stage in (0, 1)),
        *(Case(STAGES | {"zero_stage": stage}, (*TENSOR, "Gemma 4"), SELECTIVE) for stage in (0, 1)),
        Case(STAGES | {"zero_stage": 1}, TENSOR, BF16, resumes=True),
        *(Case(STAGES_PARTS | {"zero_stage": stage}, SEQUENCE, resumes=True) for stage in (0, 1)),
        *(Case(STAGES_PARTS | {"zero_stage": stage}, SEQUENCE, DOCUMENTS) for stage in (0, 1)),
        *(Case(STAGES_PARTS | {"zero_stage": stage}, ("Llama",), GROWING) for stage in (0, 1)),
        Case(STAGES_PARTS | {"zero_stage": 1}, SEQUENCE, BF16, resumes=True),
    ],
}
"""By number of ranks."""
TELLING = {
    2: [
        Case({"tensor": 2, "zero_stage": 0}, ("GPT-NeoX",), GROWING),
        Case({"tensor": 2, "zero_stage": 1}, ("Llama, tied",), resumes=True),
        Case({"tensor": 2, "zero_stage": 2}, ("Mistral, window 12",), SELECTIVE),
        Case({"tensor": 2, "zero_stage": 3}, ("Qwen3, tied",), resumes=True),
        Case({"tensor": 2, "zero_stage": 1}, ("Llama",), BF16),
        Case({"sequence": 2, "zero_stage": 0}, ("Llama, 1 key head",)),
        Case({"sequence": 2, "zero_stage": 1}, ("GPT-2, tied",), resumes=True),
        Case({"sequence": 2, "zero_stage": 2}, ("GPT-NeoX",), GROWING),
        Case({"sequence": 2, "zero_stage": 3}, ("Mistral, window 12",), resumes=True),
        Case({"sequence": 2, "zero_stage": 3}, ("Llama",), DOCUMENTS),
        LONG_CASE,
    ],
    4: [
        Case(STAGES | {"zero_stage": 0}, ("Llama, tied",), SELECTIVE),
        Case(STAGES | {"zero_stage": 1}, ("Gemma 4",)),
        Case(STAGES | {"zero_stage": 1}, ("GPT-NeoX",), GROWING, resumes=True),
        Case(STAGES | {"zero_stage": 1}, ("Qwen3, tied",), BF16, resumes=True),
        Case(STAGES_PARTS | {"zero_stage": 0}, ("Mistral, window 12",), GROWING, resumes=True),
        Case(STAGES_PARTS | {"zero_stage": 1}, ("GPT-2, tied",), DOCUMENTS),
    ],
}
"""Of every way one model; on 4 ranks, of stages beside slices or parts of windows alone."""


def plain_loop(plan: RunPlan) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step by one process: stock model, torch.optim.AdamW, the batch of all ranks at once."""
    if plan.config.data.document_mask:
        document_mask.LENGTH, document_mask.TOKENS = LENGTH, TOKENS
        return document_mask.plain_loop(plan)
    model, optimizer = plain_model(plan, "sdpa")
    section = plan.config.optimizer
    ranks = [Loader(plan.corpus, plan.batches, rank) for rank in range(plan.topology.data_parallel_size)]
    curve, padding, tokens = [], 0, 0
    for _ in range(plan.total_steps):
        batches = [rank.step(tokens) for rank in ranks]
        tokens += batches[0].plan.global_batch_tokens
        micro_batches = [micro for batch in batches for micro in batch.micro_batches]
        inputs, targets = (torch.cat(parts) for parts in zip(*(micro.on("cpu") for micro in micro_batches), strict=True))
        padding += int((targets == IGNORED).sum())
        logits = model(input_ids=inputs).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), section.gradient_clipping)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan.config.schedule, section.learning_rate, tokens)
        optimizer.step()
        optimizer.zero_grad()
        curve.append((loss.item(), norm.item()))
    assert padding or tokens < plan.corpus.tokens, "windows with padding were to be among them"
    return curve


def write_data(folder: Path | None, first: bool) -> Path:
    """A folder, known to every rank, with shards for windows of 32 and 32,768 tokens in it, and held-out ones."""
    name = [str(folder or tempfile.mkdtemp(prefix="moenda-parity-")) if first else None]
    dist.broadcast_object_list(name)
    folder = Path(name[0])
    if first:
        write_shards(folder / "train", documents=28)
        write_shards(folder / "long", documents=260)
        write_shards(folder / "validation", documents=6, shards=1, seed=5)
    dist.barrier()
    return folder


def prepare_everywhere(folder: Path, name: str, model: str, case: Case, steps: int, process: Process) -> RunPlan:
    """The plan of one run, on every rank."""
    changes: dict[str, Any] = {
        "model": {"config": {**MODELS[model], "vocab_size": "auto"}},
        "data": {"sequence_length": LENGTH},
        "parallel": case.parallel,
        "batch": {"global_batch_tokens": TOKENS, "micro_batch_size": 4},
        "checkpoint": {"every_steps": steps // 2 if case.resumes else 10**6},
        "evaluation": {"every_steps": 10**6},
    }
    steps = 2 if case.changes is LONG else steps
    changes |= {section: {**changes.get(section, {}), **values} for section, values in case.changes.items()}
    tokens = changes["batch"]["global_batch_tokens"]
    changes["schedule"] = {"total_tokens": steps * tokens, "warmup_tokens": tokens}
    file = folder / f"{name}.json"
    if process.is_first:
        shards = ("long", None) if case.changes is LONG else ("train", folder / "validation")
        file.write_text(json.dumps(run_file(folder / name, folder / shards[0], shards[1], **changes)))
    dist.barrier()
    plan = prepare(file, [], process.world_size)
    dist.barrier()
    if process.is_first:
        (plan.folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        (plan.folder / "run.json").write_text(json.dumps(plan.record))
    dist.barrier()
    return plan


def continue_from_first_checkpoint(folder: Path, name: str, process: Process, device: torch.device) -> bool:
    """Whether a finished run that goes on from its first checkpoint logs the same steps again, to the last bit."""
    run = folder / name
    before = curve(run) if process.is_first else None
    if process.is_first:
        for last in checkpoints_in(run / CHECKPOINTS)[1:]:
            shutil.rmtree(last)
    dist.barrier()
    plan = prepare(folder / f"{name}.json", [], process.world_size)
    assert 0 < plan.start.step < plan.total_steps
    dist.barrier()
    train(plan, process, device, Disk.of_all(process.world_size))
    return not process.is_first or curve(run) == before


def curve(run: Path) -> list[tuple[Any, ...]]:
    """What must not change, of every line of a run's metrics."""
    kept = ("step", "tokens", "loss", "learning_rate", "grad_norm", "validation_loss")
    return [tuple(row.get(key) for key in kept) for row in read_metrics(run / METRICS_FILE)]


def main() -> int:
    """Run every case and print the table; the exit code is 1 when a curve is further apart than it may be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name has all of these words")
    parser.add_argument("--telling", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--local_rank", type=int)
    options = parser.parse_args()
    process = current_process()
    logging.disable(logging.WARNING)
    runs, rows, plain = [], [], {}
    with process_group(process) as device:
        folder = write_data(options.folder, process.is_first)
        cases = TELLING[process.world_size] if options.telling else CASES[process.world_size]
        for case in (case for case in cases if all(word in case.name for word in options.only)):
            for model in case.models:
                name = f"run-{len(runs)}"
                plan = prepare_everywhere(folder, name, model, case, options.steps, process)
                with open(os.devnull, "w") as silence, redirect_stdout(silence):
                    train(plan, process, device, Disk.of_all(process.world_size))
                    same = not case.resumes or continue_from_first_checkpoint(folder, name, process, device)
                runs.append((case, model, plan, same))
    if not process.is_first:
        return 0

    for case, model, plan, same in runs:
        key = model, str([case.changes.get(section) for section in ("data", "batch")])
        plain[key] = plain.get(key) or plain_loop(plan)
        logged = [(row["loss"], row["grad_norm"]) for row in read_metrics(plan.folder / METRICS_FILE) if "loss" in row]
        pairs = list(zip(logged, plain[key], strict=True))
        loss, norm = (max(abs(ours[i] - theirs[i]) / abs(theirs[i]) for ours, theirs in pairs) for i in (0, 1))
        most = (TOLERANCE[case.precision][0], NORM_OF.get(model, TOLERANCE[case.precision][1]))
        row = {"model": model, "way": case.name, "loss": loss, "grad_norm": norm, "resumes": case.resumes}
        good = bool(same and loss <= most[0] and norm <= most[1])
        rows.append({**row, "good": good, "run": str(plan.folder)})
        resumed = (", resumed bit for bit" if same else ", RESUMED OTHERWISE") if case.resumes else ""
        print(f"{model:<20} {case.name:<60} loss {loss:.1e}  grad norm {norm:.1e}{resumed}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1))
    exact = [row for row, (case, *_) in zip(rows, runs, strict=True) if case.precision == "fp32"]
    worst = [max(row[key] for row in exact) for key in ("loss", "grad_norm")]
    print(f"{len(rows)} curves; largest relative differences in fp32: loss {worst[0]:.1e}, gradient norm {worst[1]:.1e}")
    return int(not all(row["good"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
