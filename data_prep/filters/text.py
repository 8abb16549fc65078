"""What the filters share: pieces, lines and words of a text, and its repeated n-grams.

Texts may hold hundreds of megabytes, so words are arrays of places, not objects, and long texts are handled in pieces. The last
short texts are remembered, so that filters that follow each other on one document split it once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SENTENCE_END = re.compile(r"[.!?。！？؟।]+[\"'”’)\]]*(?:\s|$)")
PIECE = 4_000_000
"""Characters per piece of a longer text: bounds the memory of a filter."""
_BASE = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse modulo 2**64."""
SPACE, OTHER, WORD, JOINER = range(4)
"""Classes of characters: white space; punctuation; letters, digits and _; marks that may stand within a word."""


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """Yield the text in pieces of at most `size` characters, cut behind a line, else behind white space, where there is any."""
    start = 0
    while len(text) - start > size:
        end = start + size
        near = max(start, end - 100_000)
        cut = max(text.rfind("\n", near, end), near - 1) + 1
        if cut <= near:
            cut = max(text.rfind(" ", near, end), near - 1) + 1
        end = cut if cut > near else end
        yield text[start:end]
        start = end
    yield text[start:] if start else text


@lru_cache(maxsize=2)
def lines(piece: str) -> list[str]:
    """Return the lines that are not blank, stripped. Not for changing."""
    return [stripped for line in piece.split("\n") if (stripped := line.strip())]


def repeated(items: list[str]) -> tuple[int, int]:
    """Return (number, characters) of the items that repeat an earlier one."""
    counts = Counter(items)
    if len(counts) == len(items):
        return 0, 0
    return len(items) - len(counts), sum((count - 1) * len(item) for item, count in counts.items() if count > 1)


@dataclass(frozen=True)
class Words:
    """Words and runs of punctuation of a text, in order: word i is text[starts[i]:ends[i]]."""

    starts: np.ndarray
    """int64 [words]."""
    ends: np.ndarray
    """int64 [words]."""
    keys: np.ndarray
    """uint64 [words]: equal for equal words, and by chance for others about once in 2**64 pairs."""
    real: np.ndarray
    """bool [words]: false for runs of punctuation."""

    def __len__(self) -> int:
        return len(self.starts)


def code_points(piece: str) -> np.ndarray:
    """Return the code points: uint8 or uint32 [characters]."""
    if piece.isascii():
        return np.frombuffer(piece.encode("ascii"), np.uint8)
    return np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), np.uint32)


@lru_cache(maxsize=1)
def _class_table() -> np.ndarray:
    """Return the class of each code point, as the regular expressions \\w and \\s have it: uint8 [0x110000]."""
    every = "".join(map(chr, range(0x110000)))
    table = np.full(0x110000, OTHER, np.uint8)
    for kind, pattern in ((SPACE, r"\s+"), (WORD, r"\w+")):
        for match in re.finditer(pattern, every):
            table[match.start() : match.end()] = kind
    for mark in "'’-.":
        table[ord(mark)] = JOINER
    return table


@lru_cache(maxsize=2)
def words(piece: str) -> Words:
    """Split a text of at most PIECE characters at white space and punctuation.

    A word is a run of letters, digits and _; one of ' ’ - . between two such runs belongs to it.
    """
    codes = code_points(piece)
    kinds = _class_table()[codes]
    marks = np.flatnonzero(kinds == JOINER)
    if len(marks):
        padded = np.concatenate([[SPACE], kinds, [SPACE]])
        inner = (padded[marks] == WORD) & (padded[marks + 2] == WORD)
        kinds[marks] = np.where(inner, WORD, OTHER).astype(np.uint8)
    changes = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
    bounds = np.concatenate([np.zeros(min(1, len(kinds)), np.int64), changes, [len(kinds)]])
    starts, ends = bounds[:-1], bounds[1:]
    kind = kinds[starts]
    used = kind != SPACE
    starts, ends = starts[used], ends[used]
    powers, inverses = _powers(len(codes))
    with np.errstate(over="ignore"):
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers)])
        keys = (sums[ends] - sums[starts]) * inverses[starts]
        keys ^= keys >> np.uint64(29)
    return Words(starts, ends, keys, kind[used] == WORD)


def strings(piece: str) -> Iterator[str]:
    """Yield the words and runs of punctuation of a text of at most PIECE characters."""
    found = words(piece)
    return (piece[start:end] for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True))


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (powers, inverse powers) of the base modulo 2**64: uint64 [count]."""
    powers, inverses = _power_table(1 << max(12, (max(count, 1) - 1).bit_length()))
    return powers[:count], inverses[:count]


@lru_cache(maxsize=2)
def _power_table(count: int) -> tuple[np.ndarray, np.ndarray]:
    tables = []
    for base in (_BASE, pow(_BASE, -1, 2**64)):
        table = np.full(count, base, np.uint64)
        table[0] = 1
        tables.append(np.cumprod(table, dtype=np.uint64))
    return tables[0], tables[1]


def chain(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return keys of pairs of keys, in order: uint64."""
    with np.errstate(over="ignore"):
        mixed = (first ^ (first >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93) + second
        return mixed ^ (mixed >> np.uint64(31))


class RepeatedNGrams:
    """The n-grams of a sequence of words that occur more than once.

    An n-gram can only be repeated where the one without its last word is: every n looks at few places.
    """

    def __init__(self, keys: np.ndarray, lengths: np.ndarray):
        """keys: uint64 [words], equal for equal words; lengths: int64 [words], in characters."""
        self._keys = keys
        self._bounds = np.concatenate([[0], np.cumsum(lengths)])
        """Characters before word i."""
        self._n = 1
        self._starts: np.ndarray | None = None
        """Places of the repeated n-grams, for the n that was asked for last; None: all."""
        self._chained = keys
        self._which = np.zeros(0, np.int64)

    def _advance(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (starts of the repeated n-grams, in order; the number of each n-gram). n is at least 2 and may only grow."""
        while self._n < n:
            last = len(self._keys) - self._n  # no longer n-gram begins there or behind
            if self._starts is None:
                chained = chain(self._chained[:-1], self._keys[self._n :])
                again, self._which = _repeated_keys(chained)
                self._starts = again
            else:
                fits = int(np.searchsorted(self._starts, last))
                self._starts = self._starts[:fits]
                chained = chain(self._chained[:fits], self._keys[self._starts + self._n])
                again, self._which = _repeated_keys(chained)
                self._starts = self._starts[again]
            self._chained = chained[again]
            self._n += 1
        places = np.arange(len(self._keys)) if self._starts is None else self._starts
        return places, self._which

    def _characters(self, starts: np.ndarray, n: int) -> np.ndarray:
        return self._bounds[starts + n] - self._bounds[starts]

    def cannot_reach(self, share: float, size: int, longest: int) -> bool:
        """Tell whether no n-gram of 2 to `longest` words, with all its repetitions, covers more than the share of `size`
        characters: none comes more often than the most frequent 2-gram. To be asked first."""
        _, which = self._advance(2)
        if not len(which):
            return True
        reach = min(longest, len(self._bounds) - 1)
        return int(np.bincount(which).max()) * int((self._bounds[reach:] - self._bounds[:-reach]).max()) <= share * size

    def top_characters(self, n: int) -> int:
        """Return the characters of the most frequent n-gram that occurs more than once; of equals, of the longest one."""
        starts, which = self._advance(n)
        if not len(starts):
            return 0
        counts = np.bincount(which)
        most = int(counts.max())
        return most * int(self._characters(starts[counts[which] == most], n).max())

    def duplicate_characters(self, n: int) -> int:
        """Return the characters of the words within n-grams that occurred before, none counted twice."""
        starts, which = self._advance(n)
        if not len(starts):
            return 0
        is_first = np.zeros(len(starts), bool)
        # of the places of one n-gram, written from the last to the first, the first stays
        first = np.full(int(which.max()) + 1, -1)
        first[which[::-1]] = np.arange(len(starts))[::-1]
        is_first[first[first >= 0]] = True
        later = starts[~is_first]
        covered = np.concatenate([[0], (later + n)[:-1]])  # words before `covered` are counted already
        return int((self._bounds[later + n] - self._bounds[np.maximum(later, covered)]).sum())


def _repeated_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (indices of the keys that occur more than once, in order; a number for each such key)."""
    order = np.argsort(keys)
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    member = np.zeros(len(keys), bool)
    member[1:] = same
    member[:-1] |= same
    begins = np.ones(len(keys), np.int64)
    begins[1:] -= same
    group = np.empty(len(keys), np.int64)
    group[order] = np.cumsum(begins)
    repeated_at = np.empty(len(keys), bool)
    repeated_at[order] = member
    places = np.flatnonzero(repeated_at)
    return places, group[places]
