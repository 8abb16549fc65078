"""The proof, before anything is launched, that a row of layers computes what the stock model computes.

A small model of the same architecture (the configuration with few layers, a small width and vocabulary, and all else as it is)
is built on the CPU in float32; its row of layers must give the stock model's logits and gradients, with dropout drawn alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from trainer.model import build, layers, routing
from trainer.model.families import refusal

TOLERANCE = 1e-5
"""Relative to the largest logit, and to each parameter's largest gradient."""
SHAPE = (2, 24)
"""Batch and window of the probe."""
LAYERS = 4
SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "intermediate_size": 48,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "head_dim": 16,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "qk_head_dim": 32,
    "rotary_dim": 8,
    "linear_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "v_head_dim": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "sliding_window": 8,
    "max_position_embeddings": 128,
}
"""Values that a small model has, where the configuration has the key and a larger value."""


def check(config: PretrainedConfig, attention: str) -> None:
    """Raise UnsupportedModelError when the row of layers differs from the stock model, or cannot be compared with it."""
    kind = config.model_type
    try:
        model = small_model(config, "sdpa" if attention.startswith("flash") else attention)
    except Exception as error:  # whatever a stranger's model class raises
        raise refusal(kind, f"no small model of its kind could be built to prove it: {_told(error)}") from None
    row = layers.row(model)
    try:
        logits, gradients = compare(model, row)
    except Exception as error:
        raise refusal(kind, f"its forward pass does not survive being taken apart: {_told(error)}") from None
    if not (logits <= TOLERANCE and gradients <= TOLERANCE):
        raise refusal(
            kind,
            f"on a small model of its kind, stages give logits {logits:.1e} and gradients {gradients:.1e} (relative) away from "
            f"Hugging Face's own; {TOLERANCE:.0e} would be rounding",
        )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def small_model(config: PretrainedConfig, attention: str) -> PreTrainedModel:
    """A small model of the same architecture with random parameters, in training mode. Raises what its class raises."""
    model = build.skeleton(small_config(config), attention)
    list(build.materialise(model, dict(build.chunks(model)), "cpu", torch.float32, seed=0))
    model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # none may be at a value, 0 or 1, that hides what is done with it
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.train()


def small_config(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration with fewer layers (each kind of them still there) and smaller sizes."""
    values = config.to_dict()
    names = {key: type(config).attribute_map.get(key, key) for key in (*SMALL, *_HEADS, "num_hidden_layers")}
    total = config.num_hidden_layers
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, (list, tuple)) and len(value) == total and key != "architectures":
            changes[key] = _condensed(list(value))
    changes[names["num_hidden_layers"]] = LAYERS
    for key, small in SMALL.items():
        value = values.get(names[key])
        if isinstance(value, int) and not isinstance(value, bool) and value > small:
            changes[names[key]] = small
    heads, groups = (getattr(config, key, None) for key in _HEADS)
    if heads:
        changes[names["num_attention_heads"]] = 4
    if heads and groups and names["num_key_value_heads"] in values:
        changes[names["num_key_value_heads"]] = 4 if groups == heads else max(1, min(2, groups))
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = values.get(key)
        changes[key] = None if value is None else 0
    return type(config).from_dict({**values, **changes})


_HEADS = ("num_attention_heads", "num_key_value_heads")


def _condensed(values: list[Any]) -> list[Any]:
    """Per-layer values for fewer layers: each different one, then from the first on."""
    different: list[Any] = []
    for value in values:
        if value not in different:
            different.append(value)
    return list(itertools.islice(itertools.cycle(different), LAYERS))


def compare(model: PreTrainedModel, row: list[layers.Layer], positions: torch.Tensor | None = None) -> tuple[float, float]:
    """Largest relative differences of the row from the stock model: of logits, and of parameters' gradients."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.vocab_size, SHAPE, generator=generator)
    direction = torch.randn(*SHAPE, model.config.vocab_size, generator=generator)
    results = []
    for run in (_stock, _row):
        model.zero_grad()
        torch.manual_seed(2)
        logits, auxiliary = run(model, row, tokens)
        ((logits * direction).mean() + auxiliary).backward()
        results.append((logits.detach(), dict(_gradients(model))))
    (logits, gradients), (other, others) = results
    apart = [_apart(others[name], gradient) for name, gradient in gradients.items()]
    if others.keys() != gradients.keys():
        apart.append(float("inf"))
    return _apart(other, logits), max(apart)


def _stock(model: PreTrainedModel, _row: list[layers.Layer], tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
    output = model(input_ids=tokens, use_cache=False)
    return output.logits, routing.auxiliary_loss(model, output) or 0.0


def _row(_model: PreTrainedModel, row: list[layers.Layer], tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
    output = layers.run(row, tokens)
    return output if isinstance(output, tuple) else (output, 0.0)


def _gradients(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad.clone()


def _apart(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max().clamp(min=1e-12)).item()
