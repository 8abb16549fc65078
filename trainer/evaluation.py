"""Validation loss and bits per byte on held-out shards."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data_prep.shards import Windows
from trainer.data.loader import read_windows
from trainer.engine import PipelineEngine, ZeroEngine
from trainer.preflight import RunPlan


@dataclass(frozen=True)
class Evaluation:
    """Result over the evaluated windows."""

    loss: float
    """Mean negative log-likelihood per target token, nats."""
    bits_per_byte: float | None
    """Bits per UTF-8 byte of held-out text: comparable between tokenizers, as perplexity per token is not. None where the
    shards don't know their bytes (a Megatron corpus)."""
    targets: int
    """Target tokens evaluated."""


def evaluation_windows(count: int, max_windows: int | None) -> np.ndarray:
    """Indices of at most `max_windows` of `count` windows, evenly spread, always the same ones."""
    if max_windows is None or max_windows >= count:
        return np.arange(count)
    return np.arange(max_windows) * count // max_windows


def evaluate(worker: ZeroEngine | PipelineEngine, plan: RunPlan, data_rank: int) -> Evaluation:
    """Evaluate the held-out windows, divided over the data-parallel ranks; the last batch is filled with padding."""
    windows, batch = plan.validation, plan.batch
    indices = evaluation_windows(len(windows), plan.config.evaluation.max_windows)
    per_step = batch.micro_batch_size * batch.data_parallel_size
    steps = -(-len(indices) // per_step)
    padded = np.full(steps * per_step, -1, dtype=np.int64)
    padded[: len(indices)] = indices
    mine = padded.reshape(steps, batch.data_parallel_size, batch.micro_batch_size)[:, data_rank]
    nll, targets = worker.eval_sum(read_windows(windows, micro) for micro in mine)
    return summarise(nll, targets, windows)


def summarise(nll: float, targets: int, windows: Windows) -> Evaluation:
    """Loss and bits per byte from a summed NLL in nats.

    Bytes of the evaluated targets are taken as targets x (text bytes / tokens) of the whole held-out set, which is exact
    when all of it is evaluated.
    """
    loss = nll / targets
    shards = windows.shards
    bits = loss * shards.tokens / shards.text_bytes / math.log(2) if shards.text_bytes else None
    return Evaluation(loss=loss, bits_per_byte=bits, targets=targets)
