"""Translations: aligned files (line n of one translates line n of the other), or tables with a column per language."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from data_prep.document import Document, SetAside
from data_prep.sources.files import (
    Piece,
    Unreadable,
    find_files,
    guarded,
    normalise_newlines,
    open_compressed,
    read_lines,
    read_whole,
)
from data_prep.sources.text_encoding import LineDecoder, TextSettings, decode, in_bytes_of_ascii
from strict_json import ConfigError

PACKED = ("", ".gz", ".zst", ".bz2", ".xz")


class ParallelTextSource(TextSettings):
    """Documents of sentence pairs. With `columns` the files are tab-separated; else file x.en goes with x.es, or as
    `file_names` has it."""

    type: Literal["parallel_text"]
    languages: list[str] = Field(min_length=2)
    """Codes in the order to write."""
    file_names: str = ".{language}"
    """How the names of aligned files end (before .gz and the like): ".{language}", "-{language}.txt", "{language}.txt"."""
    align: Literal["lines", "files"] = "lines"
    """lines: line n of one file translates line n of the other. files: only the whole texts correspond; each set of files is
    one document, its texts divided by a blank line."""
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
        if self.file_names.count("{language}") != 1:
            raise ValueError('file_names needs "{language}", once')
        if self.align == "files" and self.columns is not None:
            raise ValueError('"align": "files" goes without columns')
        return self

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        endings = [self.ending(language) for language in self.languages] if self.columns is None else [".tsv", ".txt"]
        return tuple(f"{ending}{packed}" for ending in endings for packed in PACKED)

    def ending(self, language: str) -> str:
        """How the names of a language's files end, uncompressed."""
        return self.file_names.replace("{language}", language)


def pieces(settings: ParallelTextSource, base: Path) -> list[Piece]:
    """Tables, or of each set of aligned files the one of the first language."""
    if settings.columns is not None:
        return find_files(settings, base)
    found = find_files(settings, base)
    together = {piece.path: piece for piece in found}
    sets = []
    alone = dict(together)
    for piece in found:
        if not piece.problem and _stem(piece.path.split("::")[0], settings) is not None:
            paths = _others(piece, settings)
            others = [together[path] for path in paths if path in together]
            missing = [path for path in paths if path not in together and ("://" in path or not os.path.isfile(path))]
            changed = " ".join(dict.fromkeys(other.changed for other in others))
            problem = f"without its partner {missing[0]}" if missing else ""
            sets.append(replace(piece, size=sum(other.size for other in others), changed=changed, problem=problem))
            for path in paths:
                alone.pop(path, None)
    if sets:
        unpaired = f"no file of {settings.languages[0]} goes with it, by names as file_names has them"
        sets += [
            replace(piece, problem=piece.problem or unpaired)
            for path, piece in alone.items()
            if piece.problem or _has_a_language(path.split("::")[0], settings)
        ]
    else:
        raise ConfigError(
            f"source {settings.name}: of {len(found)} files none ends in {settings.ending(settings.languages[0])}, the first "
            f"language's ending; the first is {found[0].path}. Set file_names, or columns for tables."
        )
    return sets


def _stem(path: str, settings: ParallelTextSource, place: int = 0) -> tuple[str, str] | None:
    """(the name without the ending of a language, the first one, .gz or the like); None for files of others. A name that is
    all ending, as fra.txt for "{language}.txt", goes with deu.txt but afra.txt does not."""
    for packed in sorted(PACKED, key=len, reverse=True):
        ending = f"{settings.ending(settings.languages[place])}{packed}"
        if path.endswith(ending):
            stem = path.removesuffix(ending)
            whole_name = settings.file_names.startswith("{language}")
            return (stem, packed) if not whole_name or not stem[-1:].isalnum() else None
    return None


def _has_a_language(path: str, settings: ParallelTextSource) -> bool:
    """Whether a name ends as those of one of the languages, in either case."""
    places = range(len(settings.languages))
    return any(_stem(name, settings, place) is not None for place in places for name in (path, path.lower()))


def _others(piece: Piece, settings: ParallelTextSource) -> list[str]:
    """Paths of the files aligned with the first language's, itself included."""
    inner, *chain = piece.path.split("::")
    found = _stem(inner, settings)
    assert found is not None, "pieces() gives only files of the first language"
    stem, packed = found
    return ["::".join([f"{stem}{settings.ending(language)}{packed}", *chain]) for language in settings.languages]


def read(piece: Piece, settings: ParallelTextSource) -> Iterator[Document | SetAside]:
    """Documents of one table or set of files. Files of different lengths are set aside: which lines belong together is lost."""
    if settings.align == "files":
        read_ones = [decode(_whole(path, settings), settings.encoding) for path in _others(piece, settings)]
        texts = [normalise_newlines(decoded.text).strip() for decoded in read_ones]
        metadata = {"languages": settings.languages} | _facts([decoded.facts for decoded in read_ones if decoded.assumed])
        yield Document(f"{settings.name}/{piece.name}", "\n\n".join(texts), settings.name, metadata)
        return
    if settings.columns is None:
        paths = _others(piece, settings)
        decoders = [_decoder(path, settings) for path in paths]
        counts = [_count(path, settings) for path in paths]
        if len(set(counts)) > 1:
            names = [Path(path.split("::")[0]).name for path in paths]
            named = ", ".join(f"{name} has {count:,}" for name, count in zip(names, counts, strict=True))
            yield SetAside(piece.path, f"aligned files of different numbers of lines: {named}")
            return
        rows: Iterator[list[str] | SetAside] = map(
            list,
            zip_longest(
                *(_lines(path, settings, decoder) for path, decoder in zip(paths, decoders, strict=True)), fillvalue=""
            ),
        )
    else:
        decoders = [_decoder(piece.path, settings)]
        rows = _table(piece, settings, decoders[0])
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
                yield guarded(f"{piece.path}, document {number}", _document, piece, settings, number, block, decoders)
                number, block = number + 1, []
    if block:
        yield guarded(f"{piece.path}, document {number}", _document, piece, settings, number, block, decoders)


def _document(
    piece: Piece, settings: ParallelTextSource, number: int, block: list[str], decoders: list[LineDecoder]
) -> Document:
    metadata = {"languages": settings.languages, "pairs": len(block)} | _facts([decoder.facts for decoder in decoders])
    return Document(f"{settings.name}/{piece.name}#{number}", "\n\n".join(block), settings.name, metadata)


def _whole(path: str, settings: ParallelTextSource) -> bytes:
    return read_whole(Piece(path, path, 0), settings)


def _facts(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """What documents are to say of the encodings of aligned files: the first that is no plain UTF-8."""
    return next((found for found in facts if found), {})


def _decoder(path: str, settings: ParallelTextSource) -> LineDecoder:
    return LineDecoder(settings.encoding, partial(open_compressed, path))


def _lines(path: str, settings: ParallelTextSource, decoder: LineDecoder) -> Iterator[str]:
    with open_compressed(path) as packed, in_bytes_of_ascii(packed, settings.encoding) as file:
        for number, line in read_lines(file, settings):
            if line is None:
                raise Unreadable(f"line {number} is longer than max_document_megabytes")
            yield decoder.decode(line.rstrip(b"\r\n")).text


def _count(path: str, settings: ParallelTextSource) -> int:
    with open_compressed(path) as packed, in_bytes_of_ascii(packed, settings.encoding) as file:
        return sum(1 for _ in read_lines(file, settings))


def _table(piece: Piece, settings: ParallelTextSource, decoder: LineDecoder) -> Iterator[list[str] | SetAside]:
    assert settings.columns is not None
    for number, line in enumerate(_lines(piece.path, settings, decoder), 1):
        cells = line.split("\t")
        if len(cells) <= max(settings.columns):
            if line.strip():
                wanted = max(settings.columns) + 1
                yield SetAside(f"{piece.path}:{number}", f"{len(cells)} columns, at least {wanted} are needed")
            continue
        yield [cells[column] for column in settings.columns]
