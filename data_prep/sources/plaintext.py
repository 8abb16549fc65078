"""Plain text files: one document per file, or several divided by a separator line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_prep.document import Document, SetAside
from data_prep.sources.file_kinds import other_kind
from data_prep.sources.files import Piece, find_files, normalise_newlines, read_whole
from data_prep.sources.text_encoding import TextSettings, decode


class PlainTextSource(TextSettings):
    """Text files in any encoding."""

    type: Literal["plaintext"]
    separator: str | None = None
    """A line that divides documents within a file; null: a file is one document."""


def pieces(settings: PlainTextSource, base: Path) -> list[Piece]:
    """Input files."""
    return find_files(settings, base)


def read(piece: Piece, settings: PlainTextSource) -> Iterator[Document | SetAside]:
    """Documents of one file."""
    raw = read_whole(piece, settings)
    if kind := other_kind(raw):
        yield SetAside(piece.path, kind)
        return
    decoded = decode(raw, settings.encoding)
    texts = _split(normalise_newlines(decoded.text), settings.separator)
    for index, part in enumerate(texts):
        name = piece.name if settings.separator is None else f"{piece.name}#{index}"
        yield Document(f"{settings.name}/{name}", part, settings.name, decoded.facts)


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
