"""The proof, before anything is launched, that a row of layers computes what the stock model computes.

A small model of the same architecture (the configuration with few layers, a small width and vocabulary, and all else as it is)
is built on the CPU in float32; its row of layers must give the stock model's logits and gradients, with dropout drawn alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from trainer.model import build, layers, routing, wire
from trainer.model.families import refusal

TOLERANCE = 1e-5
"""Relative to the largest logit, and to each parameter's largest gradient."""
NOTHING = 1e-3
"""Of the largest gradient: smaller ones are compared with that much of it, as they may be rounding around 0."""
SHAPE = (2, 24)
"""Batch and window of the probe."""
LAYERS, MOST_LAYERS = 4, 12
"""Of a small model, where there are few kinds of layers, and many."""
LARGEST = 1 << 26
"""Parameters of a small model."""
SMALL = {
    "vocab_size": 96,
    "vocab_size_per_layer_input": 96,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 8,
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
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 4,
    "rotary_dim": 8,
    "linear_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "v_head_dim": 16,
    "n_groups": 1,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
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
OF_WIDTH = ("num_heads", "mamba_n_heads")
"""Heads of state-space layers, as many as the width has room for."""
HEADS = ("num_attention_heads", "num_key_value_heads")
WITHIN_HEADS = tuple(key for key in SMALL if key.endswith(("head_dim", "lora_rank", "rotary_dim")))
WIDTHS = ("hidden_size", "word_embed_proj_dim", *HEADS)
"""Sizes that some classes want in a certain ratio: where they refuse smaller ones, these stay, those of heads first."""


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
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.')}"


def small_model(config: PretrainedConfig, attention: str) -> PreTrainedModel:
    """A small model of the same architecture with random parameters, in training mode. Raises what its class raises."""
    return filled(build.skeleton(small_config(config, attention), attention))


def filled(model: PreTrainedModel) -> PreTrainedModel:
    """A skeleton with random parameters, float32 on the CPU, in training mode."""
    list(build.materialise(model, dict(build.chunks(model)), "cpu", torch.float32, seed=0))
    model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # none may be at a value, 0 or 1, that hides what is done with it
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.train()


def small_config(config: PretrainedConfig, attention: str = "sdpa") -> PretrainedConfig:
    """The configuration with fewer layers (each kind of them still there) and smaller sizes. Raises what its class raises."""
    first: Exception | None = None
    within = (*WITHIN_HEADS, *OF_WIDTH)
    for kept in (OF_WIDTH, within, WITHIN_HEADS, (*within, *WIDTHS)):
        try:
            small = _smaller(config, kept)
            model = build.skeleton(small, attention)
        except Exception as error:  # sizes that this class does not allow beside each other
            first = first or error
            continue
        if sum(p.numel() for p in model.parameters()) <= LARGEST:
            return small
    raise first or ValueError(f"with {LAYERS} layers, it still has more than {LARGEST:,} parameters")


def _smaller(config: PretrainedConfig, kept: tuple[str, ...]) -> PretrainedConfig:
    """A small configuration in which the sizes `kept` (common names) are as they were."""
    values, names = config.to_dict(), type(config).attribute_map
    sizes = {names.get(key, key): small for key, small in SMALL.items() if key not in kept}
    heads = () if HEADS[0] in kept else tuple(names.get(key, key) for key in HEADS)
    layers, shared = names.get("num_hidden_layers", "num_hidden_layers"), "num_kv_shared_layers"
    total = config.num_hidden_layers
    apart = {int(layer): own for layer, own in (values.pop("per_layer_config", None) or {}).items()}
    changes = _small_values(values, sizes, heads)
    if OF_WIDTH[0] not in kept:
        ratio = sizes["hidden_size"] / values["hidden_size"]
        changes |= {key: max(1, int(values[key] * ratio)) for key in OF_WIDTH if isinstance(values.get(key), int)}
    apart = {layer: _small_values(values | own, sizes, heads, own) for layer, own in apart.items()}
    lists = {
        key: changes.get(key, value)
        for key, value in values.items()
        if isinstance(value, (list, tuple)) and len(value) == total and key != "architectures"
    }
    last = total - (values.get(shared) or 0)
    kinds = [repr(([row[i] for row in lists.values()], apart.get(i), i >= last)) for i in range(total)]
    chosen = _chosen(kinds)
    changes |= {key: [row[i] for i in chosen] for key, row in lists.items()}
    changes[layers] = len(chosen)
    if shared in values:
        changes[shared] = sum(i >= last for i in chosen)
    if apart:
        changes["per_layer_config"] = {place: apart[i] for place, i in enumerate(chosen) if i in apart}
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        changes[key] = None if values.get(key) is None else 0
    return type(config).from_dict({**values, **changes})


def _small_values(
    values: dict[str, Any], sizes: dict[str, int], heads: tuple[str, ...], only: Collection[str] | None = None
) -> dict[str, Any]:
    """The smaller of these values, all or those of the keys `only`."""
    changes: dict[str, Any] = {}
    for key, small in sizes.items():
        value = values.get(key)
        if isinstance(value, list):
            changes[key] = [min(one, small) if isinstance(one, int) else one for one in value]
        elif isinstance(value, int) and not isinstance(value, bool) and value > small:
            changes[key] = small
    if heads and values.get(heads[0]):
        count, groups = values[heads[0]], values.get(heads[1])
        changes[heads[0]] = 4
        if groups:
            changes[heads[1]] = 4 if groups == count else max(1, min(2, groups))
    return changes if only is None else {key: changes.get(key, values[key]) for key in only}


def _chosen(kinds: list[str]) -> list[int]:
    """Layers that stand for all: the first of each kind, and the last of all."""
    first = sorted({kind: layer for layer, kind in reversed(list(enumerate(kinds)))}.values())[: MOST_LAYERS - 1]
    chosen = {*first, len(kinds) - 1}
    more = (layer for layer in itertools.cycle(range(len(kinds))) if layer not in chosen or len(chosen) == len(kinds))
    result = sorted(chosen)
    while len(result) < LAYERS:
        result.append(next(more))
    return sorted(result)


def compare(model: PreTrainedModel, row: list[layers.Layer]) -> tuple[float, float]:
    """Largest relative differences of the row from the stock model: of logits, and of parameters' gradients."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.vocab_size, SHAPE, generator=generator)
    direction, results = None, []
    for run in (_stock, _row):
        model.zero_grad()
        torch.manual_seed(2)
        logits, auxiliary = run(model, row, tokens)
        direction = torch.randn(logits.shape, generator=generator) if direction is None else direction
        ((logits * direction).mean() + auxiliary).backward()
        results.append((logits.detach(), dict(_gradients(model))))
    (logits, gradients), (other, others) = results
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    apart = [_apart(others[name], gradient, NOTHING * largest) for name, gradient in gradients.items()]
    if others.keys() != gradients.keys():
        apart.append(float("inf"))
    return _apart(other, logits), max(apart)


def _stock(model: PreTrainedModel, _row: list[layers.Layer], tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
    output = model(input_ids=tokens, use_cache=False)
    return output.logits, routing.auxiliary_loss(model, output) or 0.0


def _row(_model: PreTrainedModel, row: list[layers.Layer], tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
    *rest, head = row
    state: Any = tokens
    for layer in rest:  # each as if it were a stage of its own
        state = wire.Receiver().state(wire.sent(layer(state)))
    output = head.tied(rest[0], state) if head.stock.tied else head(state)
    return output if isinstance(output, tuple) else (output, 0.0)


def _gradients(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad.clone()


def _apart(value: torch.Tensor, reference: torch.Tensor, least: float = 1e-12) -> float:
    return ((value - reference).abs().max() / reference.abs().max().clamp(min=least)).item()
