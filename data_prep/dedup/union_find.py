"""Clusters of linked documents: union-find whose forest lies on disk.

The parent array of an ordinary union-find takes 8 bytes of memory per document, 8 GB for 1e9, and is touched at random. Here
the forest is a set of links (document, parent) in sorted runs. Union and path compression are done for all links at once, by
sorting: the alternating large-star and small-star operations of Kiveris et al. 2014, "Connected Components in MapReduce and
Beyond" (SoCC), which need O(log^2 n) rounds, and in practice a handful. Memory is what the sort is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_prep.dedup.external_sort import Run, RunWriter, groups, read_sorted


def components(links: list[Run], folder: Path, memory_bytes: int) -> list[Run]:
    """Runs of (document, smallest document of its connected component), for all documents but the smallest of each.

    `links` are undirected pairs of different documents. Files of earlier rounds are removed from `folder`, the last stay there.
    """
    memory_bytes //= 2  # one sort is read while the next is written
    forest, before, number = links, None, 0
    while True:
        both = _Round(folder, f"both-{number}", memory_bytes)
        state = 0
        for pairs in read_sorted(forest, memory_bytes):
            state = (state + _checksum(pairs)) % 2**64
            both.add(pairs[:, 0], pairs[:, 1])
            both.add(pairs[:, 1], pairs[:, 0])
        if state == before:
            both.remove()
            return forest
        stars = _large_star(both, _Round(folder, f"large-{number}", memory_bytes))
        older, forest = forest, _small_star(stars, _Round(folder, f"small-{number}", memory_bytes)).runs()
        if before is not None:
            _remove(older)
        before, number = state, number + 1


class _Round(RunWriter):
    def __init__(self, folder: Path, name: str, memory_bytes: int):
        super().__init__(folder, name, memory_bytes)
        self.folder, self.memory_bytes = folder, memory_bytes

    def runs(self) -> list[Run]:
        return [Run(self.folder / name) for name in self.close()]

    def remove(self) -> None:
        _remove(self.runs())


def _remove(runs: Iterable[Run]) -> None:
    for run in runs:
        run.path.unlink()


def _large_star(both: _Round, output: _Round) -> _Round:
    """Link every neighbour above a document to the smallest of the document and its neighbours."""
    for pairs, starts in groups(read_sorted(both.runs(), both.memory_bytes)):
        center, neighbour = pairs[:, 0], pairs[:, 1]
        smallest = np.minimum(center, neighbour[starts])
        above = neighbour > center
        output.add(neighbour[above], smallest[above])
    both.remove()
    return output


def _small_star(stars: _Round, output: _Round) -> _Round:
    """Link a document and its neighbours below it to the smallest of these."""
    for pairs, starts in groups(read_sorted(stars.runs(), stars.memory_bytes)):
        center, neighbour = pairs[:, 0], pairs[:, 1]
        smallest = neighbour[starts]
        others = neighbour != smallest
        output.add(neighbour[others], smallest[others])
        output.add(center[~others], smallest[~others])
    stars.remove()
    return output


def _checksum(pairs: np.ndarray) -> int:
    """Of a set: the same for any order and any division into pieces."""
    mixed = pairs[:, 0] * np.uint64(0x9E3779B97F4A7C15) + pairs[:, 1]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return int((mixed ^ (mixed >> np.uint64(32))).sum(dtype=np.uint64))
