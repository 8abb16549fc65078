"""Documents -> context windows: plan files that say which tokens of the shards stand in which window; tokens are never copied.

Two ways need a plan. best_fit: no document that fits a window is cut (best-fit decreasing, Ding et al. 2024, arXiv 2404.10830).
pad: every document alone. The third, concatenate, is arithmetic (shards/windows.py); what it costs is counted here. Documents
longer than a window are split into whole windows and a rest, never shortened. Lengths count a document's end-of-document token,
which is the separator. Not implemented from Ding et al.: their segment tree; lengths are small integers, so all pieces of one
length are placed at a time.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shards import ShardError, TokenShards
from data_prep.shards.plan import Packed, PlanFile, PlanHeader, PlanWriter, plan_name, plan_path
from data_prep.shards.windows import WAYS
from data_prep.shards.writer import naming
from data_prep.stage import Task

BLOCK_PIECES = 1 << 20
"""Documents (or their pieces, where they are longer than a window) that are packed together, so that memory stays flat. What a
block's last windows leave free matters little where a block fills thousands of windows, as with documents of 1,000 tokens in
windows of 4096; of 2^20 tokens it fills 1,000, and each that stays half empty is one in 2,000 of the places."""


@dataclass(frozen=True)
class Made:
    """A plan and how it came about."""

    header: PlanHeader
    path: Path | None
    """None for "concatenate", which needs no file."""
    tokens_lost: int
    """Tokens of the shards that stand in no window."""
    seconds: float
    kept: bool = False
    """It was there already, whole, and of these shards."""


def make(shards: TokenShards, way: str, window: int, max_documents: int | None = None, dry_run: bool = False) -> Made:
    """Write the plan of these shards, or keep it if it is there and whole; `dry_run`: count only.

    Document lengths are read shard by shard and packed in blocks: memory does not grow with the corpus. Raises ValueError for
    unknown ways, windows and caps.
    """
    begin = time.perf_counter()
    check(way, window, max_documents)
    header = PlanHeader(way, window, max_documents, shards.fingerprint)
    if way == "concatenate":
        header = _count_concatenated(header, shards)
        return Made(header, None, shards.tokens - header.tokens, time.perf_counter() - begin)
    path = plan_path(shards.folder, way, window, max_documents)
    if not dry_run and not isinstance(path, Path):
        raise ValueError(f"{path}: plans are written to a local folder only. Make it there and copy it, or try --dry-run.")
    if not dry_run and path.exists():
        with suppress(ShardError):  # damaged, or of other shards: written over
            plan = PlanFile.open(path, shards.fingerprint)
            plan.verify()
            return Made(plan.header, path, shards.tokens - plan.header.tokens, time.perf_counter() - begin, kept=True)
    if dry_run:
        for block in _packed(header, shards):
            header = header.with_more(*block)
    else:
        with naming(path), PlanWriter(path, header) as writer:
            for block in _packed(header, shards):
                writer.add(*block)
        header = writer.header
    return Made(header, path, shards.tokens - header.tokens, time.perf_counter() - begin)


def check(way: str, window: int, max_documents: int | None = None) -> None:
    """Raises ValueError for an unknown way, for a window that is too short or too long, and for a cap of another way."""
    if way not in WAYS:
        raise ValueError(f"packing {way!r}: one of {', '.join(WAYS)} is needed.")
    if not 1 <= window < 2**31:
        raise ValueError(f"a window needs 1 to 2147483647 tokens, not {window}.")
    plan_name(way, window, max_documents)


def work(task: Task, folder: Path) -> dict[str, Any]:
    """Stage 5: one plan of one split, in the shards' own folder."""
    shards, *arguments = task.arguments
    made = make(TokenShards.open(shards), *arguments)
    assert made.path is not None
    return {"outputs": [os.path.relpath(made.path, folder)]}


def existing(shards: TokenShards) -> list[Made]:
    """The plans beside these shards, shortest windows first."""
    if not isinstance(shards.folder, Path):
        return []
    found = []
    for path in (shards.folder / "plans").glob("*.plan"):
        try:
            header = PlanFile.open(path, shards.fingerprint).header
        except ShardError:
            continue  # of other shards, or damaged: refused with a remedy where it is used
        found.append(Made(header, path, shards.tokens - header.tokens, 0.0, kept=True))
    return sorted(found, key=lambda made: (made.header.window, made.path))


COLUMNS = (
    "window", "way", "windows", "padding", "share", "documents cut", "longer than a window", "tokens lost",
)  # fmt: skip
"""Of the table of plans."""


def cells(made: Made) -> tuple[str, ...]:
    """A row of the table of plans."""
    header = made.header
    way = header.way + (f" max {header.max_documents}" if header.max_documents else "")
    share = header.padding / max(1, header.windows * header.window)
    counts = (header.documents_cut, header.documents_split, made.tokens_lost)
    numbers = [f"{header.windows:,}", f"{header.padding:,}", f"{share:.3%}", *(f"{count:,}" for count in counts)]
    return (f"{header.window:,}", way, *numbers)


def _packed(header: PlanHeader, shards: TokenShards) -> Iterator[tuple[Packed, int, int]]:
    """(windows, documents, those longer than a window) block by block, the starts counted from the stream's first token."""
    before = 0
    for lengths in _blocks(shards.document_lengths(), header.window):
        alone = header.way == "pad"
        packed = pad(lengths, header.window) if alone else best_fit(lengths, header.window, header.max_documents)
        packed.starts[:] += before
        before += int(lengths.sum())
        yield packed, len(lengths), int((lengths > header.window).sum())


def _blocks(parts: Iterable[np.ndarray], window: int) -> Iterator[np.ndarray]:
    """The lengths again, as many together as have BLOCK_PIECES pieces, but one document at least."""
    waiting: list[np.ndarray] = []
    pieces = 0
    for part in parts:
        waiting.append(part)
        pieces += int((-(-part // window)).sum())
        if pieces <= BLOCK_PIECES:
            continue
        lengths = np.concatenate(waiting)
        ends = np.cumsum(-(-lengths // window))
        begin = before = 0
        while pieces > BLOCK_PIECES:
            end = max(begin + 1, int(np.searchsorted(ends, before + BLOCK_PIECES, side="right")))
            yield lengths[begin:end]
            begin, before = end, int(ends[end - 1])
            pieces = int(ends[-1]) - before
        waiting = [lengths[begin:]]
    if any(map(len, waiting)):
        yield np.concatenate(waiting)


def _count_concatenated(header: PlanHeader, shards: TokenShards) -> PlanHeader:
    """What windows of documents in a row cost: no file is needed for them."""
    window, tokens, documents, cut, split = header.window, 0, 0, 0, 0
    for lengths in shards.document_lengths():
        ends = tokens + np.cumsum(lengths)
        fits = lengths <= window
        cut += int((((ends - lengths) // window < (ends - 1) // window) & fits).sum())
        documents, split, tokens = documents + len(lengths), split + int((~fits).sum()), tokens + int(lengths.sum())
    windows = max(0, -(-(tokens - 1) // window))
    return replace(header, windows=windows, tokens=tokens, documents=documents, documents_cut=cut, documents_split=split)


def pad(lengths: np.ndarray, window: int) -> Packed:
    """Every document alone in its windows."""
    starts, sizes, goes_on = _pieces(lengths, window)
    return Packed(starts, sizes, goes_on, np.arange(len(starts) + 1))


def best_fit(lengths: np.ndarray, window: int, max_documents: int | None = None) -> Packed:
    """No document that fits is cut: the longest first, each into the fullest window that has room, else into a new one.

    `max_documents`: most pieces in one window, so that no window is a heap of tiny documents. Pieces of a window are in the
    order of the stream, windows in the order of their first pieces.
    """
    starts, sizes, goes_on = _pieces(lengths, window)
    order = np.argsort(-sizes, kind="stable")
    place = _place_capped if max_documents else _place
    places, count = place(sizes[order], window, max_documents or window)
    bins = np.empty_like(places)
    bins[order] = places
    # the stream's order: bins are numbered by their first piece
    firsts = np.full(count, len(bins), np.int64)
    np.minimum.at(firsts, bins, np.arange(len(bins)))
    rank = np.empty(count, np.int64)
    rank[np.argsort(firsts, kind="stable")] = np.arange(count)
    bins = rank[bins]
    by_bin = np.argsort(bins, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=count))])
    return Packed(starts[by_bin], sizes[by_bin], goes_on[by_bin], first)


def _place_capped(sizes: np.ndarray, window: int, max_documents: int) -> tuple[np.ndarray, int]:
    """As `_place`, with fewer windows where the cap, not the room, ends them.

    Best fit then leaves the smallest pieces to windows that are nearly empty. So the smallest pieces are also dealt out like
    cards, the largest of them first, to as few windows as the cap allows: as many pieces as surely fit. No window gets more
    than the mean and the largest piece together.
    """
    best, count = _place(sizes, window, max_documents)
    left = np.arange(len(sizes), 0, -1)
    dealt = -(-left // max_documents)  # windows for a piece and all the smaller ones
    fits = np.cumsum(sizes[::-1], dtype=np.int64)[::-1] // dealt + sizes < window
    if not fits.any():
        return best, count
    first = int(np.argmax(fits))
    others, before = _place(sizes[:first], window, max_documents)
    if before + dealt[first] >= count:
        return best, count
    return np.concatenate([others, before + np.arange(left[first]) % dealt[first]]), int(before + dealt[first])


def _place(sizes: np.ndarray, window: int, max_documents: int) -> tuple[np.ndarray, int]:
    """(bin of each of the sizes, which fall; number of bins).

    A bin that takes one of many equal pieces is then the fullest with room for the next, so it takes as many as it can: all the
    pieces of a length go at once into bins with equal room. Such bins are neighbours: they were opened, and filled, together.
    """
    rooms: dict[int, list[tuple[int, int, int]]] = {}  # room left -> [(pieces inside, first bin, stop)]
    open_rooms = _Numbers()
    bins = 0
    firsts, eachs, counts = array("q"), array("q"), array("q")  # so many pieces into bins from `first` on, `each` into one
    values, numbers = np.unique(-sizes, return_counts=True)
    for size, remaining in zip((-values).tolist(), numbers.tolist(), strict=True):
        while remaining:
            room = open_rooms.at_least(size)
            if room is not None:
                inside, low, high = rooms[room].pop()
                each = min(room // size, max_documents - inside)
                used = min(-(-remaining // each), high - low)
                if used < high - low:
                    rooms[room].append((inside, low + used, high))
                elif not rooms[room]:
                    open_rooms.remove(room)
            else:
                room, inside, low = window, 0, bins
                each = min(window // size, max_documents)
                used = -(-remaining // each)
                bins += used
            taken = min(remaining, used * each)
            remaining -= taken
            firsts.append(low)
            eachs.append(each)
            counts.append(taken)
            whole, rest = divmod(taken, each)
            for first, stop, count in ((low, low + whole, each), (low + whole, low + used, rest)):
                left = room - count * size
                if first < stop and left and inside + count < max_documents:
                    rooms.setdefault(left, []).append((inside + count, first, stop))
                    open_rooms.add(left)
    taken = np.frombuffer(counts, np.int64)
    within = np.arange(len(sizes)) - np.repeat(np.cumsum(taken) - taken, taken)
    return np.repeat(np.frombuffer(firsts, np.int64), taken) + within // np.repeat(np.frombuffer(eachs, np.int64), taken), bins


class _Numbers:
    """A set of whole numbers: bits in words, and one bit per word that is not zero, so that a step copies a few hundred bytes
    where the numbers go up to 2^20, and not all of them."""

    WORD = 1024

    def __init__(self) -> None:
        self._words: dict[int, int] = {}
        self._filled = 0

    def add(self, number: int) -> None:
        word, bit = divmod(number, self.WORD)
        self._words[word] = self._words.get(word, 0) | 1 << bit
        self._filled |= 1 << word

    def remove(self, number: int) -> None:
        """Take out a number that is there."""
        word, bit = divmod(number, self.WORD)
        self._words[word] ^= 1 << bit
        if not self._words[word]:
            self._filled ^= 1 << word

    def at_least(self, number: int) -> int | None:
        """The least that is not below `number`; None where there is none."""
        word, bit = divmod(number, self.WORD)
        if above := self._words.get(word, 0) >> bit:
            return number + _lowest_bit(above)
        if above := self._filled >> word + 1:
            word += 1 + _lowest_bit(above)
            return word * self.WORD + _lowest_bit(self._words[word])
        return None


def _lowest_bit(number: int) -> int:
    return (number & -number).bit_length() - 1


def _pieces(lengths: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(starts int64, sizes int32, goes on bool) of the documents, the longer ones in pieces of `window` tokens and a rest."""
    begins = np.cumsum(lengths) - lengths
    counts = -(-lengths // window)
    number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    left = np.repeat(lengths, counts) - number * window
    starts = np.repeat(begins, counts) + number * window
    return starts, np.minimum(left, window).astype(np.int32), left > window
