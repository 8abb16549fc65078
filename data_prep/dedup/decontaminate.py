"""Removal of what evaluation sets contain: a model that has read the test cannot be tested.

After GPT-3 (Brown et al. 2020, appendix C): the 13-grams of words (lower case, no punctuation) of all evaluation texts are
searched in the corpus; a hit is cut out with 200 characters on both sides, which splits the document into pieces; pieces of
fewer than 200 characters are discarded, and a document that falls into more than 10 pieces is dropped; 13-grams that more than
10 documents have are ignored, as they are common phrases. Or, with action "drop", every document with a hit is dropped, which
GPT-3's authors found to penalise long documents too much.
Differences: GPT-3 takes a shorter n, at least 8, for a set whose texts are short; here each text of fewer than 13 words but at
least `min_words` is searched as a whole. Not implemented: overlap in tokens with some skipped (Llama 2), and texts reworded.

Four stages: index (one task), search (per part), common n-grams (per range), cut (per part). A task's memory holds the hashes
of the evaluation sets' n-grams (about 30 bytes each), and `memory_megabytes` for sorting.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from pydantic import Field, model_validator

from data_prep.dedup import evaluation_sets
from data_prep.dedup.evaluation_sets import EvaluationSetError
from data_prep.dedup.external_sort import Run, RunWriter, groups, range_tasks, read_sorted, write_array
from data_prep.dedup.numbering import Numbering
from data_prep.dedup.ragged import encode_ids, read_ids, write_ids
from data_prep.dedup.words import BATCH_CHARACTERS, batches, hash_ngrams, hash_words, spans
from data_prep.document import Document, Drop, read_documents
from data_prep.long_text import LongText, shorten
from data_prep.sift import sift
from data_prep.stage import Parts, Runner, Task, fingerprint
from strict_json import StrictModel

STEP = "decontaminate"
LISTED = 1000
"""Evaluation texts that are listed per part with the documents that hold them."""


class DecontaminationSettings(StrictModel):
    """Removal of the texts of evaluation sets."""

    paths: list[str] = Field(min_length=1)
    """Evaluation sets: files or folders, relative to the recipe: .json, .jsonl, .csv, .tsv, .parquet, or plain text, also
    compressed. Every string in them is searched, questions, answers and contexts alike."""
    ngram: int = Field(default=13, ge=2)
    """Words in a row that count as a hit."""
    min_words: int = Field(default=8, ge=2)
    """Texts with fewer words than an n-gram are searched whole if they have this many."""
    action: Literal["cut", "drop"] = "cut"
    """Cut hits out of the documents, or drop the documents."""
    margin_characters: int = Field(default=200, ge=0)
    """Cut with a hit on either side of it, to the end of the word."""
    min_piece_characters: int = Field(default=200, ge=1)
    """Shorter pieces of a cut document are discarded."""
    max_pieces: int = Field(default=10, ge=1)
    """A document that falls into more pieces is dropped."""
    max_documents: int | None = Field(default=10, ge=1)
    """n-grams in more documents than this are common phrases and ignored; null: none is."""
    memory_megabytes: int = Field(default=512, ge=1)
    """Memory of each task for sorting; decides no output."""

    @model_validator(mode="after")
    def _lengths(self) -> DecontaminationSettings:
        if self.min_words > self.ngram:
            raise ValueError(f"min_words ({self.min_words}) must not be above ngram ({self.ngram})")
        return self

    @property
    def memory_bytes(self) -> int:
        """memory_megabytes in bytes."""
        return self.memory_megabytes << 20


def run(runner: Runner, folder: Path, parts: Parts, settings: DecontaminationSettings, base: Path) -> Parts:
    """The documents without what the evaluation sets hold; `base` is where the sets' relative paths start.

    Results have `hit_texts`, {where an evaluation text stands: documents that hold some of it}, `cut_documents` and
    `cut_characters`. Raises EvaluationSetError.
    """
    files = evaluation_sets.find(settings.paths, base)
    sets = {file.name: xxhash.xxh3_128_hexdigest(file.read_bytes()) for file in files}
    decisive = {"sets": sets, **settings.model_dump(exclude={"memory_megabytes", "paths"})}
    index = folder / "index"
    task = Task("index", sum(file.stat().st_size for file in files), (files, settings))
    (indexed,) = runner.run(index, "index sets", decisive, [task], index_work)

    search_tasks = parts.tasks(lambda part: (part, index, indexed["lengths"], settings))
    searched = runner.run(folder / "hits", "search", decisive, search_tasks, search_work)
    numbering = Numbering(parts.names, [result["documents"] for result in searched])
    runs = numbering.runs(folder / "hits", [result["runs"] for result in searched])
    hits = sum(result["pairs"] for result in searched)
    tasks = range_tasks(indexed["ngrams"], hits, lambda low, high: (runs, low, high, settings), parts.fingerprint)
    found = runner.run(folder / "common", "common", decisive, tasks, common_work)

    common = [Run(folder / "common" / name) for result in found for name in result["runs"]]
    tasks = parts.tasks(lambda part: (part, index, indexed, common, settings), fingerprint(found))
    return Parts.of(folder / "documents", runner.run(folder / "documents", "cut", decisive, tasks, cut_work))


def index_work(task: Task, folder: Path) -> dict[str, Any]:
    """Hash the n-grams of all evaluation texts. Writes them sorted, the number of the first text with each, and the texts'
    places."""
    files, settings = task.arguments
    places, grams, owners = write_ids(folder, "texts"), [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    lengths = set()
    for file in files:
        for where, text in evaluation_sets.read(file):
            words, bounds = hash_words([unicodedata.normalize("NFC", text)])
            length = min(settings.ngram, len(words))
            if length < settings.min_words:
                continue
            lengths.add(length)
            grams.append(hash_ngrams(words, bounds, length, whole=False)[0])
            owners.append(np.full(len(grams[-1]), places.count, np.uint32))
            places.add(*encode_ids([where]))
    if not lengths:
        raise EvaluationSetError(
            f"no text of the evaluation sets has {settings.min_words} words: nothing could be searched for. Lower min_words "
            f"or check the files: {', '.join(str(file) for file in files[:5])}"
        )
    different, first = np.unique(np.concatenate(grams), return_index=True)
    write_array(folder / "ngrams.u64", different)
    write_array(folder / "texts.u32", np.concatenate(owners)[first])
    return {
        "outputs": ["ngrams.u64", "texts.u32", *places.close()],
        "ngrams": len(different),
        "texts": places.count,
        "lengths": sorted(lengths),
    }


class _Index:
    """The n-grams of the evaluation sets, to be searched for."""

    def __init__(self, folder: Path, lengths: list[int]):
        self._grams, self._lengths = np.fromfile(folder / "ngrams.u64", "<u8"), lengths
        # most n-grams are of no set, and one look into a small table tells
        bits = max(16, (16 * len(self._grams)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._seen = np.zeros(1 << bits, bool)
        self._seen[self._grams >> self._shift] = True

    def __len__(self) -> int:
        return len(self._grams)

    def search(self, words: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(number of the n-gram, index of its first word, its number of words) of every hit."""
        found = [(np.empty(0, np.int64),) * 3]
        for length in self._lengths:
            grams, first, _ = hash_ngrams(words, bounds, length, whole=False)
            near = np.flatnonzero(self._seen[grams >> self._shift])
            places = np.minimum(np.searchsorted(self._grams, grams[near]), len(self._grams) - 1)
            hit = self._grams[places] == grams[near]
            found.append((places[hit], first[near[hit]], np.full(hit.sum(), length)))
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))

    def search_long(self, text: LongText) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(number of the n-gram, its first character, its end) of every hit in a text in Unicode NFC."""
        found = [(np.empty(0, np.int64),) * 3]
        words, starts, ends = np.empty(0, np.uint64), *(np.empty(0, np.int64),) * 2
        passed = 0
        for piece in text.pieces():
            for place in range(0, len(piece), BATCH_CHARACTERS // 4):  # less than a batch whatever its lower case
                part = piece[place : place + BATCH_CHARACTERS // 4]
                carried = slice(max(0, len(words) - self._lengths[-1] + 1), None)
                known = len(words[carried])
                first, end = spans(part)
                words = np.concatenate((words[carried], hash_words([part])[0]))
                starts, ends = (
                    np.concatenate((old[carried], new + passed + place)) for old, new in ((starts, first), (ends, end))
                )
                grams, first, lengths = self.search(words, np.array([0, len(words)]))
                new = first + lengths > known
                found.append((grams[new], starts[first[new]], ends[first[new] + lengths[new] - 1]))
            passed += len(piece)
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def search_work(task: Task, folder: Path) -> dict[str, Any]:
    """Search a part. Writes runs of (n-gram, document), and the documents that have any."""
    part, index_folder, lengths, settings = task.arguments
    index, runs = _Index(index_folder, lengths), RunWriter(folder, task.name, settings.memory_bytes)
    count, hit = 0, [np.empty(0, np.uint64)]
    for batch in batches(read_documents(part, long_texts=True)):
        if isinstance(batch[0].text, LongText):  # is alone
            grams = index.search_long(normal_form(batch[0].text))[0]
            documents = np.full(len(grams), count, np.uint64)
        else:
            words, bounds = hash_words([unicodedata.normalize("NFC", document.text) for document in batch])
            grams, first, _ = index.search(words, bounds)
            documents = (np.searchsorted(bounds, first, side="right") - 1 + count).astype(np.uint64)
        runs.add(grams.astype(np.uint64), documents)
        hit.append(np.unique(documents))
        count += len(batch)
    write_array(folder / f"{task.name}.documents", np.concatenate(hit))
    names = runs.close()
    return {"outputs": [*names, f"{task.name}.documents"], "runs": names, "documents": count, "pairs": runs.count}


def common_work(task: Task, folder: Path) -> dict[str, Any]:
    """Find the n-grams that too many documents have. Writes runs of (n-gram, 0)."""
    runs, low, high, settings = task.arguments
    limit, common = settings.max_documents, RunWriter(folder, task.name, settings.memory_bytes // 2)
    if limit is not None:
        for piece, starts in groups(read_sorted(runs, settings.memory_bytes // 2, low, high), lambda g: g[: limit + 1]):
            first, counts = np.unique(starts, return_counts=True)
            grams = piece[first[counts > limit], 0]
            common.add(grams, np.zeros_like(grams))
    names = common.close()
    return {"outputs": names, "runs": names}


def cut_work(task: Task, folder: Path) -> dict[str, Any]:
    """Cut the hits out of a part's documents, or drop these."""
    part, index_folder, indexed, common, settings = task.arguments
    index = _Index(index_folder, indexed["lengths"])
    ignored = np.zeros(len(index), bool)
    for piece in read_sorted(common, settings.memory_bytes):
        ignored[piece[:, 0]] = True
    owners = np.fromfile(index_folder / "texts.u32", "<u4")
    hit = set(np.fromfile(folder.parent / "hits" / f"{task.name}.documents", "<u8").tolist())
    documents_of: dict[int, int] = {}
    total = {"cut_documents": 0, "cut_characters": 0}

    def verdicts() -> Iterator[tuple[str, Document, Drop | None]]:
        for number, document in enumerate(read_documents(part, long_texts=True)):
            if number not in hit:
                yield "", document, None
                continue
            text = normal_form(document.text)
            if isinstance(text, LongText):
                grams, *places = index.search_long(text)
            else:
                grams, *places = index.search(*hash_words([text]))
            counted = ~ignored[grams]
            if not counted.any():
                yield "", document, None
                continue
            texts, counts = np.unique(owners[grams[counted]], return_counts=True)
            for owner in texts.tolist():
                documents_of[owner] = documents_of.get(owner, 0) + 1
            (where,) = read_ids(index_folder, Numbering(["texts"], [indexed["texts"]]), texts[[counts.argmax()]])
            detail = f"{counted.sum()} n-grams of {len(texts)} evaluation texts, most of {where}"
            pieces = None if settings.action == "drop" else cut(text, *(column[counted] for column in places), settings)
            if not pieces or len(pieces) > settings.max_pieces:
                yield STEP, document, Drop("holds evaluation text", detail)
                continue
            total["cut_documents"] += 1
            total["cut_characters"] += len(text) - sum(map(len, pieces))
            for place, piece in enumerate(pieces, 1):
                id = document.id if len(pieces) == 1 else f"{document.id}~{place}"
                yield "", replace(document, id=id, text=piece), None

    result = sift(task.name, folder, verdicts())
    listed = sorted(sorted(documents_of, key=lambda owner: (-documents_of[owner], owner))[:LISTED])
    places = read_ids(index_folder, Numbering(["texts"], [indexed["texts"]]), np.array(listed, np.int64))
    hit_texts = {where: documents_of[owner] for where, owner in zip(places, listed, strict=True)}
    return {**result, **total, "hit_texts": hit_texts}


def normal_form(text: str | LongText) -> str | LongText:
    """The text in Unicode NFC."""
    if not isinstance(text, LongText):
        return unicodedata.normalize("NFC", text)
    if all(unicodedata.is_normalized("NFC", piece) for piece in text.pieces()):
        return text
    return LongText(b"".join(unicodedata.normalize("NFC", piece).encode() for piece in text.pieces()))


def cut(
    text: str | LongText, first: np.ndarray, lengths: np.ndarray, settings: DecontaminationSettings
) -> list[str] | list[LongText] | None:
    """The pieces of a text (in Unicode NFC) between its hits, given by first word and number of words, of a LongText by first
    character and end; None if there is no telling where they are."""
    if isinstance(text, LongText):
        return _cut_long(text, first, lengths, settings)
    starts, ends = spans(text)
    if (first + lengths).max() > len(starts):
        return None  # of more than a batch's characters, some of which grow in lower case: its words were cut elsewhere
    order = np.argsort(first, kind="stable")
    pieces, place = [], 0
    for low, high in zip(starts[first[order]], ends[first[order] + lengths[order] - 1], strict=True):
        pieces.append(text[place : _word_start(starts, ends, max(0, low - settings.margin_characters))])
        place = max(place, _word_end(starts, ends, min(len(text), high + settings.margin_characters)))
    pieces.append(text[place:])
    stripped = [piece.strip() for piece in pieces]
    return [piece for piece in stripped if len(piece) >= settings.min_piece_characters]


def _cut_long(text: LongText, low: np.ndarray, high: np.ndarray, settings: DecontaminationSettings) -> list[str | LongText]:
    """As `cut`; a margin ends at a word of its piece of the text."""
    order = np.argsort(low, kind="stable")
    low, high = (np.maximum(low - settings.margin_characters, 0))[order], (high + settings.margin_characters)[order]
    passed = 0
    for piece in text.pieces():
        here = [np.flatnonzero((places >= passed) & (places < passed + len(piece))) for places in (low, high)]
        if any(map(len, here)):
            starts, ends = spans(piece)
            for places, those, edge in zip((low, high), here, (_word_start, _word_end), strict=True):
                places[those] = [passed + edge(starts, ends, place - passed) for place in places[those].tolist()]
        passed += len(piece)
    kept, place = [], 0
    for start, stop in zip(low.tolist(), high.tolist(), strict=True):
        kept += [(place, start)] if start > place else []
        place = max(place, min(stop, passed))
    stripped = [shorten(data).strip() for data in text.between([*kept, (place, passed)])]
    return [piece for piece in stripped if len(piece) >= settings.min_piece_characters]


def _word_start(starts: np.ndarray, ends: np.ndarray, place: int) -> int:
    """Where the word at a place begins; the place itself if it is in none."""
    word = np.searchsorted(ends, place, side="right")
    return min(place, starts[word]) if word < len(starts) else place


def _word_end(starts: np.ndarray, ends: np.ndarray, place: int) -> int:
    word = np.searchsorted(starts, place) - 1
    return max(place, ends[word]) if word >= 0 else place
