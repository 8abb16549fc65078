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

from data_prep.long_text import PIECE_BYTES, JsonText, LongText, json_text, pieces, shorten

SUFFIX = ".jsonl.zst"
_TEXT = b',"text":"'


@dataclass(frozen=True)
class Document:
    """One text with its origin."""

    id: str
    """Unique in a corpus and the same in every build: source name, file, and place in the file."""
    text: str
    """Or a LongText, where `read_documents` was asked for it."""
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
        """Append one JSON object. A long text under "text" is written piece by piece, and may be a LongText."""
        text = record.get("text")
        if not isinstance(text, LongText) and not (isinstance(text, str) and len(text) > PIECE_BYTES):
            self._stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            return
        place = list(record).index("text")
        before, after = dict(list(record.items())[:place]), dict(list(record.items())[place + 1 :])
        self._stream.write(orjson.dumps(before)[:-1] + (_TEXT if before else _TEXT[1:]))
        json_text(text, self._stream.write)
        self._stream.write(b'"' + (b"," if after else b"") + orjson.dumps(after, option=orjson.OPT_APPEND_NEWLINE)[1:])

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


def read_documents(path: Path, long_texts: bool = False) -> Iterator[Document]:
    """Documents of a part, in order. `long_texts`: those of more than a million bytes come as LongText."""
    for record in read_records(path, long_texts):
        yield Document(record["id"], record["text"], record["source"], record["metadata"])


def read_records(path: Path, long_texts: bool = False) -> Iterator[dict[str, Any]]:
    """JSON objects of a part, in order. `long_texts`: a "text" of more than a million bytes comes as LongText.

    Either way such a text is in memory once: its line is never held whole.
    """
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        lines = io.BufferedReader(stream, 1 << 20)
        while line := lines.readline(PIECE_BYTES):
            if line.endswith(b"\n") or _TEXT not in line:
                yield orjson.loads(line if line.endswith(b"\n") else line + lines.readline())
                continue
            record = _read_long(line, lines)
            if not long_texts:
                record["text"] = str(record["text"])
            yield record
            del record  # the next one is read when this one is used up


def _read_long(line: bytes, lines: io.BufferedReader) -> dict[str, Any]:
    """A record whose line goes on."""
    before, _, start = line.partition(_TEXT)
    text, chunk = JsonText(), start
    while (behind := text.feed(chunk)) is None:
        chunk = lines.readline(PIECE_BYTES)
        if not chunk:
            raise ValueError("a line ends in the middle of a text")
    after = behind if behind.endswith(b"\n") else behind + lines.readline()
    head, tail = orjson.loads(before + b"}"), orjson.loads(b"{" + after.lstrip(b","))
    return {**head, "text": shorten(text.data), **tail}


def to_record(document: Document) -> dict[str, Any]:
    """The JSON object of a document."""
    return {
        "id": document.id,
        "text": without_lone_surrogates(document.text),
        "source": document.source,
        "metadata": document.metadata,
    }


def without_lone_surrogates(text: str | LongText) -> str | LongText:
    """The text with question marks for lone surrogates: they are no characters and cannot be written as UTF-8."""
    if isinstance(text, LongText) or text.isascii():
        return text
    try:
        for piece in pieces(text):
            piece.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text
