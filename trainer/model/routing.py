"""The auxiliary loss of mixture-of-experts models that keeps experts equally busy (Switch Transformer, arXiv 2101.03961).

As in Hugging Face's models, it is E x sum over the experts e of f_e P_e (equations 4 to 6 there): f_e the number of times that
e is among the chosen experts, P_e its mean routing probability, both per token of the micro-batch and layer with experts. As a
product of means over all layers, it cannot be added up by layer: in a pipeline the two sums travel with the hidden states, and
the gradient comes back with theirs.

It counts when the model's configuration says `output_router_logits`, times `router_aux_loss_coef`, as in Hugging Face's own
loss. A step's is the mean over its micro-batches on all data-parallel ranks, each by its own f and P; so it depends on which
windows share a micro-batch, and on no other split of the work. Reported losses are without it: pure cross-entropy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Experts:
    """A model's routers."""

    router: type[nn.Module]
    output: int
    """Which of a router's outputs Hugging Face takes for its logits."""
    layers: int
    """Layers with routers."""
    number: int
    chosen: int
    """Experts per token."""
    coefficient: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> Experts | None:
        """None where the model has no auxiliary loss, or its configuration leaves it out."""
        coefficient = _coefficient(model)
        recorder = (getattr(model, "_can_record_outputs", None) or {}).get("router_logits")
        if not getattr(model.config, "output_router_logits", False) or coefficient is None or recorder is None:
            return None
        kind = getattr(recorder, "target_class", recorder)
        layers = sum(isinstance(module, kind) for module in model.modules())
        number, chosen = (getattr(model, key, None) for key in ("num_experts", "num_experts_per_tok"))
        if not layers or number is None or chosen is None:
            return None
        return cls(kind, getattr(recorder, "index", 1), layers, number, chosen, coefficient)

    def nothing(self, device: torch.device) -> torch.Tensor:
        """The sums before the first layer, float32 [2, experts]; they require gradients so that every stage returns some."""
        return torch.zeros(2, self.number, device=device, requires_grad=torch.is_grad_enabled())

    def add(self, sums: torch.Tensor, gates: list[torch.Tensor]) -> torch.Tensor:
        """Add layers' choices and probabilities, from router logits [tokens, experts]."""
        for logits in gates:
            probabilities = logits.reshape(-1, self.number).softmax(dim=-1)
            chosen = probabilities.topk(self.chosen, dim=-1).indices
            counts = torch.zeros(self.number, device=logits.device)
            counts = counts.scatter_add(0, chosen.flatten(), torch.ones((), device=logits.device).expand(chosen.numel()))
            sums = sums + torch.stack([counts, probabilities.float().sum(dim=0)])
        return sums

    def loss(self, sums: torch.Tensor, tokens: int) -> torch.Tensor:
        """Times its coefficient, a float32 scalar, from the sums over all layers and a micro-batch's tokens."""
        times, probability = sums / (tokens * self.layers)
        return self.coefficient * self.number * (times.detach() * probability).sum()


@contextmanager
def observed(block: nn.Module, experts: Experts | None) -> Iterator[list[torch.Tensor]]:
    """Yields a list that the block's routers fill with their logits as they run."""
    gates: list[torch.Tensor] = []
    if experts is None:
        yield gates
        return

    def keep(_module: nn.Module, _arguments: tuple, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        gates.append(output[experts.output] if isinstance(output, tuple) else output)

    handles = [module.register_forward_hook(keep) for module in block.modules() if isinstance(module, experts.router)]
    try:
        yield gates
    finally:
        for handle in handles:
            handle.remove()


def without_value(loss: torch.Tensor) -> torch.Tensor:
    """0 that has the gradient of `loss`: added to a cross-entropy, it trains and is not reported."""
    return loss - loss.detach()


def auxiliary_loss(model: PreTrainedModel, output: Any) -> torch.Tensor | None:
    """Times its coefficient, from a whole Hugging Face model's output; None where it has none."""
    loss, coefficient = getattr(output, "aux_loss", None), _coefficient(model)
    return None if loss is None or coefficient is None else coefficient * loss


def _coefficient(model: PreTrainedModel) -> float | None:
    """As a model keeps it; JetMoE has a name of its own for it."""
    return getattr(model, "router_aux_loss_coef", getattr(model, "aux_loss_coef", None))
