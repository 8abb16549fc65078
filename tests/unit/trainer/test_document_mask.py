"""Document masks: a packed window gives what each of its documents gives alone, in stock models of many families."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from tests.models import FAMILIES
from trainer.model import build, document_mask, document_probe
from trainer.model.document_mask import DocumentMaskError, DocumentMasks, Documents
from trainer.model.loss import nll_sum

LENGTH = 32
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
MODELS = {
    "gpt2": FAMILIES["gpt2"],
    "gpt_neox": FAMILIES["gpt_neox"],
    "llama": FAMILIES["llama"],
    "mistral, window 5": {"model_type": "mistral", **GROUPED, "sliding_window": 5},
    "qwen2": {"model_type": "qwen2", **GROUPED},
    "qwen3": {"model_type": "qwen3", **GROUPED, "head_dim": 8},
    "gemma2, window 4": {"model_type": "gemma2", **GROUPED, "head_dim": 8, "sliding_window": 4},
    "gemma3_text, window 4": {
        "model_type": "gemma3_text", **GROUPED, "head_dim": 8, "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "olmo2": {"model_type": "olmo2", **GROUPED},
    "phi": {"model_type": "phi", **GROUPED},
    "phi3, window 6": {"model_type": "phi3", **GROUPED, "sliding_window": 6, "pad_token_id": 0},
    "stablelm": {"model_type": "stablelm", **GROUPED},
    "gptj": {"model_type": "gptj", "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "opt": {"model_type": "opt", **SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon, rotary": {"model_type": "falcon", **SIZES, "alibi": False, "new_decoder_architecture": False},
    "falcon, ALiBi": {"model_type": "falcon", **SIZES, "alibi": True, "multi_query": False, "parallel_attn": False},
    "mpt": {"model_type": "mpt", "d_model": 32, "n_heads": 4, "n_layers": 2},
    "codegen": {"model_type": "codegen", "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "gpt_neo, window 5": {
        "model_type": "gpt_neo", "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 5,
        "attention_types": [[["global", "local"], 1]],
    },
    "mixtral": {"model_type": "mixtral", **GROUPED, "num_local_experts": 4},
    "starcoder2, window 5": {"model_type": "starcoder2", **GROUPED, "sliding_window": 5},
    "cohere": {"model_type": "cohere", **GROUPED},
    "granite": {"model_type": "granite", **GROUPED},
    "gpt_bigcode": {"model_type": "gpt_bigcode", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
    "biogpt": {"model_type": "biogpt", **SIZES, "intermediate_size": 48},
    "xglm": {"model_type": "xglm", "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
    "ctrl": {"model_type": "ctrl", "n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48},
    "deepseek_v3": {
        "model_type": "deepseek_v3", **SIZES, "num_key_value_heads": 4, "intermediate_size": 48, "moe_intermediate_size": 16,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
    },
    "llama4_text, chunks of 6": {
        "model_type": "llama4_text", **GROUPED, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2,
        "attention_chunk_size": 6, "interleave_moe_layer_step": 2, "no_rope_layers": [1, 1], "pad_token_id": 0,
    },
    "gpt_oss, window 4": {"model_type": "gpt_oss", **GROUPED, "head_dim": 8, "sliding_window": 4, "num_local_experts": 4},
}  # fmt: skip
NO_SDPA = {"gemma2, window 4", "bloom", "mpt", "gpt_neo, window 5", "xglm", "gpt_oss, window 4"}
"""Hugging Face offers them no sdpa; the run file's model.attention must be eager."""
DENSE = {"falcon, rotary", "falcon, ALiBi"}
"""They have an sdpa of their own, which takes a mask."""
PAIRS = [(name, attention) for name in MODELS for attention in ("sdpa", "eager") if (name, attention) not in
         {(without, "sdpa") for without in NO_SDPA}]  # fmt: skip
ROWS = [[13, 1, 9, 9], [32], [3, 17, 12]]
"""Lengths of the documents of each window; the last one may be its padding."""


@pytest.fixture(autouse=True, scope="module")
def _installed():
    document_mask.install()


def built(name: str, attention: str, **changes) -> torch.nn.Module:
    """A tiny model without dropout, its parameters larger than fresh ones, so that what leaks would show."""
    spec = {**MODELS[name], "vocab_size": "auto", **changes}
    config = build.load_config(spec, vocab_size=64, eod_id=0, sequence_length=LENGTH)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
    for module in model.modules():
        for attribute, value in list(vars(module).items()):
            if isinstance(value, float) and ("dropout" in attribute or isinstance(module, torch.nn.Dropout)):
                setattr(module, attribute, 0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.size(-1) < 64 else 0.15))
    return model


def packed_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, positions), int64 [3, LENGTH]."""
    tokens = torch.from_numpy(np.random.default_rng(0).integers(1, 64, (len(ROWS), LENGTH)))
    return tokens, torch.stack([torch.cat([torch.arange(length) for length in row]) for row in ROWS])


def documents_alone() -> list[tuple[int, int, int]]:
    """(row, start, stop) of each document."""
    bounds = [np.cumsum([0, *row]) for row in ROWS]
    return [(row, int(a), int(b)) for row, ends in enumerate(bounds) for a, b in zip(ends, ends[1:], strict=False)]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    taken = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return taken


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("name", "attention"), PAIRS)
def test_packed_documents_are_as_if_alone(name, attention, recompute):
    model = built(name, attention)
    if recompute and not model.supports_gradient_checkpointing:
        pytest.skip("Hugging Face offers no activation checkpointing for it")
    tokens, positions = packed_rows()
    alone = torch.zeros(*tokens.shape, model.config.vocab_size)
    for row, start, stop in documents_alone():  # outside any context: stock Hugging Face
        logits = model(tokens[row : row + 1, start:stop], use_cache=False).logits
        alone[row, start:stop] = logits[0].detach()
        functional.cross_entropy(logits[0], tokens[row, start:stop], reduction="sum").backward()
    expected = gradients(model)
    if recompute:
        model.train()  # activations are recomputed in training alone; there is no dropout
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with DocumentMasks(model)(positions, torch.device("cpu")) as options:
        logits = model(tokens, use_cache=False, **options).logits
        functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum").backward()
    scale = alone.abs().max()
    assert scale > 0.1
    assert (logits - alone).abs().max() <= 1e-5 * max(1, scale)
    got = gradients(model)
    assert got.keys() == expected.keys()
    total = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for parameter, gradient in got.items():
        difference = (gradient - expected[parameter]).norm()
        assert difference <= 1e-4 * expected[parameter].norm() + 1e-6 * total, parameter  # some are 0 but for rounding
    with torch.no_grad():  # and the test can fail: without masks, documents see each other
        leaking = model.eval()(tokens, use_cache=False).logits
    assert (leaking - alone).abs().max() > 1e-2 * scale
