"""What a pipeline stage sends to the next one: hidden states and whatever else travels, as few tensors.

DeepSpeed sends a tensor, or a tuple of them, and runs a stage's backward pass once for each of floating point that it sent. So
all of these become one, bit by bit; all integers become another; and a third says which is which.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch.nn import functional
from torch.utils import _pytree as pytree

from trainer.model.layers import State

Wire = torch.Tensor | tuple[torch.Tensor, ...]
"""Hidden states alone; with document masks (hidden states, positions); or (all floats, layout, all integers)."""
LAYOUT = torch.uint8
"""Type that only the layout has: JSON of what travels, its shapes and types."""


def sent(state: State) -> Wire:
    """A state as DeepSpeed sends it."""
    if state.routing is None and not state.others:
        return state.hidden if state.positions is None else (state.hidden, state.positions)
    parts = {name: part for name, part in state._asdict().items() if part is not None}
    leaves, tree = pytree.tree_flatten(parts | {"others": dict(state.others)})
    floats = [leaf for leaf in leaves if leaf.is_floating_point()]
    integers = [leaf.reshape(-1).to(torch.int64) for leaf in leaves if not leaf.is_floating_point()]
    dtype = min((leaf.dtype for leaf in floats), key=lambda dtype: dtype.itemsize)
    bits = torch.cat([_Bits.apply(leaf.reshape(-1), dtype) for leaf in floats])
    *axes, _ = state.hidden.shape  # so that the wire's shape tells those of all that it holds, which follow from the window
    rows = state.hidden.shape[:-1].numel()
    wire = functional.pad(bits, (0, -bits.numel() % rows)).view(*axes, -1)
    shapes = [[list(leaf.shape), str(leaf.dtype).removeprefix("torch.")] for leaf in leaves]
    layout = _bytes(json.dumps({"tree": pytree.treespec_dumps(tree), "leaves": shapes}), wire.device)
    return (wire, layout, torch.cat(integers)) if integers else (wire, layout)


@functools.lru_cache(maxsize=4)
def _bytes(layout: str, device: torch.device) -> torch.Tensor:
    return torch.tensor(list(layout.encode()), dtype=LAYOUT, device=device)


class Receiver:
    """The other end of one stage's `sent`."""

    def __init__(self) -> None:
        self._layouts: dict[Any, dict[str, Any]] = {}
        """By shapes: reading one makes a GPU wait."""

    def state(self, wire: Wire) -> State:
        """The state that was sent."""
        if isinstance(wire, torch.Tensor):
            return State(wire)
        if wire[1].dtype != LAYOUT:
            return State(*wire)
        layout = self._layout(wire)
        kinds = [(torch.Size(shape), getattr(torch, dtype)) for shape, dtype in layout["leaves"]]
        floats = iter(_floats(wire[0], [kind for kind in kinds if kind[1].is_floating_point]))
        others = [kind for kind in kinds if not kind[1].is_floating_point]
        numbers = wire[2].split([shape.numel() for shape, _ in others]) if others else ()
        integers = iter([part.view(shape).to(dtype) for part, (shape, dtype) in zip(numbers, others, strict=True)])
        leaves = [next(floats if dtype.is_floating_point else integers) for _, dtype in kinds]
        return State(**pytree.tree_unflatten(leaves, pytree.treespec_loads(layout["tree"])))

    def _layout(self, wire: tuple[torch.Tensor, ...]) -> dict[str, Any]:
        key = tuple(tensor.shape for tensor in wire)
        if key not in self._layouts:
            self._layouts[key] = json.loads(bytes(wire[1].tolist()))
        return self._layouts[key]


def _floats(wire: torch.Tensor, kinds: list[tuple[torch.Size, torch.dtype]]) -> list[torch.Tensor]:
    sizes = [shape.numel() * dtype.itemsize // wire.element_size() for shape, dtype in kinds]
    # split, whose gradient is joined again: that of slices is added up, and sums don't keep bits
    *parts, _ = wire.reshape(-1).split([*sizes, wire.numel() - sum(sizes)])
    return [_Bits.apply(part, dtype).view(shape) for part, (shape, dtype) in zip(parts, kinds, strict=True)]


class _Bits(torch.autograd.Function):
    """The same bits as another floating-point type, in the gradient, too."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        context.dtype = values.dtype
        return values.contiguous().view(dtype)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient.contiguous().view(context.dtype), None
