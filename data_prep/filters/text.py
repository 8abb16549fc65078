"""What the filters share: words, lines and repeated n-grams of a text. The last texts are remembered, so that filters that
follow each other on one document split it once."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

import numpy as np

_WORD = re.compile(r"\w+(?:['’\-.]\w+)*|[^\w\s]+")
SENTENCE_END = re.compile(r"[.!?。！？؟।]+[\"'”’)\]]*(?:\s|$)")


@lru_cache(maxsize=4)
def words(text: str) -> list[str]:
    """Words and runs of punctuation, in order. Not for changing."""
    return _WORD.findall(text)


@lru_cache(maxsize=4)
def lines(text: str) -> list[str]:
    """Lines that are not blank, stripped. Not for changing."""
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def repeated(items: list[str]) -> tuple[int, int]:
    """(number, characters) of the items that repeat an earlier one."""
    counts = Counter(items)
    return len(items) - len(counts), sum((count - 1) * len(item) for item, count in counts.items() if count > 1)


@lru_cache(maxsize=4)
def word_counts(text: str) -> Counter[str]:
    """How often each of the text's words occurs. Not for changing."""
    return Counter(words(text))


class RepeatedNGrams:
    """The n-grams of a list of words that occur more than once, up to a longest n.

    An n-gram can only be repeated where the one without its last word is: every n looks at few places.
    """

    def __init__(self, items: list[str], longest: int):
        numbers: dict[str, int] = {}
        ids = np.fromiter((numbers.setdefault(item, len(numbers)) for item in items), np.int64, len(items))
        ends = np.cumsum(np.fromiter(map(len, items), np.int64, len(items)))
        self._bounds = np.concatenate([[0], ends])
        """Characters before word i."""
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        """n -> (starts of the repeated n-grams, in order; which n-gram each is)."""
        starts, keys = np.arange(len(ids)), np.zeros(len(ids), np.int64)
        for n in range(1, longest + 1):
            starts, keys = starts[starts <= len(ids) - n], keys[starts <= len(ids) - n]
            _, keys, counts = np.unique(keys * len(numbers) + ids[starts + n - 1], return_inverse=True, return_counts=True)
            again = counts[keys] > 1
            starts, keys = starts[again], keys[again]
            self._found[n] = starts, keys

    def _characters(self, starts: np.ndarray, n: int) -> np.ndarray:
        return self._bounds[starts + n] - self._bounds[starts]

    def top_characters(self, n: int) -> int:
        """Characters covered by the most frequent n-gram that occurs more than once; the longest one of equals."""
        starts, keys = self._found[n]
        if not len(starts):
            return 0
        counts = np.bincount(keys)
        most = int(counts.max())
        return most * int(self._characters(starts[counts[keys] == most], n).max())

    def duplicate_characters(self, n: int) -> int:
        """Characters of the words within n-grams that occurred before, none counted twice."""
        starts, keys = self._found[n]
        _, first = np.unique(keys, return_index=True)
        later = np.delete(starts, first).tolist()
        covered = total = 0  # words before `covered` are counted already
        for start in later:
            total += int(self._bounds[start + n] - self._bounds[max(start, covered)])
            covered = start + n
        return total
