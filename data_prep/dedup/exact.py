"""Stage 2: exact deduplication. Of documents with equal normalised text the first stays, in the order of the recipe.

Three steps: hash every document (parallel), find the repeated hashes (one task; about 60 bytes of memory per document), and
write what is kept and what is dropped (parallel).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep import stage
from data_prep.document import SUFFIX, Document, Drop, read_documents, read_records, write_records
from data_prep.sift import sift
from data_prep.stage import Parts, Runner, Task, partial_name

STEP = "exact_dedup"


def run(runner: Runner, folder: Path, parts: Parts, seed: int, remove: bool) -> tuple[Parts, dict[str, Any]]:
    """(the unique documents, what the search found: numbers of documents and the bounds of the hold-out keys).

    With `remove` false every document is kept; the search is made for the hold-out keys.
    """
    hashes, decisions, unique = folder / "hashes", folder / "decisions", folder / "documents"
    settings = {"input": parts.fingerprint, "seed": seed}
    hashed = runner.run(hashes, "hash", settings, parts.tasks(lambda part: (part, seed)), hash_work)
    search = Task("duplicates", sum(file.stat().st_size for file in parts.files), (hashes, parts.names, remove))
    settings = {"input": stage.fingerprint(hashed), "exact": remove}
    (found,) = runner.run(decisions, "duplicates", settings, [search], find_work)
    arguments = (decisions, hashes, parts.names, found["part_sizes"])
    settings = {"input": stage.fingerprint([*parts.results, found])}
    results = runner.run(unique, "filter", settings, parts.tasks(lambda part: (part, *arguments)), filter_work)
    return Parts.of(unique, results), found


def normalise(text: str) -> str:
    """What is compared: Unicode NFC, every run of white space as one space, none at the ends. Case and punctuation count."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def holdout_key(document_id: str, seed: int) -> int:
    """A uniform 64-bit number from a document's id: the documents with the smallest are held out for validation."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{document_id}".encode())


def hash_work(task: Task, folder: Path) -> dict[str, Any]:
    """Hash a part. Writes uint64 [documents, 3]: two halves of the text's xxh3-128, and the hold-out key."""
    part, seed = task.arguments
    rows, ids = [], []
    for document in read_documents(part):
        digest = xxhash.xxh3_128_intdigest(normalise(document.text).encode("utf-8", "surrogatepass"))
        rows.append((digest >> 64, digest & (2**64 - 1), holdout_key(document.id, seed)))
        ids.append({"id": document.id})
    table, names = f"{task.name}.npy", f"{task.name}.ids{SUFFIX}"
    _save(folder / table, np.array(rows, dtype=np.uint64).reshape(-1, 3))
    write_records(folder / names, ids)
    return {"outputs": [table, names]}


def find_work(task: Task, folder: Path) -> dict[str, Any]:
    """Find repeats among all parts. Writes per part int64 [documents]: -1 to keep, else the place of the one that is kept."""
    hashes, names, remove = task.arguments
    tables = [np.load(hashes / f"{name}.npy") for name in names]
    everything = np.concatenate(tables) if tables else np.empty((0, 3), np.uint64)
    first = first_occurrences(everything[:, 0], everything[:, 1]) if remove else np.arange(len(everything))
    decision = np.where(first == np.arange(len(everything)), -1, first)
    outputs, start = [], 0
    for name, table in zip(names, tables, strict=True):
        outputs.append(f"{name}.npy")
        _save(folder / outputs[-1], decision[start : start + len(table)])
        start += len(table)
    keys = everything[decision == -1, 2]
    return {
        "outputs": outputs,
        "part_sizes": [len(table) for table in tables],
        "kept": len(keys),
        "smallest_key": int(keys.min()) if len(keys) else None,
        "largest_key": int(keys.max()) if len(keys) else None,
    }


def first_occurrences(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """For each position, the first position that has the same (high, low) pair. O(n log n)."""
    order = np.lexsort((low, high))  # stable: equal pairs stay in their order
    new = np.ones(len(order), dtype=bool)
    new[1:] = (high[order][1:] != high[order][:-1]) | (low[order][1:] != low[order][:-1])
    group_start = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[group_start]
    return first


def filter_work(task: Task, folder: Path) -> dict[str, Any]:
    """Divide a part into kept and dropped; each dropped document names the one that is kept."""
    part, decisions, hashes, names, part_sizes = task.arguments
    decision = np.load(decisions / f"{task.name}.npy")
    ids_of = DocumentIds(hashes, names, part_sizes)

    def verdicts() -> Iterator[tuple[str, Document, Drop | None]]:
        for document, place in zip(read_documents(part), decision.tolist(), strict=True):
            yield STEP, document, None if place < 0 else Drop("exact duplicate", kept_instead=ids_of[place])

    return sift(task.name, folder, verdicts())


class DocumentIds:
    """Document ids by place in the whole corpus, read part by part as needed."""

    def __init__(self, folder: Path, names: list[str], part_sizes: list[int]):
        self._folder, self._names = folder, names
        self._ends = np.cumsum(part_sizes)
        self._cache: dict[int, list[str]] = {}

    def __getitem__(self, place: int) -> str:
        part = int(np.searchsorted(self._ends, place, side="right"))
        if part not in self._cache:
            if len(self._cache) > 16:
                self._cache.clear()
            file = self._folder / f"{self._names[part]}.ids{SUFFIX}"
            self._cache[part] = [record["id"] for record in read_records(file)]
        return self._cache[part][place - int(self._ends[part])]


def _save(path: Path, array: np.ndarray) -> None:
    partial = partial_name(path)
    with partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    partial.replace(path)
