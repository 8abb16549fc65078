"""Translation memories in TMX (https://www.gala-global.org/tmx-14b): documents of translation units that follow each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings, Unreadable, find_files, guarded, open_compressed
from data_prep.sources.xml_reader import Element, cut, first, language_of, name_of, parse

PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
_CODES = frozenset({"bpt", "ept", "ph", "it", "ut"})
"""Inline elements that hold the markup of the translated file."""
_BREAKS = re.compile(r"<\s*/?\s*(?:br|p|div|li|td|tr|tab)\b|\\[nrt]|\\(?:line|par|tab)\b|[\n\t]", re.IGNORECASE)


class TmxSource(SourceSettings):
    """Translation memories (.tmx): sentences and their translations in the languages that are named."""

    type: Literal["tmx"]
    languages: list[str] = Field(min_length=2)
    """Codes in the order to write: "en" takes "en-US" too, "en-GB" itself alone."""
    template: str = "{line}"
    """Form of one line; {line} is the sentence, {language} its code."""
    pairs_per_document: int = Field(default=32, ge=1)
    """Units that follow each other in a document; a blank line divides them."""

    @field_validator("template")
    @classmethod
    def _has_line(cls, template: str) -> str:
        if "{line}" not in template:
            raise ValueError('the template needs "{line}"')
        return template

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return tuple(f".tmx{packed}" for packed in PACKED)


def pieces(settings: TmxSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .tmx."""
    return find_files(settings, base)


def read(piece: Piece, settings: TmxSource) -> Iterator[Document | SetAside]:
    """Documents of one memory. Units that lack a language are counted and set aside together."""
    met: Counter[str] = Counter()
    block: list[str] = []
    units = number = lacking = 0
    with open_compressed(piece.path) as file:
        for text in cut(file, "tu", settings.max_document_bytes):
            units += 1
            made = guarded(f"{piece.path}, unit {units}", _unit, text, settings, met)
            if isinstance(made, SetAside):
                yield made
                continue
            if made is None:
                lacking += 1
                continue
            block.append(made)
            if len(block) == settings.pairs_per_document:
                yield guarded(f"{piece.path}, document {number}", _document, piece, settings, number, block)
                number, block = number + 1, []
    if block:
        yield guarded(f"{piece.path}, document {number}", _document, piece, settings, number, block)
    if not units:
        raise Unreadable("no translation unit (<tu>) in it: an empty memory, or not TMX")
    if lacking:
        there = ", ".join(language for language, _ in met.most_common(12))
        wanted = ", ".join(settings.languages)
        yield SetAside(piece.path, f"{lacking:,} of {units:,} units lack one of {wanted}; there are: {there}")


def _document(piece: Piece, settings: TmxSource, number: int, block: list[str]) -> Document:
    metadata = {"languages": settings.languages, "pairs": len(block)}
    return Document(f"{settings.name}/{piece.name}#{number}", "\n\n".join(block), settings.name, metadata)


def _unit(text: str | None, settings: TmxSource, met: Counter[str]) -> str | None:
    """A unit's lines, one per language; None when one of them is not there or empty."""
    if text is None:
        raise Unreadable(f"longer than max_document_megabytes ({settings.max_document_megabytes})")
    sentences: dict[str, str] = {}
    for variant in (node for node in parse(text) if name_of(node) == "tuv"):
        language = (language_of(variant) or "").replace("_", "-").lower()
        segment = first(variant, "seg")
        met[language] += 1
        if segment is not None and language not in sentences:
            sentences[language] = " ".join(_text(segment).split())
    lines = []
    for wanted in settings.languages:
        code = wanted.replace("_", "-").lower()
        wider = (line for said, line in sentences.items() if said.startswith(f"{code}-") and line)
        found = sentences.get(code) or next(wider, "")
        if not found:
            return None
        lines.append(settings.template.replace("{language}", wanted).replace("{line}", found))
    return "\n".join(lines)


def _text(node: Element) -> str:
    """The text of a segment without the codes of its file; a code that breaks a line is a space."""
    parts = [node.text or ""]
    for child in node:
        if name_of(child) not in _CODES:
            parts.append(_text(child))
        elif _BREAKS.search("".join(child.itertext())) or child.get("type") in ("lb", "x-br", "tab"):
            parts.append(" ")
        parts.append(child.tail or "")
    return "".join(parts)
