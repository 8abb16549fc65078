"""This rank's part of each step's global batch, as tensors, read ahead of the training.

Which windows form a step follows from the number of tokens consumed before it; the ranks of a data-parallel group take
consecutive runs of them, micro-batch by micro-batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from data_prep.shards import WindowBatch, Windows
from trainer.batch import BatchPlan
from trainer.batch_ramp import BatchSchedule
from trainer.data.corpus import Corpus
from trainer.ledger import digest
from trainer.model.loss import IGNORED

STEPS_AHEAD = 2
"""Steps that are read while one trains."""


@dataclass(frozen=True)
class MicroBatch:
    """Windows of one forward pass, each tensor [windows, length]. Token ids are of the shards' type, two bytes for most
    vocabularies, until they are on a device: a quarter of the memory, and of what is sent there."""

    inputs: torch.Tensor
    targets: torch.Tensor
    """The next tokens; IGNORED where there is none to learn."""
    positions: torch.Tensor | None = None
    """int64; with document masks: each token's place in its document."""

    def on(self, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets as models and losses take them, int64 on a device."""
        return self.inputs_on(device), self.targets_on(device)

    def inputs_on(self, device: torch.device | str) -> torch.Tensor:
        """The inputs alone."""
        return self.inputs.to(device).long()

    def targets_on(self, device: torch.device | str) -> torch.Tensor:
        """The targets alone."""
        return self.targets.to(device).long()

    @property
    def real_targets(self) -> int:
        """How many there are to learn. Widened first: in an unsigned type some token would equal IGNORED."""
        return int((self.targets.long() != IGNORED).sum())

    def split(self, parts: int) -> list[MicroBatch]:
        """Equal parts, as views."""
        size = len(self.inputs) // parts
        positions = [None] * parts if self.positions is None else self.positions.split(size)
        return [MicroBatch(*part) for part in zip(self.inputs.split(size), self.targets.split(size), positions, strict=True)]


@dataclass(frozen=True)
class StepBatch:
    """One rank's share of one optimizer step."""

    plan: BatchPlan
    sequence_length: int
    """Of the micro-batches' windows: the plan's, or a part of it while the length warms up."""
    micro_batches: list[MicroBatch]
    targets: int
    """Targets to learn in this rank's micro-batches."""
    digest: int
    """Of this rank's windows, for the ledger; the ranks' digests add up, modulo 2^64."""


def micro_batch(windows: WindowBatch, sequence_length: int) -> MicroBatch:
    """Windows as tensors, each cut into equal parts of `sequence_length` tokens."""
    targets = windows.targets
    if not windows.real.all():
        targets = np.where(windows.real, targets.astype(np.int32), np.int32(IGNORED))
    positions = windows.positions
    if positions is not None and sequence_length < positions.shape[1]:
        positions = positions.reshape(-1, sequence_length)
        begun = np.logical_or.accumulate(positions == 0, axis=1)  # in this part, not in the one before
        positions = np.where(begun, positions, positions - positions[:, :1])
    return MicroBatch(*(None if a is None else _tensor(a, sequence_length) for a in (windows.inputs, targets, positions)))


def _tensor(values: np.ndarray, sequence_length: int) -> torch.Tensor:
    return torch.from_numpy(values).reshape(-1, sequence_length)


def read_windows(windows: Windows, indices: np.ndarray) -> MicroBatch:
    """A micro-batch of whole windows; index -1 stands for a window of padding alone."""
    return micro_batch(windows.read(indices), windows.sequence_length)


class Loader:
    """Batches of a run for one data-parallel rank, from any position."""

    def __init__(self, corpus: Corpus, schedule: BatchSchedule, data_rank: int):
        self.corpus, self.schedule, self.data_rank = corpus, schedule, data_rank

    def step(self, tokens_seen: int) -> StepBatch:
        """The batch of the step that begins after `tokens_seen` tokens."""
        plan, corpus = self.schedule.at(tokens_seen), self.corpus
        first = tokens_seen // corpus.sequence_length
        source, window = corpus.mixture.locate(first, plan.windows_per_step)
        shape = (plan.gradient_accumulation_steps, plan.data_parallel_size, plan.micro_batch_size)
        position = np.arange(first, first + plan.windows_per_step)
        position, source, window = (array.reshape(shape)[:, self.data_rank] for array in (position, source, window))
        length = corpus.length_at(tokens_seen)
        # in one go: what reading costs besides the bytes is paid once for all micro-batches
        windows = corpus.read(source.reshape(-1), window.reshape(-1))
        return StepBatch(
            plan=plan,
            sequence_length=length,
            micro_batches=micro_batch(windows, length).split(plan.gradient_accumulation_steps),
            targets=int(np.count_nonzero(windows.real)),
            digest=digest(corpus.mixture.keys[source], window, position, length),
        )

    def steps(self, tokens_seen: int, total_tokens: int) -> Iterator[StepBatch]:
        """Batches of the steps from `tokens_seen` on until `total_tokens` are consumed, read some steps ahead."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as reader:
            ahead: deque = deque()
            while tokens_seen < total_tokens or ahead:
                while tokens_seen < total_tokens and len(ahead) <= STEPS_AHEAD:
                    ahead.append(reader.submit(self.step, tokens_seen))
                    tokens_seen += self.schedule.at(tokens_seen).global_batch_tokens
                yield ahead.popleft().result()
