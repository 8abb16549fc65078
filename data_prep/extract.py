"""Stage 1: raw files -> documents. One task per large file, or per group of small ones.

Groups follow from the names of their own files, as chunks of content do in rsync or in deduplicating backups: a file that is
added changes the group it falls into, and no other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from data_prep.document import SUFFIX, Document, PassedOver, SetAside, write_documents
from data_prep.inventory import Growth, Inventory, growth, require_allowed
from data_prep.long_text import utf8_bytes
from data_prep.recipe import Build
from data_prep.sources import READERS, Source, metadata
from data_prep.sources.files import Piece, describe, guarded
from data_prep.stage import Parts, Runner, Task

SELECTIVE = ("warc", "wikipedia")
"""Sources whose files may rightly hold nothing that is wanted: robots.txt responses, redirects."""
LISTED = 1000
"""Set-aside inputs that are listed per task; all are counted."""


def run(build: Build, runner: Runner, folder: Path, allow_removed: bool = False) -> tuple[Parts, Growth]:
    """Read every source, of a build that is there only what was added or has changed.

    Raises StageError when inputs are gone or changed, unless `allow_removed`, and when a source is to be read in another way.
    """
    found = inputs(build)
    before, now = Inventory.read(folder), inventory(build, found)
    require_allowed(folder, before, now, allow_removed, runner.rebuild)
    settings = {"task_megabytes": build.recipe.task_megabytes}
    # the inventory follows when all is done: of a growth that was killed, the next run tells again
    results = runner.run(folder, "extract", settings, tasks(build, found), work)
    now.write(folder)
    return Parts.of(folder, results), growth(before, now)


def inputs(build: Build) -> list[tuple[Source, Piece]]:
    """Every piece of every source, in the recipe's order. Archives are read through for it, so a build lists them once."""
    return [(source, piece) for source in build.recipe.sources for piece in READERS[source.type].pieces(source, build.base)]


def inventory(build: Build, found: list[tuple[Source, Piece]]) -> Inventory:
    """The sources' settings, and each input's size and time of change."""
    listed: dict[str, dict[str, list[Any]]] = {source.name: {} for source in build.recipe.sources}
    for source, piece in found:
        listed[source.name][_name(piece)] = [piece.size, piece.changed]
    return Inventory({source.name: _decisive(source) for source in build.recipe.sources}, listed)


def _decisive(source: Source) -> dict[str, Any]:
    return source.model_dump(mode="json", exclude={"paths"})


def _name(piece: Piece) -> str:
    """What a piece is known by, wherever the recipe's folder lies."""
    return f"{piece.name}{list(piece.rows) if piece.rows else ''}"


def tasks(build: Build, found: list[tuple[Source, Piece]]) -> list[Task]:
    """Pieces in the recipe's order, small ones of one source grouped; independent of the number of workers."""
    limit = build.recipe.task_megabytes << 20
    groups: list[list[tuple[Source, Piece]]] = []
    size, open_group = 0, False
    for source, piece in found:
        alone = 2 * piece.size >= limit
        joins = open_group and not alone and groups[-1][0][0] is source and size + piece.size <= limit
        if not joins:
            groups.append([])
            size = 0
        groups[-1].append((source, piece))
        size += piece.size
        # the chance to end here is the piece's share of half a task
        open_group = not alone and xxhash.xxh3_64_intdigest(_name(piece).encode()) / 2**64 >= 2 * piece.size / limit
    made, names = [], Counter()
    for group in groups:
        name = xxhash.xxh3_64_hexdigest("\0".join([group[0][0].name, *(_name(piece) for _, piece in group)]).encode())
        names[name] += 1
        name = f"part-{name}" if names[name] == 1 else f"part-{name}-{names[name]}"
        made.append(Task(name, sum(piece.size for _, piece in group), group, _identity(group)))
    return made


def _identity(group: list[tuple[Source, Piece]]) -> str:
    """Of all that a task reads: how, and which state of its files."""
    states = [[_name(piece), piece.size, piece.changed, piece.problem] for _, piece in group]
    return xxhash.xxh3_128_hexdigest(json.dumps([_decisive(group[0][0]), states]).encode())


def work(task: Task, folder: Path) -> dict[str, Any]:
    """Read the task's pieces into one part; count documents, drops and what was set aside."""
    output = f"{task.name}{SUFFIX}"
    tally = _Tally()
    write_documents(folder / output, tally.keep(_read(task.arguments)))
    return {"outputs": [output], **tally.summary()}


class _Tally:
    """Counts of one task, by source and reason. With an input that the system would not give (rights, a full or failing disk,
    a network), the task is done again by the next run: the cause may be mended by then."""

    def __init__(self) -> None:
        self.documents: Counter[str] = Counter()
        self.text_bytes: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.passed_over: dict[str, Counter[str]] = {}
        self.facts: dict[str, dict[str, Counter[str]]] = {}
        self.notes: dict[str, str] = {}
        self.set_aside: list[dict[str, str]] = []
        self.set_aside_count = 0
        self.try_again = False

    def keep(self, stream: Iterator[Document | PassedOver | SetAside]) -> Iterator[Document]:
        """Pass on documents with text; count everything."""
        for item in stream:
            if isinstance(item, SetAside):
                self.set_aside_count += 1
                self.try_again |= item.try_again
                if len(self.set_aside) < LISTED:
                    self.set_aside.append({"where": item.where, "reason": item.reason})
            elif isinstance(item, PassedOver):
                self.passed_over.setdefault(item.source, Counter())[item.kind] += 1
            elif not item.text.strip():
                self.dropped[item.source] += 1
            else:
                self.documents[item.source] += 1
                self.text_bytes[item.source] += utf8_bytes(item.text)
                self._count_facts(item)
                yield item

    def _count_facts(self, document: Document) -> None:
        """Count how each well-known fact is known; the first licence of a file that is not understood is told."""
        of_source = self.facts.setdefault(document.source, {})
        known = metadata.facts(document.metadata)
        for fact, how in known.items():
            of_source.setdefault(fact, Counter())[how] += 1
        where = document.id.partition("#")[0]
        if known["licence"] == "not understood" and len(self.notes) < LISTED:
            self.notes.setdefault(where, f"licence not understood, kept as its own text: {document.metadata['licence'][:100]}")

    def summary(self) -> dict[str, Any]:
        return {
            "documents": dict(self.documents),
            "text_bytes": dict(self.text_bytes),
            "dropped": {"extract: empty text": dict(self.dropped)} if self.dropped else {},
            "passed_over": {source: dict(kinds) for source, kinds in self.passed_over.items()},
            "facts": {source: {fact: dict(hows) for fact, hows in of.items()} for source, of in self.facts.items()},
            "notes": [{"where": where, "note": note} for where, note in self.notes.items()],
            "set_aside": self.set_aside,
            "set_aside_count": self.set_aside_count,
            "try_again": self.try_again,
        }


def _read(group: list[tuple[Source, Piece]]) -> Iterator[Document | PassedOver | SetAside]:
    for source, piece in group:
        if piece.problem:
            yield SetAside(piece.path, piece.problem, try_again=True)
            continue
        empty = source.type not in SELECTIVE
        try:
            for item in READERS[source.type].read(piece, source):
                empty = False
                if isinstance(item, Document):
                    item = guarded(f"{piece.path}, {item.id}", _completed, item, source)
                yield item
            if empty:
                yield SetAside(piece.path, "an empty file" if not piece.size else "no document in it")
        except MemoryError:
            raise
        except Exception as error:  # parsers of a dozen formats, met with damaged files, raise anything
            refused = isinstance(error, OSError) and error.errno is not None
            yield SetAside(piece.path, f"unreadable from here on: {describe(error)}", try_again=refused)


def _completed(document: Document, source: Source) -> Document:
    metadata.complete(document.metadata, source.licence)
    return document
