"""The data order of several sources: which source, and which of its windows, stands at each position. Pure; nothing is stored.

Position p goes to the source into whose interval of [0, 1), as wide as its weight, the p-th point of a van der Corput sequence
falls (van der Corput 1935; bits of p reversed, then flipped by a key). The points of any 2^k aligned positions lie 2^-k apart,
so that (a) after any number of windows each source has its share, within a few windows, and (b) how many windows a source has
had before position p is counted in 40 steps, without looking at any of them. That count is the place in the source's own order:
epochs, each a keyed permutation of all its windows.

Weights hold from a position on until they change (a stage begins, or a source has used up its epochs): a segment. What is
before a segment's start does not depend on what comes later, so sources and stages may be added to a running run.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np

from trainer.data.permutation import Permutation

BITS = 40
"""Of a point of the sequence: weights are exact to 2^-40, and a segment repeats its pattern after 2^40 windows."""
_ONE = 1 << BITS
_NEVER = 1 << 60
"""Windows that no run comes to; what lies beyond them is not looked for."""
RUN = (64, 4096)
"""Windows whose places are computed together, and kept for the next steps, at least and at most: numpy works on many at the
cost of a few."""
_CACHED_EPOCHS = 64
_CACHED_RUNS = 4


class MixtureError(ValueError):
    """The sources cannot be mixed as asked."""


class UsedUpError(MixtureError):
    """The sources with a weight end, after `end` windows, before the next stage, which begins at window `next_stage`."""

    def __init__(self, end: int, next_stage: int):
        super().__init__(f"the sources are used up after {end:,} windows, but the next weights come at window {next_stage:,}.")
        self.end, self.next_stage = end, next_stage


@dataclass(frozen=True)
class Source:
    """What the order needs to know of one source."""

    name: str
    fingerprint: str
    """Of its windows: their tokens and how they are cut."""
    windows: int
    tokens: int
    """Real tokens in all its windows together."""
    max_windows: int | None = None
    """Windows after which it is used up; null: none."""


@dataclass(frozen=True)
class Stage:
    """Weights by tokens, by the names of sources, from a window of the order on."""

    first_window: int
    weights: dict[str, Fraction]


@dataclass(frozen=True)
class Segment:
    """A part of the order in which the weights stay as they are."""

    start: int
    """First window of the order."""
    bounds: np.ndarray
    """int64 [sources + 1]: source i has the points from bounds[i] to bounds[i + 1], of 2^40."""
    before: np.ndarray
    """int64 [sources]: windows of each source before this segment."""


class Mixture:
    """The order of all sources together, a function of (seed, sources, stages, position)."""

    def __init__(self, sources: Sequence[Source], stages: Sequence[Stage], seed: int):
        """Raises MixtureError when two sources are the same, or nothing has a weight."""
        # by fingerprint, so that neither their names nor their places in the run file decide anything
        self.sources = tuple(sorted(sources, key=lambda source: source.fingerprint))
        for first, second in zip(self.sources, self.sources[1:], strict=False):
            if first.fingerprint == second.fingerprint:
                raise MixtureError(f"sources {first.name} and {second.name} are the same windows. Keep one, with both weights.")
        self.keys = np.array([_key(source.fingerprint) & (2**64 - 1) for source in self.sources], dtype=np.uint64)
        """A number for each source, from its fingerprint."""
        self._seed = seed
        self._flip = np.int64(_key(seed, "mixture") % _ONE)
        self._epochs: dict[tuple[int, int], Permutation] = {}
        self._runs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._run_length = max(RUN[0], min(RUN[1], sum(source.windows for source in sources)))  # few epochs of small sources
        self.segments: list[Segment] = []
        self.end: int | None = None
        """Windows until all sources are used up; None: never."""
        self._cut(sorted(stages, key=lambda stage: stage.first_window))
        self._starts = [segment.start for segment in self.segments]

    def locate(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(source numbers, window numbers), int64 [count] each, of the order's windows [first, first + count).

        Raises MixtureError past the order's end.
        """
        stop = first + count
        if self.end is not None and stop > self.end:
            raise MixtureError(f"the sources are used up after {self.end:,} windows; window {stop - 1:,} is asked for.")
        found, length = [], self._run_length
        for number in range(first // length, max(first // length + 1, -(-stop // length))):
            part = slice(max(0, first - number * length), stop - number * length)
            found.append([array[part] for array in self._run(number)])
        source, windows = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return source, windows

    def _run(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(source numbers, window numbers) of the run of this number, as far as the order goes."""
        found = self._runs.get(number)
        if found is None:
            first, stop = number * self._run_length, (number + 1) * self._run_length
            found = self._compute(first, stop if self.end is None else min(stop, self.end))
            if len(self._runs) >= _CACHED_RUNS:
                self._runs.clear()
            self._runs[number] = found
        return found

    def _compute(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        count = max(0, stop - first)
        source, windows = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        number = bisect_right(self._starts, first) - 1
        for segment, end in zip(self.segments[number:], [*self._starts[number + 1 :], stop], strict=True):
            low, high = max(first, segment.start), min(stop, end)
            if low >= high:
                break
            at = slice(low - first, high - first)
            source[at], places = self._places(segment, low - segment.start, high - segment.start)
            windows[at] = self._windows(source[at], places)
        return source, windows

    def positions(self, source: int, windows: np.ndarray, before: int) -> tuple[np.ndarray, np.ndarray]:
        """Where in the order, before position `before`, windows of a source stand, int64 [windows]: once in each epoch.

        Returns (positions, ascending, and for each the place in `windows` of the one that stands there), int64 both.
        """
        size, had = self.sources[source].windows, int(self.counts(before)[source])
        epochs = range(-(-had // size)) if len(windows) else ()
        places = [epoch * size + self._epoch(source, epoch).inverse(windows).astype(np.int64) for epoch in epochs]
        places = np.concatenate([np.empty(0, np.int64), *places])
        which = np.tile(np.arange(len(windows)), len(epochs))[places < had]
        positions = self._positions(source, places[places < had])
        order = np.argsort(positions)
        return positions[order], which[order]

    def counts(self, position: int) -> np.ndarray:
        """int64 [sources]: windows of each source among the first `position` of the order."""
        if position <= 0:
            return np.zeros(len(self.sources), dtype=np.int64)
        segment = self.segments[bisect_right(self._starts, position - 1) - 1]
        return segment.before + self._counts(segment.bounds, position - segment.start)

    def history(self, position: int) -> dict[str, Any]:
        """All that the order before `position` depends on, as JSON values: equal histories, equal orders up to there."""
        began = [segment for segment in self.segments if segment.start < position]
        return {
            "seed": self._seed,
            "segments": [
                {
                    "first_window": segment.start,
                    "shares": {
                        source.fingerprint: share
                        for source, share in zip(self.sources, np.diff(segment.bounds).tolist(), strict=True)
                        if share
                    },
                }
                for segment in began
            ],
        }

    def _cut(self, stages: list[Stage]) -> None:
        """Find the segments: one for each stage, and for each source that is used up on the way."""
        before = np.zeros(len(self.sources), dtype=np.int64)
        start = 0
        for number, stage in enumerate(stages):
            stop = stages[number + 1].first_window if number + 1 < len(stages) else None
            weights = self._weights(stage)
            while stop is None or start < stop:
                bounds = self._bounds(weights, before)
                if bounds is None:
                    if stop is not None:
                        raise UsedUpError(start, stop)
                    self.end = start
                    return
                self.segments.append(Segment(start, bounds, before))
                length = min((x for x in (stop and stop - start, self._first_used_up(bounds, before)) if x), default=None)
                if length is None:
                    return
                before = before + self._counts(bounds, length)
                start += length

    def _weights(self, stage: Stage) -> list[int]:
        """The sources' weights by windows, on one scale of whole numbers: exact, and cheap to add up once per segment."""
        weights = [stage.weights.get(source.name, Fraction(0)) for source in self.sources]
        # windows per token: padding
        weights = [w * s.windows / s.tokens if w else w for w, s in zip(weights, self.sources, strict=True)]
        scale = lcm(*(weight.denominator for weight in weights))
        return [weight.numerator * (scale // weight.denominator) for weight in weights]

    def _bounds(self, weights: list[int], before: np.ndarray) -> np.ndarray | None:
        """Intervals of the sources that are left; None when there are none."""
        pairs = zip(self.sources, before.tolist(), weights, strict=True)
        left = [w if source.max_windows is None or had < source.max_windows else 0 for source, had, w in pairs]
        total = sum(left)
        if not total:
            return None
        bounds, sums = [0], 0
        for source, weight in zip(self.sources, left, strict=True):
            sums += weight
            bounds.append((sums << BITS) // total)
            if weight and bounds[-1] == bounds[-2]:
                raise MixtureError(
                    f"the weight of {source.name} is {weight / total:.1e} of the windows, too little to count (less "
                    f"than 2^-{BITS}). Give it more, or 0."
                )
        return np.array(bounds, dtype=np.int64)

    def _first_used_up(self, bounds: np.ndarray, before: np.ndarray) -> int | None:
        """Windows of a segment until the first source is used up."""
        shares = np.diff(bounds).tolist()
        left = [
            (number, source.max_windows - had)
            for number, (source, had) in enumerate(zip(self.sources, before.tolist(), strict=True))
            if source.max_windows is not None and shares[number]
        ]
        ranges = [self._near(count, shares[number]) for number, count in left]
        low, high = min((r[0] for r in ranges), default=_NEVER), min((r[1] for r in ranges), default=_NEVER)
        if high >= _NEVER:
            return None
        numbers, counts = (np.array(column, dtype=np.int64) for column in zip(*left, strict=True))
        while low < high:
            middle = (low + high) // 2
            if (self._counts(bounds, middle)[numbers] >= counts).any():
                high = middle
            else:
                low = middle + 1
        return low

    @staticmethod
    def _near(count: int, share: int) -> tuple[int, int]:
        """Between how many windows of a segment and how many a source of this share has had `count` of them."""
        slack = (BITS + 2) * _ONE // share + 2  # no count is further than BITS from its share
        return max(0, count * _ONE // share - slack), count * _ONE // share + slack

    def _positions(self, source: int, places: np.ndarray) -> np.ndarray:
        """Positions in the order of the windows of a source before which `places` of it stand, int64 of one shape."""
        before = np.array([segment.before[source] for segment in self.segments])
        numbers = np.searchsorted(before, places, side="right") - 1
        positions = np.empty_like(places)
        for number in np.unique(numbers).tolist():
            here, segment = numbers == number, self.segments[number]
            low, high = segment.bounds[source : source + 2].tolist()
            positions[here] = segment.start + self._offsets(low, high, places[here] - before[number])
        return positions

    def _offsets(self, low: int, high: int, places: np.ndarray) -> np.ndarray:
        """Where in a segment the windows with points in [low, high) stand before which `places` of them stand: what `_counts`
        counts, undone bit by bit, since a run of 2^k positions that holds too few of them is passed over."""
        cycles, left = np.divmod(places, high - low)
        offsets, mirrored = np.zeros_like(left), np.zeros_like(left)
        for k in reversed(range(BITS)):
            step = BITS - k
            first = (mirrored ^ self._flip) & ((1 << step) - 1)  # the lowest point of the run; the others are 2^step apart
            below_high, below_low = (np.maximum(0, (bound - first + (1 << step) - 1) >> step) for bound in (high, low))
            held = below_high - below_low
            passed = left >= held
            left -= np.where(passed, held, 0)
            offsets |= passed.astype(np.int64) << k
            mirrored |= passed.astype(np.int64) << (step - 1)
        return (cycles << BITS) + offsets

    def _places(self, segment: Segment, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """(source number, windows of that source before it) of the windows [low, high) of a segment."""
        before = segment.before + self._counts(segment.bounds, low)
        source = np.searchsorted(segment.bounds, self._points(np.arange(low, high, dtype=np.int64)), side="right") - 1
        places = np.empty_like(source)
        for number in range(len(self.sources)):
            at = np.flatnonzero(source == number)
            places[at] = before[number] + np.arange(len(at))
        return source, places

    def _points(self, offset: np.ndarray) -> np.ndarray:
        """The points of the sequence, int64 in [0, 2^40)."""
        return _reversed(offset & (_ONE - 1)) ^ self._flip

    def _counts(self, bounds: np.ndarray, offset: int) -> np.ndarray:
        """int64 [sources]: windows of each source among the first `offset` of a segment.

        They are aligned runs of 2^k positions, one for each bit of `offset`; the points of such a run share their low 40 - k
        bits and take every value of the others. So how many lie below a bound is a division.
        """
        below = bounds * (offset >> BITS)
        offset &= _ONE - 1
        begin = 0
        for k in reversed(range(offset.bit_length())):
            if offset >> k & 1:
                step = BITS - k
                low = (int(f"{begin:0{BITS}b}"[::-1], 2) ^ int(self._flip)) & ((1 << step) - 1)
                below = below + np.maximum(0, (bounds - low + (1 << step) - 1) >> step)
                begin += 1 << k
        return np.diff(below)

    def _windows(self, source: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Window numbers at places of the sources' own orders."""
        windows = np.empty_like(place)
        sizes = np.array([max(1, s.windows) for s in self.sources], dtype=np.int64)
        epoch = place // sizes[source]
        for number in range(len(self.sources)):
            mine = np.flatnonzero(source == number)  # places ascend
            for turn in range(int(epoch[mine[0]]), int(epoch[mine[-1]]) + 1) if len(mine) else ():
                at = mine[epoch[mine] == turn]
                windows[at] = self._epoch(number, turn)(place[at] - turn * sizes[number]).astype(np.int64)
        return windows

    def _epoch(self, source: int, epoch: int) -> Permutation:
        if (source, epoch) not in self._epochs:
            if len(self._epochs) >= _CACHED_EPOCHS:
                self._epochs.clear()
            chosen = self.sources[source]
            self._epochs[source, epoch] = Permutation(chosen.windows, _key(self._seed, chosen.fingerprint, epoch))
        return self._epochs[source, epoch]


def _key(*parts: str | int) -> int:
    """A 128-bit key from all the parts."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest(), "little")


def _reversed(values: np.ndarray) -> np.ndarray:
    """The 40 bits of each value in reverse order."""
    out = values.astype(np.uint64)
    for shift, mask in ((1, 0x5555555555555555), (2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F)):
        out = ((out >> np.uint64(shift)) & np.uint64(mask)) | ((out & np.uint64(mask)) << np.uint64(shift))
    return (out.byteswap() >> np.uint64(64 - BITS)).astype(np.int64)
