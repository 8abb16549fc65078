"""Values that a model's constructor gives its parameters, which a model built without memory would lose.

Hugging Face's `_init_weights` is meant to set every parameter; for some architectures it leaves that to constructors (Apertus'
activations, GPT-1's projections). What no one set would start as whatever the memory held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

LARGEST = 1 << 16
"""Elements of the largest parameter whose value is kept: activations' constants and biases, no matrices."""
HUGE = 1 << 28
"""Elements from which on a parameter never has memory, as all experts of a layer together may be larger than a machine's."""
ATTRIBUTE = "constructed"


class _Unset(TorchFunctionMode):
    """Small tensors of torch.empty are NaN: they are not values that a constructor gave. Huge ones have no memory."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.empty and torch.empty(*args, **{**kwargs, "device": "meta"}).numel() > HUGE:
            kwargs = {**kwargs, "device": "meta"}
        made = function(*args, **kwargs)
        if function is torch.empty and made.is_floating_point() and made.numel() <= LARGEST:
            made.fill_(torch.nan)
        return made


@contextmanager
def remembered() -> Iterator[None]:
    """While a model is built, keep the values that its constructor registers as small parameters, with their modules."""
    before = nn.Module.register_parameter

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        before(module, name, parameter)
        if parameter is not None and not parameter.is_meta and parameter.numel() <= LARGEST:
            vars(module).setdefault(ATTRIBUTE, {})[name] = parameter.detach()

    nn.Module.register_parameter = register
    try:
        with _Unset():
            yield
    finally:
        nn.Module.register_parameter = before


def start(module: nn.Module, name: str, device: torch.device | str) -> torch.Tensor:
    """A parameter's value before its initialisation, float32 on `device`: its constructor's, or NaN where that is not known."""
    parameter = module.get_parameter(name)
    value = torch.full_like(parameter, torch.nan, device=device, dtype=torch.float32)
    constructed = vars(module).get(ATTRIBUTE, {}).get(name)
    if constructed is not None and constructed.shape == value.shape:
        value.copy_(constructed)
    return value


def unset(module: nn.Module) -> list[str]:
    """Names of parameters with values that nobody gave."""
    return [name for name, parameter in module.named_parameters() if bool(parameter.isnan().any())]
