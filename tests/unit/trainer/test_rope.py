"""Scaled rotary positions: what is refused, how far they reach, and a trained model's configuration with longer windows."""

from __future__ import annotations

import json

import pytest
import torch

from strict_json import ConfigError
from trainer.model import build, rope

LLAMA = {
    "model_type": "llama",
    "vocab_size": "auto",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": "auto",
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def load(spec: dict, length: int = 512, **options):
    return build.load_config(spec, vocab_size=300, eod_id=0, sequence_length=length, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "linear", "fcator": 4.0}}, r"rope_parameters.fcator: .*factor"),
        ({"rope_scaling": {"rope_typ": "linear", "factor": 4.0}}, r"rope_scaling.rope_typ: .*rope_type"),
        ({"rope_parameters": {"rope_type": "yarm", "factor": 4.0}}, r'no "yarm".*yarn'),
        ({"rope_parameters": {"rope_type": "linear"}}, "Missing required keys.*factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "beta_fast": 3}}, "Unrecognized keys.*beta_fast"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.5}}, "must be a float or int >= 1, got 0.5"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 'needs "original_max_position_embeddings"'),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128}},
            r"factor \(2.0\) in YaRN|does not match",
        ),
        ({"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 512}}, "must be less than max_position_embeddings"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "it would never scale"),
    ],
)
def test_mistakes_are_refused(changes, message):
    for _ in range(2):  # not once per process, as Hugging Face's own warnings
        with pytest.raises(ConfigError, match=message):
            load({**LLAMA, **changes})


@pytest.mark.parametrize(
    ("changes", "reach"),
    [
        ({}, 512),
        ({"rope_theta": 500_000.0}, 512),
        ({"max_position_embeddings": 128, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 512),
        ({"max_position_embeddings": 128, "rope_scaling": {"type": "dynamic", "factor": 2.5}}, 320),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}}, 512),
        (
            {
                "max_position_embeddings": 128,
                "rope_parameters": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 128},
            },
            512,
        ),
        ({"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64}}, 512),
    ],
)
def test_reach_of_the_positions(changes, reach):
    config = load({**LLAMA, **changes})
    assert rope.positions(config) == reach
    build.check_fits(config, 300, reach, 1)
    with pytest.raises(build.ModelError, match=f"the model has {reach} positions"):
        build.check_fits(config, 300, reach + 1, 1)
    assert build.skeleton(config).model.rotary_emb.rope_type == config.rope_parameters["rope_type"]


def test_models_without_rotary_positions_are_as_before():
    config = load({"model_type": "gpt2", "n_positions": "auto", "vocab_size": "auto"}, 64)
    assert rope.positions(config) == 64
    assert rope.positions(load({"model_type": "bloom", "vocab_size": "auto"})) is None


def test_layer_types_with_parameters_of_their_own():
    nested = {"sliding_attention": {"rope_type": "default"}, "full_attention": {"rope_type": "linear", "factor": 8.0}}
    config = load({"model_type": "gemma3_text", "max_position_embeddings": 512, "rope_parameters": nested})
    assert rope.positions(config) == 512
    nested["full_attention"]["factr"] = 1
    with pytest.raises(ConfigError, match=r"factr: .*factor"):
        load({"model_type": "gemma3_text", "rope_parameters": nested})


def test_a_trained_model_at_a_longer_window(tmp_path):
    """Only what is named changes; what scales keeps the trained base of the rotary angles."""
    trained = load({**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rms_norm_eps": 1e-3}, 128)
    model = build.skeleton(trained)
    list(build.materialise(model, dict(build.chunks(model)), "cpu", torch.float32, seed=0))
    model.save_pretrained(tmp_path)
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    longer = load({"max_position_embeddings": "auto", "rope_parameters": scaling}, 512, init_from=str(tmp_path))
    assert longer.rope_parameters == {**scaling, "rope_theta": 5e5}
    different = {key for key, value in longer.to_dict().items() if trained.to_dict().get(key) != value}
    assert different == {"max_position_embeddings", "rope_parameters"} | (different & {"architectures", "dtype", "use_cache"})
    build.check_fits(longer, 300, 512, 1)
    build.Weights(tmp_path, build.skeleton(longer)).check(build.skeleton(longer))

    written = json.loads(json.dumps(longer.to_diff_dict()))  # as the run's effective configuration says it
    written.pop("transformers_version", None)
    assert load(written, 512, init_from=str(tmp_path)).to_dict() == longer.to_dict()
    with pytest.raises(ConfigError, match=r"max_position_embedings: .*max_position_embeddings"):
        load({"max_position_embedings": 512}, 512, init_from=str(tmp_path))
    with pytest.raises(ConfigError, match="model_type"):
        load({"max_position_embeddings": 512}, 512)
