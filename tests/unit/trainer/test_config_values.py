"""Numbers that no model works with are refused by key and value, whatever the architecture calls them."""

from __future__ import annotations

import json
import math

import pytest
from transformers import AutoConfig

from strict_json import ConfigError
from tests.models import FAMILIES
from trainer.model import build, config_values


def load(values):
    return build.load_config(values, vocab_size=300, eod_id=0, sequence_length=32)


@pytest.mark.parametrize(
    ("model_type", "values", "said"),
    [
        ("llama", {"hidden_size": -32}, "model.config.hidden_size is -32, not at least 1"),
        ("llama", {"num_attention_heads": 0}, "model.config.num_attention_heads is 0, not at least 1"),
        ("gpt2", {"n_embd": 0}, "model.config.n_embd is 0, not at least 1"),
        ("gpt2", {"n_inner": -4}, "model.config.n_inner is -4, not at least 0"),
        ("llama", {"attention_dropout": 2}, "model.config.attention_dropout is 2, not a share of at least 0 and below 1"),
        ("gpt2", {"resid_pdrop": -0.1}, "model.config.resid_pdrop is -0.1, not a share"),
        ("opt", {"layerdrop": 1.0}, "model.config.layerdrop is 1.0, not a share"),
        ("llama", {"rope_theta": -1}, "model.config.rope_theta is -1, not above 0"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}},
            "rope_parameters.rope_theta is 0.0",
        ),
        (
            "phi",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.5}},
            "partial_rotary_factor is 1.5, not a share",
        ),
        ("llama", {"rms_norm_eps": -1e-6}, "model.config.rms_norm_eps is -1e-06, not at least 0"),
        ("llama", {"initializer_range": -0.02}, "model.config.initializer_range is -0.02, not at least 0"),
        ("mixtral", {"num_local_experts": -8}, "model.config.num_local_experts is -8, not at least 0"),
    ],
)
def test_numbers_out_of_range(model_type, values, said):
    with pytest.raises(ConfigError) as refused:
        load({"model_type": model_type, **values})
    assert said in str(refused.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError, match=r"(?s)hidden_size is -1.*attention_dropout is 1"):
        load({"model_type": "llama", "hidden_size": -1, "attention_dropout": 1})


def test_files_are_looked_at_too(tmp_path):
    config = AutoConfig.for_model(**FAMILIES["llama"] | {"max_position_embeddings": 32})
    config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attention_dropout": 2.0}))
    for spec in (tmp_path, file):
        with pytest.raises(ConfigError, match=r"config\.json\.attention_dropout is 2\.0, not a share"):
            load(str(spec))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_no_finite_number(value):
    with pytest.raises(ConfigError, match="not a finite number"):
        config_values.check({"rope_theta": value}, AutoConfig.for_model("llama"), "model.config")


@pytest.mark.parametrize(
    "model_type", ["llama", "gpt2", "opt", "mixtral", "deepseek_v3", "qwen2_moe", "gemma3_text", "phi4_multimodal"]
)
def test_a_classes_own_values_and_none_pass(model_type):
    defaults = AutoConfig.for_model(model_type)
    config_values.check(defaults.to_dict(), defaults, "model.config")
    zeros = {
        "sliding_window": 0,
        "n_shared_experts": 0,
        "num_nextn_predict_layers": 0,
        "attention_dropout": 0.0,
        "pad_token_id": -1,
    }
    config_values.check(zeros, defaults, "model.config")
