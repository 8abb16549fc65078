"""Stock forward passes with other callables in the places of some submodules, the model itself left as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class StandIn:
    """Takes a stock module's place in a forward pass: it has that one's attributes, and another call."""

    def __init__(self, stock: nn.Module, call: Callable[..., Any]):
        self._stock, self._call = stock, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._call(*arguments, **options)


class BaseOutput:
    """Output of a base model: the last hidden states, and None for whatever else is asked for."""

    def __init__(self, hidden: torch.Tensor):
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int | slice) -> Any:
        return (self.last_hidden_state,)[index]


def twin(module: nn.Module, replaced: dict[str, Any]) -> nn.Module:
    """A shallow copy of a module whose submodules of these dotted names are other callables; all else is shared."""
    result = copy.copy(module)
    inner: dict[str, dict[str, Any]] = {}
    for name, other in replaced.items():
        head, _, rest = name.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = other
        else:
            result.__dict__[name] = other  # found before the registered module of that name
    for head, others in inner.items():
        result.__dict__[head] = twin(getattr(module, head), others)
    return result
