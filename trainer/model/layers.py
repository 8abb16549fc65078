"""A Hugging Face causal LM as a row of layers: token embedding, what precedes the blocks, each block, what follows, head.

What a stock forward pass does around its blocks (masks, rotary embeddings, ALiBi, scalings, soft caps, which layer slides its
window) is not written again here: a layer runs the stock forward pass itself, with stand-ins for all parts but its own. A
block, for example, is called with the arguments that the stock code has for the block of its number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from trainer.model import document_mask, recompute, routing, stand_in
from trainer.model.families import Anatomy, anatomy
from trainer.model.fused_loss import DeferredLogits
from trainer.model.sequence_parallel import SequenceParallel
from trainer.model.stand_in import BaseOutput, StandIn
from trainer.model.wiring import MOST_OUTPUTS, TOKENS, Call, Reached, ghost, output_name

Output = torch.Tensor | tuple[torch.Tensor, torch.Tensor] | DeferredLogits
"""Of the last layer: logits, with experts also their auxiliary loss."""


class State(NamedTuple):
    """What travels along the row."""

    hidden: torch.Tensor
    """float, [batch, sequence, width] in most architectures; token ids, int64 [batch, sequence], before the embedding."""
    positions: torch.Tensor | None = None
    """int64 [batch, sequence], with document masks; with parts of windows, those of whole windows."""
    routing: torch.Tensor | None = None
    """float32 [2, experts], with an auxiliary loss of experts: see trainer.model.routing."""
    others: Mapping[str, Any] = MappingProxyType({})
    """Whatever else later layers take, by the names of trainer.model.wiring: tensors, or mappings of tuples of them."""


Inputs = State | torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""Of the first layer: token ids, with document masks also positions."""


class Stock:
    """The stock forward passes of one model, run in parts."""

    def __init__(self, model: PreTrainedModel):
        self.model, self.parts = model, anatomy(model)
        self.wiring = self.parts.wiring
        self.base = model.get_submodule(self.parts.base)
        self.blocks = list(model.get_submodule(self.parts.blocks))
        self.maskless = document_mask.maskless(model)
        self.tied = f"{self.parts.head}.weight" in model.all_tied_weights_keys
        self.experts = routing.Experts.of(model)
        self._width = model.get_input_embeddings().weight.shape[1]
        self._ghosts = {self._inner(name): ghost(model.get_submodule(name)) for name in self.parts.before}
        self._dropouts = {name: one for name, one in self.base.named_children() if isinstance(one, nn.Dropout)}
        self._last: tuple[Any, torch.Tensor | None, list[Call]] | None = None
        self.sequence: SequenceParallel | None = None
        """Where each rank runs a part of every window."""

    def before(
        self, embedded: torch.Tensor, tokens: torch.Tensor, positions: torch.Tensor | None, training: bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What the first block receives, from embedded tokens, and what else the parts before the blocks make for any block."""
        given = [self.wiring.given(block) for block in range(len(self.blocks))]
        last = max((block for block, places in enumerate(given) if places), default=0)
        calls = self._calls_of(last + 1, lambda call: call.hidden, embedded, tokens, positions, training, {})
        values = {}
        for places, call in zip(given, calls, strict=False):
            arguments = call.arguments()
            values |= {name: pytree.tree_leaves(arguments[key])[leaf] for (key, leaf), name in places.items()}
        return calls[0].hidden, values

    def calls(self, hidden: torch.Tensor, positions: torch.Tensor | None) -> list[Call]:
        """What the stock code passes to each block, right in all that follows from the window's shape and its documents.

        As in the stock model, all blocks of a micro-batch share masks and rotary embeddings; without documents, so do all
        micro-batches of one shape.
        """
        key = (hidden.shape, hidden.dtype, hidden.device)
        if self._last is None or self._last[0] != key or self._last[1] is not positions:
            with torch.no_grad():
                states, inputs = hidden.detach(), self._inputs(hidden)
                replaced = self._ghosts | self._dropping(lambda: False)
                calls = self._calls_of(len(self.blocks), lambda _: states, *inputs, positions, False, replaced)
            self._last = key, positions, calls
        return self._last[2]

    def after(self, hidden: torch.Tensor, positions: torch.Tensor | None, training: bool) -> torch.Tensor:
        """What the head receives, from the last block's output."""
        left = list(self.blocks)

        def block(*_: Any, **__: Any) -> Any:
            del left[0]
            return self._output(hidden.detach() if left else hidden)

        replaced = self._ghosts | self._dropping(lambda: not left)
        blocks = [StandIn(one, block) for one in self.blocks]
        return self._run(blocks, *self._inputs(hidden), positions, training, replaced).last_hidden_state

    def logits(self, hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The whole model's logits, from what `after` gave, with `head` in the place of the stock head's matrix product."""
        parts, model = self.parts, self.model
        base = StandIn(self.base, lambda *_, **__: BaseOutput(hidden))
        twin = stand_in.twin(model, {parts.base: base, parts.head: StandIn(model.get_submodule(parts.head), head)})
        options = {"output_router_logits": False} if self.experts else {}
        return twin(inputs_embeds=hidden, use_cache=False, **options).logits

    def _calls_of(self, count: int, hidden: Callable[[Call], torch.Tensor], *run: Any) -> list[Call]:
        """The calls of the first `count` blocks, which give `hidden` of their call; `run`: arguments of `_run`."""
        calls: list[Call] = []

        def record(*arguments: Any, **options: Any) -> Any:
            calls.append(Call(*arguments, **options))
            if len(calls) == count:
                raise Reached(calls[-1])
            return self._output(hidden(calls[-1]))

        try:
            self._run([StandIn(block, record) for block in self.blocks], *run)
        except Reached:
            return calls
        raise AssertionError(f"the stock forward pass calls {len(calls)} of {len(self.blocks)} blocks")

    def _output(self, hidden: torch.Tensor) -> Any:
        return self.wiring.output(hidden, *[None] * MOST_OUTPUTS)

    def _inputs(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedded tokens and tokens of the right shapes."""
        window = self.wiring.window(hidden)
        return hidden.new_zeros((*window, self._width)), hidden.new_zeros(window, dtype=torch.int64)

    def _run(
        self,
        blocks: list[Any],
        embedded: torch.Tensor,
        tokens: torch.Tensor,
        positions: torch.Tensor | None,
        training: bool,
        replaced: dict[str, Any],
    ) -> Any:
        embedding = StandIn(self.model.get_input_embeddings(), lambda *_, **__: embedded)
        parts = {self._inner(self.parts.token_embedding): embedding, self._inner(self.parts.blocks): blocks}
        twin = stand_in.twin(self.base, {**parts, **replaced})
        twin.training = training
        if positions is not None and self.sequence:
            positions = self.sequence.part(positions)
        options = {} if positions is None else document_mask.position_arguments(twin, positions)
        return twin(input_ids=tokens, use_cache=False, **options)

    def _dropping(self, acts: Callable[[], bool]) -> dict[str, StandIn]:
        """Dropout modules that draw random numbers where they act, and there only."""

        def dropping(one: nn.Module) -> StandIn:
            return StandIn(one, lambda hidden: one(hidden) if acts() else hidden)

        return {name: dropping(one) for name, one in self._dropouts.items()}

    def _inner(self, name: str) -> str:
        """A part's name within the base module."""
        return name[len(self.parts.base) + 1 :]


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

    @contextmanager
    def _documents(self, positions: torch.Tensor | None) -> Iterator[None]:
        """Masks and attention within documents, and over whole windows, in a stock forward pass."""
        if positions is None:
            yield
            return
        sequence = self.stock.sequence
        within = sequence.within if sequence else document_mask.within
        with within(document_mask.documents_of(positions, self.stock.maskless or sequence is not None)):
            yield


class TokenEmbedding(Layer):
    """Token ids -> embedded tokens."""

    def forward(self, inputs: Inputs) -> State:
        tokens, positions, *_ = inputs if isinstance(inputs, tuple) else (inputs, None)
        return State(self.embedding(tokens), positions, others={TOKENS: tokens})


class Before(Layer):
    """What the stock model does to embedded tokens: positions, scales, norms, dropout."""

    def forward(self, state: State) -> State:
        tokens, experts = state.others[TOKENS], self.stock.experts
        with self._documents(state.positions):
            hidden, given = self.stock.before(state.hidden, tokens, state.positions, self.training)
        routed = experts.nothing(hidden.device) if experts else None
        return State(hidden, state.positions, routed, self.stock.wiring.left({TOKENS: tokens, **given}, -1))


class Block(Layer):
    """One transformer block."""

    def __init__(self, stock: Stock, parts: dict[str, str], index: int):
        super().__init__(stock, parts)
        self.index = index
        self.recompute: recompute.Recompute | None = None

    def forward(self, state: State) -> State:
        with self._documents(state.positions):
            call = self.stock.calls(state.hidden, state.positions)[self.index]
        if self.recompute and self.training:
            return checkpoint(self._run, call, *state, use_reentrant=False, **self.recompute.options())
        return self._run(call, *state)

    def _run(
        self,
        call: Call,
        hidden: torch.Tensor,
        positions: torch.Tensor | None,
        routed: torch.Tensor | None,
        others: Mapping[str, Any],
    ) -> State:
        wiring, index = self.stock.wiring, self.index
        taken = {place: others.get(name) for place, name in wiring.takes[index].items()}
        shared = {place: copy.copy(call.arguments()[place[0]]) for place in taken if place[1] is None}
        for place, empty in shared.items():  # not the one of other micro-batches, nor of a run before recomputing
            empty.update(taken[place] or {})
        arguments, options = call.filled(taken | shared)
        # here and not around the step: other micro-batches pass before this one's activations are recomputed
        with self._documents(positions), routing.observed(self.block, self.stock.experts) as gates:
            output = self.block(hidden, *arguments, **options)
        if gates:
            routed = self.stock.experts.add(routed, gates)
        first, *more = output if isinstance(output, (tuple, list)) else (output,)
        made = {output_name(index, number): value for number, value in enumerate(more, 1) if value is not None}
        made |= {wiring.takes[index][place]: dict(mapping) for place, mapping in shared.items() if mapping}
        return State(first, positions, routed, wiring.left({**others, **made}, index))


class After(Layer):
    """What follows the last block: norms, projections."""

    def forward(self, state: State) -> State:
        with self._documents(state.positions):
            return State(self.stock.after(state.hidden, state.positions, self.training), None, state.routing)


class Head(Layer):
    """Hidden states -> logits [batch, sequence, vocabulary], scaled and capped as the stock model does; with experts, also
    their auxiliary loss, a float32 scalar."""

    fused = False
    """Give DeferredLogits, for their loss alone, in place of logits."""

    def forward(self, state: State) -> Output:
        return self._through(self.head, list(self.head.parameters()), state)

    def tied(self, embedding: TokenEmbedding, state: State) -> Output:
        """The same with the token embedding's weight."""
        weight = embedding.embedding.weight
        return self._through(lambda hidden: functional.linear(hidden, weight), [weight], state)

    def _through(self, head: Callable[[torch.Tensor], torch.Tensor], parameters: list[nn.Parameter], state: State) -> Output:
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
    layers.append(Before(stock, {**_attributes(parts, parts.before), **shared}))
    layers += [Block(stock, {"block": f"{parts.blocks}.{i}", **shared}, i) for i in range(len(stock.blocks))]
    layers.append(After(stock, {**_attributes(parts, parts.after), **shared}))
    layers.append(Head(stock, {} if stock.tied else {"head": parts.head}))
    return layers


def run(layers: list[Layer], inputs: Inputs) -> Output:
    """The whole row in one process."""
    *rest, head = layers
    for layer in rest:
        inputs = layer(inputs)
    return head.tied(rest[0], inputs) if head.stock.tied else head(inputs)


def _shared(model: PreTrainedModel, parts: Anatomy) -> dict[str, str]:
    """The base model's modules without parameters, which every layer has: rotary embeddings, for example."""
    children = model.get_submodule(parts.base).named_children()
    names = [f"{parts.base}.{name}" for name, child in children if not any(True for _ in child.parameters())]
    return _attributes(parts, names)


def _attributes(parts: Anatomy, names: Iterable[str]) -> dict[str, str]:
    return {f"stock_{name[len(parts.base) + 1 :].replace('.', '_')}": name for name in names}
