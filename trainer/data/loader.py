"""This rank's part of a step's global batch, as tensors.

Which windows form step n follows from the number of samples seen before it; the ranks of a data-parallel group take
consecutive runs of them, micro-batch by micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from data_prep.shards import Windows
from trainer.batch import BatchPlan
from trainer.data.order import WindowOrder
from trainer.model.loss import IGNORED


@dataclass(frozen=True)
class StepBatch:
    """One rank's share of one optimizer step."""

    micro_batches: list[tuple[torch.Tensor, torch.Tensor]]
    """(input ids, targets), each int64 [micro_batch_size, sequence_length]; targets are shifted, IGNORED where padded."""
    targets_in_step: int
    """Real targets of the step over all ranks: the loss's denominator."""


def read_windows(windows: Windows, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(input ids, targets), int64 [len(indices), sequence_length]; index -1 stands for a window of padding alone."""
    length = windows.sequence_length
    inputs = np.zeros((len(indices), length), dtype=np.int64)
    targets = np.full((len(indices), length), IGNORED, dtype=np.int64)
    for row, index in enumerate(indices):
        if index >= 0:
            tokens, real = windows[int(index)]
            inputs[row] = tokens[:-1]
            targets[row, real] = tokens[1:][real]
    return torch.from_numpy(inputs), torch.from_numpy(targets)


class Loader:
    """Batches of a run for one data-parallel rank, from any position; the next step is read while this one trains."""

    def __init__(self, windows: Windows, order: WindowOrder, batch: BatchPlan, data_rank: int):
        self.windows, self.order, self.batch, self.data_rank = windows, order, batch, data_rank

    def step(self, samples_seen: int) -> StepBatch:
        """The batch of the step that starts after `samples_seen` windows."""
        batch = self.batch
        indices = self.order.windows(samples_seen, batch.windows_per_step)
        shape = (batch.gradient_accumulation_steps, batch.data_parallel_size, batch.micro_batch_size)
        mine = indices.reshape(shape)[:, self.data_rank]
        return StepBatch(
            micro_batches=[read_windows(self.windows, micro) for micro in mine],
            targets_in_step=int(self.windows.real_targets(indices).sum()),
        )

    def steps(self, samples_seen: int) -> Iterator[StepBatch]:
        """Batches of the steps from `samples_seen` on, one step ahead of the consumer."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as reader:
            upcoming = reader.submit(self.step, samples_seen)
            while True:
                samples_seen += self.batch.windows_per_step
                current, upcoming = upcoming, reader.submit(self.step, samples_seen)
                yield current.result()
