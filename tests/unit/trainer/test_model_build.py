"""Where parameters come from: the seed and the chunk's name, or a local folder; never from how the model is split."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from strict_json import ConfigError
from tests.models import FAMILIES
from trainer import flops
from trainer.model import build

VARIANTS = [(family, tied) for family in FAMILIES for tied in (True, False)]


def config_of(family: str, tied: bool = True, **changes):
    spec = {**FAMILIES[family], "vocab_size": "auto", "tie_word_embeddings": tied, **changes}
    return build.load_config(spec, vocab_size=300, eod_id=0, sequence_length=32)


def filled(config, names=None, seed=1, weights=None, dtype=torch.float32):
    model = build.skeleton(config)
    chunks = dict(build.chunks(model))
    wanted = {name: module for name, module in chunks.items() if names is None or name in names}
    list(build.materialise(model, wanted, "cpu", dtype, seed, weights))
    if names is None:
        model.tie_weights()
    return model


@pytest.mark.parametrize(("family", "tied"), VARIANTS)
def test_a_skeleton_takes_no_memory_and_filling_leaves_nothing_out(family, tied):
    config = config_of(family, tied)
    skeleton = build.skeleton(config)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert {buffer.device.type for buffer in skeleton.buffers()} <= {"cpu"}
    model = filled(config)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embedding) == tied


@pytest.mark.parametrize(("family", "tied"), VARIANTS)
def test_parameters_do_not_depend_on_the_split(family, tied):
    config = config_of(family, tied)
    whole = dict(filled(config).named_parameters())
    names = [name for name, _ in build.chunks(build.skeleton(config))]
    for part in (names[: len(names) // 2], names[len(names) // 2 :][::-1]):
        for name, parameter in filled(config, part).named_parameters():
            if parameter.device.type != "meta" and name in whole:
                assert torch.equal(parameter, whole[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_seeds_differ_and_the_distribution_is_hugging_faces(family):
    config = config_of(family, hidden_size=256) if family != "gpt2" else config_of(family, n_embd=256)
    one, two = (dict(filled(config, seed=seed).named_parameters()) for seed in (1, 2))
    theirs = dict(AutoModelForCausalLM.from_config(config).named_parameters())
    assert one.keys() == theirs.keys()
    for name, parameter in one.items():
        assert parameter.shape == theirs[name].shape
        if parameter.dim() >= 2:
            assert not torch.equal(parameter, two[name])
            assert parameter.std().item() == pytest.approx(theirs[name].std().item(), rel=0.05), name
        else:
            assert torch.equal(parameter, theirs[name]), name


@pytest.mark.parametrize(("family", "tied"), VARIANTS)
def test_weights_are_read_back_exactly(family, tied, tmp_path):
    config = config_of(family, tied)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()  # several files
    skeleton = build.skeleton(config)
    weights = build.Weights(tmp_path, skeleton)
    weights.check(skeleton)
    read = filled(config, weights=weights)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(read.named_parameters())[name]), name


def test_weights_of_a_base_model_or_with_a_hole_are_refused(tmp_path):
    config = config_of("llama", tied=False)
    AutoModelForCausalLM.from_config(config).model.save_pretrained(tmp_path)
    skeleton = build.skeleton(config)
    with pytest.raises(build.ModelError, match=r"1 of \d+ parameters are absent .*lm_head"):
        build.Weights(tmp_path, skeleton).check(skeleton)


def test_a_trained_head_is_not_dropped_for_the_embedding(tmp_path):
    model = AutoModelForCausalLM.from_config(config_of("llama", tied=False))
    model.save_pretrained(tmp_path)
    tied = build.skeleton(config_of("llama", tied=True))
    said = (
        r"holds 1 trained weights .* lm_head.weight would be dropped for model.embed_tokens.weight. Set \"tie_word_embeddings"
    )
    with pytest.raises(build.ModelError, match=said):
        build.Weights(tmp_path, tied).check(tied)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors")
    build.Weights(tmp_path, tied).check(tied)  # saved twice, but the same


def test_weights_that_nothing_reads_are_refused(tmp_path):
    AutoModelForCausalLM.from_config(config_of("llama", num_hidden_layers=3)).save_pretrained(tmp_path)
    fewer = build.skeleton(config_of("llama", num_hidden_layers=2))
    said = r"holds 9 of \d+ weights that nothing in the model of model.config reads \(model.layers.2\..*, \.\.\.\)"
    with pytest.raises(build.ModelError, match=said):
        build.Weights(tmp_path, fewer).check(fewer)


@pytest.mark.parametrize(
    ("family", "name", "value", "read"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(8), True),
        ("gpt2", "transformer.h.0.attn.bias", torch.ones(1, 1, 32, 32, dtype=torch.bool), True),
        ("gpt2", "h.1.attn.masked_bias", torch.tensor(-1e4), True),
        ("gpt_neox", "gpt_neox.layers.0.attention.masked_bias", torch.tensor(-1e9), True),
        ("llama", "model.layers.0.attention.bias", torch.ones(1, 1, 4, 4), True),
        ("llama", "model.layers.0.attention.bias", torch.ones(64), False),
        ("llama", "model.layers.0.self_attn.q_proj.bias", torch.ones(64), False),
        ("gpt2", "transformer.h.0.mlp.gate.weight", torch.ones(8, 8), False),
    ],
)
def test_what_older_releases_saved_beside_weights_is_passed_over(tmp_path, family, name, value, read):
    config = config_of(family)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {name: value}, tmp_path / "model.safetensors")
    skeleton = build.skeleton(config)
    if read:
        build.Weights(tmp_path, skeleton).check(skeleton)
    else:
        with pytest.raises(build.ModelError, match=f"holds 1 of {len(weights) + 1} weights that nothing .*{name}"):
            build.Weights(tmp_path, skeleton).check(skeleton)


def test_filling_keeps_buffers_in_fp32_and_parameters_in_the_runs_precision():
    model = filled(config_of("llama"), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model_type": "lama"}, 'Did you mean "llama"?'),
        ({"model_type": "llama", "hiden_size": 64}, 'Did you mean "hidden_size"?'),
        ({"hidden_size": 64}, '"model_type" is required'),
        ({"model_type": "llama", "hidden_size": "wide"}, "not a valid"),
    ],
)
def test_mistakes_in_a_model_configuration(spec, said):
    with pytest.raises(ConfigError) as refusal:
        build.load_config(spec, vocab_size=300, eod_id=0, sequence_length=32)
    assert said in str(refusal.value)


def test_auto_values_and_token_ids():
    config = build.load_config({**FAMILIES["llama"], "vocab_size": "auto"}, vocab_size=50257, eod_id=7, sequence_length=4096)
    assert (config.vocab_size, config.max_position_embeddings, config.eos_token_id) == (50304, 4096, 7)


def test_a_configuration_from_a_folder_or_file(tmp_path):
    config_of("gpt_neox").save_pretrained(tmp_path)
    for spec in (str(tmp_path), str(tmp_path / "config.json")):
        loaded = build.load_config(spec, vocab_size=300, eod_id=0, sequence_length=32)
        assert (loaded.model_type, loaded.hidden_size, loaded.vocab_size) == ("gpt_neox", 64, 320)
    with pytest.raises(build.ModelError, match="no usable model configuration"):
        build.load_config(str(tmp_path / "absent"), vocab_size=300, eod_id=0, sequence_length=32)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_of_a_llama_counted_by_hand(tied):
    width, mlp, layers, vocabulary, length = 64, 128, 4, 320, 32
    attention = width * width * 2 + 2 * width * (width // 2)  # q, o; k, v with half the heads
    norms = 2 * width
    matmuls = layers * (attention + 3 * width * mlp + norms) + width + vocabulary * width
    shape = build.shape(build.skeleton(config_of("llama", tied)), length)
    assert flops.training_flops_per_token(shape) == 6 * matmuls + 12 * layers * width * length


def test_peaks_by_device_name():
    assert flops.peak_flops("NVIDIA H100 80GB HBM3") == 989.4e12
    assert flops.peak_flops("NVIDIA H100 PCIe") == 756e12
    assert flops.peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert flops.peak_flops("NVIDIA L4") == 121e12
    assert [flops.peak_flops(name) for name in ("cpu", "NVIDIA L40", "NVIDIA RTX A4000")] == [None] * 3
    assert flops.mfu(1e4, 1e10, devices=2, peak=1e14) == 0.5


def test_an_attention_that_a_model_lacks_is_answered_with_one_that_it_has():
    with pytest.raises(build.ModelError, match=r'Set model.attention to "eager"'):
        build.skeleton(AutoConfig.for_model("bloom", n_layer=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_alone_are_compiled_and_keep_their_names(family):
    model = build.skeleton(config_of(family))
    names = list(model.state_dict())
    build.compile_blocks(model)
    compiled = [name for name, module in model.named_modules() if module._compiled_call_impl is not None]
    assert len(compiled) == model.config.num_hidden_layers and all(name.rpartition(".")[2].isdecimal() for name in compiled)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(("kind", "pad"), [("cohere", 0), ("olmo", 1)])
def test_the_token_that_a_default_configuration_pads_with_is_trained(kind, pad):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = filled(build.load_config({"model_type": kind, **sizes, "tie_word_embeddings": False}, 300, 0, 32))
    weight = model.get_input_embeddings().weight
    model(input_ids=torch.tensor([[pad, 5, pad, 7]])).logits.square().mean().backward()
    assert model.config.pad_token_id == pad and weight[pad].abs().max() > 0 and weight.grad[pad].abs().max() > 0
