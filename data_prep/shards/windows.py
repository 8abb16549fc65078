"""Context windows over the token stream, any length and any way of packing over one set of shards.

concatenate: documents in a row, cut every `sequence_length` tokens (GPT-3, Brown et al. 2020, section 2.2): arithmetic, without
a file. best_fit, pad: a plan file (plan.py) says which pieces of the stream stand in which window; it copies no token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.shards.plan import FILED, PlanFile, plan_name, plan_path
from data_prep.shards.reader import TokenShards

WAYS = ("concatenate", *FILED)
"""Ways of packing documents into windows."""


@dataclass(frozen=True)
class WindowBatch:
    """Windows as arrays, one row each."""

    tokens: np.ndarray
    """[windows, sequence_length + 1], of the shards' own type of integers: inputs, then the last one's target; the
    end-of-document id where there is padding, or a document was taken down."""
    real: np.ndarray
    """bool [windows, sequence_length]: the targets that count."""
    positions: np.ndarray | None
    """int64 [windows, sequence_length], with document masks: places within the document's piece, from 0 where a document, its
    next piece, or padding starts."""

    @classmethod
    def empty(cls, windows: int, sequence_length: int, positions: bool, dtype: np.dtype) -> WindowBatch:
        """Arrays of these shapes, to be filled."""
        shape = windows, sequence_length
        tokens = np.empty((windows, sequence_length + 1), dtype)
        return cls(tokens, np.empty(shape, dtype=bool), np.empty(shape, dtype=np.int64) if positions else None)

    @property
    def inputs(self) -> np.ndarray:
        """[windows, sequence_length], a view."""
        return self.tokens[:, :-1]

    @property
    def targets(self) -> np.ndarray:
        """[windows, sequence_length], a view: the token after each input."""
        return self.tokens[:, 1:]


@dataclass(frozen=True)
class _Pieces:
    """Where the tokens of some windows come from, in the order of rows and places."""

    rows: np.ndarray
    places: np.ndarray
    """First place in the row."""
    starts: np.ndarray
    """First token in the stream."""
    sizes: np.ndarray
    """Tokens; one more than are inputs where the last input's target is the document's next token."""


class Windows:
    """Windows of `sequence_length` inputs, each with its target.

    With "concatenate", window i is the tokens [i L, i L + L], the last of them a target only: the first input of the next
    window. Packed windows hold whole documents, end-of-document tokens included, and pieces of documents longer than a window.
    So every token is an input once (with "concatenate", the corpus's very last may be a target alone). An end-of-document
    token's target is the first token of the document behind it in the window, unless `documents` keeps documents apart.
    """

    def __init__(
        self,
        shards: TokenShards,
        sequence_length: int,
        packing: str = "concatenate",
        documents: bool = False,
        max_documents: int | None = None,
    ):
        """`documents`: for document masks, that is, positions start again with every document, and no target lies in another
        document than its input. `max_documents`: most documents in a window of "best_fit"; null: any number.

        Raises ValueError for unknown ways and lengths, ShardError when the plan file is missing, damaged or of other shards.
        """
        if sequence_length < 1:
            raise ValueError(f"a window needs at least 1 token, not {sequence_length}.")
        if packing not in WAYS:
            raise ValueError(f"packing {packing!r}: one of {', '.join(WAYS)} is needed.")
        self.shards, self.sequence_length, self.packing, self.documents = shards, sequence_length, packing, documents
        name = plan_name(packing, sequence_length, max_documents)
        self._plan = None
        if packing in FILED:
            path = plan_path(shards.folder, packing, sequence_length, max_documents)
            self._plan = PlanFile.open(path, shards.fingerprint, shards.cache)
        self.fingerprint = f"{shards.fingerprint}/{name}" + (f"/{self._plan.header.fingerprint}" if self._plan else "")
        """Identity of these windows and their numbers: the shards, the way of packing, the plan."""

    def __len__(self) -> int:
        if self._plan:
            return self._plan.header.windows
        return max(0, -(-(self.shards.tokens - 1) // self.sequence_length))

    @property
    def tokens(self) -> int:
        """Tokens of the stream in all windows together; padding does not count."""
        return self._plan.header.tokens if self._plan else self.shards.tokens

    def spans(self, index: int) -> list[tuple[int, int]]:
        """(start, stop) in the stream of the inputs of a window, piece by piece."""
        pieces = self._pieces(np.array([index]), np.zeros(1, dtype=np.int64))
        stops = pieces.starts + np.minimum(pieces.sizes, self.sequence_length - pieces.places)
        return list(zip(pieces.starts.tolist(), stops.tolist(), strict=True))

    def holding(self, start: int, stop: int) -> np.ndarray:
        """int64 numbers of the windows with an input among the tokens [start, stop) of the stream, ascending. Reads the whole
        plan where there is one."""
        if self._plan is None:
            return np.arange(start // self.sequence_length, min(-(-stop // self.sequence_length), len(self)))
        found, most = [np.empty(0, np.int64)], 1 << 16
        for first in range(0, len(self), most):
            indices = np.arange(first, min(first + most, len(self)))
            counts, starts, sizes, _ = self._plan.pieces(indices)
            found.append(np.unique(np.repeat(indices, counts)[(starts < stop) & (starts + sizes > start)]))
        return np.concatenate(found)

    def read(self, indices: np.ndarray) -> WindowBatch:
        """The windows of these numbers, in this order; -1 stands for a window of padding alone.

        Raises IndexError for other numbers outside 0 to len(self) - 1, ShardError for damaged shards or plans.
        """
        batch = WindowBatch.empty(len(indices), self.sequence_length, self.documents, self.shards.dtype)
        self.fill(batch, np.arange(len(indices)), indices)
        return batch

    def fill(self, batch: WindowBatch, rows: np.ndarray, indices: np.ndarray) -> None:
        """`read` into these rows of a batch, one for each number."""
        pieces = self._pieces(np.asarray(indices, dtype=np.int64), rows)
        tokens, real, length = batch.tokens, batch.real, self.sequence_length
        self.shards.read_into(pieces.starts, pieces.sizes, tokens.reshape(-1), pieces.rows * (length + 1) + pieces.places)
        filled = np.zeros(len(tokens), dtype=np.int64)
        filled[pieces.rows] = pieces.places + pieces.sizes  # of several pieces in a row the last one's stays
        filled = filled[rows]
        real[rows] = True
        short = np.flatnonzero(filled <= length)
        for row, size in zip(rows[short].tolist(), filled[short].tolist(), strict=True):
            tokens[row, size:] = self.shards.eod_id
            real[row, max(size - 1, 0) :] = False
        self._mask_takedowns(pieces, tokens, real)
        if self.documents:
            starts, places = self._document_starts(pieces)
            real[starts, places - 1] = False
            number = np.empty(len(tokens), dtype=np.int64)
            number[rows] = np.arange(len(rows))
            batch.positions[rows] = _positions(number[starts], places, filled, length)

    def prefetch(self, indices: np.ndarray) -> None:
        """Say which windows are read soon: their tokens are fetched in the background where the shards are remote."""
        if self.shards.is_fetched:
            pieces = self._pieces(np.asarray(indices, dtype=np.int64), np.arange(len(indices)))
            self.shards.prefetch(pieces.starts, pieces.sizes)

    def _pieces(self, indices: np.ndarray, rows: np.ndarray) -> _Pieces:
        """Of the windows of these numbers, each for its row."""
        if len(indices) and not -1 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"windows {indices.min()} to {indices.max()} of {len(self)}")
        full = indices >= 0
        rows, indices = rows[full], indices[full]
        if self._plan is None:
            starts = indices * self.sequence_length
            sizes = np.minimum(self.sequence_length + 1, self.shards.tokens - starts)
            return _Pieces(rows, np.zeros_like(rows), starts, sizes)
        counts, starts, sizes, goes_on = self._plan.pieces(indices)
        places = np.cumsum(sizes) - sizes
        first = np.cumsum(counts) - counts
        places -= np.repeat(places[first], counts)
        return _Pieces(np.repeat(rows, counts), places, starts, sizes + goes_on)

    def _mask_takedowns(self, pieces: _Pieces, tokens: np.ndarray, real: np.ndarray) -> None:
        """Put the end-of-document id in the place of documents taken down; none of them is a target that counts."""
        takedowns = self.shards.takedowns
        if not len(takedowns):
            return
        stops = pieces.starts + pieces.sizes
        for piece in np.flatnonzero(takedowns.count(pieces.starts, stops)).tolist():
            row = pieces.rows[piece]
            places = pieces.places[piece] + np.flatnonzero(takedowns.mask(int(pieces.starts[piece]), int(stops[piece])))
            tokens[row, places] = self.shards.eod_id
            real[row, places[places > 0] - 1] = False

    def _document_starts(self, pieces: _Pieces) -> tuple[np.ndarray, np.ndarray]:
        """(rows, places) of the documents that start behind a row's first place, up to its last target."""
        if self._plan is not None:
            inner = pieces.places > 0  # each piece of a plan is of one document
            return pieces.rows[inner], pieces.places[inner]
        found = [
            self.shards.document_starts_in(start + 1, start + size) - start
            for start, size in zip(pieces.starts.tolist(), pieces.sizes.tolist(), strict=True)
        ]
        if not found:
            return pieces.rows, pieces.places
        return np.repeat(pieces.rows, [len(places) for places in found]), np.concatenate(found)


def _positions(rows: np.ndarray, places: np.ndarray, filled: np.ndarray, length: int) -> np.ndarray:
    """int64 [windows, length]: places counted from the last start of a row, of a document, or of padding."""
    count = len(filled)
    inside, padded = places < length, np.flatnonzero(filled < length)
    starts = np.unique(
        np.concatenate([np.arange(count) * length, rows[inside] * length + places[inside], padded * length + filled[padded]])
    )
    steps = np.ones(count * length, dtype=np.int64)  # from each place to the next; at a start, back to 0
    steps[starts] = 1 - np.diff(starts, prepend=-1)
    steps[:1] = 0
    return np.cumsum(steps, out=steps).reshape(count, length)
