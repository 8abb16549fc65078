"""Loss curves of every way to split the work, side by side with a plain PyTorch loop.

    deepspeed --num_accelerators 2 bench/parity.py [--steps 20] [--precision bf16 --tolerance 1e-3] [--output table.json]
    deepspeed --num_accelerators 4 bench/parity.py --steps 10 --ways ZeRO-3 "2 stages"         # 2 stages x 2 data ranks

On the ranks it is started with, through the trainer's own loop: ZeRO 0, 1, 2, 3 and two pipeline stages for GPT-2, GPT-NeoX
and Llama, with tied and untied embeddings; ZeRO-3 and two stages for the other families of tests/models.py. Then, on the first
rank, a loop in plain PyTorch over the stock model, always in fp32, with all logits at once; the others make them by chunks.
Prints the largest relative difference of each curve from the plain one; and exports what the two stages have trained, which
compares logits and loss.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from torch import distributed as dist
from torch.nn import functional
from transformers import PreTrainedModel

from data_prep.shards import TokenShards
from tests.corpora import write_shards
from tests.models import EAGER, FAMILIES, MORE_FAMILIES, run_file
from trainer import run_folder
from trainer.devices import process_group
from trainer.export import export
from trainer.hosts.disks import Disk
from trainer.hosts.launch_env import Process, current_process
from trainer.lr_schedule import learning_rate
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.model import build, fused_loss
from trainer.preflight import RunPlan, prepare
from trainer.train import train

CHUNK = 24
"""Tokens whose logits are made at a time: several chunks in a micro-batch of 64."""
CONFIGS = {**FAMILIES, **MORE_FAMILIES}
Model = tuple[str, bool]
"""A family, and whether its head is tied to the embedding."""
WAYS: dict[str, tuple[dict[str, Any], bool | int | str]] = {
    "ZeRO-0": ({"zero_stage": 0}, False),
    "ZeRO-1": ({"zero_stage": 1}, False),
    "ZeRO-2": ({"zero_stage": 2}, False),
    "ZeRO-3": ({"zero_stage": 3}, False),
    "ZeRO-2, half recomputed": ({"zero_stage": 2}, 2),
    "ZeRO-3, selective": ({"zero_stage": 3}, "selective"),
    "2 stages": ({"zero_stage": 0, "pipeline_stages": 2}, False),
    "2 stages + ZeRO-1": ({"zero_stage": 1, "pipeline_stages": 2}, False),
    "2 stages by cost, half recomputed": ({"zero_stage": 0, "pipeline_stages": 2, "pipeline_partition": "cost"}, 2),
    "2 stages + ZeRO-1, selective": ({"zero_stage": 1, "pipeline_stages": 2, "pipeline_partition": "uniform"}, "selective"),
}
"""parallel, model.activation_checkpointing."""
STAGED = {"fp32": "2 stages", "bf16": "2 stages + ZeRO-1"}
"""By precision, the way of all families, beside ZeRO-3, whose models are exported: ExportError where that gives another model.
In bf16, stages need ZeRO-1."""
RECOMPUTED: Model = ("llama", False)
"""The model that is also trained with activation checkpointing."""
QUICK: list[Model] = [
    ("gpt2", True),
    ("gpt_neox", False),
    ("llama", True),
    ("llama", False),
    ("bloom", True),
    ("cohere", True),
    ("gemma3_text", True),
    ("llama-dynamic", False),
    ("llama-yarn", False),
    ("mixtral", False),
    ("opt", True),
    ("phi", False),
]
"""The telling subset that the tests run."""


def models(families: list[str], quick: bool) -> list[Model]:
    """Which models are compared."""
    if quick:
        return QUICK
    rest = [(name, CONFIGS[name].get("tie_word_embeddings", False)) for name in families if name in MORE_FAMILIES]
    return [(name, tied) for name in families if name in FAMILIES for tied in (True, False)] + rest


def ways(model: Model, chosen: list[str], precision: str) -> list[str]:
    """In which ways a model is trained."""
    if precision == "bf16":
        chosen = [way for way in chosen if WAYS[way][0]["zero_stage"] or "pipeline_stages" not in WAYS[way][0]]
    if model == RECOMPUTED:
        return chosen
    for_all = ("ZeRO-3", STAGED[precision])
    return [way for way in chosen if way in for_all or (model[0] in FAMILIES and not WAYS[way][1])]


def plain_model(plan: RunPlan, attention: str) -> tuple[PreTrainedModel, torch.optim.AdamW]:
    """What a plain loop trains: the stock model in fp32 on the CPU with the run's first parameters, and torch's optimizer."""
    model = build.skeleton(plan.hf_config, attention)
    list(build.materialise(model, dict(build.chunks(model)), "cpu", torch.float32, plan.config.run.seed))
    model.tie_weights()
    section = plan.config.optimizer
    decay = [p for p in model.parameters() if p.dim() >= 2]
    other = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": section.weight_decay}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=section.betas, eps=section.eps)
    return model, optimizer


def plain_loop(plan: RunPlan) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step by one process, stock model, torch.optim.AdamW, one batch per step.

    With experts, whose auxiliary loss is the mean over micro-batches, one micro-batch after another by Hugging Face's own loss.
    """
    model, optimizer = plain_model(plan, plan.config.model.attention)
    section = plan.config.optimizer
    shards = TokenShards.open(plan.config.data.train)
    length, per_step = plan.batch.sequence_length, plan.batch.windows_per_step
    curve = []
    for step in range(plan.total_steps):
        rate = learning_rate(plan.config.schedule, section.learning_rate, (step + 1) * per_step * length)
        rows = [
            shards.read(i * length, min((i + 1) * length + 1, shards.tokens))
            for i in plan.corpus.mixture.locate(step * per_step, per_step)[1].tolist()
        ]
        tokens = torch.full((per_step, length + 1), -100)
        for row, window in enumerate(rows):
            tokens[row, : len(window)] = torch.from_numpy(window.astype(np.int64))
        experts = getattr(plan.hf_config, "output_router_logits", False)
        loss = torch.zeros(())
        for part in tokens.split(plan.batch.micro_batch_size if experts else per_step):
            share = (part[:, 1:] != -100).sum() / (tokens[:, 1:] != -100).sum()
            output = model(input_ids=part[:, :-1].clamp(min=0))
            mean = functional.cross_entropy(output.logits.flatten(0, 1), part[:, 1:].flatten())
            auxiliary = plan.hf_config.router_aux_loss_coef * output.aux_loss * len(part) / per_step if experts else 0.0
            (mean * share + auxiliary).backward()
            loss += (mean * share).detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), section.gradient_clipping)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        curve.append((loss.item(), norm.item()))
    return curve


def largest_difference(curve: list[float], reference: list[float]) -> float:
    """Largest relative difference, step by step."""
    return max(abs(a - b) / abs(b) for a, b in zip(curve, reference, strict=True))


def shared_folder(first: bool) -> Path:
    """A temporary folder, known to every rank, with training shards in it."""
    name = [tempfile.mkdtemp(prefix="moenda-parity-") if first else None]
    dist.broadcast_object_list(name)
    folder = Path(name[0])
    if first:
        write_shards(folder / "train")
    dist.barrier()
    return folder


def prepare_everywhere(
    folder: Path, family: str, tied: bool, way: str, steps: int, precision: str, process: Process
) -> RunPlan:
    """The plan of one variant's run, on every rank."""
    parallel, recomputed = WAYS[way]
    name = f"{family}-{tied}-{way}"
    model = {"config": {**CONFIGS[family], "vocab_size": "auto", "tie_word_embeddings": tied}}
    model["activation_checkpointing"] = recomputed
    model["attention"] = "eager" if family in EAGER else "sdpa"
    schedule = {"total_tokens": steps * 512, "warmup_tokens": 1024}
    config = run_file(folder / name, folder / "train", model=model, parallel=parallel, schedule=schedule)
    config["checkpoint"] = {"every_steps": 10**6}
    config["deepspeed"] = {"bf16": {"enabled": precision == "bf16"}}
    file = folder / f"{name}.json"
    if process.is_first:
        file.write_text(json.dumps(config))
    dist.barrier()
    plan = prepare(file, [], process.world_size)
    dist.barrier()
    (plan.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    if process.is_first:
        run_folder.write_json(plan.folder / run_folder.RUN_FILE, plan.record)  # for the export
    return plan


def main() -> int:
    """Run every way and print the table; the exit code is 1 when a loss is further apart than the tolerance."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--families", nargs="+", choices=sorted(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--quick", action="store_true", help="the subset that the tests run")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest relative difference of a loss")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--local_rank", type=int)
    options = parser.parse_args()
    process = current_process()
    logging.disable(logging.WARNING)
    fused_loss.chunk_tokens = lambda *_: CHUNK
    chosen = models(options.families, options.quick)
    curves, plans, staged = {}, {}, []
    with process_group(process) as device:
        folder = shared_folder(process.is_first)
        of = functools.partial(ways, chosen=options.ways, precision=options.precision)
        # the pipelines last: DeepSpeed keeps their topology in a global that its ZeRO engine then trips over
        pairs = ((way, *model) for way in options.ways for model in chosen if way in of(model))
        for way, family, tied in pairs:
            plan = prepare_everywhere(folder, family, tied, way, options.steps, options.precision, process)
            with open(os.devnull, "w") as silence, redirect_stdout(silence):
                train(plan, process, device, Disk.of_all(process.world_size))
            curves[family, tied, way] = read_metrics(plan.folder / METRICS_FILE) if process.is_first else []
            plans[family, tied] = plan
            if way == STAGED[options.precision]:
                staged.append(plan)
    if not process.is_first:
        return 0

    rows = []
    suffix = f" on {process.world_size} ranks"
    for family, tied in chosen:
        plain = plain_loop(plans[family, tied])
        for way in of((family, tied)):
            logged = [(row["loss"], row["grad_norm"]) for row in curves[family, tied, way]]
            losses, norms = (
                largest_difference(*pair) for pair in zip(zip(*logged, strict=True), zip(*plain, strict=True), strict=True)
            )
            rows.append({"family": family, "tied": tied, "way": way, "loss": losses, "grad_norm": norms})
            name = f"{family:<12} {'tied' if tied else 'untied':<7} {way + suffix:<44}"
            print(f"{name} loss {losses:.1e}  grad norm {norms:.1e}", flush=True)
    for plan in staged:
        print(f"{plan.folder.name}: {export(plan.folder, plan.folder / 'export')['probe']}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1))
    worst = max(row["loss"] for row in rows)
    print(f"{len(rows)} curves of {options.steps} steps; largest relative difference of a loss: {worst:.1e}")
    return int(worst > options.tolerance)


if __name__ == "__main__":
    sys.exit(main())
