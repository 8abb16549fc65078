"""Scaled rotary positions: what is refused, how far they reach, and a trained model's configuration with longer windows."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
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
        (
            {"max_position_embeddings": 128, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "beta_fast": 3}},
            "Unrecognized keys.*beta_fast",
        ),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.5}}, "must be a float or int >= 1, got 0.5"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 'needs "original_max_position_embeddings"'),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128}},
            r"factor \(2.0\) in YaRN|does not match",
        ),
        ({"rope_parameters": "yarn"}, r'rope_parameters is "yarn", not an object'),
        ({"rope_parameters": {"rope_type": ["yarn"]}}, r'rope_type is \["yarn"\], not text'),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "truncate": "no"}}, 'truncate is "no", not true or false'),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": "x"}}, 'factor is "x", not a number'),
        ({"rope_theta": None}, "rope_theta is null, not a number"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta is 10000.0, but .* is 500000.0. Keep one"),
        ({"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_theta": 5e5}}, "both are given. Keep rope_param"),
        ({"rope_parameters": {**YARN, "mscale": 1.0}}, "mscale: nothing reads it without mscale_all_dim"),
        ({"rope_parameters": {**YARN, "attention_factor": -1.0}}, r"attention_factor .* greater than 0, got -1.0$"),
        ({"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 512}}, "must be less than max_position_embeddings"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "it would never scale.* at least 128 for these windows"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 4}},
            "would reach 4 times as far.* at least 128 for these windows",
        ),
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
    build.check_fits(config, 300, reach)
    with pytest.raises(build.ModelError, match=f"the model has {reach} positions"):
        build.check_fits(config, 300, reach + 1)
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
    build.check_fits(longer, 300, 512)
    build.Weights(tmp_path, build.skeleton(longer)).check(build.skeleton(longer))

    written = json.loads(json.dumps(longer.to_diff_dict()))  # as the run's effective configuration says it
    written.pop("transformers_version", None)
    assert load(written, 512, init_from=str(tmp_path)).to_dict() == longer.to_dict()
    with pytest.raises(ConfigError, match=r"max_position_embedings: .*max_position_embeddings"):
        load({"max_position_embedings": 512}, 512, init_from=str(tmp_path))
    with pytest.raises(ConfigError, match="model_type"):
        load({"max_position_embeddings": 512}, 512)


@pytest.mark.parametrize("kind", ["apertus", "cwm", "gpt_oss", "ministral3"])
def test_default_scaling_from_more_positions_says_what_works(kind):
    spec = {"model_type": kind, "vocab_size": "auto", "max_position_embeddings": "auto"}
    with pytest.raises(
        ConfigError, match=f'default of a "{kind}" model.* the 512 of this run.* write in model.config'
    ) as caught:
        load(spec)
    written = json.loads("{" + str(caught.value).partition("write in model.config: ")[2] + "}")
    config = load({**spec, **written})
    assert rope.positions(config) == 512
    if kind == "apertus":
        sizes = {key: LLAMA[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
        config = load({**spec, **written, **sizes, "num_key_value_heads": 4})
        model = build.skeleton(config)
        list(build.materialise(model, dict(build.chunks(model)), "cpu", torch.float32, seed=0))
        assert model(torch.zeros(1, 512, dtype=torch.int64)).logits.isfinite().all()


def longrope(original: int, **more) -> dict:
    return {
        "rope_type": "longrope",
        "short_factor": [1.0] * 8,
        "long_factor": [float(n) for n in range(1, 9)],
        "original_max_position_embeddings": original,
        **more,
    }


@given(st.sampled_from([64, 96, 128]), st.sampled_from([1.5, 2.0, 3.0, 4.0]), st.sampled_from([1.5, 2.0, 3.0, 4.0]))
def test_the_factor_is_the_ratio_of_window_and_trained_positions(original, factor, window):
    """For every type, in a run from the beginning, "auto" positions and a factor of their ratio, and no other."""
    length = int(original * window)

    def runs(parameters: dict, **positions) -> bool:
        try:
            build.check_fits(load({**LLAMA, **positions, "rope_parameters": parameters}, length), 300, length)
        except ValueError:
            return False
        return True

    scaled = {"factor": factor, "original_max_position_embeddings": original}
    assert runs({"rope_type": "yarn", **scaled}) == (factor == window)
    assert runs(longrope(original))
    assert runs(longrope(original, factor=factor)) == (factor >= window)
    assert runs({**LLAMA3, **scaled})
    for kind in ("linear", "dynamic"):
        assert not runs({"rope_type": kind, "factor": factor})
        assert runs({"rope_type": kind, "factor": factor}, max_position_embeddings=original) == (factor >= window)


@pytest.mark.parametrize(
    ("parameters", "trained_with", "length", "said"),
    [
        ({"rope_type": "default"}, 128, 512, None),  # longer windows without scaling
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512, 512, None),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
            512,
            1024,
            "embeddings is 512: leave it",
        ),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512, 256, "that go with 256"),
        ({"rope_type": "linear", "factor": 4.0}, 128, 512, "trained with: 128"),
        ({"rope_type": "dynamic", "factor": 4.0}, 128, 512, "trained with: 128"),
        (longrope(128), 512, 512, None),
        (
            longrope(128),
            512,
            1024,
            "is 1024, the trained model's 512: .* original positions, 8 in place of 4. .* [(]4: as trained",
        ),
        (longrope(128), 512, 256, "is 256, the trained model's 512: .* 2 in place of 4"),
        (longrope(128, factor=4.0), 512, 256, None),
        (longrope(128, factor=4.0), 512, 1024, "factor 4 takes 128 original positions to 512, .* Set factor to 8,"),
        (longrope(128, attention_factor=1.2), 512, 1024, None),
        ({**LLAMA3, "original_max_position_embeddings": 64}, 512, 256, None),
    ],
)
def test_trained_scaling_with_auto_positions(tmp_path, parameters, trained_with, length, said):
    trained = {**LLAMA, "max_position_embeddings": trained_with, "rope_parameters": parameters}
    load(trained, trained_with).save_pretrained(tmp_path)
    change = {"max_position_embeddings": "auto"}
    if said is None:
        changed = load(change, length, init_from=str(tmp_path))
        assert changed.rope_parameters == load(trained, trained_with).rope_parameters
        build.check_fits(changed, 300, length)
    else:
        with pytest.raises(ConfigError, match=said):
            load(change, length, init_from=str(tmp_path))
    kept = load({}, min(length, trained_with), init_from=str(tmp_path))  # what the messages say of shorter windows
    build.check_fits(kept, 300, min(length, trained_with))
