"""Offload that DeepSpeed would ignore, or refuse when it has started, is refused before, with what works instead."""

from __future__ import annotations

from typing import Any

import pytest

from strict_json import ConfigError
from trainer import offload


def section(key: str, device: str, **more: Any) -> dict[str, Any]:
    return {"zero_optimization": {key: {"device": device, **more}}}


@pytest.mark.parametrize(
    ("key", "device", "stage", "stages", "words"),
    [
        ("offload_optimizer", "cpu", 0, 1, "Set zero_stage to 1, 2 or 3, or remove offload_optimizer."),
        ("offload_param", "cpu", 2, 1, "parallel.zero_stage is 2. Set zero_stage to 3, or remove offload_param."),
        ("offload_optimizer", "nvme", 3, 1, "cannot be resumed from"),
        ("offload_param", "nvme", 3, 1, 'Set its device to "cpu".'),
        ("offload_optimizer", "cpu", 1, 2, "Remove offload_optimizer, or set pipeline_stages to 1 and zero_stage to 3"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(key, device, stage, stages, words):
    with pytest.raises(ConfigError, match=f"deepspeed.zero_optimization.{key}") as refused:
        offload.check(section(key, device), stage, stages)
    assert words in str(refused.value)


def test_what_works_passes():
    for stage in (1, 2, 3):
        offload.check(section("offload_optimizer", "cpu"), stage, 1)
    offload.check(section("offload_param", "cpu"), 3, 1)
    for stage in range(4):
        offload.check({}, stage, 4)
        offload.check({"zero_optimization": {"offload_optimizer": {"device": "none"}, "offload_param": None}}, stage, 2)
