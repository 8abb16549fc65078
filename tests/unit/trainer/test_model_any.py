"""Causal language models beyond the three of the pipeline: ZeRO takes them as they are. FLOPs counted by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models import FAMILIES
from trainer import flops
from trainer.model import build

WIDTH, MLP, LAYERS, VOCABULARY, LENGTH = 64, 128, 4, 320, 32
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
OTHERS = {
    "opt": {**SIZES, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "qwen2": {**SIZES, "intermediate_size": 128, "num_key_value_heads": 2},
    "mixtral": {**SIZES, "intermediate_size": 128, "num_key_value_heads": 2, "num_local_experts": 4},
    "gemma3_text": {**SIZES, "intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 16},
    "apertus": {**SIZES, "intermediate_size": 128, "num_key_value_heads": 2},  # its activations' constants: by constructors
    "openai-gpt": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": "auto"},  # its projections likewise
}


def config_of(spec: dict, **changes):
    return build.load_config({**spec, "vocab_size": "auto", **changes}, vocab_size=300, eod_id=0, sequence_length=LENGTH)


def filled(config, dtype=torch.float32, attention="sdpa"):
    model = build.skeleton(config, attention)
    list(build.materialise(model, dict(build.chunks(model)), "cpu", dtype, 1))
    model.tie_weights()
    return model


@pytest.mark.parametrize("model_type", OTHERS)
def test_other_models_start_as_hugging_face_starts_them(model_type):
    config = config_of({"model_type": model_type, **OTHERS[model_type]})
    attention = "eager" if model_type == "openai-gpt" else "sdpa"
    model, theirs = filled(config, attention=attention), AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    expected = dict(theirs.named_parameters())
    assert {name: p.shape for name, p in model.named_parameters()} == {name: p.shape for name, p in expected.items()}
    for name, parameter in model.named_parameters():
        if parameter.numel() >= 2000:
            assert parameter.std().item() == pytest.approx(expected[name].std().item(), rel=0.15), name
        elif parameter.dim() == 1:
            assert torch.equal(parameter, expected[name]), name
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in theirs.named_buffers())
    theirs.load_state_dict(model.state_dict())
    tokens = torch.arange(2 * LENGTH).reshape(2, LENGTH)
    assert torch.equal(model.eval()(tokens, use_cache=False).logits, theirs.eval()(tokens, use_cache=False).logits)


def test_parameters_that_nobody_sets_are_refused(monkeypatch):
    config = config_of(FAMILIES["llama"])
    monkeypatch.setattr(type(build.skeleton(config)), "_init_weights", lambda model, module: None)
    with pytest.raises(build.ModelError, match=r"leaves 1 of 1 parameters of model.embed_tokens unset \(weight\)"):
        filled(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lower_precision_rounds_the_same_draw(family):
    config = config_of(FAMILIES[family])
    exact = dict(filled(config).named_parameters())
    for name, parameter in filled(config, torch.bfloat16).named_parameters():
        assert torch.equal(parameter, exact[name].bfloat16()), name


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("tied", [True, False])
def test_flops_of_models_with_biases_counted_by_hand(family, tied):
    """The position table and, with a head of its own, the embedding stay out; a tied table counts once, as the head."""
    mlp = 4 * WIDTH if family == "gpt2" else MLP
    block = WIDTH * 3 * WIDTH + 3 * WIDTH + WIDTH * WIDTH + WIDTH + 2 * WIDTH * mlp + mlp + WIDTH + 2 * 2 * WIDTH
    matmuls = LAYERS * block + 2 * WIDTH + VOCABULARY * WIDTH
    shape = build.shape(build.skeleton(config_of(FAMILIES[family], tie_word_embeddings=tied)), LENGTH)
    assert shape == flops.ModelShape(matmuls, LAYERS, WIDTH, LENGTH)
    assert flops.training_flops_per_token(shape) == 6 * matmuls + 12 * LAYERS * WIDTH * LENGTH


def test_attention_width_follows_a_head_dimension_of_its_own():
    spec = {**FAMILIES["llama"], "head_dim": 32}
    assert build.shape(build.skeleton(config_of(spec)), LENGTH).attention_width == 4 * 32


@pytest.mark.parametrize(("vocabulary", "padded"), [(1, 64), (63, 64), (64, 64), (65, 128), (50257, 50304)])
def test_an_auto_vocabulary_is_the_next_multiple_of_64(vocabulary, padded):
    spec = {**FAMILIES["llama"], "vocab_size": "auto"}
    assert build.load_config(spec, vocabulary, eod_id=0, sequence_length=8).vocab_size == padded
    assert build.load_config({**spec, "vocab_size": 77}, vocabulary, eod_id=0, sequence_length=8).vocab_size == 77


EXPERTS = {
    **SIZES, "model_type": "deepseek_v3", "intermediate_size": 64, "moe_intermediate_size": 32, "num_key_value_heads": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip


def test_trained_buffers_are_read_with_the_weights(tmp_path):
    config = config_of(EXPERTS)
    trained = filled(config)
    bias = trained.model.layers[1].mlp.gate.e_score_correction_bias
    bias.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
    trained.save_pretrained(tmp_path, save_original_format=False)
    model = build.skeleton(config)
    weights = build.Weights(tmp_path, model)
    weights.check(model)
    list(build.materialise(model, dict(build.chunks(model)), "cpu", torch.float32, 1, weights))
    assert torch.equal(model.model.layers[1].mlp.gate.e_score_correction_bias, bias)
    tokens = torch.arange(LENGTH)[None]
    assert torch.equal(model.eval()(tokens, use_cache=False).logits, trained.eval()(tokens, use_cache=False).logits)


def test_a_buffer_beside_the_blocks_does_not_make_one_chunk_of_them():
    config = config_of({"model_type": "gpt_bigcode", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": "auto"})
    names = [name for name, _ in build.chunks(build.skeleton(config))]
    assert "transformer.h.0" in names and "transformer.h.1" in names and "transformer" not in names


def test_a_key_that_a_model_reads_where_it_is_set():
    spec = {**SIZES, "model_type": "qwen3_moe", "num_key_value_heads": 2, "head_dim": 32}
    assert build.skeleton(config_of(spec)).model.layers[0].self_attn.q_proj.weight.shape == (128, 64)
    with pytest.raises(ValueError, match="head_dimm: unknown key"):
        config_of({**spec, "head_dimm": 32})


GEMMA4 = {
    **SIZES, "model_type": "gemma4_text", "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 16,
    "global_head_dim": 32, "layer_types": ["sliding_attention", "full_attention"], "hidden_size_per_layer_input": 8,
}  # fmt: skip


def test_layers_with_settings_of_their_own():
    config = config_of(GEMMA4, vocab_size_per_layer_input="auto")
    model = build.skeleton(config)
    build.check_fits(config, 300, LENGTH)
    assert [layer.self_attn.q_proj.weight.shape[0] for layer in model.model.layers] == [4 * 16, 4 * 32]
    assert build.shape(model, LENGTH).attention_width == (4 * 16 + 4 * 32) // 2
    assert config_of(config.to_diff_dict()).to_dict() == config.to_dict()  # as a run's effective configuration
    config = config_of({**GEMMA4, "per_layer_config": {"1": {"num_key_value_heads": 3}}})
    with pytest.raises(build.ModelError, match=r"4 heads \(num_attention_heads\), no multiple of its 3 key heads"):
        build.check_fits(config, 300, LENGTH)


def test_a_table_of_inputs_of_each_layers_own_that_is_too_small():
    config = config_of(GEMMA4, vocab_size_per_layer_input=299)
    with pytest.raises(build.ModelError, match=r"has 299. Set vocab_size_per_layer_input to at least 300"):
        build.check_fits(config, 300, LENGTH)
    build.check_fits(config_of(GEMMA4, vocab_size_per_layer_input=299, hidden_size_per_layer_input=0), 300, LENGTH)
