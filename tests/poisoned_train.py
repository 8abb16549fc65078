"""Training in which one rank's loss, or its gradient alone, is no number in chosen steps:
deepspeed tests/poisoned_train.py --where loss|gradient --steps 3,4 --config FILE"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from trainer import engine, train
from trainer.hosts.launch_env import current_process


def poison(where: str, steps: set[int]) -> None:
    """Make the loss of the last rank, which every split has one on, bad in these steps (from 1)."""
    process = current_process()
    done = 0

    def bad(loss: torch.Tensor) -> torch.Tensor:
        if done not in steps or process.rank != process.world_size - 1 or not loss.requires_grad:
            return loss
        if where == "loss":
            return loss * float("nan")
        loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    for kind in (engine.ZeroEngine, engine.PipelineEngine):

        def counted(self, batch, real=kind.train_step):
            nonlocal done
            done = self.deepspeed.global_steps + 1
            result = real(self, batch)
            done = 0
            return result

        kind.train_step = counted
    losses, of_output = engine.ZeroEngine._losses, engine.PipelineEngine._loss

    def zero_losses(self, *arguments):
        loss, auxiliary = losses(self, *arguments)
        return bad(loss), auxiliary

    engine.ZeroEngine._losses = zero_losses
    engine.PipelineEngine._loss = lambda self, *arguments: bad(of_output(self, *arguments))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--where", choices=["loss", "gradient"], required=True)
    parser.add_argument("--steps", required=True)
    options, rest = parser.parse_known_args()
    poison(options.where, {int(step) for step in options.steps.split(",")})
    sys.exit(train.main(rest))
