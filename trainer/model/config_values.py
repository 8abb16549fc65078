"""Numbers of a Hugging Face configuration that no model can be built or trained with. Configuration classes take any; what is
wrong would show as an error deep in a constructor or the first step, or as a loss of nan.

The rules go by the kind of a number, as its name tells it, for every architecture.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig

from strict_json import ConfigError

POSITIVE_SIZES = {
    "hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "head_dim", "intermediate_size",
    "vocab_size", "max_position_embeddings",
}  # fmt: skip
"""Sizes, by their common names (`attribute_map`), that no architecture does without by saying 0."""
SIZE = re.compile(
    r"(^|_)(size|dim|rank|heads|layers|positions|embeddings|inner|embd|head|layer|ctx|experts|groups|window)$|^num_|^d_(model|ff|kv)$"
)
DROPOUT = re.compile(r"drop(out)?(_|$)|pdrop$|dropout|layerdrop")
BASE = re.compile(r"theta$|^rotary_emb_base$|rope.*base")
SPREAD = re.compile(r"(^|_)(eps|epsilon|std|initializer_range)$|eps(ilon)?$|^initializer_range$")
SHARE = re.compile(r"^rotary_pct$|^partial_rotary_factor$")


def check(values: dict[str, Any], defaults: PretrainedConfig, origin: str) -> None:
    """Raise ConfigError listing numbers out of range among a configuration's keys, at any depth.

    defaults: of the same class: what it says itself (-1 for "none", say) is right.
    """
    common = {own: name for name, own in type(defaults).attribute_map.items()}
    usual = dict(_numbers(defaults.to_dict()))
    mistakes = []
    for dotted, value in _numbers(values):
        key = dotted.rpartition(".")[2]
        allowed = _allowed(common.get(key, key), value)
        if allowed and value != usual.get(dotted):
            mistakes.append(f"{origin}.{dotted} is {json.dumps(value)}, not {allowed}.")
    if mistakes:
        raise ConfigError("\n  ".join(["numbers that no model works with:", *mistakes] if len(mistakes) > 1 else mistakes))


def of_layers(config: PretrainedConfig, key: str, default: Any = None) -> list[Any]:
    """A key's value in each layer, where layers have values of their own (`per_layer_config`); elsewhere the one for all."""
    if not config.is_heterogeneous:
        return [getattr(config, key, default)]
    return [getattr(layer, key, default) for layer in config.per_layer_config]


def _allowed(key: str, value: float) -> str | None:
    """What a number of this name may be, where `value` is something else."""
    if not math.isfinite(value):
        return "a finite number"
    if key in POSITIVE_SIZES and value < 1:
        return "at least 1"
    if DROPOUT.search(key):
        return None if 0 <= value < 1 else "a share of at least 0 and below 1"
    if SHARE.search(key):
        return None if 0 < value <= 1 else "a share above 0 and up to 1"
    if BASE.search(key):
        return None if value > 0 else "above 0"
    if (SPREAD.search(key) or SIZE.search(key)) and value < 0:
        return "at least 0"
    return None


def _numbers(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{key}", value
