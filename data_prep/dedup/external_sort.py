"""Sorted sets larger than memory: pairs of 64-bit numbers in sorted files ("runs"), read back in one order (Knuth 5.4).

Tasks write runs; a later task reads any range of the union of all runs, in order and without repeats, in pieces that fit its
memory. A piece is a range of keys found by bisection in every run: a range that is too large is halved, down to a single pair,
so no distribution of keys, a million equal first numbers included, needs more memory. Nothing is mapped: a process's resident
memory is what it allocates.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.stage import Task, partial_name

PAIR_BYTES = 16
RANGE_PAIRS, MAX_RANGES = 2**20, 256
"""Pairs read per task, and tasks per stage: few enough that each finds its ranges in many runs in little time."""
WORKING_COPIES = 6
"""Memory while a piece is sorted and used, as a multiple of its bytes."""


@dataclass(frozen=True)
class Run:
    """A sorted file of pairs (little-endian uint64, uint64)."""

    path: Path
    shift: int = 0
    """Added to the second number when read: turns a part's own document numbers into the corpus's."""


def range_tasks(end: int, pairs: int, arguments: Callable[[int, int], Any], inputs: str) -> list[Task]:
    """Tasks for even ranges of first numbers in [0, end), with about a million pairs each; `arguments` get (low, high), and
    `inputs` names all the pairs."""
    count = max(1, min(MAX_RANGES, -(-pairs // RANGE_PAIRS), end))
    bounds = [end * index // count for index in range(count + 1)]
    size = PAIR_BYTES * pairs // count + 1
    return [Task(f"range-{i:03d}-of-{count:03d}", size, arguments(bounds[i], bounds[i + 1]), inputs) for i in range(count)]


class RunWriter:
    """Collects pairs and writes them as runs NAME.000.run, NAME.001.run, ... of at most the memory given."""

    def __init__(self, folder: Path, name: str, memory_bytes: int):
        self.outputs: list[str] = []
        """Names of the runs written, complete after `close`."""
        self.count = 0
        """Pairs added."""
        self._folder, self._name = folder, name
        self._limit = _pairs_in(memory_bytes)
        self._held: list[np.ndarray] = []
        self._held_count = 0

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Append pairs, in any order."""
        for start in range(0, len(first), self._limit):
            stop = start + self._limit
            pairs = np.stack((first[start:stop], second[start:stop]), axis=1).astype("<u8", copy=False)
            if self._held_count + len(pairs) > self._limit:
                self._flush()
            self._held.append(pairs)
            self._held_count += len(pairs)
            self.count += len(pairs)

    def close(self) -> list[str]:
        """Write what is left; returns the names of all runs."""
        self._flush()
        return self.outputs

    def _flush(self) -> None:
        if self._held_count:
            self.outputs.append(f"{self._name}.{len(self.outputs):03d}.run")
            write_array(self._folder / self.outputs[-1], _sorted_set(np.concatenate(self._held)))
        self._held, self._held_count = [], 0


def read_sorted(runs: list[Run], memory_bytes: int, low: int = 0, high: int = 2**64) -> Iterator[np.ndarray]:
    """All different pairs whose first number is in [low, high), as uint64 [n, 2] in ascending order, in pieces."""
    spans = []
    for run in runs:
        stop = run.path.stat().st_size // PAIR_BYTES
        start = _bisect(run, low << 64, 0, stop) if low else 0
        spans.append((run, start, stop if high >= 2**64 else _bisect(run, high << 64, start, stop)))
    yield from _read(spans, _pairs_in(memory_bytes))


def first_of(group: np.ndarray) -> np.ndarray:
    """The first pair of a group: what `groups` holds on to when that is enough to know the group by."""
    return group[:1]


def groups(
    pieces: Iterable[np.ndarray], hold: Callable[[np.ndarray], np.ndarray] = first_of
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(piece, index in it of the first pair of each pair's group); a group is the pairs of one first number.

    A group that goes on in the next piece begins there with `hold` of what came before; `hold` keeps the first pair first.
    """
    held = np.empty((0, 2), np.uint64)
    for piece in pieces:
        if len(held) and held[0, 0] == piece[0, 0]:
            piece = np.concatenate((held, piece))
        new = np.ones(len(piece), bool)
        new[1:] = piece[1:, 0] != piece[:-1, 0]
        starts = np.maximum.accumulate(np.where(new, np.arange(len(piece)), 0))
        yield piece, starts
        held = hold(piece[starts[-1] :]).copy()


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array's bytes, little-endian, whole or not at all."""
    partial = partial_name(path)
    with partial.open("wb") as file:
        file.write(memoryview(np.ascontiguousarray(array, array.dtype.newbyteorder("<"))).cast("B") if array.size else b"")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _pairs_in(memory_bytes: int) -> int:
    return max(1, memory_bytes // (PAIR_BYTES * WORKING_COPIES))


def _read(spans: list[tuple[Run, int, int]], limit: int) -> Iterator[np.ndarray]:
    spans = [span for span in spans if span[1] < span[2]]
    if not spans:
        return
    if sum(stop - start for _, start, stop in spans) <= limit:
        yield _sorted_set(np.concatenate([_slice(*span) for span in spans]))
        return
    low = min(_key(run, start) for run, start, _ in spans)
    high = max(_key(run, stop - 1) for run, _, stop in spans)
    if low == high:
        yield _slice(spans[0][0], spans[0][1], spans[0][1] + 1)
        return
    middle = (low + high) // 2 + 1
    cuts = [_bisect(run, middle, start, stop) for run, start, stop in spans]
    yield from _read([(run, start, cut) for (run, start, _), cut in zip(spans, cuts, strict=True)], limit)
    yield from _read([(run, cut, stop) for (run, _, stop), cut in zip(spans, cuts, strict=True)], limit)


def _sorted_set(pairs: np.ndarray) -> np.ndarray:
    pairs = _sorted(pairs)
    new = np.ones(len(pairs), bool)
    new[1:] = (pairs[1:, 0] != pairs[:-1, 0]) | (pairs[1:, 1] != pairs[:-1, 1])
    return pairs if new.all() else pairs[new]


def _sorted(pairs: np.ndarray) -> np.ndarray:
    """Pairs in ascending order, sorted as single numbers, which takes a third of the time of np.lexsort."""
    low = pairs.min(axis=0)
    first_bits, second_bits = (int(width).bit_length() for width in (pairs.max(axis=0) - low).tolist())
    packed = pairs[:, 0] - low[0]
    if first_bits + second_bits <= 64:
        if first_bits:
            packed <<= np.uint64(second_bits)
        packed |= pairs[:, 1] - low[1]
        packed.sort()
        first = packed >> np.uint64(second_bits) if first_bits else np.zeros_like(packed)
        return np.stack((first + low[0], (packed & np.uint64((1 << second_bits) - 1)) + low[1]), axis=1)
    # the top of the first number with the pair's place; pairs that agree in that are few, and sorted in the usual way
    place_bits = len(pairs).bit_length()
    packed >>= np.uint64(max(0, first_bits + place_bits - 64))
    packed <<= np.uint64(place_bits)
    packed |= np.arange(len(pairs), dtype=np.uint64)
    packed.sort()
    pairs = pairs[(packed & np.uint64((1 << place_bits) - 1)).astype(np.int64)]
    packed >>= np.uint64(place_bits)
    tied = np.zeros(len(pairs), bool)
    tied[1:] = packed[1:] == packed[:-1]
    tied[:-1] |= tied[1:]
    ties = pairs[tied]
    pairs[tied] = ties[np.lexsort((ties[:, 1], ties[:, 0]))]
    return pairs


def _slice(run: Run, start: int, stop: int) -> np.ndarray:
    pairs = np.fromfile(run.path, "<u8", 2 * (stop - start), offset=start * PAIR_BYTES).reshape(-1, 2)
    pairs[:, 1] += np.uint64(run.shift)
    return pairs


def _key(run: Run, place: int) -> int:
    first, second = _slice(run, place, place + 1)[0].tolist()
    return first << 64 | second


def _bisect(run: Run, key: int, start: int, stop: int) -> int:
    """Index of the first pair in [start, stop) that is not below `key` (first number << 64 | second number)."""
    with run.path.open("rb", buffering=0) as file:

        def key_at(place: int) -> int:
            pair = os.pread(file.fileno(), PAIR_BYTES, place * PAIR_BYTES)
            return int.from_bytes(pair[:8], "little") << 64 | int.from_bytes(pair[8:], "little") + run.shift

        return bisect_left(range(stop), key, start, stop, key=key_at)
