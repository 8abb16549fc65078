"""Stage 3: exact deduplication. Of documents with equal normalised text the first stays, in the order of the corpus.

Three stages: hash every document (per part), find the repeated hashes (per range of hashes), and write what is kept and what is
dropped (per part). Sorting is in memory of `MEMORY_BYTES` per task, whatever the number of documents.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.dedup.external_sort import Run, RunWriter, groups, range_tasks, read_sorted
from data_prep.dedup.numbering import Numbering, divide
from data_prep.dedup.ragged import encode_ids, read_ids, write_ids
from data_prep.dedup.words import batches
from data_prep.document import Drop, read_documents
from data_prep.long_text import LongText, pieces
from data_prep.sift import sift
from data_prep.stage import Parts, Runner, Task

STEP = "exact_dedup"
MEMORY_BYTES = 512 << 20
_DOCUMENT_BITS = np.uint64(40)
_DOCUMENT_MASK = np.uint64(2**40 - 1)


def run(runner: Runner, folder: Path, parts: Parts) -> Parts:
    """The documents that no earlier one equals."""
    everything = parts.fingerprint
    hashed = runner.run(folder / "hashes", "hash", {}, parts.tasks(lambda part: part), hash_work)
    numbering = Numbering(parts.names, [result["documents"] for result in hashed])
    numbers = numbering.write(folder / "numbering.json")

    runs = numbering.runs(folder / "hashes", [result["runs"] for result in hashed])
    tasks = range_tasks(2**64, numbering.starts[-1], lambda low, high: (runs, low, high), everything)
    found = runner.run(folder / "repeats", "repeats", {}, tasks, find_work)

    repeats = [Run(folder / "repeats" / name) for result in found for name in result["runs"]]
    tasks = parts.tasks(lambda part: (part, repeats, numbers), everything)
    return Parts.of(folder / "documents", runner.run(folder / "documents", "filter", {}, tasks, filter_work))


def normalise(text: str) -> str:
    """What is compared: Unicode NFC, every run of white space as one space, none at the ends. Case and punctuation count."""
    return "".join(_normal_pieces(text))


def _normal_pieces(text: str | LongText) -> Iterator[str]:
    begun = gap = False
    for piece in pieces(text):
        normal = unicodedata.normalize("NFC", piece)
        if words := normal.split():
            if begun and (gap or normal[0].isspace()):
                yield " "
            yield " ".join(words)
            begun, gap = True, normal[-1].isspace()
        else:
            gap = gap or bool(normal)


def text_hash(text: str | LongText) -> int:
    """xxh3-128 of what is compared."""
    digest = xxhash.xxh3_128()
    for piece in _normal_pieces(text):
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return digest.intdigest()


def hash_work(task: Task, folder: Path) -> dict[str, Any]:
    """Hash a part. Writes runs of (64 bits of the text's xxh3-128, 24 more bits << 40 | document), and ids.

    Among 1e9 documents two different texts share the 88 bits with a probability of 2e-9.
    """
    hashes, ids = RunWriter(folder, f"{task.name}.hashes", MEMORY_BYTES), write_ids(folder, task.name)
    for batch in batches(read_documents(task.arguments, long_texts=True)):
        digests = [text_hash(document.text) for document in batch]
        high = np.array([digest >> 64 for digest in digests], np.uint64)
        low = np.array([digest & 0xFFFFFF for digest in digests], np.uint64) << _DOCUMENT_BITS
        hashes.add(high, low | np.arange(ids.count, ids.count + len(batch), dtype=np.uint64))
        ids.add(*encode_ids([document.id for document in batch]))
    runs = hashes.close()
    return {"outputs": [*runs, *ids.close()], "runs": runs, "documents": ids.count}


def find_work(task: Task, folder: Path) -> dict[str, Any]:
    """Find the repeats among the hashes of a range. Writes runs of (document, first document with the same text)."""
    runs, low, high = task.arguments
    repeats = RunWriter(folder, task.name, MEMORY_BYTES // 2)
    for piece, _ in groups(read_sorted(runs, MEMORY_BYTES // 2, low, high), _first_of_last_text):
        texts = np.stack((piece[:, 0], piece[:, 1] >> _DOCUMENT_BITS), axis=1)
        new = np.ones(len(piece), bool)
        new[1:] = (texts[1:] != texts[:-1]).any(axis=1)
        first = np.maximum.accumulate(np.where(new, np.arange(len(piece)), 0))
        repeats.add(piece[~new, 1] & _DOCUMENT_MASK, piece[first[~new], 1] & _DOCUMENT_MASK)
    names = repeats.close()
    return {"outputs": names, "runs": names}


def _first_of_last_text(group: np.ndarray) -> np.ndarray:
    """Of hashes that agree in 64 bits: the first, and the first of those that agree with the last in all."""
    place = np.searchsorted(group[:, 1], group[-1, 1] & ~_DOCUMENT_MASK)
    return group[[0, place]] if place else group[:1]


def filter_work(task: Task, folder: Path) -> dict[str, Any]:
    """Divide a part into kept and dropped; each dropped document names the one that is kept."""
    part, repeats, numbers = task.arguments
    numbering = Numbering.read(numbers)
    low, high = numbering.range_of(task.name)
    dropped = _dropped(read_sorted(repeats, MEMORY_BYTES // 2, low, high), folder.parent / "hashes", numbering)
    return sift(task.name, folder, divide(STEP, part, low, dropped))


def _dropped(repeats: Iterator[np.ndarray], hashes: Path, numbering: Numbering) -> Iterator[tuple[int, Drop]]:
    for piece in repeats:
        for start in range(0, len(piece), 4096):
            numbers, firsts = piece[start : start + 4096].T
            kept, places = np.unique(firsts, return_inverse=True)
            ids = read_ids(hashes, numbering, kept)
            for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
                yield number, Drop("exact duplicate", kept_instead=ids[place])
