"""Metrics of a run: metrics.jsonl, TensorBoard and a progress line. Only the job's first process writes.

Of every logged step: loss (nats per real target of that step's global batch), learning_rate, grad_norm (before
clipping), tokens_per_second (all devices, since the last logged step; evaluation and saving not counted), tflops (per
device) and mfu (by `trainer.flops`), data_share (part of the step time spent waiting for data), batch_tokens and
sequence_length (of that step), skipped_steps (of the run so far: steps whose gradients were not finite, so that no weight
changed; while a loss scale is sought in fp16, some). A number that is not finite is null.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from trainer import flops
from trainer.data.loader import StepBatch
from trainer.engine import StepResult
from trainer.evaluation import Evaluation
from trainer.metrics import METRICS_FILE, keep_until
from trainer.preflight import RunPlan
from trainer.state import TrainState

Item = TypeVar("Item")


class Monitor:
    """Records of one run, appended across resumes without gap or repetition; silent where `writes` is False."""

    def __init__(self, plan: RunPlan, shape: flops.ModelShape, device_name: str, writes: bool, skipped_steps: int = 0):
        """`skipped_steps`: those that the run had already skipped when it was resumed."""
        self._plan, self._writes = plan, writes
        section = plan.config.monitor
        self._shape = shape
        self._peak = section.peak_tflops * 1e12 if section.peak_tflops else flops.peak_flops(device_name)
        self._began = time.monotonic()
        self._waited = self._worked = self._flops_timed = 0.0
        self._steps_timed = self._tokens_timed = 0
        self._skipped = skipped_steps
        self._board = None
        if not writes:
            return
        keep_until(plan.folder / METRICS_FILE, plan.start.step)
        self._file = (plan.folder / METRICS_FILE).open("a", encoding="utf-8")
        if section.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(plan.folder / "tensorboard"), purge_step=plan.start.step + 1)

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass batches through, telling time spent waiting for them from time spent on them."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._got = time.monotonic()
            self._waited += self._got - asked
            yield batch

    def step(self, state: TrainState, batch: StepBatch, learning_rate: float, result: StepResult, skipped_steps: int) -> None:
        """Account for one optimizer step; record and show it when it is one to log."""
        log = state.step % self._plan.config.monitor.log_every == 0 or state.step >= self._plan.total_steps
        if log and self._writes:
            loss = result.loss.item()  # waits for the device: the time below is the time the work took
        self._worked += time.monotonic() - self._got
        self._steps_timed += 1
        self._tokens_timed += batch.plan.global_batch_tokens
        self._flops_timed += batch.plan.global_batch_tokens * flops.training_flops_per_token(
            replace(self._shape, sequence_length=batch.sequence_length)
        )
        if not (log and self._writes):
            return
        seconds = self._waited + self._worked
        rate = self._tokens_timed / seconds
        devices = self._plan.topology.world_size
        flops_per_token = self._flops_timed / self._tokens_timed
        norm = None if result.grad_norm is None else float(result.grad_norm)
        values = {
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "tokens_per_second": rate,
            "tflops": rate * flops_per_token / devices / 1e12,
            "mfu": flops.mfu(rate, flops_per_token, devices, self._peak) if self._peak else None,
            "data_share": self._waited / seconds,
            "skipped_steps": skipped_steps,
            "batch_tokens": batch.plan.global_batch_tokens,
            "sequence_length": batch.sequence_length,
        }
        self._record(state, values)
        self._show(state, loss, learning_rate, norm, rate, values["mfu"])
        if not math.isfinite(loss):
            print(f"WARNING: the loss of step {state.step} is {loss}.", flush=True)
        if skipped_steps > self._skipped:
            print(
                f"WARNING: {skipped_steps - self._skipped} of the last {self._steps_timed} steps changed no weight: their "
                f"gradients were not finite.",
                flush=True,
            )
        self._skipped = skipped_steps
        self._waited = self._worked = self._flops_timed = 0.0
        self._steps_timed = self._tokens_timed = 0

    def evaluation(self, state: TrainState, held_out: Evaluation) -> None:
        """Record and show an evaluation."""
        if self._writes:
            self._record(state, {"validation_loss": held_out.loss, "bits_per_byte": held_out.bits_per_byte})
            bits = "" if held_out.bits_per_byte is None else f" | {held_out.bits_per_byte:.4f} bits per byte"
            print(f"step {state.step} | validation loss {held_out.loss:.4f}{bits} | {held_out.targets:,} tokens", flush=True)

    def saved(self, checkpoint: Path) -> None:
        """Show where a checkpoint went."""
        if self._writes:
            print(f"checkpoint {checkpoint}", flush=True)

    def close(self) -> None:
        """Flush everything to disk."""
        if self._writes:
            self._file.close()
        if self._board:
            self._board.close()

    def _record(self, state: TrainState, values: dict[str, float | int | None]) -> None:
        values = {name: value if value is None or math.isfinite(value) else None for name, value in values.items()}
        row = {"step": state.step, "tokens": state.tokens_seen, **values}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._board:
            for name, value in values.items():
                if value is not None:
                    self._board.add_scalar(name, value, state.step)

    def _show(
        self, state: TrainState, loss: float, learning_rate: float, norm: float | None, rate: float, mfu: float | None
    ) -> None:
        done = state.tokens_seen - self._plan.start.tokens_seen
        end = self._plan.batches.tokens_after(self._plan.total_steps)
        left = (end - state.tokens_seen) * (time.monotonic() - self._began) / done
        parts = [
            f"step {state.step}/{self._plan.total_steps}",
            f"{state.tokens_seen:,} tokens",
            f"loss {loss:.4f}",
            f"lr {learning_rate:.2e}",
            f"grad norm {norm:.3f}" if norm is not None else "",
            f"{rate:,.0f} tokens/s",
            f"MFU {mfu:.1%}" if mfu is not None else "",
            f"ETA {clock(left)}",
        ]
        print(" | ".join(part for part in parts if part), flush=True)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
