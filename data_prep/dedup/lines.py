"""Lines or paragraphs that many documents repeat: menus, notices, licence texts. The first occurrence may stay.

After CCNet (Wenzek et al. 2020, section 3.2), which removes every paragraph that an earlier document has, compared by 64 bits
of a hash of the text in lower case, without accents and punctuation, and with all digits as 0. Compared here in the same way.
Differences: a paragraph is removed when more than `max_documents` have it (CCNet: more than one; FineWeb, Penedo et al. 2024,
found that removing every repeated line harms a model); short ones, and those without a letter (rows of a table would be equal
with their digits as 0), are left alone; the search is over the whole corpus in sorted files on disk, not over groups of files
in memory. Not implemented: RefinedWeb's removal of repeated substrings that are not whole lines (Lee et al. 2022, suffix
arrays).

Three stages: hash (per part), repeats (per range of hashes), filter (per part). Memory is `memory_megabytes` per task.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from pydantic import Field

from data_prep.dedup.external_sort import Run, RunWriter, groups, range_tasks, read_sorted
from data_prep.dedup.numbering import Numbering
from data_prep.document import Document, Drop, read_documents
from data_prep.long_text import LongText, shorten
from data_prep.sift import sift
from data_prep.stage import Parts, Runner, Task
from strict_json import StrictModel

STEP = "repeated_text"
SEPARATORS = {"line": "\n", "paragraph": "\n\n"}
_UNIT_BITS = np.uint64(24)
MAX_UNITS = 2**24
"""Lines of a document that are looked at; those after are kept."""
LONGEST_UNIT = 1 << 20
"""Bytes of a line up to which it is looked at in a document of more than a million bytes."""


class RepeatedTextSettings(StrictModel):
    """Removal of lines or paragraphs that stand in many documents."""

    unit: Literal["line", "paragraph"] = "line"
    """What is compared; paragraphs are separated by an empty line."""
    min_characters: int = Field(default=20, ge=1)
    """Shorter lines are left alone: in prose they repeat by chance, in verse and code by nature."""
    max_documents: int = Field(default=10, ge=1)
    """A line is removed when more documents than this have it."""
    keep_first: bool = True
    """Leave the first occurrence in the corpus where it is; else all are removed."""
    min_kept: float = Field(default=0.3, ge=0, le=1)
    """A document that lost lines is dropped if a smaller share of its characters remains."""
    memory_megabytes: int = Field(default=512, ge=1)
    """Memory of each task for sorting; decides no output."""

    @property
    def memory_bytes(self) -> int:
        """memory_megabytes in bytes."""
        return self.memory_megabytes << 20


def run(runner: Runner, folder: Path, parts: Parts, settings: RepeatedTextSettings) -> Parts:
    """The documents without the repeated lines. Results count `removed_units` and `removed_characters` of documents kept."""
    decisive = settings.model_dump(exclude={"memory_megabytes"})
    hashed = runner.run(folder / "hashes", "hash lines", decisive, parts.tasks(lambda part: (part, settings)), hash_work)
    numbering = Numbering(parts.names, [result["documents"] for result in hashed])
    numbers = numbering.write(folder / "numbering.json")

    runs = [
        Run(folder / "hashes" / name, start << int(_UNIT_BITS))
        for result, start in zip(hashed, numbering.starts, strict=False)
        for name in result["runs"]
    ]
    units = sum(result["units"] for result in hashed)
    tasks = range_tasks(2**64, units, lambda low, high: (runs, low, high, settings), parts.fingerprint)
    found = runner.run(folder / "repeats", "repeats", decisive, tasks, find_work)

    repeats = [Run(folder / "repeats" / name) for result in found for name in result["runs"]]
    tasks = parts.tasks(lambda part: (part, repeats, settings, numbers), parts.fingerprint)
    return Parts.of(folder / "documents", runner.run(folder / "documents", "cut lines", decisive, tasks, filter_work))


def normalise(text: str) -> str:
    """What is compared: lower case, digits as 0, no accents, no punctuation or symbols, and of white space the line ends alone.
    The lines of a text normalised are the normalised lines."""
    text = text.lower()
    if not text.isascii():
        text = unicodedata.normalize("NFD", text)
    return text.translate(_KEPT)


class _Kept(dict):
    """What becomes of a code point: itself, 0 for a digit, nothing unless it is a letter or a line end."""

    def __missing__(self, code: int) -> int | None:
        kind = unicodedata.category(chr(code))
        self[code] = ord("0") if kind == "Nd" else code if kind[0] in "LN" or kind == "Mc" or code == ord("\n") else None
        return self[code]


_KEPT = _Kept()


def hash_work(task: Task, folder: Path) -> dict[str, Any]:
    """Hash the lines of a part. Writes runs of (hash, document << 24 | line)."""
    part, settings = task.arguments
    runs = RunWriter(folder, task.name, settings.memory_bytes)
    count, hashes, places = 0, [], []
    for document in read_documents(part, long_texts=True):
        for place, normal in _units(document.text, settings):
            hashes.append(xxhash.xxh3_64_intdigest(normal.encode("utf-8", "surrogatepass")))
            places.append(count << int(_UNIT_BITS) | place)
        count += 1
        if len(hashes) > 1 << 16:
            runs.add(np.array(hashes, np.uint64), np.array(places, np.uint64))
            hashes, places = [], []
    runs.add(np.array(hashes, np.uint64), np.array(places, np.uint64))
    names = runs.close()
    return {"outputs": names, "runs": names, "documents": count, "units": runs.count}


def _units(text: str | LongText, settings: RepeatedTextSettings) -> Iterator[tuple[int, str]]:
    """(number, normalised text) of the lines or paragraphs that are looked at."""
    if isinstance(text, LongText):
        for place, (start, stop) in enumerate(islice(_spans(text, SEPARATORS[settings.unit]), MAX_UNITS)):
            if settings.min_characters <= stop - start <= LONGEST_UNIT:
                # a line has one unit, itself: as many pieces as a short text
                yield from ((place, letters) for _, letters in _units(text.data[start:stop].decode(), settings))
        return
    units = text.split(SEPARATORS[settings.unit])[:MAX_UNITS]
    normal = normalise(text).split("\n") if settings.unit == "line" else (normalise(u).replace("\n", "") for u in units)
    for place, (unit, letters) in enumerate(zip(units, normal, strict=False)):
        if len(unit.strip()) >= settings.min_characters and letters.strip("0"):
            yield place, letters


def _spans(text: LongText, separator: str) -> Iterator[tuple[int, int]]:
    """[first byte, end) of each line or paragraph that is looked at, and of what is left."""
    start, sought = 0, separator.encode()
    for _ in range(MAX_UNITS):
        stop = text.data.find(sought, start)
        if stop < 0:
            break
        yield start, stop
        start = stop + len(sought)
    yield start, len(text.data)


def find_work(task: Task, folder: Path) -> dict[str, Any]:
    """Find the lines of a range of hashes that too many documents have. Writes runs of (document, line) to remove."""
    runs, low, high, settings = task.arguments
    memory, limit = settings.memory_bytes // 2, settings.max_documents

    def enough_to_count(group: np.ndarray) -> np.ndarray:
        """One line of each of `limit` + 1 documents; all lines while there are not so many."""
        new = _new_documents(group)
        return group if new.sum() <= limit else group[np.flatnonzero(new)[: limit + 1]]

    repeats = RunWriter(folder, task.name, memory)
    for piece, starts in groups(read_sorted(runs, memory, low, high), enough_to_count):
        new = _new_documents(piece)
        new |= starts == np.arange(len(piece))
        first, group = np.unique(starts, return_inverse=True)
        removed = np.add.reduceat(new, first, dtype=np.int64)[group] > limit
        if settings.keep_first:
            removed[first] = False
        repeats.add(piece[removed, 1] >> _UNIT_BITS, piece[removed, 1] & np.uint64(MAX_UNITS - 1))
    names = repeats.close()
    return {"outputs": names, "runs": names}


def _new_documents(pairs: np.ndarray) -> np.ndarray:
    """Whether each pair is of another document than the one before."""
    documents = pairs[:, 1] >> _UNIT_BITS
    new = np.ones(len(pairs), bool)
    new[1:] = documents[1:] != documents[:-1]
    return new


def filter_work(task: Task, folder: Path) -> dict[str, Any]:
    """Cut the repeated lines out of a part's documents."""
    part, repeats, settings, numbers = task.arguments
    low, high = Numbering.read(numbers).range_of(task.name)
    marked = (tuple(pair) for piece in read_sorted(repeats, settings.memory_bytes // 4, low, high) for pair in piece.tolist())
    removed = {"removed_units": 0, "removed_characters": 0}

    def verdicts() -> Iterator[tuple[str, Document, Drop | None]]:
        number, unit = next(marked, (None, None))
        for place, document in enumerate(read_documents(part, long_texts=True), low):
            units = set()
            while number == place:
                units.add(unit)
                number, unit = next(marked, (None, None))
            if not units:
                yield "", document, None
                continue
            text = cut(document.text, units, SEPARATORS[settings.unit])
            before, after = len(document.text.strip()), len(text)
            if not text or after < settings.min_kept * before:
                unit_name = f"{settings.unit}s" if len(units) > 1 else settings.unit
                detail = f"{after} of {before} characters are left without {len(units)} repeated {unit_name}"
                yield STEP, document, Drop(f"mostly repeated {settings.unit}s", detail)
            else:
                removed["removed_units"] += len(units)
                removed["removed_characters"] += before - after
                yield "", replace(document, text=text), None

    return {**sift(task.name, folder, verdicts()), **removed}


def cut(text: str | LongText, units: set[int], separator: str) -> str | LongText:
    """The text without the lines of these numbers, and without white space at its ends."""
    if isinstance(text, LongText):
        kept: list[tuple[int, int]] = []
        joins = False  # whether the line before is kept
        for place, (start, stop) in enumerate(_spans(text, separator)):
            if place not in units:
                kept.append((kept.pop()[0] if joins else start, stop))
            joins = place not in units
        return shorten(separator.encode().join(text.data[start:stop] for start, stop in kept)).strip()
    return separator.join(unit for place, unit in enumerate(text.split(separator)) if place not in units).strip()
