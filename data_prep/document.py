"""Documents between the stages, and their form on disk: one JSON object per line, zstd-compressed.

jsonl.zst is what The Pile uses: any tool reads it, and a damaged byte shows as a failed checksum of its frame.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import zstandard

SUFFIX = ".jsonl.zst"


@dataclass(frozen=True)
class Document:
    """One text with its origin."""

    id: str
    """Unique in a corpus and the same in every build: source name, file, and place in the file."""
    text: str
    source: str
    """Name of the source in the recipe."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON values; well-known keys are licence, url, title, author, language, date, opt_out, personal_data, scores."""


@dataclass(frozen=True)
class Drop:
    """A filter's verdict that a document does not belong in the corpus."""

    reason: str
    """Short and the same for every document dropped by this rule: drops are counted by it."""
    detail: str = ""
    """The numbers of this document, such as "31 words, at least 50 are wanted"."""
    kept_instead: str | None = None
    """Id of the document that a duplicate repeats."""


@dataclass(frozen=True)
class SetAside:
    """Input that could not be read: what and why. Everything else goes on."""

    where: str
    """File, with a line or row number where there is one."""
    reason: str
    try_again: bool = False
    """Whether the cause lies outside the file (rights, disk, network), so that another run may read it."""


@dataclass(frozen=True)
class PassedOver:
    """A record that is rightly no document, such as an image in an archive of the web: counted by its kind, not listed."""

    source: str
    """Name of the source in the recipe."""
    kind: str
    """Short and the same for all of this kind: "image/png", "status 404"."""


class RecordWriter:
    """A part being written: JSON objects, whole or not at all. The same records give the same bytes.

    Used as a context manager: leaving it renames the finished part into place, an exception leaves nothing that looks finished.
    """

    def __init__(self, path: Path):
        self._path, self._partial = path, path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._stack = ExitStack()

    def __enter__(self) -> RecordWriter:
        self._file = self._stack.enter_context(self._partial.open("wb"))
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._stream = self._stack.enter_context(compressor.stream_writer(self._file, closefd=False))
        return self

    def add(self, record: dict[str, Any]) -> None:
        """Append one JSON object."""
        self._stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:
            self._stack.pop_all()  # not closed in form: what is written so far is not to look whole
            self._file.close()
            self._partial.unlink(missing_ok=True)
            return
        self._stream.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._stack.close()
        os.replace(self._partial, self._path)


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write a part whole or not at all; returns the number of documents."""
    return write_records(path, (to_record(document) for document in documents))


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write JSON objects as a part, whole or not at all; returns their number."""
    count = 0
    with RecordWriter(path) as writer:
        for record in records:
            writer.add(record)
            count += 1
    return count


def read_documents(path: Path) -> Iterator[Document]:
    """Documents of a part, in order."""
    for record in read_records(path):
        yield Document(record["id"], record["text"], record["source"], record["metadata"])


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """JSON objects of a part, in order."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        for line in io.BufferedReader(stream, 1 << 20):
            yield orjson.loads(line)


def to_record(document: Document) -> dict[str, Any]:
    """The JSON object of a document."""
    # a lone surrogate is no character and cannot be written as UTF-8
    text = document.text.encode("utf-8", "replace").decode("utf-8")
    return {"id": document.id, "text": text, "source": document.source, "metadata": document.metadata}
