"""What keeps numbers that are not finite out of weights and moments, and out of checkpoints.

A step whose gradient norm is not finite changes nothing: on all ranks alike it is skipped and counted, its batch is consumed,
and the schedule goes on. DeepSpeed (0.19.8) does so with ZeRO, in bf16 and in fp16; `SkippingAdamW` in fp32 without ZeRO.
A loss that is not finite gets a gradient that is not (`unless_finite`): an infinite loss may have a finite one, and a
pipeline's loss is known on its last stage alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import distributed as dist

_AT_ONCE = 1 << 24
"""Numbers that are looked at in one piece, so that the check of a large tensor needs little memory."""


def unless_finite(weight: torch.Tensor, *losses: torch.Tensor | None) -> torch.Tensor:
    """`weight`, a float scalar, to the last bit; NaN if one of the scalar `losses` is not finite. No rank waits for it."""
    for loss in losses:
        if loss is not None:
            weight = weight + 0 * loss.detach()  # 0 times infinity is NaN
    return weight


def forget_gradients(optimizer: Any) -> None:
    """Drop what a skipped step leaves of its gradients. DeepSpeed (0.19.8) keeps them in ZeRO-1 and 2 with an optimizer on the
    CPU: in bf16 the next step's are added to them, so that after one NaN every step would be skipped."""
    if getattr(optimizer, "cpu_offload", False):
        for gradients in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
            gradients.update(dict.fromkeys(gradients))


class SkippingAdamW(torch.optim.AdamW):
    """AdamW that takes no step from gradients that are not finite; DeepSpeed counts the steps that it skips."""

    overflow = False
    """Whether the last step was skipped: DeepSpeed's name, which it asks every optimizer for."""
    gradient_norm: Callable[[], torch.Tensor] | None = None
    """The global norm (float32 []) of the gradients that the step is to take, the same on all ranks; set by the engine."""

    def step(self, closure: Any = None) -> Any:
        """One step, or none."""
        self.overflow = self.gradient_norm is not None and not bool(self.gradient_norm().isfinite())
        return None if self.overflow else super().step(closure)


def weights_are_finite(engine: Any) -> bool:
    """Whether all weights and optimizer states in the memory of all ranks are finite; what lies on disks alone is not seen.
    To be called by all ranks at one time; `engine` is DeepSpeed's."""
    wrong = torch.zeros((), device=engine.device)
    for tensor in _held(engine):
        for piece in tensor.detach().reshape(-1).split(_AT_ONCE):
            wrong += (~piece.isfinite()).any().to(wrong)
    dist.all_reduce(wrong)
    return wrong.item() == 0


def _held(engine: Any) -> Iterator[torch.Tensor]:
    """This rank's weights, as trained and as the optimizer keeps them, and its moments."""
    for parameter in engine.module.parameters():
        yield getattr(parameter, "ds_tensor", parameter)
    optimizer = engine.basic_optimizer
    for group in optimizer.param_groups:
        yield from group["params"]
    for state in optimizer.state.values():
        yield from (value for value in state.values() if torch.is_tensor(value) and value.is_floating_point())
