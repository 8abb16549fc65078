"""What is handed to deepspeed.initialize: the derived keys exactly, the rest verbatim, and never a contradiction."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from strict_json import ConfigError
from tests.models import run_file
from trainer import batch, ds_config
from trainer.config import RunConfig

HOMES = {
    "train_batch_size": "batch.global_batch_tokens",
    "train_micro_batch_size_per_gpu": "batch.micro_batch_size",
    "gradient_accumulation_steps": "batch.gradient_accumulation_steps",
    "gradient_clipping": "optimizer.gradient_clipping",
    "zero_optimization.stage": "parallel.zero_stage",
}
DECIDED = {
    "train_batch_size": 16,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 4,
    "gradient_clipping": 1.0,
    "zero_optimization.stage": 1,
}


def derive(deepspeed: dict[str, Any], **changes: Any) -> dict[str, Any]:
    file = run_file(Path("x"), Path("y"), **{"parallel": {"zero_stage": 1}, **changes})
    config = RunConfig.model_validate_json(json.dumps({**file, "deepspeed": deepspeed}))
    return ds_config.derive(config, batch.solve(config.batch, config.data.sequence_length, 2))


def refusal(deepspeed: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        derive(deepspeed, **changes)
    return str(refused.value)


def nested(dotted: str, value: Any) -> dict[str, Any]:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


def test_an_empty_section_becomes_exactly_the_derived_keys():
    assert derive({}) == {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 1},
        "steps_per_print": 10**9,
    }


def test_all_else_passes_verbatim_and_the_run_file_stays_as_it_is():
    given_keys = {"wall_clock_breakdown": True, "steps_per_print": 7, "zero_optimization": {"reduce_bucket_size": 5e8}}
    config = RunConfig.model_validate_json(json.dumps({**run_file(Path("x"), Path("y")), "deepspeed": given_keys}))
    result = ds_config.derive(config, batch.solve(config.batch, 32, 2))
    assert (result["wall_clock_breakdown"], result["steps_per_print"]) == (True, 7)
    assert result["zero_optimization"] == {"reduce_bucket_size": 5e8, "stage": 0}
    assert config.deepspeed == given_keys


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(HOMES)), st.data())
def test_a_derived_key_agrees_or_is_refused_with_both_keys_and_both_values(dotted, data):
    ours = DECIDED[dotted]
    theirs = data.draw(st.integers(0, 3) if dotted.endswith("stage") else st.integers(1, 99))
    if theirs == ours:
        assert derive(nested(dotted, theirs)) == derive({})
        return
    said = refusal(nested(dotted, theirs))
    for part in (f"deepspeed.{dotted} is {theirs}", f"{HOMES[dotted]} makes it {ours}", f"change {HOMES[dotted]}"):
        assert part in said
    assert derive(nested(dotted, "auto")) == derive({})


@settings(max_examples=20)
@given(st.fixed_dictionaries({}, optional={dotted: st.just("auto") for dotted in HOMES}))
def test_auto_is_the_same_as_leaving_out(given_keys):
    merged: dict[str, Any] = {}
    for dotted, value in given_keys.items():
        merged |= nested(dotted, value)
    assert derive(merged) == derive({})


@pytest.mark.parametrize(
    "dotted", ["steps_per_print", "fp16.loss_scale", "zero_optimization.offload_param.device", "aio.block_size"]
)
def test_auto_that_nothing_decides_is_refused_by_name(dotted):
    said = refusal(nested(dotted, "auto"))
    assert f'deepspeed.{dotted} is "auto"' in said and "Give a value or remove it" in said


@pytest.mark.parametrize("key", sorted(ds_config.REFUSED.keys() - {"zero_optimization.zenflow"}))
def test_what_would_break_a_promise_is_refused_unless_off(key):
    assert f"deepspeed.{key}: {ds_config.REFUSED[key]}. Remove the key." in refusal({key: {"enabled": True}})
    assert derive({key: {"enabled": False}})[key] == {"enabled": False}


def test_an_optimizer_that_steps_late_is_refused():
    assert "deepspeed.zero_optimization.zenflow: its optimizer steps late" in refusal(
        {"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}}
    )


@pytest.mark.parametrize(
    ("ranks", "parallel", "words"),
    [
        (2, {"zero_stage": 2}, "zero_hpz_partition_size 2 needs ZeRO-3; parallel.zero_stage is 2"),
        (3, {"zero_stage": 3}, "3 does not divide the 2 data-parallel ranks. Set it to one of 2, or remove the key."),
        (2, {"zero_stage": 3, "sequence": 2}, "over ranks with other slices or parts of windows"),
    ],
)
def test_a_second_partition_needs_ranks_that_it_divides(ranks, parallel, words):
    section = {"zero_optimization": {"zero_hpz_partition_size": ranks}}
    assert words in refusal(section, parallel=parallel)
    assert derive({"zero_optimization": {"zero_hpz_partition_size": 2}}, parallel={"zero_stage": 3})


def test_slices_and_parts_have_their_home_in_the_run_file():
    sliced = {"parallel": {"zero_stage": 1, "tensor": 2, "sequence": 2}}
    assert derive({}, **sliced) == {**derive({}), "tensor_parallel": {"autotp_size": 2}}  # DeepSpeed isn't told of parts
    given_too = {"tensor_parallel": {"autotp_size": "auto"}, "sequence_parallel_size": 2}
    assert derive(given_too, **sliced) == derive({}, **sliced)
    assert derive({"tensor_parallel": {"autotp_size": 1}, "sequence_parallel_size": "auto"}) == derive({})
    assert "deepspeed.tensor_parallel.autotp_size is 4, but parallel.tensor makes it 2" in refusal(
        {"tensor_parallel": {"autotp_size": 4}}, **sliced
    )
    assert "deepspeed.sequence_parallel_size is 4, but parallel.sequence makes it 1" in refusal({"sequence_parallel_size": 4})
    assert "deepspeed.tensor_parallel.preset_model: what is cut is Hugging Face's plan" in refusal(
        {"tensor_parallel": {"preset_model": "llama"}}
    )


def test_fp16_needs_zero():
    for parallel in ({"zero_stage": 0}, {"zero_stage": 0, "pipeline_stages": 2}, {"zero_stage": 0, "tensor": 2}):
        said = refusal({"fp16": {"enabled": True}}, parallel=parallel)
        assert "deepspeed.fp16 with parallel.zero_stage 0" in said and "Set parallel.zero_stage to 1" in said


def test_stages_without_zero_could_not_be_resumed_in_bf16():
    section = {"bf16": {"enabled": True}}
    said = refusal(section, parallel={"zero_stage": 0, "pipeline_stages": 2})
    assert "parallel.pipeline_stages 2 with parallel.zero_stage 0 in bf16" in said and "Set parallel.zero_stage to 1" in said
    assert derive(section, parallel={"zero_stage": 1, "pipeline_stages": 2})


def test_slices_without_zero_would_be_clipped_by_one_of_them():
    section = {"bf16": {"enabled": True}}
    said = refusal(section, parallel={"zero_stage": 0, "tensor": 2})
    assert "parallel.tensor 2 with parallel.zero_stage 0 in bf16" in said and "Set parallel.zero_stage to 1" in said
    assert derive(section, parallel={"zero_stage": 1, "tensor": 2})["tensor_parallel"] == {"autotp_size": 2}
    assert derive({}, parallel={"zero_stage": 0, "tensor": 2})["tensor_parallel"] == {"autotp_size": 2}


def test_deepspeeds_pipeline_is_told_of_slices_and_parts_by_its_grid_alone():
    stages = {"zero_stage": 1, "pipeline_stages": 2}
    plain = derive({}, parallel=stages)
    assert derive({}, parallel={**stages, "tensor": 2}) == plain
    # in which ranks with parts of a window count as replicas
    assert derive({}, parallel={**stages, "sequence": 2}) == {**plain, "train_batch_size": 2 * plain["train_batch_size"]}


@pytest.mark.parametrize(("key", "value"), [("stages", 2), ("partition", "best"), ("activation_checkpoint_interval", 1)])
def test_what_the_run_file_says_of_stages_is_refused(key, value):
    said = refusal({"pipeline": {key: value}})
    assert f"deepspeed.pipeline.{key}: remove the key, and use {ds_config.PIPELINE_ELSEWHERE[key]}" in said
    assert derive({"pipeline": {key: "auto", "seed_layers": True}})["pipeline"] == {"seed_layers": True}


@pytest.mark.parametrize("key", sorted(ds_config.ELSEWHERE))
def test_what_a_section_of_the_run_file_does_is_refused_unless_empty(key):
    full = {"optimizer": {"params": {"lr": 1}}, "scheduler": {"params": {"lr": 1}}, "checkpoint": {"load_universal": True}}
    full["activation_checkpointing"] = {"partition_activations": True}
    said = refusal({key: full.get(key, {"enabled": True})})
    assert f"deepspeed.{key}" in said and f"use the section {ds_config.ELSEWHERE[key]}" in said
    assert derive({key: {}}) == derive({})


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", [{}, {"fp16": {"enabled": True}}, {"bf16": {"enabled": True}}])
def test_only_bf16_under_zero_is_told_to_accumulate_in_fp32(stage, precision):
    if "fp16" in precision and not stage:
        return  # refused
    told = derive(precision, parallel={"zero_stage": stage}).get("data_types")
    assert told == ({"grad_accum_dtype": "fp32"} if "bf16" in precision and stage else None)


@given(
    st.fixed_dictionaries(
        {}, optional={key: st.sampled_from([{}, {"enabled": False}, {"enabled": True}]) for key in ("bf16", "bfloat16", "fp16")}
    )
)
def test_precision_is_the_one_key_that_is_enabled(sections):
    before, enabled = copy.deepcopy(sections), [key for key in sections if sections[key].get("enabled")]
    assume(not {"bf16", "bfloat16"} <= sections.keys())  # two names of one section
    if len(enabled) > 1:
        with pytest.raises(ConfigError, match=r"both enabled\. Keep one"):
            ds_config.precision(sections)
    else:
        assert ds_config.precision(sections) == {"bfloat16": "bf16"}.get(*(enabled * 2 or ["", "fp32"]))
    assert sections == before
