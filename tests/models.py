"""Tiny configurations of the three model families, and a run file around one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    "llama": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": "auto",
    },
}


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
