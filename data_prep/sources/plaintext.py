"""Plain text files: one document per file, or several divided by a separator line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings, decode, find_files, normalise_newlines, read_whole


class PlainTextSource(SourceSettings):
    """Text files in UTF-8, UTF-16 with mark, or Windows-1252."""

    type: Literal["plaintext"]
    separator: str | None = None
    """A line that divides documents within a file; null: a file is one document."""


def pieces(settings: PlainTextSource, base: Path) -> list[Piece]:
    """Input files."""
    return find_files(settings, base)


def read(piece: Piece, settings: PlainTextSource) -> Iterator[Document | SetAside]:
    """Documents of one file."""
    raw = read_whole(piece, settings)
    if b"\0" in raw[:8192] and not raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        yield SetAside(piece.path, "binary data, not text")
        return
    text, encoding = decode(raw)
    texts = _split(normalise_newlines(text), settings.separator)
    for index, part in enumerate(texts):
        name = piece.name if settings.separator is None else f"{piece.name}#{index}"
        yield Document(f"{settings.name}/{name}", part, settings.name, {"encoding": encoding})


def _split(text: str, separator: str | None) -> list[str]:
    if separator is None:
        return [text]
    texts, lines = [], []
    for line in text.split("\n"):
        if line.strip() == separator.strip():
            texts.append("\n".join(lines))
            lines = []
        else:
            lines.append(line)
    return [*texts, "\n".join(lines)]
