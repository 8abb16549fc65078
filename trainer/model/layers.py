"""A Hugging Face causal LM as a row of layers: token embedding, what precedes the blocks, each block, what follows, head.

What a stock forward pass does around its blocks (masks, rotary embeddings, ALiBi, scalings, soft caps, which layer slides its
window) is not written again here: a layer runs the stock forward pass itself, with stand-ins for all parts but its own. A
block, for example, is called with the arguments that the stock code has for the block of its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from trainer.model import document_mask, recompute, routing, stand_in
from trainer.model.families import Anatomy, anatomy
from trainer.model.fused_loss import DeferredLogits
from trainer.model.stand_in import BaseOutput, StandIn

Carried = torch.Tensor | tuple[torch.Tensor, ...]
"""What goes from layer to layer: hidden states alone, or the tensors of `State` that there are."""


Output = torch.Tensor | tuple[torch.Tensor, torch.Tensor] | DeferredLogits
"""Of the last layer: logits, with experts also their auxiliary loss."""


class State(NamedTuple):
    """What travels along the row."""

    hidden: torch.Tensor
    """float [batch, sequence, width]; token ids, int64 [batch, sequence], before the embedding."""
    positions: torch.Tensor | None = None
    """int64 [batch, sequence], with document masks."""
    routing: torch.Tensor | None = None
    """float32 [2, experts], with an auxiliary loss of experts: see trainer.model.routing."""

    def pack(self) -> Carried:
        """As DeepSpeed sends it."""
        there = tuple(part for part in self if part is not None)
        return there if len(there) > 1 else there[0]


def unpack(carried: Carried) -> State:
    """Positions are the later tensor of integers, routing the one of floats."""
    if not isinstance(carried, tuple):
        return State(carried)
    hidden, *others = carried
    return State(hidden, **{"routing" if other.is_floating_point() else "positions": other for other in others})


class _Reached(Exception):
    """Ends a stock forward pass where it calls a block, with what it passes: hidden states and other arguments."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__()
        arguments = (options.pop("hidden_states"), *arguments) if "hidden_states" in options else arguments
        (self.hidden, *self.others), self.options = arguments, options


def _stop(*arguments: Any, **options: Any) -> None:
    raise _Reached(*arguments, **options)


class Stock:
    """The stock forward passes of one model, run in parts."""

    def __init__(self, model: PreTrainedModel):
        self.model, self.parts = model, anatomy(model)
        self.base = model.get_submodule(self.parts.base)
        self.blocks = list(model.get_submodule(self.parts.blocks))
        self.maskless = document_mask.maskless(model)
        self.tied = f"{self.parts.head}.weight" in model.all_tied_weights_keys
        self.experts = routing.Experts.of(model)
        self._last: tuple[Any, torch.Tensor | None, list[BlockCall]] | None = None

    def before(self, embedded: torch.Tensor, positions: torch.Tensor | None, training: bool) -> torch.Tensor:
        """What the first block receives, from embedded tokens."""
        try:
            self._run([StandIn(self.blocks[0], _stop), *self.blocks[1:]], embedded, positions, training, {})
        except _Reached as call:
            return call.hidden
        raise AssertionError("the stock forward pass calls no block")

    def calls(self, hidden: torch.Tensor, positions: torch.Tensor | None) -> list[BlockCall]:
        """What the stock code passes to each block beside hidden states, on whose shape it may depend, not on their values.

        As in the stock model, all blocks of a micro-batch share masks and rotary embeddings; without documents, so do all
        micro-batches of one shape.
        """
        key = (hidden.shape, hidden.dtype, hidden.device)
        if self._last is None or self._last[0] != key or self._last[1] is not positions:
            with torch.no_grad():
                self._last = key, positions, self._recorded(hidden.detach(), positions)
        return self._last[2]

    def _recorded(self, states: torch.Tensor, positions: torch.Tensor | None) -> list[BlockCall]:
        calls: list[BlockCall] = []

        def record(*arguments: Any, **options: Any) -> torch.Tensor:
            call = _Reached(*arguments, **options)
            calls.append(BlockCall(tuple(call.others), call.options))
            if len(calls) == len(self.blocks):
                raise call
            return states[None]  # see `after`

        try:
            self._run([StandIn(block, record) for block in self.blocks], states, positions, False, self._skipped(states))
        except _Reached:
            return calls
        raise AssertionError(f"the stock forward pass calls {len(calls)} of {len(self.blocks)} blocks")

    def after(self, hidden: torch.Tensor, positions: torch.Tensor | None, training: bool) -> torch.Tensor:
        """What the head receives, from the last block's output."""
        states = hidden.detach()
        # With a leading axis of one, it serves stock code that takes a block's output, as well as code that takes the first of
        # a block's outputs.
        *earlier, last = self.blocks
        blocks = [StandIn(block, lambda *_, **__: states[None]) for block in earlier]
        blocks.append(StandIn(last, lambda *_, **__: hidden[None]))
        output = self._run(blocks, states, positions, training, self._skipped(states))
        normed = output.last_hidden_state
        return normed[0] if normed.dim() > hidden.dim() else normed

    def logits(self, hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The whole model's logits, from what `after` gave, with `head` in the place of the stock head's matrix product."""
        parts, model = self.parts, self.model
        base = StandIn(self.base, lambda *_, **__: BaseOutput(hidden))
        twin = stand_in.twin(model, {parts.base: base, parts.head: StandIn(model.get_submodule(parts.head), head)})
        options = {"output_router_logits": False} if self.experts else {}
        return twin(inputs_embeds=hidden, use_cache=False, **options).logits

    def _run(
        self, blocks: list[Any], states: torch.Tensor, positions: torch.Tensor | None, training: bool, replaced: dict[str, Any]
    ) -> Any:
        twin = stand_in.twin(self.base, {self.parts.blocks[len(self.parts.base) + 1 :]: blocks, **replaced})
        twin.training = training
        options = {} if positions is None else document_mask.position_arguments(twin, positions)
        return twin(inputs_embeds=states, use_cache=False, **options)

    def _skipped(self, states: torch.Tensor) -> dict[str, Any]:
        """Stand-ins for the parts before the blocks that yield something of the right shape."""
        names = [name[len(self.parts.base) + 1 :] for name in self.parts.before]
        return {name: StandIn(self.base.get_submodule(name), lambda *_, **__: states) for name in names}


class BlockCall(NamedTuple):
    """What stock code passes to a block beside hidden states."""

    others: tuple[Any, ...]
    options: dict[str, Any]


class Layer(nn.Module):
    """One layer of the row around stock modules; `parts` maps its attribute names to Hugging Face names."""

    def __init__(self, stock: Stock, parts: dict[str, str]):
        super().__init__()
        self.stock, self.parts = stock, parts
        self.take_parts()

    def take_parts(self) -> None:
        """Hold the stock modules of these names, as they are now: a slice may have taken the place of one."""
        for attribute, name in self.parts.items():
            setattr(self, attribute, self.stock.model.get_submodule(name))

    def hugging_face_name(self, parameter: str) -> str:
        """Name in the stock model of one of this layer's parameters."""
        attribute, _, rest = parameter.partition(".")
        return f"{self.parts[attribute]}.{rest}"


class TokenEmbedding(Layer):
    """Token ids -> embedded tokens."""

    def forward(self, carried: Carried) -> Carried:
        state = unpack(carried)
        return state._replace(hidden=self.embedding(state.hidden)).pack()


class Before(Layer):
    """What the stock model does to embedded tokens: positions, scales, norms, dropout."""

    def forward(self, carried: Carried) -> Carried:
        state = unpack(carried)
        hidden = self.stock.before(state.hidden, state.positions, self.training)
        experts = self.stock.experts
        return State(hidden, state.positions, experts.nothing(hidden.device) if experts else None).pack()


class Block(Layer):
    """One transformer block."""

    def __init__(self, stock: Stock, parts: dict[str, str], index: int):
        super().__init__(stock, parts)
        self.index = index
        self.recompute: recompute.Recompute | None = None

    def forward(self, carried: Carried) -> Carried:
        state = unpack(carried)
        with self._documents(state.positions):
            call = self.stock.calls(state.hidden, state.positions)[self.index]
        if self.recompute and self.training:
            return State(*checkpoint(self._run, call, *state, use_reentrant=False, **self.recompute.options())).pack()
        return self._run(call, *state).pack()

    def _run(self, call: BlockCall, hidden: torch.Tensor, positions: torch.Tensor | None, routed: torch.Tensor | None) -> State:
        # here and not around the step: other micro-batches pass before this one's activations are recomputed
        with self._documents(positions), routing.observed(self.block, self.stock.experts) as gates:
            output = self.block(hidden, *call.others, **call.options)
        if gates:
            routed = self.stock.experts.add(routed, gates)
        return State(output[0] if isinstance(output, tuple) else output, positions, routed)

    @contextmanager
    def _documents(self, positions: torch.Tensor | None) -> Iterator[None]:
        if positions is None:
            yield
            return
        with document_mask.within(document_mask.documents_of(positions, self.stock.maskless)):
            yield


class After(Layer):
    """What follows the last block: norms, projections."""

    def forward(self, carried: Carried) -> Carried:
        state = unpack(carried)
        hidden = self.stock.after(state.hidden, state.positions, self.training)
        return State(hidden, None, state.routing).pack()


class Head(Layer):
    """Hidden states -> logits [batch, sequence, vocabulary], scaled and capped as the stock model does; with experts, also
    their auxiliary loss, a float32 scalar."""

    fused = False
    """Give DeferredLogits, for their loss alone, in place of logits."""

    def forward(self, carried: Carried) -> Output:
        return self._through(self.head, list(self.head.parameters()), carried)

    def tied(self, embedding: TokenEmbedding, carried: Carried) -> Output:
        """The same with the token embedding's weight."""
        weight = embedding.embedding.weight
        return self._through(lambda hidden: functional.linear(hidden, weight), [weight], carried)

    def _through(
        self, head: Callable[[torch.Tensor], torch.Tensor], parameters: list[nn.Parameter], carried: Carried
    ) -> Output:
        state = unpack(carried)
        experts, tokens = self.stock.experts, state.hidden.shape[:2].numel()
        auxiliary = None if state.routing is None else experts.loss(state.routing, tokens)
        if self.fused:
            vocabulary = self.stock.model.config.vocab_size
            return DeferredLogits(
                state.hidden, lambda some: self.stock.logits(some[None], head)[0], parameters, vocabulary, auxiliary
            )
        logits = self.stock.logits(state.hidden, head)
        return logits if auxiliary is None else (logits, auxiliary)


def row(model: PreTrainedModel) -> list[Layer]:
    """The model, or its skeleton, as a row of layers; the head of a tied model holds nothing and runs by `tied`.

    Raises UnsupportedModelError for an architecture whose parts are not known.
    """
    stock = Stock(model)
    parts: Anatomy = stock.parts
    shared = _shared(model, parts)
    layers: list[Layer] = [TokenEmbedding(stock, {"embedding": parts.token_embedding})]
    layers.append(Before(stock, {**_attributes(parts.before), **shared}))
    layers += [Block(stock, {"block": f"{parts.blocks}.{i}", **shared}, i) for i in range(len(stock.blocks))]
    layers.append(After(stock, {**_attributes(parts.after), **shared}))
    layers.append(Head(stock, {} if stock.tied else {"head": parts.head}))
    return layers


def run(layers: list[Layer], inputs: Carried) -> Output:
    """The whole row in one process."""
    *rest, head = layers
    for layer in rest:
        inputs = layer(inputs)
    return head.tied(rest[0], inputs) if head.stock.tied else head(inputs)


def _shared(model: PreTrainedModel, parts: Anatomy) -> dict[str, str]:
    """The base model's modules without parameters, which every layer has: rotary embeddings, for example."""
    own = {parts.token_embedding, parts.blocks, *parts.before, *parts.after}
    names = [f"{parts.base}.{name}" for name, _ in model.get_submodule(parts.base).named_children()]
    return _attributes(tuple(name for name in names if name not in own))


def _attributes(names: tuple[str, ...]) -> dict[str, str]:
    return {f"stock_{name.rpartition('.')[2]}": name for name in names}
