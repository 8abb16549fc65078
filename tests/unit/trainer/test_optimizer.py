"""A run goes on with another AdamW than the one that wrote its states."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.optimizer import conform


def stepped(count: Any) -> torch.optim.AdamW:
    """Torch's AdamW with loaded states of one parameter that say `count` steps, and settings that lack one of its own."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    optimizer.state[parameter] = {"step": count, "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    del optimizer.param_groups[0]["capturable"]
    return optimizer


@pytest.mark.parametrize("count", [7, torch.tensor(7.0)])
@pytest.mark.parametrize("in_integers", [False, True])
def test_counts_and_settings_are_as_the_optimizer_keeps_them(count, in_integers):
    optimizer = stepped(count)
    if in_integers:
        optimizer.ds_opt_adam = object()  # as DeepSpeed's AdamW for CPUs has it
    conform(optimizer)
    [state] = optimizer.state.values()
    assert state["step"] == 7 and isinstance(state["step"], int if in_integers else torch.Tensor)
    assert optimizer.param_groups[0]["capturable"] is False and torch.equal(state["exp_avg"], torch.ones(3))
