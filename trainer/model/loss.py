"""The loss: one definition for every way of splitting the work.

Causal cross-entropy with teacher forcing. Per optimizer step it is the sum of the negative log-likelihoods of all real
target tokens of the global batch, divided by their global count, so that no split into micro-batches, ranks or stages,
and no padding, changes it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from trainer.batch import BatchPlan

IGNORED = -100
"""Target of a position without a real next token (padding); the value that torch's cross-entropy skips."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""`nll_sum` or its like."""


def nll_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed negative log-likelihood in nats, a float32 scalar.

    logits: [batch, sequence, vocabulary], any float dtype. targets: int64 [batch, sequence], already shifted (the target
    at position i is the token at i + 1), IGNORED where there is none.
    """
    logits = logits.reshape(-1, logits.size(-1)).float()
    return functional.cross_entropy(logits, targets.reshape(-1), ignore_index=IGNORED, reduction="sum")


def compiled_nll_sum() -> Loss:
    """`nll_sum` by torch.compile, which reads and writes logits in their own type where eager code makes copies in float32.

    One piece of code for any number of tokens, so that what ran before in the process changes no rounding.
    """
    compiled = torch.compile(nll_sum)

    def of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, targets = logits.reshape(-1, logits.size(-1)), targets.reshape(-1)
        for rows in (logits, targets):
            torch._dynamo.maybe_mark_dynamic(rows, 0)
        return compiled(logits, targets)

    return of


def micro_batch_weight(targets_in_step: torch.Tensor, batch: BatchPlan, parts: int = 1) -> torch.Tensor:
    """Factor on `nll_sum` of one micro-batch, a float32 scalar; `targets_in_step` is an int64 scalar, over all ranks.

    DeepSpeed divides the loss of a micro-batch by the accumulation steps and averages gradients over data-parallel
    ranks, and over the `parts` into which sequence parallelism cuts windows; this factor turns that mean of micro-batches into
    the mean over the step's real tokens.
    """
    return batch.gradient_accumulation_steps * batch.data_parallel_size * parts / targets_in_step.clamp(min=1)
