"""Documents between the stages, and their form on disk: one JSON object per line, zstd-compressed.

jsonl.zst is what The Pile uses: any tool reads it, and a damaged byte shows as a failed checksum of its frame.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
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


@dataclass(frozen=True)
class SetAside:
    """Input that could not be read: what and why. Everything else goes on."""

    where: str
    """File, with a line or row number where there is one."""
    reason: str


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write a part whole or not at all; returns the number of documents. The same documents give the same bytes."""
    return write_records(path, (_to_record(document) for document in documents))


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write JSON objects as a part, whole or not at all; returns their number."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    count = 0
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    with partial.open("wb") as file:
        with compressor.stream_writer(file, closefd=False) as stream:
            for record in records:
                stream.write(orjson.dumps(record) + b"\n")
                count += 1
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
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


def _to_record(document: Document) -> dict[str, Any]:
    # a lone surrogate is no character and cannot be written as UTF-8
    text = document.text.encode("utf-8", "replace").decode("utf-8")
    return {"id": document.id, "text": text, "source": document.source, "metadata": document.metadata}
