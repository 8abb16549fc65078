"""AdamW over two parameter groups: matrices and embeddings decay, biases and norm gains do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trainer.config import OptimizerSection


def parameter_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Group trainable parameters by whether they decay; a parameter that ZeRO-3 has sharded counts with its full shape."""
    decaying, other = [], []
    for _, parameter in named_parameters:
        if parameter.requires_grad:
            full_shape = getattr(parameter, "ds_shape", parameter.shape)
            (decaying if len(full_shape) >= 2 else other).append(parameter)
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": other, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(
    groups: list[dict[str, Any]], section: OptimizerSection, kind: type[torch.optim.AdamW] = torch.optim.AdamW
) -> torch.optim.AdamW:
    """The optimizer, at a learning rate of 0 until the loop sets that of its first step."""
    fused = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return kind(groups, lr=0.0, betas=section.betas, eps=section.eps, fused=fused or None)


def conform(optimizer: torch.optim.Optimizer) -> None:
    """Settings and counts of loaded states as this optimizer keeps them, where another AdamW wrote them: torch's counts steps
    in tensors, DeepSpeed's for CPUs in integers."""
    in_integers = hasattr(optimizer, "ds_opt_adam")
    on_device = any(group.get("fused") for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        for name, value in optimizer.defaults.items():
            group.setdefault(name, value)
    for state in optimizer.state.values():
        if "step" in state:
            device = state["exp_avg"].device if on_device else "cpu"
            count = float(state["step"])
            state["step"] = int(count) if in_integers else torch.tensor(count, device=device)
