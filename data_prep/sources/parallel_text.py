"""Translations: aligned files (line n of one translates line n of the other), or tables with a column per language."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings, Unreadable, decode, find_files, open_compressed, read_lines

PACKED = ("", ".gz", ".zst", ".bz2", ".xz")


class ParallelTextSource(SourceSettings):
    """Documents of sentence pairs. With `columns` the files are tab-separated; else file x.en goes with x.es."""

    type: Literal["parallel_text"]
    languages: list[str] = Field(min_length=2)
    """Codes in the order to write; of aligned files they are the endings of the names (before .gz and the like)."""
    columns: list[int] | None = None
    """Of tab-separated files: the column (from 0) of each language."""
    template: str = "{line}"
    """Form of one line; {line} is the sentence, {language} its code."""
    pairs_per_document: int = Field(default=32, ge=1)
    """Sentence pairs that follow each other in a document; a blank line divides them."""

    @model_validator(mode="after")
    def _fits(self) -> ParallelTextSource:
        if self.columns is not None and len(self.columns) != len(self.languages):
            raise ValueError(f"{len(self.columns)} columns for {len(self.languages)} languages: give one each")
        if "{line}" not in self.template:
            raise ValueError('the template needs "{line}"')
        return self


def pieces(settings: ParallelTextSource, base: Path) -> list[Piece]:
    """Tables, or of each set of aligned files the one of the first language."""
    if settings.columns is not None:
        return find_files(settings, base, tuple(f"{kind}{packed}" for kind in (".tsv", ".txt") for packed in PACKED))
    endings = tuple(f".{language}{packed}" for language in settings.languages for packed in PACKED)
    found = find_files(settings, base, endings)
    first = tuple(f".{settings.languages[0]}{packed}" for packed in PACKED)
    together = {piece.path: piece for piece in found}
    return [
        replace(piece, size=sum(together[path].size for path in _others(piece, settings) if path in together))
        for piece in found
        if piece.path.split("::")[0].endswith(first)
    ]


def _others(piece: Piece, settings: ParallelTextSource) -> list[str]:
    """Paths of the files aligned with the first language's, itself included."""
    inner, *chain = piece.path.split("::")
    packed = next(p for p in sorted(PACKED, key=len, reverse=True) if inner.endswith(f".{settings.languages[0]}{p}"))
    stem = inner.removesuffix(packed).removesuffix(settings.languages[0])
    return ["::".join([f"{stem}{language}{packed}", *chain]) for language in settings.languages]


def read(piece: Piece, settings: ParallelTextSource) -> Iterator[Document | SetAside]:
    """Documents of one table or set of files. Files of different lengths are set aside: which lines belong together is lost."""
    if settings.columns is None:
        paths = _others(piece, settings)
        counts = [_count(path, settings) for path in paths]
        if len(set(counts)) > 1:
            named = ", ".join(f"{Path(path).name} has {count:,}" for path, count in zip(paths, counts, strict=True))
            yield SetAside(piece.path, f"aligned files of different numbers of lines: {named}")
            return
        rows: Iterator[list[str] | SetAside] = map(list, zip_longest(*(_lines(path, settings) for path in paths), fillvalue=""))
    else:
        rows = _table(piece, settings)
    block: list[str] = []
    number = 0
    for row in rows:
        if isinstance(row, SetAside):
            yield row
        elif all(cell.strip() for cell in row):
            named = zip(settings.languages, row, strict=True)
            lines = [settings.template.replace("{language}", code).replace("{line}", cell.strip()) for code, cell in named]
            block.append("\n".join(lines))
            if len(block) == settings.pairs_per_document:
                yield _document(piece, settings, number, block)
                number, block = number + 1, []
    if block:
        yield _document(piece, settings, number, block)


def _document(piece: Piece, settings: ParallelTextSource, number: int, block: list[str]) -> Document:
    metadata = {"languages": settings.languages, "pairs": len(block)}
    return Document(f"{settings.name}/{piece.name}#{number}", "\n\n".join(block), settings.name, metadata)


def _lines(path: str, settings: ParallelTextSource) -> Iterator[str]:
    with open_compressed(path) as file:
        for number, line in read_lines(file, settings):
            if line is None:
                raise Unreadable(f"line {number} is longer than max_document_megabytes")
            yield decode(line.rstrip(b"\r\n"))[0]


def _count(path: str, settings: ParallelTextSource) -> int:
    return sum(1 for _ in _lines(path, settings))


def _table(piece: Piece, settings: ParallelTextSource) -> Iterator[list[str] | SetAside]:
    assert settings.columns is not None
    for number, line in enumerate(_lines(piece.path, settings), 1):
        cells = line.split("\t")
        if len(cells) <= max(settings.columns):
            if line.strip():
                wanted = max(settings.columns) + 1
                yield SetAside(f"{piece.path}:{number}", f"{len(cells)} columns, at least {wanted} are needed")
            continue
        yield [cells[column] for column in settings.columns]
