"""What the filters share: words, lines and repeated n-grams of a text. The last texts are remembered, so that filters that
follow each other on one document split it once."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

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


def top_ngram_characters(items: list[str], n: int) -> int:
    """Characters covered by the most frequent n-gram that occurs more than once; the longest one of equals."""
    grams = Counter(zip(*(items[i:] for i in range(n)), strict=False))
    if not grams:
        return 0
    most = max(grams.values())
    return 0 if most < 2 else most * max(sum(map(len, gram)) for gram, count in grams.items() if count == most)


def duplicate_ngram_characters(items: list[str], n: int) -> int:
    """Characters of the words within n-grams that occurred before, none counted twice."""
    seen: set[tuple[str, ...]] = set()
    covered = total = 0  # words before `covered` are counted already
    for start, gram in enumerate(zip(*(items[i:] for i in range(n)), strict=False)):
        if gram in seen:
            total += sum(map(len, items[max(start, covered) : start + n]))
            covered = start + n
        else:
            seen.add(gram)
    return total
