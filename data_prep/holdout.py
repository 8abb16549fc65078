"""Which documents are held out for validation: those whose ids hash lowest, so that a document's side of the split does not
depend on what else is in the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from data_prep.document import read_records
from data_prep.stage import Parts, Runner, Task, write_json


def holdout_key(document_id: str, seed: int) -> int:
    """A uniform 64-bit number from a document's id."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{document_id}".encode())


@dataclass(frozen=True)
class Holdout:
    """Documents whose key is below `below` are held out, but never the one with `never`."""

    seed: int
    below: int
    never: int | None

    @classmethod
    def choose(cls, seed: int, fraction: float, smallest: int, largest: int) -> Holdout:
        """Hold out `fraction` of the documents; one at least when there are two, and never all."""
        below = max(int(fraction * 2**64), smallest + 1) if fraction > 0 else 0
        # None where it makes no difference: what decides the split must not change as a corpus grows
        return cls(seed, below, largest if largest < below else None)

    def split(self, document_id: str) -> str:
        """ "train" or "validation"."""
        key = holdout_key(document_id, self.seed)
        return "validation" if key < self.below and key != self.never else "train"


def run(runner: Runner, folder: Path, parts: Parts, seed: int, fraction: float) -> Holdout:
    """Choose among the documents of `parts`."""
    settings = {"seed": seed}
    bounds = runner.run(folder, "hold out", settings, parts.tasks(lambda part: (part, seed)), bounds_work)
    lows, highs = ([int(r[key]) for r in bounds if r[key] is not None] for key in ("smallest", "largest"))
    return Holdout.choose(seed, fraction, min(lows, default=0), max(highs, default=0))


def bounds_work(task: Task, folder: Path) -> dict[str, Any]:
    """The smallest and the largest key of a part, null when it is empty."""
    part, seed = task.arguments
    keys = [holdout_key(record["id"], seed) for record in read_records(part, long_texts=True)]
    result = {"smallest": min(keys, default=None), "largest": max(keys, default=None)}
    write_json(folder / f"{task.name}.json", result)
    return {"outputs": [f"{task.name}.json"], **result}
