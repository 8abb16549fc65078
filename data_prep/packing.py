"""Documents -> context windows: a plan that says which tokens of the shards stand in which window; tokens are never copied.

Three ways. concatenate: documents in a row, cut every `window` tokens (GPT-3, Brown et al. 2020, section 2.2). best_fit: no
document that fits a window is cut (best-fit decreasing, Ding et al. 2024, arXiv 2404.10830). pad: every document alone.
Documents longer than a window are split into whole windows and a rest, never shortened. Lengths count a document's
end-of-document token, which is the separator. Not implemented from Ding et al.: their segment tree; lengths are small integers,
so all pieces of one length are placed at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

BLOCK_DOCUMENTS = 1 << 22
"""Documents that best_fit sorts together, so that memory stays flat; their rest is less than one window in 10,000."""


@dataclass(frozen=True)
class Plan:
    """Windows over a stream of tokens: window i is the pieces first[i] to first[i + 1], one after the other, then padding."""

    window: int
    """Tokens per window."""
    starts: np.ndarray
    """int64 [pieces]: first token of each piece in the stream."""
    lengths: np.ndarray
    """int32 [pieces]: its tokens."""
    first: np.ndarray
    """int64 [windows + 1]."""
    documents: int
    documents_cut: int
    """Documents that would fit a window and stand in two or more."""
    documents_split: int
    """Documents longer than a window."""

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, index: int) -> list[tuple[int, int]]:
        """(start, stop) in the stream of each piece of a window."""
        pieces = slice(self.first[index], self.first[index + 1])
        return [
            (start, start + size)
            for start, size in zip(self.starts[pieces].tolist(), self.lengths[pieces].tolist(), strict=True)
        ]

    @property
    def tokens(self) -> int:
        """Tokens in the windows."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def padding(self) -> int:
        """Places of the windows without a token."""
        return len(self) * self.window - self.tokens


def concatenate(lengths: np.ndarray, window: int) -> Plan:
    """Documents in a row, cut every `window` tokens; only the last window has padding."""
    ends = _ends(lengths, window)
    total = int(ends[-1]) if len(ends) else 0
    grid = np.arange(0, total, window, dtype=np.int64)
    begins = ends - lengths
    starts = np.concatenate([grid, begins[begins % window != 0]])
    starts.sort(kind="stable")
    sizes = np.diff(starts, append=total).astype(np.int32)
    fits = lengths <= window
    cut = (begins // window != (ends - 1) // window) & fits
    return Plan(
        window=window,
        starts=starts,
        lengths=sizes,
        first=np.append(np.searchsorted(starts, grid), len(starts)),
        documents=len(lengths),
        documents_cut=int(cut.sum()),
        documents_split=int((~fits).sum()),
    )


def pad(lengths: np.ndarray, window: int) -> Plan:
    """Every document alone in its windows."""
    starts, sizes = _pieces(lengths, window)
    first = np.arange(len(starts) + 1, dtype=np.int64)
    return Plan(window, starts, sizes, first, len(lengths), 0, int((lengths > window).sum()))


def best_fit(lengths: np.ndarray, window: int, max_pieces: int = 1 << 30) -> Plan:
    """No document that fits is cut: the longest first, each into the fullest window that has room, else into a new one.

    `max_pieces`: most pieces in one window, so that no window is a heap of tiny documents. Pieces of a window are in the order
    of the stream, windows in the order of their first pieces.
    """
    if max_pieces < 1:
        raise ValueError(f"a window holds at least 1 document, not {max_pieces}.")
    starts, sizes = _pieces(lengths, window)
    order = np.argsort(-sizes, kind="stable")
    places, count = _place(sizes[order], window, max_pieces)
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
    return Plan(window, starts[by_bin], sizes[by_bin], first, len(lengths), 0, int((lengths > window).sum()))


METHODS: dict[str, Callable[[np.ndarray, int], Plan]] = {"concatenate": concatenate, "best_fit": best_fit, "pad": pad}


def plan(lengths: np.ndarray, window: int, method: str) -> Iterator[Plan]:
    """Plans of one block of documents after the other, their starts counted from the stream's first token.

    concatenate: its blocks end at window borders only when they are one block, so it comes whole. Raises ValueError for unknown
    methods and windows.
    """
    if method not in METHODS:
        raise ValueError(f"packing {method!r}: one of {', '.join(METHODS)} is needed.")
    if method == "concatenate":
        yield concatenate(lengths, window)
        return
    before = 0
    for start in range(0, len(lengths), BLOCK_DOCUMENTS):
        block = lengths[start : start + BLOCK_DOCUMENTS]
        made = METHODS[method](block, window)
        made.starts[:] += before
        yield made
        before += int(block.sum(dtype=np.int64))


def _place(sizes: np.ndarray, window: int, max_pieces: int) -> tuple[np.ndarray, int]:
    """(bin of each of the sizes, which fall; number of bins).

    A bin that takes one of many equal pieces is then the fullest with room for the next, so it takes as many as it can: all the
    pieces of a length go at once into bins with equal room. Such bins are neighbours: they were opened, and filled, together.
    """
    rooms: dict[int, list[tuple[int, int, int]]] = {}  # room left -> [(pieces inside, first bin, stop)]
    open_rooms = 0  # bit r: there are bins with room r
    bins = 0
    firsts, eachs, counts = array("q"), array("q"), array("q")  # so many pieces into bins from `first` on, `each` into one
    values, numbers = np.unique(-sizes, return_counts=True)
    for size, remaining in zip((-values).tolist(), numbers.tolist(), strict=True):
        while remaining:
            above = open_rooms >> size
            if above:
                room = size + (above & -above).bit_length() - 1
                inside, low, high = rooms[room].pop()
                each = min(room // size, max_pieces - inside)
                used = min(-(-remaining // each), high - low)
                if used < high - low:
                    rooms[room].append((inside, low + used, high))
                elif not rooms[room]:
                    open_rooms ^= 1 << room
            else:
                room, inside, low = window, 0, bins
                each = min(window // size, max_pieces)
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
                if first < stop and left and inside + count < max_pieces:
                    rooms.setdefault(left, []).append((inside + count, first, stop))
                    open_rooms |= 1 << left
    taken = np.frombuffer(counts, np.int64)
    within = np.arange(len(sizes)) - np.repeat(np.cumsum(taken) - taken, taken)
    return np.repeat(np.frombuffer(firsts, np.int64), taken) + within // np.repeat(np.frombuffer(eachs, np.int64), taken), bins


def _pieces(lengths: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts int64, lengths int32) of the documents, the longer ones in pieces of `window` tokens and a rest."""
    begins = _ends(lengths, window) - lengths
    counts = -(-lengths // window)
    if len(counts) and counts.max() > 1:
        number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        begins = np.repeat(begins, counts) + number * window
        lengths = np.minimum(np.repeat(lengths, counts) - number * window, window)
    return begins.astype(np.int64), lengths.astype(np.int32)


def _ends(lengths: np.ndarray, window: int) -> np.ndarray:
    if not 1 <= window < 2**31:
        raise ValueError(f"a window needs 1 to 2147483647 tokens, not {window}.")
    if len(lengths) and int(lengths.min()) < 1:
        raise ValueError(
            f"document {int(lengths.argmin())} has {int(lengths.min())} tokens; 1, the end of document, is the least."
        )
    return np.cumsum(lengths, dtype=np.int64)
