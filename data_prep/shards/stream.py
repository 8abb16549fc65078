"""Files of tokens, one after the other, as one stream."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np


class Part(Protocol):
    """One file of a stream."""

    name: str
    tokens: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Integers [stop - start]: the tokens of the file; a view, not to be changed."""

    def document_starts_in(self, start: int, stop: int) -> np.ndarray:
        """int64 positions in [start, stop) of the file at which documents start, strictly ascending."""

    def document_lengths(self, most: int) -> Iterator[np.ndarray]:
        """int64 tokens of the file's documents in order, at most `most` at a time."""


class TokenStream:
    """Reading by position in the stream, across the borders of files."""

    tokens: int
    """In all files together."""

    def __init__(self, parts: list[Part], dtype: np.dtype):
        self._parts = parts
        self.dtype = dtype
        """Type of one token."""
        self._starts = [0, *accumulate(part.tokens for part in parts)]
        self._borders = np.array(self._starts, dtype=np.int64)
        self.tokens = self._starts[-1]

    def shard_spans(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[str, int, int]]:
        """(name, first token, token after the last) of each file with tokens in [start, stop) of the stream, in order."""
        stop = self.tokens if stop is None else stop
        for part, (first, last) in zip(self._parts, pairwise(self._starts), strict=True):
            if max(first, start) < min(last, stop):
                yield part.name, first, last

    def read(self, start: int, stop: int) -> np.ndarray:
        """A copy of the tokens [start, stop) of the stream, across the borders of files."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        out = np.empty(stop - start, self.dtype)
        for part, first, last, offset in self._within(start, stop):
            out[first + offset - start : last + offset - start] = part.read(first, last)
        return out

    def read_into(self, starts: np.ndarray, sizes: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """Copy the tokens [starts[k], starts[k] + sizes[k]) of the stream to out[places[k]:places[k] + sizes[k]], for all k.

        Arguments are int64 [spans], but `out`, integers [any].
        """
        if not len(starts):
            return
        stops = starts + sizes
        if starts.min() < 0 or stops.max() > self.tokens:
            raise IndexError(f"tokens {starts.min()} to {stops.max()} of {self.tokens}")
        which = np.searchsorted(self._borders[1:-1], starts, side="right")
        offsets, inside = self._borders[which], stops <= self._borders[which + 1]
        columns = (which, starts - offsets, stops - offsets, places, places + sizes, inside)
        for index, start, stop, place, end, whole in zip(*(column.tolist() for column in columns), strict=True):
            if whole:
                out[place:end] = self._parts[index].read(start, stop)
            else:
                offset = self._starts[index]
                out[place:end] = self.read(start + offset, stop + offset)

    def document_starts_in(self, start: int, stop: int) -> np.ndarray:
        """int64 positions in [start, stop) of the stream at which documents start, ascending."""
        found = [part.document_starts_in(first, last) + offset for part, first, last, offset in self._within(start, stop)]
        return found[0] if len(found) == 1 else np.concatenate([np.empty(0, np.int64), *found])

    def document_starts(self) -> np.ndarray:
        """uint64 positions in the stream at which documents start, ascending. O(documents) memory."""
        return self.document_starts_in(0, self.tokens).astype(np.uint64)

    def document_lengths(self, most: int = 1 << 20) -> Iterator[np.ndarray]:
        """int64 tokens of the documents in order, their end-of-document tokens included, at most `most` at a time."""
        for part in self._parts:
            yield from part.document_lengths(most)

    def prefetch(self, starts: np.ndarray, sizes: np.ndarray) -> None:
        """Nothing: the files are local."""

    def _within(self, start: int, stop: int) -> Iterator[tuple[Part, int, int, int]]:
        """(file, first token, token after the last, the file's place in the stream) of the files that [start, stop) touches."""
        index = max(0, bisect_right(self._starts, start) - 1)
        while start < stop and index < len(self._parts):
            offset, end = self._starts[index], min(stop, self._starts[index + 1])
            if start < end:
                yield self._parts[index], start - offset, end - offset, offset
            start, index = max(start, end), index + 1
