"""Loss curves of training with document masks, beside a plain PyTorch loop that runs each document alone.

    deepspeed --num_accelerators 2 bench/document_mask.py [--steps 10] [--families llama] [--ways ZeRO-3] [--output table.json]

On two ranks, through the trainer's own loop: ZeRO 0 to 3 and two pipeline stages, with and without activation
checkpointing, for GPT-2, GPT-NeoX and Llama, on windows in which documents are joined and cut. Then, on the first rank, the
stock model on each document of the same windows by itself, without positions or masks. Prints the largest relative
difference of each curve.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import distributed as dist
from torch.nn import functional

from bench.parity import plain_model
from tests.corpora import write_shards
from tests.models import FAMILIES, run_file
from trainer.data.loader import Loader
from trainer.devices import process_group
from trainer.hosts.disks import Disk
from trainer.hosts.launch_env import Process, current_process
from trainer.lr_schedule import learning_rate
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.preflight import RunPlan, prepare
from trainer.train import train

WAYS = {
    "ZeRO-0": ({"zero_stage": 0}, False),
    "ZeRO-1": ({"zero_stage": 1}, False),
    "ZeRO-2, recomputed": ({"zero_stage": 2}, True),
    "ZeRO-3": ({"zero_stage": 3}, False),
    "ZeRO-3, recomputed": ({"zero_stage": 3}, True),
    "2 stages": ({"zero_stage": 0, "pipeline_stages": 2}, False),
    "2 stages + ZeRO-1, recomputed": ({"zero_stage": 1, "pipeline_stages": 2}, True),
}
LENGTH = 128
TOKENS = 2048


def plain_loop(plan: RunPlan) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step by one process: each document of each window by itself, torch.optim.AdamW."""
    model, optimizer = plain_model(plan, "eager")
    section = plan.config.optimizer
    ranks = [Loader(plan.corpus, plan.batches, rank) for rank in range(plan.topology.data_parallel_size)]
    curve = []
    for step in range(plan.total_steps):
        micro_batches = [micro for rank in ranks for micro in rank.step(step * TOKENS).micro_batches]
        targets = sum(micro.real_targets for micro in micro_batches)
        total = 0.0
        for micro in micro_batches:
            inputs, next_tokens = micro.on("cpu")
            for row in range(len(inputs)):
                starts = (micro.positions[row] == 0).nonzero().flatten().tolist()
                for start, stop in zip(starts, [*starts[1:], LENGTH], strict=True):
                    logits = model(input_ids=inputs[row : row + 1, start:stop]).logits[0]
                    loss = functional.cross_entropy(logits, next_tokens[row, start:stop], reduction="sum") / targets
                    loss.backward()
                    total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), section.gradient_clipping)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan.config.schedule, section.learning_rate, (step + 1) * TOKENS)
        optimizer.step()
        optimizer.zero_grad()
        curve.append((total, norm.item()))
    return curve


def shared_folder(first: bool) -> Path:
    """A temporary folder, known to every rank, with training shards in it."""
    name = [tempfile.mkdtemp(prefix="moenda-documents-") if first else None]
    dist.broadcast_object_list(name)
    folder = Path(name[0])
    if first:
        write_shards(folder / "train", documents=400)
    dist.barrier()
    return folder


def prepare_everywhere(folder: Path, family: str, way: str, steps: int, process: Process) -> RunPlan:
    """The plan of one variant's run, on every rank."""
    parallel, recompute = WAYS[way]
    name = f"{family}-{list(WAYS).index(way)}"
    model = {"config": {**FAMILIES[family], "vocab_size": "auto", "tie_word_embeddings": True}}
    config = run_file(
        folder / name,
        folder / "train",
        model={**model, "activation_checkpointing": recompute},
        data={"sequence_length": LENGTH, "document_mask": True},
        batch={"global_batch_tokens": TOKENS, "micro_batch_size": 2},
        parallel=parallel,
        schedule={"total_tokens": steps * TOKENS, "warmup_tokens": 2 * TOKENS},
        checkpoint={"every_steps": 10**6},
    )
    file = folder / f"{name}.json"
    if process.is_first:
        file.write_text(json.dumps(config))
    dist.barrier()
    plan = prepare(file, [], process.world_size)
    dist.barrier()
    (plan.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return plan


def main() -> int:
    """Run every way and print the table; the exit code is 1 when a loss is further apart than 1e-5."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--families", nargs="+", choices=sorted(FAMILIES), default=sorted(FAMILIES))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--local_rank", type=int)
    options = parser.parse_args()
    process = current_process()
    logging.disable(logging.WARNING)
    curves, plans = {}, {}
    with process_group(process) as device:
        folder = shared_folder(process.is_first)
        # the pipelines last: DeepSpeed keeps their topology in a global that its ZeRO engine then trips over
        for way, family in ((way, family) for way in options.ways for family in options.families):
            plan = prepare_everywhere(folder, family, way, options.steps, process)
            with open(os.devnull, "w") as silence, redirect_stdout(silence):
                train(plan, process, device, Disk.of_all(process.world_size))
            curves[family, way] = read_metrics(plan.folder / METRICS_FILE) if process.is_first else []
            plans[family, plan.topology.data_parallel_size] = plan
    if not process.is_first:
        return 0

    plain = {key: plain_loop(plan) for key, plan in plans.items()}
    rows = []
    for (family, way), logged in curves.items():
        expected = plain[family, 1 if "stages" in way else process.world_size]
        pairs = list(zip([(row["loss"], row["grad_norm"]) for row in logged], expected, strict=True))
        loss, norm = (max(abs(ours[i] - theirs[i]) / abs(theirs[i]) for ours, theirs in pairs) for i in (0, 1))
        rows.append({"family": family, "way": way, "loss": loss, "grad_norm": norm})
        print(f"{family:<9} {way:<30} loss {loss:.1e}  grad norm {norm:.1e}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1))
    worst = max(row["loss"] for row in rows)
    print(f"{len(rows)} curves of {options.steps} steps; largest relative difference of a loss: {worst:.1e}")
    return int(not worst <= 1e-5)


if __name__ == "__main__":
    sys.exit(main())
