"""Documents by their number in the corpus: in order, part after part. Numbers stand for documents in every sort."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.dedup.external_sort import Run
from data_prep.document import Document, Drop, read_documents
from data_prep.stage import write_json


@dataclass(frozen=True)
class Numbering:
    """How many documents each part has. Kept in a file, as every task of a large corpus needs it."""

    names: list[str]
    """Of the parts."""
    counts: list[int]

    @classmethod
    def read(cls, path: Path) -> Numbering:
        """What `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> Path:
        """Write the file; returns its path."""
        write_json(path, {"names": self.names, "counts": self.counts})
        return path

    @property
    def starts(self) -> list[int]:
        """First number of each part, and the number of all documents."""
        return [0, *np.cumsum(self.counts, dtype=np.int64).tolist()]

    def range_of(self, name: str) -> tuple[int, int]:
        """[first, end) of a part's numbers."""
        index, starts = self.names.index(name), self.starts
        return starts[index], starts[index + 1]

    def runs(self, folder: Path, names: list[list[str]]) -> list[Run]:
        """Runs whose second numbers are documents of one part: `names` of each part's files."""
        return [Run(folder / name, start) for start, each in zip(self.starts, names, strict=False) for name in each]


def divide(
    step: str, part: Path, first: int, dropped: Iterator[tuple[int, Drop]]
) -> Iterator[tuple[str, Document, Drop | None]]:
    """Verdicts on a part whose first document has number `first`; `dropped` are (number, verdict) in order."""
    number, drop = next(dropped, (None, None))
    for place, document in enumerate(read_documents(part, long_texts=True), first):
        if place == number:
            yield step, document, drop
            number, drop = next(dropped, (None, None))
        else:
            yield step, document, None
