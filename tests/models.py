"""Tiny configurations of model families, and a run file around one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ROTARY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": "auto",
}

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": "auto",
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": "auto",
    },
    "llama": {**_ROTARY, "model_type": "llama"},
}

_LATENT = {  # DeepSeek's attention
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 8,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "pad_token_id": None,
}
_PER_LAYER = {  # inputs of each layer's own; the second half of the layers takes keys and values of the first
    "head_dim": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 8,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 512,
    "tie_word_embeddings": True,
}
_EXPERTS = {"num_experts_per_tok": 2, "output_router_logits": True, "router_aux_loss_coef": 0.1}
_SCALED = {**_ROTARY, "model_type": "llama", "max_position_embeddings": 8}  # windows are of 32 tokens

MORE_FAMILIES: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 4, "n_head": 4, "hidden_size": 64, "tie_word_embeddings": True},
    "cohere": {**_ROTARY, "logit_scale": 0.25, "tie_word_embeddings": True},
    "gemma": {**_ROTARY, "head_dim": 16, "tie_word_embeddings": True},
    "gemma2": {**_ROTARY, "head_dim": 16, "sliding_window": 8, "tie_word_embeddings": True},
    "gemma3_text": {
        **_ROTARY,
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "tie_word_embeddings": True,
    },
    "deepseek_v4": {
        **_ROTARY,
        **{
            key: value for key, value in _LATENT.items() if key.startswith(("index", "moe", "n_routed", "num", "pad", "q_lora"))
        },
        "head_dim": 32,
        "num_key_value_heads": 1,
        "sliding_window": 8,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "o_groups": 2,
        "o_lora_rank": 16,
    },
    "dots3_note_text": {**_ROTARY, **_LATENT},
    "falcon": {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "alibi": True},
    "gemma3n_text": {**_ROTARY, **_PER_LAYER, "laurel_rank": 8},
    "gemma4_text": {**_ROTARY, **_PER_LAYER, "global_head_dim": 32},
    "glm_moe_dsa": {**_ROTARY, **_LATENT, "indexer_types": ["full", "shared"] * 2},
    "gptj": {"n_embd": 64, "n_layer": 4, "n_head": 4, "rotary_dim": 8, "n_positions": "auto"},
    "granite": {**_ROTARY, "embedding_multiplier": 6.0, "logits_scaling": 4.0, "residual_multiplier": 0.5},
    "hy_v4": {**_ROTARY, **_LATENT},
    "llama-dynamic": {**_SCALED, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
    "llama-linear": {**_SCALED, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    "llama-llama3": {
        **_SCALED,
        "max_position_embeddings": "auto",
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        },
    },
    "llama-yarn": {
        **_SCALED,
        "max_position_embeddings": "auto",
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    },
    "mistral": {**_ROTARY, "sliding_window": 8},
    "mixtral": {**_ROTARY, **_EXPERTS, "num_local_experts": 4},
    "olmo2": _ROTARY,
    "opt": {
        "hidden_size": 64,
        "word_embed_proj_dim": 32,
        "ffn_dim": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": "auto",
        "dropout": 0.0,
        "activation_function": "gelu",  # at relu's kink, a rounding difference moves gradient norms by 1e-4
        "tie_word_embeddings": True,
    },
    "phi": _ROTARY,
    "qwen2": {**_ROTARY, "tie_word_embeddings": True},
    "qwen2_moe": {
        **_ROTARY,
        **_EXPERTS,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64,
        "mlp_only_layers": [0],
    },
    "qwen3": {**_ROTARY, "head_dim": 16},
}
"""Each with the traits of its kind: ALiBi, learned and rotary positions, scaled embeddings and logits, soft caps, sliding
windows, grouped queries, experts with an auxiliary loss, biases, tied and untied heads, scaled rotary positions."""
for _name, _config in MORE_FAMILIES.items():
    MORE_FAMILIES[_name] = {"model_type": _name, **_config}
EAGER = {"bloom", "deepseek_v4", "gemma2", "hy_v4", "xlm"}
"""Families without `sdpa`."""


def run_file(folder: Path, train: Path, validation: Path | None = None, **changes: Any) -> dict[str, Any]:
    """A run of 20 steps on a tiny Llama; `changes` replaces or merges sections."""
    config: dict[str, Any] = {
        "run": {"folder": str(folder), "seed": 1},
        "model": {"config": {**FAMILIES["llama"], "vocab_size": "auto", "tie_word_embeddings": True}},
        "data": {"train": str(train), "validation": str(validation) if validation else None, "sequence_length": 32},
        "batch": {"global_batch_tokens": 512, "micro_batch_size": 2},
        "parallel": {"zero_stage": 0},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"total_tokens": 20 * 512, "warmup_tokens": 1024},
        "evaluation": {"every_steps": 10},
        "checkpoint": {"every_steps": 10},
        "monitor": {"tensorboard": False},
    }
    for section, values in changes.items():
        config[section] = {**config.get(section, {}), **values}
    return config
