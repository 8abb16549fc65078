"""Loss curves with optimizer states and parameters offloaded to memory or disk, beside those of the same run without.

    deepspeed --num_accelerators 2 bench/offload.py [--precision bf16] [--ways "ZeRO-2 optimizer cpu" ...] [--output table.json]

Each way trains twice through the trainer's own loop: at one go, and stopped half-way and resumed from its checkpoint. Prints
the largest relative difference of a loss from the run without offload, and whether the resumed curve is bitwise the other.
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
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import distributed as dist

from tests.corpora import write_shards
from tests.models import run_file
from trainer import run_folder
from trainer.engine import process_group
from trainer.launch_env import Process, current_process
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.preflight import prepare
from trainer.train import train

STEP_TOKENS, STEPS = 512, 8
WAYS: dict[str, tuple[int, str | None, str | None]] = {
    "ZeRO-1 optimizer cpu": (1, "cpu", None),
    "ZeRO-2 optimizer cpu": (2, "cpu", None),
    "ZeRO-3 optimizer cpu": (3, "cpu", None),
    "ZeRO-3 parameters cpu": (3, None, "cpu"),
    "ZeRO-3 both cpu": (3, "cpu", "cpu"),
    "ZeRO-3 optimizer nvme": (3, "nvme", None),
    "ZeRO-3 optimizer nvme, parameters cpu": (3, "nvme", "cpu"),
    "ZeRO-3 both nvme": (3, "nvme", "nvme"),
}
"""ZeRO stage, where the optimizer's states go, where the parameters go."""


def curve(folder: Path, file: Path, name: str, stage: int, deepspeed: dict[str, Any], steps: list[int], process: Process,
          device: torch.device) -> list[float]:  # fmt: skip
    """The losses of a run that ends, and is started again, after each of these numbers of steps."""
    model = {"config": {**run_file(folder, folder)["model"]["config"], "tie_word_embeddings": False}}
    for count in steps:
        config = run_file(folder / name, folder / "train", model=model, parallel={"zero_stage": stage}, deepspeed=deepspeed)
        config["schedule"] = {"type": "constant", "total_tokens": count * STEP_TOKENS, "warmup_tokens": 2 * STEP_TOKENS}
        config["checkpoint"] = {"every_steps": 10**6}
        if process.is_first:
            file.write_text(json.dumps(config))
        dist.barrier()
        plan = prepare(file, [], process.world_size)
        dist.barrier()
        lock = run_folder.take(plan.folder, plan.record) if process.is_first else None
        dist.barrier()
        with open(os.devnull, "w") as silence, redirect_stdout(silence):
            train(plan, process, device)
        if lock:
            lock.close()
    return [row["loss"] for row in read_metrics(folder / name / METRICS_FILE)]


def settings(way: tuple[int, str | None, str | None], precision: str, disk: Path) -> dict[str, Any]:
    """The `deepspeed` section of a way."""
    zero = {}
    for key, where in zip(("offload_optimizer", "offload_param"), way[1:], strict=True):
        if where:
            zero[key] = {"device": where, **({"nvme_path": str(disk), "buffer_size": 10**6} if where == "nvme" else {})}
    if "buffer_size" in zero.get("offload_optimizer", {}):
        del zero["offload_optimizer"]["buffer_size"]
    return {"zero_optimization": zero, **({} if precision == "fp32" else {precision: {"enabled": True}})}


def main() -> int:
    """Run every way and print the table; the exit code is 1 when a curve is apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest relative difference of a loss")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--local_rank", type=int)
    options = parser.parse_args()
    process = current_process()
    logging.disable(logging.WARNING)
    rows, plain = [], {}
    with process_group(process) as device:
        name = [tempfile.mkdtemp(prefix="moenda-offload-") if process.is_first else None]
        dist.broadcast_object_list(name)
        folder = Path(name[0])
        if process.is_first:
            write_shards(folder / "train")
        dist.barrier()
        for name in options.ways:
            way, section = WAYS[name], settings(WAYS[name], options.precision, folder / "disk")

            def train_for(label: str, deepspeed: dict[str, Any], *steps: int, stage: int = way[0]) -> list[float]:
                return curve(folder, folder / "run.json", label, stage, deepspeed, list(steps), process, device)

            if way[0] not in plain:
                plain[way[0]] = train_for(f"plain-{way[0]}", settings((way[0], None, None), options.precision, folder), STEPS)
            whole = train_for(f"{name}, whole", section, STEPS)
            halves = train_for(f"{name}, in halves", section, STEPS // 2, STEPS)
            apart = max(abs(a - b) / b for a, b in zip(whole, plain[way[0]], strict=True))
            rows.append({"way": name, "precision": options.precision, "loss": apart, "resumed": halves == whole})
            if process.is_first:
                print(f"{name:<40} loss {apart:.1e}  resumed {'bitwise' if halves == whole else 'APART'}", flush=True)
    if process.is_first and options.output:
        options.output.write_text(json.dumps(rows, indent=1))
    return int(any(row["loss"] > options.tolerance or not row["resumed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
