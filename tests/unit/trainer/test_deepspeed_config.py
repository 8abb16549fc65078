"""DeepSpeed's keys are checked, and what the run file's sections decide is derived or refused by name."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strict_json import ConfigError
from tests.models import run_file
from trainer import batch, deepspeed_keys, ds_config
from trainer.config import RunConfig

ROOT = Path(__file__).resolve().parents[3]
ZERO_2_OFFLOAD = {
    "bf16": {"enabled": True},
    "zero_optimization": {
        "stage": 2,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "allgather_partitions": True,
        "allgather_bucket_size": 2e8,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": "auto",
        "contiguous_gradients": True,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}
ZERO_3 = {
    "fp16": {
        "enabled": True,
        "loss_scale": 0,
        "loss_scale_window": 1000,
        "initial_scale_power": 16,
        "hysteresis": 2,
        "min_loss_scale": 1,
    },
    "zero_optimization": {
        "stage": 3,
        "offload_param": {"device": "nvme", "nvme_path": "/local_nvme", "buffer_count": 5, "buffer_size": 1e8},
        "sub_group_size": 1e9,
        "stage3_prefetch_bucket_size": 5e7,
        "stage3_param_persistence_threshold": 1e5,
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
        "round_robin_gradients": True,
    },
    "aio": {"block_size": 262144, "queue_depth": 32, "single_submit": False, "overlap_events": True},
}
TOOLS = {
    "activation_checkpointing": {"partition_activations": True, "cpu_checkpointing": False, "number_checkpoints": 4},
    "flops_profiler": {"enabled": False, "profile_step": 1, "module_depth": -1, "top_modules": 3, "detailed": True},
    "comms_logger": {"enabled": True, "verbose": False, "prof_all": True, "debug": False},
    "communication_data_type": "fp32",
    "zero_allow_untested_optimizer": True,
}


@pytest.mark.parametrize("config", [ZERO_2_OFFLOAD, ZERO_3, TOOLS], ids=["zero 2 offload", "zero 3", "tools"])
def test_configurations_that_people_use_pass(config):
    deepspeed_keys.check(config)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"zero_optimisation": {"stage": 2}}, 'Did you mean "zero_optimization"?'),
        ({"gradient_acumulation_steps": 4}, 'Did you mean "gradient_accumulation_steps"?'),
        ({"zero_optimization": {"stage3_prefech_bucket_size": 1}}, 'Did you mean "stage3_prefetch_bucket_size"?'),
        (
            {"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}},
            "deepspeed.zero_optimization.offload_optimizer.devise",
        ),
        ({"overlap_comm": True}, "It belongs at deepspeed.zero_optimization.overlap_comm"),
        ({"bf16": {"enabled": "yes"}}, 'deepspeed.bf16.enabled is "yes", not a boolean'),
        ({"steps_per_print": 1.5}, "not an integer"),
        ({"amp": {"enabled": True}}, "has been removed"),
    ],
)
def test_mistakes_are_named(wrong, said):
    with pytest.raises(ConfigError) as refusal:
        deepspeed_keys.check(wrong)
    assert said in str(refusal.value)


def known_paths(schema: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, inner in schema.get("properties", {}).items():
        found += [(*path, key), *known_paths(inner, (*path, key))]
    return found


TABLE = json.loads(deepspeed_keys.TABLE.read_text())
PATHS = known_paths(TABLE["schema"])


@given(st.sampled_from(PATHS), st.data())
def test_any_key_with_a_letter_lost_is_refused(path, data):
    *parents, key = path
    cut = data.draw(st.integers(0, len(key) - 1))
    misspelt = key[:cut] + key[cut + 1 :]
    if (*parents, misspelt) in PATHS or not misspelt:
        return
    config: dict = {misspelt: "auto"}
    for parent in reversed(parents):
        config = {parent: config}
    with pytest.raises(ConfigError, match="DeepSpeed has no key"):
        deepspeed_keys.check(config)


def test_the_table_is_that_of_the_installed_deepspeed():
    spec = importlib.util.spec_from_file_location("key_tool", ROOT / "tools" / "deepspeed_keys.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert json.loads(json.dumps(tool.schema())) == TABLE, "run: python tools/deepspeed_keys.py"


def derive(deepspeed: dict, ranks: int = 2, **changes) -> dict:
    config = RunConfig.model_validate_json(json.dumps({**run_file(Path("x"), Path("y"), **changes), "deepspeed": deepspeed}))
    return ds_config.derive(config, batch.solve(config.batch, config.data.sequence_length, ranks))


def test_derived_keys():
    derived = derive({"zero_optimization": {"overlap_comm": True}}, parallel={"zero_stage": 2})
    assert derived["train_batch_size"] == 16
    assert derived["train_micro_batch_size_per_gpu"] == 2
    assert derived["gradient_accumulation_steps"] == 4
    assert derived["gradient_clipping"] == 1.0
    assert derived["zero_optimization"] == {"overlap_comm": True, "stage": 2}


def test_a_derived_key_may_be_repeated_or_auto():
    assert derive({"train_batch_size": 16, "gradient_clipping": "auto"})["train_batch_size"] == 16


@pytest.mark.parametrize(
    ("deepspeed", "said"),
    [
        ({"train_batch_size": 32}, ("deepspeed.train_batch_size is 32", "batch.global_batch_tokens makes it 16")),
        ({"zero_optimization": {"stage": 3}}, ("deepspeed.zero_optimization.stage is 3", "parallel.zero_stage makes it 0")),
        ({"gradient_clipping": 0.5}, ("optimizer.gradient_clipping makes it 1.0",)),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}, ("deepspeed.optimizer", "use the section optimizer")),
        ({"scheduler": {"type": "auto"}, "optimizer": {"params": {"lr": 1}}}, ("deepspeed.optimizer",)),
        ({"autotuning": {"enabled": True}}, ("deepspeed.autotuning", "Remove the key")),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, ("both enabled",)),
        ({"bf16": {"enabled": "auto"}}, ("say true or false",)),
        ({"zero_optimization": "auto"}, ('deepspeed.zero_optimization is "auto"', "give its keys")),
        ({"bf16": {"enabled": False}, "bfloat16": {"enabled": True}}, ("two names of one section",)),
        ({"communication_data_type": "bfloat16"}, ('"fp16", "fp32", "bf16"',)),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, ("reduce_bucket_size", '"auto"', "Give a value")),
        ({"gradient_allreduce_op": "sum"}, ("deepspeed.gradient_allreduce_op",)),
    ],
)
def test_what_has_another_home_is_refused_by_name(deepspeed, said):
    with pytest.raises(ConfigError) as refusal:
        derive(deepspeed)
    for part in said:
        assert part in str(refusal.value)


def test_hugging_face_style_auto_sections_pass():
    derived = derive(
        {
            "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
            "scheduler": {"type": "auto", "params": {"warmup_num_steps": "auto"}},
        }
    )
    assert "optimizer" not in derived and "scheduler" not in derived
    assert derive({"optimizer": {"type": "Adam"}}) == derive({"optimizer": {"type": "auto"}}) == derive({})


@pytest.mark.parametrize(
    ("deepspeed", "said"),
    [
        ({"optimizer": {"type": "Lamb"}}, 'deepspeed.optimizer.type is "Lamb", not AdamW. Remove deepspeed.optimizer'),
        ({"optimizer": {"type": "OneBitAdam", "params": {"lr": "auto"}}}, "the section optimizer has its settings"),
        ({"optimizer": {"type": None}}, "deepspeed.optimizer.type is null"),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, "adam_w_mode is false: that is Adam, not AdamW"),
        ({"scheduler": {"type": "WarmupDecayLR"}}, 'deepspeed.scheduler.type is "WarmupDecayLR"'),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}}}, "follows the section schedule"),
        ({"scheduler": {"type": "auto", "params": {"warmup_num_steps": 10}}}, "use the section schedule"),
    ],
)
def test_another_optimizer_or_schedule_is_not_dropped_in_silence(deepspeed, said):
    with pytest.raises(ConfigError) as refusal:
        derive(deepspeed)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("deepspeed", "precision"),
    [
        ({}, "fp32"),
        ({"bf16": {"enabled": True}}, "bf16"),
        ({"bfloat16": {"enabled": True}}, "bf16"),
        ({"fp16": {"enabled": True}}, "fp16"),
    ],
)
def test_precision(deepspeed, precision):
    assert ds_config.precision(derive(deepspeed, parallel={"zero_stage": 1})) == precision


def test_bf16_gradients_accumulate_in_fp32_unless_told():
    bf16 = {"bf16": {"enabled": True}}
    assert derive(bf16, parallel={"zero_stage": 1})["data_types"] == {"grad_accum_dtype": "fp32"}
    told = {**bf16, "data_types": {"grad_accum_dtype": "bf16"}}
    assert derive(told, parallel={"zero_stage": 1})["data_types"] == {"grad_accum_dtype": "bf16"}
