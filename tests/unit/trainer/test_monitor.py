"""What is recorded of steps whose gradients were not finite."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import torch

from trainer.batch import BatchPlan
from trainer.config import MonitorSection
from trainer.data.loader import StepBatch
from trainer.engine import StepResult
from trainer.flops import ModelShape
from trainer.metrics import METRICS_FILE
from trainer.monitor import Monitor
from trainer.state import TrainState

BATCH = BatchPlan(8, 2, 1, 1)


def monitor(folder, start: TrainState, skipped_steps: int) -> Monitor:
    plan: Any = SimpleNamespace(
        config=SimpleNamespace(monitor=MonitorSection(tensorboard=False)),
        folder=folder, start=start, total_steps=10, topology=SimpleNamespace(world_size=1),
        batches=SimpleNamespace(tokens_after=lambda steps: steps * BATCH.global_batch_tokens),
    )  # fmt: skip
    return Monitor(plan, ModelShape(100, 1, 8, 8), "cpu", writes=True, skipped_steps=skipped_steps)


def step(record: Monitor, state: TrainState, skipped: int, loss: float = 1.0, norm: float = 1.0) -> TrainState:
    state = state.advance(BATCH)
    for batch in record.timed([StepBatch(BATCH, 8, [], 16, 0)]):
        result = StepResult(torch.tensor(loss), torch.tensor([16, 0]), torch.tensor(norm))
        record.step(state, batch, 1e-3, result, skipped)
    return state


def test_skipped_steps_are_told_once_and_not_again_after_a_resume(tmp_path, capsys):
    first = monitor(tmp_path, TrainState(), 0)
    state = step(first, TrainState(), 0)
    state = step(first, state, 1, norm=math.inf)
    first.close()
    assert capsys.readouterr().out.count("changed no weight") == 1
    assert state == TrainState(2, 32)  # its batch is consumed: the next step has other tokens
    second = monitor(tmp_path, state, 1)
    state = step(second, state, 1)
    assert "changed no weight" not in capsys.readouterr().out
    step(second, state, 2, loss=math.nan)
    second.close()
    shown = capsys.readouterr().out
    assert "1 of the last 1 steps changed no weight" in shown and "the loss of step 4 is nan" in shown


def test_what_is_not_finite_is_null(tmp_path):
    record = monitor(tmp_path, TrainState(), 0)
    step(record, TrainState(), 1, loss=math.nan, norm=math.inf)
    record.close()
    row = json.loads((tmp_path / METRICS_FILE).read_text(), parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert row["loss"] is None and row["grad_norm"] is None and row["skipped_steps"] == 1
