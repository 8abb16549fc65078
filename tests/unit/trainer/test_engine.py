"""What the engine does in a step, without DeepSpeed: which sums it waits for, and when; what goes to which device."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from trainer import engine
from trainer.batch import BatchPlan
from trainer.data.loader import MicroBatch, StepBatch


def micro_batch(positions: bool = False) -> MicroBatch:
    tokens = torch.arange(8).to(torch.uint16).view(1, 8)
    return MicroBatch(tokens, tokens.clone(), torch.arange(8).view(1, 8) if positions else None)


def test_the_weight_is_computed_once_a_step_after_the_first_forward_pass(monkeypatch):
    done: list = []
    worker = object.__new__(engine.ZeroEngine)
    worker.deepspeed = SimpleNamespace(
        device="cpu",
        train=lambda: None,
        backward=lambda loss: done.append(("backward", loss.item())),
        step=lambda: done.append("step"),
        get_global_grad_norm=lambda: 0.0,
        was_step_applied=lambda: True,
    )
    worker._parts = worker._token_group = None

    def consumed() -> torch.Tensor:
        done.append("sums")
        return torch.tensor([24, 5])

    def losses(*_) -> tuple[torch.Tensor, None]:
        done.append("forward")
        return torch.tensor(48.0), None

    monkeypatch.setattr(engine, "adding_up", lambda values, _group: lambda: values)
    worker._begin = lambda _batch: consumed
    worker._own = lambda one: nullcontext((one, {}))
    worker._losses = losses
    plan = BatchPlan(8, 1, 3, 1)
    result = worker.train_step(StepBatch(plan, 8, [micro_batch()] * 3, targets=24, digest=5))
    rest = [("backward", 6.0), "step"]
    assert done[: len(done) - 2] == ["forward", "sums", *rest, "forward", *rest, "forward", *rest]
    assert done[-2:] == ["sums", "sums"] and result.loss == 6.0


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize(("first", "last"), [(True, False), (False, True), (False, False)])
def test_each_end_of_a_pipeline_takes_what_it_needs(first, last, positions):
    worker = object.__new__(engine.PipelineEngine)
    worker.deepspeed = SimpleNamespace(device="cpu", reset_activation_shape=lambda: None)
    worker._is_first, worker._is_last, worker._sent, worker._stock = first, last, None, SimpleNamespace(sequence=None)
    batch, weight = micro_batch(positions), torch.ones(())
    sent = worker._weighted([batch], weight)
    if not (first or last):
        assert sent is None
        return
    [(inputs, labels)] = sent
    assert (inputs is not None, labels is not None) == (first, last)
    if first:
        ids, *others = inputs if positions else (inputs,)
        assert ids.dtype == torch.int64 and torch.equal(ids, batch.inputs.long())
        assert len(others) == positions and all(other is batch.positions for other in others)
    if last:
        assert torch.equal(labels[0], batch.targets.long()) and labels[1] is weight
