"""Models and windows that cannot be cut into slices or parts are refused before anything starts, with numbers and ways out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.models import FAMILIES
from trainer.model import build, sequence_parallel, tensor_parallel
from trainer.model.sequence_parallel import SequenceParallelError
from trainer.model.tensor_parallel import TensorParallelError

SIZES = {"vocab_size": 320, "num_hidden_layers": 2}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}

GEMMA4 = {
    **TINY, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32, "sliding_window": 8,
    "vocab_size_per_layer_input": "auto", "hidden_size_per_layer_input": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
GEMMA3N = {key: value for key, value in GEMMA4.items() if key != "global_head_dim"} | {"num_kv_shared_layers": 0}


def skeleton(family: str = "llama", **changes: Any):
    known = FAMILIES.get(family, {"model_type": family})
    config = build.load_config({**known, **SIZES, "max_position_embeddings": 256, **changes}, 300, 0, 256)
    return build.skeleton(config)


def test_slices_of_whole_heads_pass():
    for family in ("llama", "gpt_neox"):
        tensor_parallel.check(skeleton(family), 2)
    tensor_parallel.check(skeleton("llama", tie_word_embeddings=True), 2, sequence=2)
    tensor_parallel.check(skeleton("qwen3", **TINY, num_key_value_heads=2, head_dim=16), 2)
    tensor_parallel.check(skeleton("gemma3n_text", **GEMMA3N), 2)
    tensor_parallel.check(skeleton("gemma4_text", **GEMMA4), 2)  # a plan for experts, which this one does not have


@pytest.mark.parametrize(
    ("family", "changes", "slices", "said"),
    [
        ("gpt2", {}, 2, 'a "gpt2" model: Hugging Face has no plan for it. Set parallel.tensor to 1 and parallel.zero_stage'),
        ("mixtral", {**TINY, "num_key_value_heads": 2, "num_local_experts": 2}, 2, "plan has moe_tp_experts, packed_colwise"),
        ("codegen", {"n_embd": 64, "n_head": 4, "rotary_dim": 8}, 2, "lie in one matrix, and not head by head"),
        ("phi", {**TINY, "qk_layernorm": True}, 2, "nothing of model.layers.0.self_attn.q_layernorm.weight, which"),
        ("gemma4_text", {**GEMMA4, "per_layer_config": {"1": {"num_key_value_heads": 1}}}, 2, "4 heads and 1 key heads cannot"),
        ("gemma3n_text", GEMMA3N | {"activation_sparsity_pattern": [0.95, 0.0]}, 2, "sparse activations (activation_sparsity"),
        ("diffllama", TINY, 2, "its plan leaves the blocks whole"),
        ("llama", {}, 4, "4 heads and 2 key heads cannot be cut into 4 slices of whole heads. Set parallel.tensor to one of 1"),
        ("llama", {"intermediate_size": 129}, 2, "model.layers.0.mlp.gate_proj has 129 outputs, which 2 slices do not divide"),
        ("llama", {"attention_dropout": 0.1}, 2, "attention_dropout is 0.1, and the slices draw the same dropout"),
        ("llama", {"vocab_size": 321}, 2, "lm_head has 321 outputs, which 2 slices do not divide"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_into_slices(family, changes, slices, said):
    with pytest.raises(TensorParallelError) as refusal:
        tensor_parallel.check(skeleton(family, **changes), slices)
    assert said in str(refusal.value) and f"parallel.tensor {slices}" in str(refusal.value)


def test_slices_whose_heads_the_parts_cannot_share():
    with pytest.raises(TensorParallelError, match=r"the 2 heads of a slice cannot be shared by parallel.sequence 4"):
        tensor_parallel.check(skeleton(), 2, sequence=4)


def test_styles_are_those_of_deepspeed():
    from deepspeed.module_inject.tp_plan_converter import SUPPORTED_STYLES

    assert SUPPORTED_STYLES == tensor_parallel.STYLES


def test_parts_of_windows_pass():
    for family in FAMILIES:
        sequence_parallel.check(skeleton(family), "sdpa", [128, 256], 4)
    mistral = skeleton("mistral", **TINY, num_key_value_heads=1, sliding_window=12)
    sequence_parallel.check(mistral, "flash_attention_2", [256], 4)


@pytest.mark.parametrize(
    ("family", "changes", "attention", "length", "parts", "said"),
    [
        ("llama", {}, "sdpa", 33, 2, "windows of 33 tokens cannot be cut into 2 equal parts. Set the length to 32 or 34"),
        ("llama", {}, "sdpa", 33, 2, "or sequence to one of 1, 3, 11, 33."),
        ("llama", {}, "sdpa", 256, 8, "4 attention heads cannot be shared by 8 ranks. Set parallel.sequence to one of 1, 2, 4"),
        ("llama", {}, "eager", 256, 2, 'model.attention "eager" cannot be called with a share of the heads. Set it to "sdpa"'),
        ("falcon", {"hidden_size": 64, "num_attention_heads": 4}, "sdpa", 256, 2, "does not go through Hugging Face's"),
        ("bloom", {"hidden_size": 64, "n_head": 4}, "eager", 256, 2, 'no "sdpa" attention for it'),
        ("mamba", {"hidden_size": 64}, "eager", 256, 2, "has no num_attention_heads"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "sdpa", 512, 2,
         'its rope_type "dynamic" turns by the largest position of a part, once that is over 256'),
        ("qwen3_moe", {**TINY, "num_key_value_heads": 2, "output_router_logits": True}, "sdpa", 256, 2, "auxiliary loss"),
    ],
)  # fmt: skip
def test_what_needs_whole_windows(family, changes, attention, length, parts, said):
    positions = {} if family in ("bloom", "mamba") else {"max_position_embeddings": 256}
    known = FAMILIES.get(family, {"model_type": family})
    config = build.load_config({**known, **SIZES, **positions, **changes}, 300, 0, 256)
    with pytest.raises(SequenceParallelError) as refusal:
        sequence_parallel.check(build.skeleton(config, attention), attention, [length], parts)
    assert said in str(refusal.value)


@pytest.mark.parametrize(("precision", "apart", "good"), [("fp32", 5e-6, True), ("fp32", 2e-5, False), ("bf16", 2e-5, True)])
def test_the_live_engine_must_give_a_window_in_parts_what_it_gives_it_whole(precision, apart, good):
    plan = SimpleNamespace(
        topology=SimpleNamespace(sequence=3), batch=SimpleNamespace(sequence_length=999), precision=precision,
        config=SimpleNamespace(run=SimpleNamespace(seed=1)), hf_config=SimpleNamespace(vocab_size=300, model_type="x"),
    )  # fmt: skip
    seen = []

    def nll(window, in_parts):
        seen.append(window)
        return 100.0 * (1 + apart * in_parts)

    if good:
        sequence_parallel.probe(nll, plan)
    else:
        with pytest.raises(
            SequenceParallelError, match=r"in parts \(100\.002\) than whole \(100\).*Set parallel.sequence to 1"
        ):
            sequence_parallel.probe(nll, plan)
    assert [tuple(window.inputs.shape) for window in seen] == [(1, 255)] * 2
