"""The table of DeepSpeed's keys as a whole: slips of the pen, wrong levels, wrong kinds, and its JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from strict_json import ConfigError
from trainer import deepspeed_keys

SCHEMA = json.loads(deepspeed_keys.TABLE.read_text())["schema"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_"
VALUES = {"boolean": True, "integer": 7, "number": 0.5, "string": "text", "array": [], "object": {}}
INFINITY = {
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {
            "device": "nvme",
            "nvme_path": "/local_nvme",
            "pin_memory": True,
            "buffer_count": 4,
            "fast_init": False,
            "pipeline_read": True,
            "pipeline_write": True,
            "ratio": 0.5,
        },
        "offload_param": {"device": "cpu", "pin_memory": True, "max_in_cpu": 1e9},
        "stage3_model_persistence_threshold": 1e7,
        "zero_quantized_weights": True,
        "zero_hpz_partition_size": 8,
    },
    "activation_checkpointing": {
        "partition_activations": False,
        "cpu_checkpointing": False,
        "contiguous_memory_optimization": False,
        "synchronize_checkpoint_boundary": False,
        "profile": False,
    },
    "bf16": {"enabled": "auto"},
    "train_batch_size": "auto",
}
MEGATRON = {
    "train_batch_size": 512,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 16,
    "steps_per_print": 10,
    "optimizer": {"type": "Adam", "params": {"lr": 1e-4, "betas": [0.9, 0.95], "eps": 1e-8}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 100, "total_num_steps": 10000}},
    "gradient_clipping": 1.0,
    "prescale_gradients": False,
    "fp16": {
        "enabled": True,
        "auto_cast": False,
        "loss_scale": 0,
        "initial_scale_power": 12,
        "loss_scale_window": 500,
        "hysteresis": 2,
        "consecutive_hysteresis": False,
        "min_loss_scale": 1,
    },
    "zero_optimization": {"stage": 1, "round_robin_gradients": True},
    "pipeline": {"seed_layers": True, "activation_checkpoint_interval": 1},
    "wall_clock_breakdown": True,
    "flops_profiler": {"enabled": True, "profile_step": 5, "module_depth": -1, "top_modules": 1, "output_file": "flops.txt"},
    "comms_logger": {"enabled": True, "verbose": True, "prof_all": False, "debug": False, "prof_ops": ["all_reduce"]},
    "tensorboard": {"enabled": True, "output_path": "logs", "job_name": "gpt"},
    "wandb": {"enabled": False, "group": "g", "team": "t", "project": "p"},
    "data_types": {"grad_accum_dtype": "fp32"},
    "checkpoint": {"tag_validation": "Warn", "load_universal": False, "parallel_write": {"pipeline_stage": True}},
}


def entries(schema: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], dict[str, Any]]:
    found = {}
    for key, inner in schema.get("properties", {}).items():
        found |= {(*path, key): inner, **entries(inner, (*path, key))}
    return found


KEYS = entries(SCHEMA)
paths = st.sampled_from(sorted(KEYS))


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return value


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        deepspeed_keys.check(config)
    return str(refused.value)


@pytest.mark.parametrize("config", [INFINITY, MEGATRON], ids=["zero infinity", "megatron"])
def test_more_configurations_that_people_use_pass(config):
    deepspeed_keys.check(config)


@settings(max_examples=60, deadline=None)
@given(paths, st.data())
def test_any_key_with_one_slip_is_refused_where_it_stands(path, data):
    *parents, key = path
    at, letter = data.draw(st.integers(0, len(key) - 1)), data.draw(st.sampled_from(LETTERS))
    slips = [key[:at] + letter + key[at + 1 :], key[:at] + letter + key[at:]]
    slips += [key[: at - 1] + key[at] + key[at - 1] + key[at + 1 :]] if at else []
    wrong = data.draw(st.sampled_from(slips))
    assume((*parents, wrong) not in KEYS)
    said = refusal(nested((*parents, wrong), "auto"))
    assert f'deepspeed.{".".join((*parents, wrong))}: DeepSpeed has no key "{wrong}" here' in said
    if len(key) > 4:  # in short ones, one letter is a large part of the word
        assert "Did you mean" in said


@settings(max_examples=40, deadline=None)
@given(paths)
def test_a_key_at_the_wrong_level_is_shown_its_home_or_its_like(path):
    key = path[-1]
    assume((key,) not in KEYS)
    said = refusal({key: "auto"})
    assert "Did you mean" in said or f"deepspeed.{'.'.join(path)}" in said


@settings(max_examples=80, deadline=None)
@given(paths, st.sampled_from(sorted(VALUES)))
def test_a_value_of_another_kind_is_refused_and_auto_never(path, given_kind):
    entry = KEYS[path]
    deepspeed_keys.check(nested(path, "auto"))
    kind, value = entry.get("type"), VALUES[given_kind]
    if kind is None or kind == given_kind or (kind, given_kind) == ("number", "integer"):
        return
    said = refusal(nested(path, value))
    assert f"deepspeed.{'.'.join(path)} is {json.dumps(value)}, not a" in said and kind in said


def test_a_number_without_fraction_is_an_integer():
    deepspeed_keys.check({"zero_optimization": {"reduce_bucket_size": 5e8}})
    assert "500000000.5" in refusal({"zero_optimization": {"reduce_bucket_size": 5e8 + 0.5}})


def test_all_mistakes_are_told_at_once():
    said = refusal({"nonsense": 1, "fp16": {"enabled": 1}, "zero_optimization": {"stage": 4}})
    for part in ('"nonsense"', "deepspeed.fp16.enabled is 1, not a boolean", "stage is 4, not one of 0, 1, 2, 3"):
        assert part in said


@settings(max_examples=60, deadline=None)
@given(path=paths, value=st.sampled_from([1, 1.5, 5e8, "text", "fp32", "auto", [], {}]))
def test_editors_are_told_what_the_check_says(path, value):
    """The JSON Schema in run.schema.json and the check agree on every value."""
    config = nested(path, value)
    valid = jsonschema.Draft202012Validator(deepspeed_keys.json_schema()).is_valid(config)
    if valid:
        deepspeed_keys.check(config)
    else:
        refusal(config)
