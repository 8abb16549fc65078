"""Activation checkpointing: what is computed again in the backward pass instead of being kept."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

Setting = bool | int | Literal["selective"]
"""model.activation_checkpointing."""

_KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
}
"""The costly operations: matrix products and attention."""


@dataclass(frozen=True)
class Recompute:
    """How one block is recomputed."""

    selective: bool
    """Keep the results of matrix products and attention; compute only the rest again."""

    def options(self) -> dict[str, Any]:
        """Arguments for torch.utils.checkpoint.checkpoint beside use_reentrant=False."""
        return {"context_fn": functools.partial(create_selective_checkpoint_contexts, _policy)} if self.selective else {}


def _policy(_context: Any, operation: Any, *_arguments: Any, **_options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def of_block(setting: Setting, index: int) -> Recompute | None:
    """How block `index` is recomputed: True all of each block, n every n-th block, "selective" the cheap part of each block."""
    if setting == "selective":
        return Recompute(selective=True)
    return Recompute(selective=False) if setting and index % int(setting) == 0 else None


def enable(model: PreTrainedModel, setting: Setting) -> None:
    """Switch it on in a whole Hugging Face model, for the same blocks."""
    if not setting:
        return
    options = {"use_reentrant": False, **Recompute(setting == "selective").options()}
    model.activation_checkpointing_enable(options, every_n_layers=1 if setting == "selective" else int(setting))
