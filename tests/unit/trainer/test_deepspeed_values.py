"""Values that DeepSpeed would refuse, or fail with, are refused before it starts, by key and value."""

from __future__ import annotations

from typing import Any

import pytest

from strict_json import ConfigError
from trainer import deepspeed_keys, deepspeed_values
from trainer.deepspeed_values import LIMITS, SECTIONS


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            {"zero_optimization": {"reduce_bucket_size": -5}},
            "zero_optimization.reduce_bucket_size is -5: should be greater than 0",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"ratio": 2}}},
            "zero_optimization.offload_optimizer.ratio is 2: should be",
        ),
        ({"zero_optimization": {"stage": 3, "compute_grad_norm": False}}, "zero_optimization: compute_grad_norm=false is"),
        ({"fp16": {"enabled": True, "loss_scale": -1}}, "fp16.loss_scale is -1: fp16.loss_scale must be >= 0"),
        ({"fp16": {"enabled": True, "min_loss_scale": 0}}, "fp16: fp16.min_loss_scale must be > 0"),
        ({"fp16": {"enabled": True, "initial_scale_power": 99}}, "fp16.initial_scale_power is 99, not 0 to 62"),
        ({"fp16": {"hysteresis": 0}}, "fp16.hysteresis is 0, not at least 1"),
        ({"gradient_predivide_factor": 0.0}, "gradient_predivide_factor is 0.0, not at least"),
    ],
)
def test_values_out_of_range(section: dict[str, Any], said: str):
    deepspeed_keys.check(section)  # of the right kind
    with pytest.raises(ConfigError) as refused:
        deepspeed_values.check(section)
    assert f"\n  deepspeed.{said}" in str(refused.value)


def test_what_deepspeed_takes_passes_and_stays_as_it_is():
    section = {
        "zero_optimization": {"stage": 3, "reduce_bucket_size": 5e8, "stage3_max_live_parameters": 0},
        "fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 62},
        "steps_per_print": 1,
    }
    before = repr(section)
    deepspeed_values.check(section)
    assert repr(section) == before


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as refused:
        deepspeed_values.check({"zero_optimization": {"reduce_bucket_size": 0, "sub_group_size": -1}, "steps_per_print": 0})
    for key in ("reduce_bucket_size", "sub_group_size", "steps_per_print"):
        assert key in str(refused.value)


def test_every_judged_key_is_one_of_deepspeed():
    known = set(deepspeed_keys._paths(deepspeed_keys._table()["schema"]))
    assert {*LIMITS, *SECTIONS} <= known
