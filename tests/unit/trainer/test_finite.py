"""A loss that is not finite gets a gradient that is not, and a finite one keeps its bits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer import finite
from trainer.engine import pipeline_loss

BAD = [math.nan, math.inf, -math.inf]


@given(weight=st.floats(2**-100, 2**100, width=32), loss=st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_finite_loss_leaves_its_weight_to_the_last_bit(weight, loss):
    weight = torch.tensor(weight)
    assert torch.equal(finite.unless_finite(weight, torch.tensor(loss), None), weight)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", ["loss", "auxiliary"])
def test_the_gradient_of_a_bad_loss_is_nan_although_its_own_is_finite(bad, place):
    parameter = torch.tensor(2.0, requires_grad=True)
    losses = {"loss": parameter * 3, "auxiliary": parameter * 5}
    losses[place] = losses[place] + bad
    (losses["loss"] * finite.unless_finite(torch.tensor(0.5), *losses.values())).backward()
    assert parameter.grad.isnan()


@pytest.mark.parametrize("bad", BAD)
def test_so_it_is_in_a_pipeline(bad):
    logits = torch.zeros(1, 4, 3, requires_grad=True)
    labels = torch.ones(1, 4, dtype=torch.int64), torch.tensor(0.25)
    pipeline_loss(logits, labels, lambda logits, _targets: logits.sum() + bad).backward()
    assert logits.grad.isnan().all()
