"""Near-duplicate documents by MinHash-LSH: of each cluster of similar documents the first stays, in the order of the corpus.

Similarity is the Jaccard similarity of the sets of word 5-grams (Broder 1997; the settings of FineWeb, Penedo et al. 2024, and
of Lee et al. 2022). Documents that share a band of their MinHash signatures are candidates; candidates are then verified by
the similarity of their sketches, which FineWeb and datatrove do not do. What counts as a word: see data_prep.dedup.words.

Five stages, each of tasks that know nothing of each other:
1. sign (per part): signatures -> runs of (band hash, document), and sketches
2. pairs (per range of band hashes): documents with the same band hash -> runs of (document, later document)
3. verify (per range of documents): pairs whose sketches are similar enough -> runs of links
4. clusters (one task): connected components of the links -> runs of (document, first document of its cluster)
5. filter (per part): kept and dropped documents
Memory is `memory_megabytes` per task whatever the number of documents; disk about 16 bytes per document and band, and 4 bytes
per word for sketches. The documents kept depend on the settings and the seed alone: not on workers, parts or memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from data_prep.dedup import signatures, union_find
from data_prep.dedup.external_sort import Run, RunWriter, groups, range_tasks, read_sorted
from data_prep.dedup.numbering import Numbering, divide
from data_prep.dedup.ragged import Ragged, RaggedWriter, encode_ids, read_ids, write_ids
from data_prep.dedup.words import batches
from data_prep.document import Drop, read_documents
from data_prep.sift import sift
from data_prep.stage import Parts, Runner, Task
from strict_json import StrictModel

STEP = "minhash"
NEIGHBOURS = 8
"""Each document of a group with the same band hash is compared with the group's first and with this many before it: groups of
up to 9 in all pairs, and a million copies still in linear time."""
_DOCUMENT_BITS = np.uint64(40)
_DOCUMENT_MASK = np.uint64(2**40 - 1)


class MinHashSettings(StrictModel):
    """Removal of near-duplicates: documents of which an earlier one is a slightly different copy."""

    threshold: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity from which two documents are near-duplicates."""
    ngram: int = Field(default=5, ge=1)
    """Words per n-gram; characters where words are not spaced."""
    bands: int = Field(default=20, ge=1)
    """Groups of signature values; documents that agree in all values of one are compared. A pair of similarity s is found
    with probability 1 - (1 - s^rows)^bands: 0.998 at 0.8 with 20 x 6 (0.924 with FineWeb's 14 x 8)."""
    rows: int = Field(default=6, ge=1)
    """Signature values per band."""
    sketch_size: int = Field(default=1024, ge=16)
    """n-gram hashes kept to measure similarity: exact for documents with up to as many n-grams, beyond with a standard error of
    0.0125 at similarity 0.8 (1024)."""
    memory_megabytes: int = Field(default=512, ge=1)
    """Memory of each task for sorting; decides no output."""

    @property
    def memory_bytes(self) -> int:
        """memory_megabytes in bytes."""
        return self.memory_megabytes << 20


def run(runner: Runner, folder: Path, parts: Parts, settings: MinHashSettings, seed: int) -> Parts:
    """The documents that are the first of their cluster."""
    everything = parts.fingerprint
    decisive = {"seed": seed, **settings.model_dump(exclude={"memory_megabytes"})}
    sign_tasks = parts.tasks(lambda part: (part, settings, seed))
    signed = runner.run(folder / "signatures", "sign", decisive, sign_tasks, sign_work)
    numbering = Numbering(parts.names, [result["documents"] for result in signed])
    numbers = numbering.write(folder / "numbering.json")

    runs = numbering.runs(folder / "signatures", [result["runs"] for result in signed])
    records = sum(result["pairs"] for result in signed)
    tasks = range_tasks(2**64, records, lambda low, high: (runs, low, high, settings), everything)
    paired = runner.run(folder / "pairs", "pairs", decisive, tasks, pair_work)

    pairs = _runs(folder / "pairs", paired)
    # comparing two sketches takes as long as sorting some twenty records
    candidates = 16 * sum(result["pairs"] for result in paired)
    tasks = range_tasks(numbering.starts[-1], candidates, lambda low, high: (pairs, low, high, settings, numbers), everything)
    linked = runner.run(folder / "links", "verify", decisive, tasks, verify_work)

    size = 1 + sum(result["pairs"] for result in linked)
    task = Task("clusters", size, (_runs(folder / "links", linked), settings), everything)
    found = runner.run(folder / "clusters", "clusters", decisive, [task], cluster_work)
    clusters = _runs(folder / "clusters", found)
    tasks = parts.tasks(lambda part: (part, clusters, settings, numbers), everything)
    return Parts.of(folder / "documents", runner.run(folder / "documents", "filter", decisive, tasks, filter_work))


def _runs(folder: Path, results: list[dict[str, Any]]) -> list[Run]:
    return [Run(folder / name) for result in results for name in result["runs"]]


def sign_work(task: Task, folder: Path) -> dict[str, Any]:
    """Sign a part. Writes runs of (band hash, 24 bits of the next band's hash << 40 | document), sketches, and ids."""
    part, settings, seed = task.arguments
    bands = RunWriter(folder, f"{task.name}.bands", settings.memory_bytes)
    sketches = RaggedWriter(folder, f"{task.name}.sketch", "u4")
    ids = write_ids(folder, task.name)
    for batch in batches(read_documents(part, long_texts=True)):
        hashes, bounds = signatures.shingles([document.text for document in batch], settings.ngram)
        signed = signatures.sign(hashes, bounds, settings.bands * settings.rows, seed)
        bands_of = signatures.band_hashes(signed, settings.bands)
        documents = np.arange(ids.count, ids.count + len(batch), dtype=np.uint64)
        # in a group too large for all pairs, those that share a second band become neighbours
        following = np.roll(bands_of, -1, axis=1) >> _DOCUMENT_BITS << _DOCUMENT_BITS | documents[:, None]
        has_words = np.diff(bounds) > 0
        bands.add(bands_of[has_words].ravel(), following[has_words].ravel())
        sketches.add(*signatures.sketch(hashes, bounds, settings.sketch_size))
        ids.add(*encode_ids([document.id for document in batch]))
    runs = bands.close()
    return {
        "outputs": [*runs, *sketches.close(), *ids.close()],
        "runs": runs,
        "pairs": bands.count,
        "documents": ids.count,
    }


def pair_work(task: Task, folder: Path) -> dict[str, Any]:
    """Find the candidates among the documents with equal band hashes. Writes runs of (document, later document)."""
    runs, low, high, settings = task.arguments
    memory = settings.memory_bytes // 2  # one sort is read while the next is written
    pairs = RunWriter(folder, task.name, memory)
    for piece, starts in groups(read_sorted(runs, memory, low, high), _first_and_last):
        shared = np.zeros(len(piece), bool)
        shared[1:] = starts[1:] != np.arange(1, len(piece))
        shared[starts[shared]] = True
        starts = np.cumsum(shared)[starts[shared]] - 1  # among those that share a band at all
        documents = piece[shared, 1] & _DOCUMENT_MASK
        _add_pairs(pairs, documents, documents[starts])
        for distance in range(1, min(NEIGHBOURS + 1, len(documents))):
            together = starts[distance:] == starts[:-distance]
            _add_pairs(pairs, documents[distance:][together], documents[:-distance][together])
    names = pairs.close()
    return {"outputs": names, "runs": names, "pairs": pairs.count}


def _first_and_last(group: np.ndarray) -> np.ndarray:
    return group if len(group) <= NEIGHBOURS + 1 else np.concatenate((group[:1], group[-NEIGHBOURS:]))


def _add_pairs(pairs: RunWriter, one: np.ndarray, other: np.ndarray) -> None:
    different = one != other
    one, other = one[different], other[different]
    pairs.add(np.minimum(one, other), np.maximum(one, other))


def verify_work(task: Task, folder: Path) -> dict[str, Any]:
    """Measure the similarity of the candidates whose first document is in a range. Writes runs of those similar enough."""
    runs, low, high, settings, numbers = task.arguments
    memory = settings.memory_bytes // 4
    sketches = _sketches(folder, Numbering.read(numbers))
    links, compared = RunWriter(folder, task.name, memory), 0
    for pairs in _in_chunks(read_sorted(runs, memory, low, high), settings):
        similar = _similarities(sketches, pairs) >= settings.threshold
        links.add(pairs[similar, 0], pairs[similar, 1])
        compared += len(pairs)
    names = links.close()
    return {"outputs": names, "runs": names, "pairs": links.count, "compared": compared}


def _sketches(folder: Path, numbering: Numbering) -> Ragged:
    return Ragged(folder.parent / "signatures", numbering, "sketch", "u4")


def _in_chunks(pieces: Iterator[np.ndarray], settings: MinHashSettings) -> Iterator[np.ndarray]:
    """Pairs, as many at once as half the memory holds the sketches of."""
    at_once = max(1, settings.memory_bytes // (4 * 4 * settings.sketch_size))
    for piece in pieces:
        yield from (piece[start : start + at_once] for start in range(0, len(piece), at_once))


def _similarities(sketches: Ragged, pairs: np.ndarray) -> np.ndarray:
    documents, places = np.unique(pairs, return_inverse=True)
    arrays = sketches.read(documents.astype(np.int64))
    return np.array([signatures.jaccard(arrays[a], arrays[b]) for a, b in places.reshape(-1, 2).tolist()])


def cluster_work(task: Task, folder: Path) -> dict[str, Any]:
    """Find the clusters. Writes runs of (document, first document of its cluster)."""
    links, settings = task.arguments
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    names = []
    for run in union_find.components(links, scratch, settings.memory_bytes):
        names.append(f"clusters.{len(names):03d}.run")
        run.path.replace(folder / names[-1])
    scratch.rmdir()
    return {"outputs": names, "runs": names}


def filter_work(task: Task, folder: Path) -> dict[str, Any]:
    """Divide a part into kept and dropped; each dropped document names the one that is kept."""
    part, clusters, settings, numbers = task.arguments
    numbering = Numbering.read(numbers)
    low, high = numbering.range_of(task.name)
    dropped = _dropped(read_sorted(clusters, settings.memory_bytes // 4, low, high), folder, numbering, settings)
    return sift(task.name, folder, divide(STEP, part, low, dropped))


def _dropped(
    clusters: Iterator[np.ndarray], folder: Path, numbering: Numbering, settings: MinHashSettings
) -> Iterator[tuple[int, Drop]]:
    """(number, verdict) of the documents that are not the first of their cluster, in order."""
    sketches = _sketches(folder, numbering)
    for pairs in _in_chunks(clusters, settings):
        kept, places = np.unique(pairs[:, 1], return_inverse=True)
        ids = read_ids(folder.parent / "signatures", numbering, kept)
        similarities = _similarities(sketches, pairs).tolist()
        for number, similarity, place in zip(pairs[:, 0].tolist(), similarities, places.tolist(), strict=True):
            yield number, Drop("near duplicate", f"similarity {similarity:.3f}", ids[place])
