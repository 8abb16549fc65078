"""Offload that DeepSpeed would ignore, or refuse when it has started, is refused before, with what works instead."""

from __future__ import annotations

from typing import Any

import pytest

from strict_json import ConfigError
from trainer import offload

PATH = {"nvme_path": "/disk"}


def section(key: str, device: str, **more: Any) -> dict[str, Any]:
    return {"zero_optimization": {key: {"device": device, **more}}}


@pytest.mark.parametrize(
    ("key", "device", "stage", "stages", "words"),
    [
        ("offload_optimizer", "cpu", 0, 1, "Set zero_stage to 1, 2 or 3, or remove offload_optimizer."),
        ("offload_param", "cpu", 2, 1, "parallel.zero_stage is 2. Set zero_stage to 3, or remove offload_param."),
        ("offload_optimizer", "nvme", 2, 1, 'Set zero_stage to 3, set its device to "cpu", or remove offload_optimizer.'),
        ("offload_optimizer", "nvme", 0, 1, "Set zero_stage to 3, or remove offload_optimizer."),
        ("offload_param", "nvme", 1, 1, "Set zero_stage to 3, or remove offload_param."),
        ("offload_optimizer", "cpu", 1, 2, "Remove offload_optimizer, or set pipeline_stages to 1 and zero_stage to 3"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(key, device, stage, stages, words):
    with pytest.raises(ConfigError, match=f"deepspeed.zero_optimization.{key}") as refused:
        offload.check(section(key, device, **PATH), stage, stages)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("key", "more", "words"),
    [
        ("offload_optimizer", {}, "offload_optimizer.nvme_path is missing: name a folder on a fast disk"),
        ("offload_param", {}, "offload_param.nvme_path is missing"),
        ("offload_optimizer", PATH | {"ratio": 0.5}, "ratio: is for the device"),
        ("offload_optimizer", PATH | {"super_offload": True}, "super_offload: is for the device"),
        ("offload_optimizer", PATH | {"buffer_count": 3}, "buffer_count is 3: .* Set it to 4."),
        ("offload_optimizer", PATH | {"pipeline_read": True}, "buffer_count is 4: .* Set it to 8."),
        ("offload_optimizer", PATH | {"pipeline_read": True, "pipeline_write": True, "buffer_count": 8}, "Set it to 12."),
    ],
)
def test_what_disks_do_not_take_is_refused(key, more, words):
    with pytest.raises(ConfigError, match=words):
        offload.check(section(key, "nvme", **more), 3, 1)


@pytest.mark.parametrize("key", sorted(offload.DEPRECATED))
def test_older_keys_are_refused_with_the_newer(key):
    with pytest.raises(ConfigError, match=f"{key}: DeepSpeed has given this key up. Use .*offload_optimizer|offload_param"):
        offload.check({"zero_optimization": {key: True}}, 3, 1)


def test_states_in_bf16_do_not_go_to_disks():
    config = section("offload_optimizer", "nvme", **PATH) | {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}
    with pytest.raises(ConfigError, match="bf16_master_weights_and_grads with an optimizer on disks"):
        offload.check(config, 3, 1)


def test_what_works_passes():
    for stage in (1, 2, 3):
        offload.check(section("offload_optimizer", "cpu"), stage, 1)
    offload.check(section("offload_param", "cpu"), 3, 1)
    offload.check(section("offload_param", "nvme", **PATH), 3, 1)
    offload.check(section("offload_optimizer", "nvme", pipeline_write=True, buffer_count=8, **PATH), 3, 1)
    for stage in range(4):
        offload.check({}, stage, 4)
        offload.check({"zero_optimization": {"offload_optimizer": {"device": "none"}, "offload_param": None}}, stage, 2)


def test_sizes_for_disks_are_filled_in_where_the_run_file_gives_none():
    config = section("offload_optimizer", "nvme", **PATH)
    config["zero_optimization"]["offload_param"] = {"device": "nvme", **PATH}
    offload.complete(config, 1000)
    assert config["zero_optimization"]["sub_group_size"] == offload.SUB_GROUP
    assert config["zero_optimization"]["offload_param"]["buffer_size"] == 1000
    lines = list(offload.describe(config, "bf16"))
    assert lines[0].startswith("optimizer states in /disk, 16 bytes for each parameter; those of 20,000,000 parameters")
    assert lines[1].startswith(
        "parameters in /disk, 2 bytes for each parameter; the first 1,000,000,000 of a rank stay in memory"
    )
    with pytest.raises(ConfigError, match="buffer_size is 1,000, but a rank's part of the largest parameter has 1,001 values"):
        offload.complete(config, 1001)

    config = section("offload_optimizer", "cpu")
    offload.complete(config, 1000)
    assert config == section("offload_optimizer", "cpu") and not list(offload.describe(config, "bf16"))
    assert offload.disk_paths(config) == {}
