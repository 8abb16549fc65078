"""What one stage sends is what the next one gets, bit by bit, and so are the gradients on the way back."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from trainer.model import wire
from trainer.model.layers import State


def sent_and_received(state: State, receiver: wire.Receiver) -> tuple[wire.Wire, wire.Wire, State]:
    """As DeepSpeed sends it: a copy, whose tensors of floating point require gradients."""
    sent = wire.sent(state)
    copies = pytree.tree_map(lambda tensor: tensor.detach().clone(), sent)
    for tensor in pytree.tree_leaves(copies):
        tensor.requires_grad = tensor.is_floating_point()
    return sent, copies, receiver.state(copies)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("experts", [3, 8, 60])
def test_everything_travels_bit_by_bit(dtype, experts):
    receiver = wire.Receiver()
    for window in ((2, 5), (2, 9)):  # of one stage, which reads a layout once
        keys, values = (torch.randn(2, 3, 4, window[1]).to(dtype).requires_grad_() for _ in range(2))
        others = {
            "tokens": torch.randint(2**40, window),
            "given 3.0": torch.randn(*window, 3).to(dtype).requires_grad_(),
            "output 1.1": torch.randint(7, (*window, 4), dtype=torch.int32),
            "shared 0": {"full": (keys, values), "sliding": (values,)},
        }
        hidden = torch.randn(4, *window, 16).to(dtype).requires_grad_()
        state = State(hidden, torch.arange(window[1]).repeat(2, 1), torch.randn(2, experts).requires_grad_(), others)
        sent, copies, got = sent_and_received(state, receiver)
        assert sum(tensor.is_floating_point() for tensor in sent) == 1
        before, form = pytree.tree_flatten(tuple(state))
        after, same = pytree.tree_flatten(tuple(got))
        assert form == same
        for one, other in zip(before, after, strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
        floats = [(one, other) for one, other in zip(before, after, strict=True) if one.is_floating_point()]
        gradients = [torch.randn_like(one) for one, _ in floats]
        torch.autograd.backward([other for _, other in floats], gradients)
        sent[0].backward(copies[0].grad)
        of_values = gradients[-2] + gradients[-1]  # they are there twice
        for (one, _), gradient in zip(floats, gradients, strict=True):
            assert torch.equal(one.grad, of_values if one is values else gradient)


@pytest.mark.parametrize("positions", [None, torch.arange(5).repeat(2, 1)])
def test_hidden_states_alone_travel_as_they_are(positions):
    hidden = torch.randn(2, 5, 16)
    sent, _, got = sent_and_received(State(hidden, positions), wire.Receiver())
    assert (sent if positions is None else sent[0]) is hidden
    assert torch.equal(got.hidden, hidden) and (got.positions is None) == (positions is None) and not got.others
