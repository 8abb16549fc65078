"""What stock code passes to its blocks beside hidden states, and which of its parts act before and after them: found by running
a stock forward pass without its blocks and its weights.

Masks and rotary embeddings follow from a window's shape, and every stage makes them itself. What follows from the tokens has to
travel to the blocks that take it: inputs of each layer's own (Gemma 3n), token ids (DeepSeek-V4's hashed routing), what an
earlier block gave beside hidden states (GLM-5's chosen keys), or wrote down for later ones (keys and values that layers share).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from trainer.model import stand_in
from trainer.model.stand_in import StandIn

TOKENS = "tokens"
"""Name of the token ids among what travels."""
WINDOWS = ((2, 7), (3, 5))
"""Batch and length of the two windows that are run: axes that differ in the same way are those."""
MOST_OUTPUTS = 3
"""Values that stock code may take from a block."""
Place = tuple[int | str, int | None]
"""Where a block takes a value: argument (number after the hidden states, or name), and leaf in it, None: the whole of it."""


class WiringError(ValueError):
    """The stock code does with its blocks what a row of layers cannot."""


class Call:
    """What stock code passes to one block."""

    def __init__(self, *arguments: Any, **options: Any):
        arguments = (options.pop("hidden_states"), *arguments) if "hidden_states" in options else arguments
        (self.hidden, *self.others), self.options = arguments, options

    def arguments(self) -> dict[int | str, Any]:
        """All but the hidden states, by number or name."""
        return {**dict(enumerate(self.others)), **self.options}

    def filled(self, values: dict[Place, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Arguments and options with other values in these places."""
        arguments = self.arguments()
        for (key, leaf), value in values.items():
            if leaf is None:
                arguments[key] = value
            else:
                leaves, form = pytree.tree_flatten(arguments[key])
                arguments[key] = pytree.tree_unflatten([*leaves[:leaf], value, *leaves[leaf + 1 :]], form)
        count = len(self.others)
        return [arguments[number] for number in range(count)], {key: arguments[key] for key in self.options}


class Reached(Exception):
    """Ends a stock forward pass where it calls a block."""

    def __init__(self, call: Call):
        super().__init__()
        self.call = call


@dataclass(frozen=True)
class Wiring:
    """How one architecture's blocks hang together. Names stand for values that travel."""

    outputs: int
    """Values that the stock code takes from a block as a tuple, hidden states first; 0: those alone, and no tuple."""
    axes: tuple[int, int]
    """Of the hidden states: batch and sequence."""
    takes: tuple[dict[Place, str], ...]
    """By block."""
    last: dict[str, int]
    """The last block that takes a value."""
    before: tuple[str, ...]
    after: tuple[str, ...]
    """The base module's parts with parameters that act before the blocks, and after them."""

    def window(self, hidden: torch.Tensor) -> tuple[int, int]:
        """Batch and length."""
        return hidden.shape[self.axes[0]], hidden.shape[self.axes[1]]

    def output(self, hidden: torch.Tensor, *others: Any) -> Any:
        """As a block returns it."""
        return (hidden, *others)[: self.outputs] if self.outputs else hidden

    def given(self, block: int) -> dict[Place, str]:
        """What the parts before the blocks make for one."""
        return {place: name for place, name in self.takes[block].items() if name.startswith("given")}

    def left(self, values: dict[str, Any], block: int) -> dict[str, Any]:
        """What later blocks than this one take."""
        return {name: value for name, value in values.items() if self.last.get(name, -1) > block}


def given_name(block: int, place: Place) -> str:
    """Name of what the parts before the blocks make for a block."""
    return f"given {block}.{place[0]}.{place[1]}"


def output_name(block: int, number: int) -> str:
    """Name of a block's output beside hidden states."""
    return f"output {block}.{number}"


def shared_name(key: int | str) -> str:
    """Name of what blocks write into the mapping that is this argument of all of them."""
    return f"shared {key}"


def ghost(module: nn.Module, called: Callable[[], None] = lambda: None) -> nn.Module:
    """A copy without memory that gives zeros of the shapes that `module` gives, on the device of what it is given."""
    result = copy.deepcopy(module).to("meta")
    for owner in result.modules():
        if any(True for _ in owner.parameters(recurse=False)):
            owner.forward = _zeros(owner.forward, called)
    return result


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether they are one tensor, or a view of the whole of it."""
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _zeros(forward: Callable[..., Any], called: Callable[[], None]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        called()
        given = [leaf for leaf in pytree.tree_leaves((arguments, options)) if isinstance(leaf, torch.Tensor)]
        on_meta = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach().to("meta"), (arguments, options))
        shapes = forward(*on_meta[0], **on_meta[1])
        return pytree.tree_map_only(torch.Tensor, lambda tensor: zeros(tensor.shape, tensor.dtype, given[0].device), shapes)

    return call


def zeros(shape: torch.Size | tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros that count as computed from parameters."""
    origin = torch.zeros((), dtype=dtype, device=device, requires_grad=dtype.is_floating_point)
    return origin.expand(shape).clone()


def children(base: nn.Module, *apart: str, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The base module's parts with parameters beside the modules of the names `apart`: children, but of a child that holds one
    of those its own children."""
    for name, child in base.named_children():
        name = prefix + name
        if any(one.startswith(f"{name}.") for one in apart):
            yield from children(child, *apart, prefix=f"{name}.")
        elif name not in apart and any(True for _ in child.parameters()):
            yield name, child


def survey(base: nn.Module, embedding: str, blocks: str) -> Wiring:
    """Run the forward pass of `base`, a skeleton will do, with stand-ins for the token embedding and the blocks of these names.

    Raises WiringError.
    """
    reasons: list[Exception] = []
    for outputs in range(MOST_OUTPUTS + 1):
        try:
            first, second = (_Survey(base, embedding, blocks, outputs, window) for window in WINDOWS)
        except Exception as error:  # whatever a stranger's forward pass raises on values of the wrong form
            reasons.append(error)
            continue
        return first.wiring(second)
    if known := [error for error in reasons if isinstance(error, WiringError)]:
        raise known[0]
    told = f"{type(reasons[0]).__name__}: {' '.join(str(reasons[0]).split())[:160]}"
    raise WiringError(f"its forward pass does not survive being taken apart ({told})")


class _Survey:
    """One run, with blocks that return `outputs` values."""

    def __init__(self, base: nn.Module, embedding: str, blocks: str, outputs: int, window: tuple[int, int]):
        self.outputs, self.shape = outputs, window
        self.calls: list[Call] = []
        self.hidden: list[torch.Tensor] = []
        self.marks: dict[int, str] = {}
        """Names of blocks' outputs, by the identity of what stands for them."""
        self.kept: list[Any] = []
        self.acting: dict[str, set[int]] = {}
        """Children that were called, with the numbers of blocks that had been before."""
        stock = list(base.get_submodule(blocks))
        held = [leaf for leaf in (*base.buffers(), *base.parameters()) if not leaf.is_meta]
        device = held[0].device if held else torch.device("cpu")
        table = base.get_submodule(embedding)
        with torch.enable_grad():
            self.tokens = torch.zeros(window, dtype=torch.int64, device=device)
            embedded = zeros((*window, table.weight.shape[1]), table.weight.dtype, device)
            ghosts = {name: ghost(child, self._noting(name)) for name, child in children(base, embedding, blocks)}
            stand_ins = [StandIn(block, self._block) for block in stock]
            replaced = {embedding: StandIn(table, lambda *_, **__: embedded), blocks: stand_ins, **ghosts}
            twin = stand_in.twin(base, replaced)
            twin.training = False
            self.result = twin(input_ids=self.tokens, use_cache=False).last_hidden_state
        self._check(len(stock))

    def _noting(self, name: str) -> Callable[[], None]:
        return lambda: self.acting.setdefault(name, set()).add(len(self.calls))

    def _block(self, *arguments: Any, **options: Any) -> Any:
        call = Call(*arguments, **options)
        if self.hidden and not _same(call.hidden, self.hidden[-1]):
            raise WiringError("its forward pass changes hidden states between blocks")
        hidden = zeros(call.hidden.shape, call.hidden.dtype, call.hidden.device)
        others = [torch.zeros(()) for _ in range(self.outputs - 1)]
        self.marks |= {id(mark): output_name(len(self.calls), number) for number, mark in enumerate(others, 1)}
        self.kept += others
        self.calls.append(call)
        self.hidden.append(hidden)
        return (hidden, *others) if self.outputs else hidden

    def _check(self, blocks: int) -> None:
        if len(self.calls) != blocks:
            raise WiringError(f"its forward pass calls {len(self.calls)} of its {blocks} blocks once each")
        between = sorted(name for name, counts in self.acting.items() if counts - {0, blocks} or len(counts) > 1)
        if between:
            raise WiringError(f"its {between[0]} acts between blocks")
        if tuple(self.result.shape[:2]) != self.shape:
            raise WiringError("its last hidden states have no axes of batch and sequence")

    def wiring(self, other: _Survey) -> Wiring:
        """What this run and one of another window tell."""
        shapes = [run.calls[0].hidden.shape for run in (self, other)]
        axes = [
            [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if sizes == (self.shape[i], other.shape[i])]
            for i in (0, 1)
        ]
        if any(len(found) != 1 for found in axes):
            raise WiringError(f"hidden states of shape {tuple(shapes[0])} do not tell batch from sequence")
        takes = tuple(self._taken())
        last = {name: block for block, places in enumerate(takes) for name in places.values()}
        acting = [tuple(name for name, counts in self.acting.items() if at in counts) for at in (0, len(self.calls))]
        return Wiring(self.outputs, (axes[0][0], axes[1][0]), takes, last, *acting)

    def _taken(self) -> Iterator[dict[Place, str]]:
        """What each block takes that does not follow from the window's shape."""
        names = {id(self.tokens): TOKENS, **self.marks}
        every = [call.arguments() for call in self.calls]
        shared = {
            key
            for key, value in every[0].items()
            if isinstance(value, Mapping) and not value and all(other.get(key) is value for other in every)
        }
        for block, arguments in enumerate(every):
            places: dict[Place, str] = {}
            for key, value in arguments.items():
                if key in shared:
                    places[key, None] = shared_name(key)
                    continue
                for number, leaf in enumerate(pytree.tree_leaves(value)):
                    if isinstance(leaf, torch.Tensor) and (id(leaf) in names or leaf.requires_grad):
                        places[key, number] = names.setdefault(id(leaf), given_name(block, (key, number)))
            yield places
