"""The proof, on the live engine, that documents of a window don't see each other and start at position 0.

A window of two documents is evaluated in three ways: as it is, with another first document, and with the second document
alone at the window's start. Where masks hold, the second document's tokens have one and the same negative log-likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from trainer.data.loader import MicroBatch
from trainer.model.document_mask import DocumentMaskError
from trainer.model.loss import IGNORED

LEAK = {"fp32": 1e-5, "bf16": 1e-3, "fp16": 1e-3}
"""Relative difference of a token's negative log-likelihood, after another first document, that rounding explains: none, but
where experts get other numbers of tokens."""
ALONE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-2}
"""The same for a document alone, whose sums run in another order. Learned positions that don't restart move it by a twentieth,
even with fresh parameters."""
TARGETS = 4
"""Tokens that are compared, one by one: the second document's first, where what leaks weighs most."""


def check(eval_sum: Callable[[Iterable[MicroBatch]], tuple[float, int]], plan: Any) -> None:
    """Raise DocumentMaskError unless the engine keeps documents apart. Every rank takes part, each with the same windows.

    `eval_sum`: the engine's; `plan`: the run's plan, whose micro-batch size and window length are probed.
    """
    length, rows = plan.batch.sequence_length, plan.batch.micro_batch_size
    if length < 2:
        return
    random = np.random.default_rng(plan.config.run.seed)
    first, second = length - length // 2, length // 2
    tokens = torch.from_numpy(random.integers(plan.hf_config.vocab_size, size=(rows, length + 1)))
    other = tokens.clone()
    other[:, :first] = (tokens[:, :first] + 1) % plan.hf_config.vocab_size
    alone = tokens.roll(-first, dims=1)
    apart, again = _positions(first, second, rows), _positions(second, first, rows)
    for place in range(min(TARGETS, second)):
        packed, changed = (eval_sum([_micro_batch(window, apart, first + place)])[0] for window in (tokens, other))
        single, _ = eval_sum([_micro_batch(alone, again, place)])
        leak, shift = abs(changed - packed) / abs(packed), abs(single - packed) / abs(packed)
        if not (leak <= LEAK[plan.precision] and shift <= ALONE[plan.precision]):
            raise DocumentMaskError(_refusal(plan, place, packed, changed, single))


def _positions(first: int, second: int, rows: int) -> torch.Tensor:
    """Positions of a window of two documents, int64 [rows, first + second]."""
    return torch.cat([torch.arange(first), torch.arange(second)]).repeat(rows, 1)


def _micro_batch(window: torch.Tensor, positions: torch.Tensor, place: int) -> MicroBatch:
    """A micro-batch with one real target, at a place of its last row."""
    targets = torch.full_like(positions, IGNORED)
    targets[-1, place] = window[-1, place + 1]
    return MicroBatch(window[:, :-1].contiguous(), targets, positions)


def _refusal(plan: Any, place: int, packed: float, changed: float, single: float) -> str:
    model, precision = plan.config.model, plan.precision
    return (
        f'data.document_mask: a "{plan.hf_config.model_type}" model with model.attention "{model.attention}" does not treat a '
        f"document in a window as if it were alone. Token {place} of a second document has a negative log-likelihood of "
        f"{packed:.6g}, {changed:.6g} after another first document, {single:.6g} alone (summed over ranks); in {precision}, "
        f"relative differences of {LEAK[precision]:.0e} and {ALONE[precision]:.0e} are rounding. Try model.attention "
        f'"{"eager" if model.attention == "sdpa" else "sdpa"}", or set data.document_mask to false; and choose another '
        f"run.folder, or remove this one."
    )
