"""Stage 2: the recipe's filters, one after the other, over every document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.document import Document, Drop, read_documents
from data_prep.filters import FILTERS
from data_prep.recipe import Build, Filter
from data_prep.sift import sift
from data_prep.sources.files import describe
from data_prep.stage import Parts, Runner, Task


def run(build: Build, runner: Runner, folder: Path, parts: Parts) -> Parts:
    """Filter every part; the filters' settings decide the outputs."""
    steps = build.recipe.clean
    settings = {"filters": [step.model_dump(mode="json") for step in steps]}
    results = runner.run(folder, "clean", settings, parts.tasks(lambda part: (part, steps)), work)
    return Parts.of(folder, results)


def work(task: Task, folder: Path) -> dict[str, Any]:
    """Filter one part."""
    part, steps = task.arguments
    return sift(task.name, folder, _judge_all(part, steps))


def _judge_all(part: Path, steps: list[Filter]) -> Iterator[tuple[str, Document, Drop | None]]:
    for document in read_documents(part):
        yield judge(document, steps)


def judge(document: Document, steps: list[Filter]) -> tuple[str, Document, Drop | None]:
    """(deciding filter, the document as it was then, Drop or None) for one document."""
    for step in steps:
        if step.only_sources is not None and document.source not in step.only_sources:
            continue
        verdict = _verdict(document, step)
        if isinstance(verdict, Drop):
            return step.type, document, verdict
        document = verdict
        if not document.text.strip():
            return step.type, document, Drop("no text left")
    return "", document, None


def _verdict(document: Document, step: Filter) -> Document | Drop:
    """A filter's verdict; one that fails over what a document holds costs that document alone.

    What is no fault of a document goes up: memory, files and packages that are missing would fail for every one.
    """
    try:
        return FILTERS[step.type](document, step)
    except (MemoryError, OSError, ImportError):
        raise
    except Exception as error:  # filters meet other people's text, and libraries beneath them raise anything
        return Drop("failed", describe(error))
