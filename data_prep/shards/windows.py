"""Context windows over the token stream: GPT-3's way, documents joined by the end-of-document token and cut."""

from __future__ import annotations

import numpy as np

from data_prep.shards.reader import TokenShards


class Windows:
    """Windows of `sequence_length` inputs; any length over one set of shards, at no cost.

    Window i holds the tokens [i L, i L + L]: L inputs, each with the next token as its target. Consecutive windows share one
    token (the last target of one is the first input of the next), so every token but the very first is a target exactly once.
    """

    def __init__(self, shards: TokenShards, sequence_length: int):
        if sequence_length < 1:
            raise ValueError(f"a window needs at least 1 token, not {sequence_length}.")
        self.shards, self.sequence_length = shards, sequence_length

    def __len__(self) -> int:
        return max(0, -(-(self.shards.tokens - 1) // self.sequence_length))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(int64 [sequence_length + 1] tokens, bool [sequence_length] which targets are real).

        The last window is filled with end-of-document tokens, and so is the place of documents that were taken down."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index * self.sequence_length
        stop = min(start + self.sequence_length + 1, self.shards.tokens)
        tokens = np.full(self.sequence_length + 1, self.shards.eod_id, dtype=np.int64)
        tokens[: stop - start] = self.shards.read(start, stop)
        real = np.arange(self.sequence_length) < stop - start - 1
        if len(self.shards.takedowns):
            gone = np.zeros(self.sequence_length + 1, dtype=bool)
            gone[: stop - start] = self.shards.takedowns.mask(start, stop)
            tokens[gone] = self.shards.eod_id
            real &= ~gone[1:]
        return tokens, real

    def real_targets(self, indices: np.ndarray) -> np.ndarray:
        """int64 number of real targets of each window, without reading any."""
        starts = np.asarray(indices, dtype=np.int64) * self.sequence_length
        stops = np.minimum(starts + self.sequence_length, self.shards.tokens - 1)
        return stops - starts - self.shards.takedowns.count(starts + 1, stops + 1)
