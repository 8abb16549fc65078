"""Questions and answers: SQuAD-style JSON (Rajpurkar et al. 2016, 2018), or records with a question and an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings, find_files, read_whole
from data_prep.sources.loose_json import loads

SUFFIXES = tuple(kind + packed for kind in (".json", ".jsonl") for packed in ("", ".gz", ".zst", ".bz2", ".xz"))
QUESTIONS, ANSWERS = ("question", "query", "prompt", "q"), ("answers", "answer", "response", "a")


class QuestionAnswerSource(SourceSettings):
    """A document per paragraph with its questions, or per record."""

    type: Literal["question_answer"]
    template: str = "Question: {question}\nAnswer: {answer}"
    """Form of one question and answer; they follow the paragraph that they are about, each after a blank line."""
    unanswerable: str | None = None
    """Answer to write for questions marked impossible, such as "Not answered in the text."; null: leave the question out."""

    @field_validator("template")
    @classmethod
    def _has_both(cls, template: str) -> str:
        if "{question}" not in template or "{answer}" not in template:
            raise ValueError('the template needs "{question}" and "{answer}"')
        return template

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: QuestionAnswerSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .json or .jsonl, packed or not."""
    return find_files(settings, base)


def read(piece: Piece, settings: QuestionAnswerSource) -> Iterator[Document | SetAside]:
    """Documents of one file; an entry without question or answer is set aside by its place."""
    for place, entry in _entries(read_whole(piece, settings)):
        where, identifier = f"{piece.path}, {place}", f"{settings.name}/{piece.name}#{place}"
        if not isinstance(entry, dict):
            yield SetAside(where, f"not an object: {str(entry)[:80]}")
        elif isinstance(entry.get("paragraphs"), list):
            for number, paragraph in enumerate(entry["paragraphs"]):
                yield _paragraph(
                    paragraph, f"{where}, paragraph {number}", f"{identifier}.{number}", entry.get("title"), settings
                )
        else:
            yield _paragraph(entry | {"qas": entry.get("qas", [entry])}, where, identifier, entry.get("title"), settings)


def _entries(raw: bytes) -> Iterator[tuple[str, Any]]:
    """(place, entry): of {"data": [...]}, of a list, or of one object per line."""
    try:
        whole = loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        lines = [line for line in raw.split(b"\n") if line.strip()]
        if len(lines) < 2:
            raise ValueError(f"not JSON: {error}") from None
        for number, line in enumerate(lines, 1):
            try:
                yield f"line {number}", loads(line)
            except ValueError as problem:
                yield f"line {number}", f"not JSON: {problem}"
        return
    entries = whole.get("data", [whole]) if isinstance(whole, dict) else whole
    if not isinstance(entries, list):
        raise ValueError('neither a list of entries nor an object with "data"')
    yield from ((f"entry {number}", entry) for number, entry in enumerate(entries))


def _paragraph(paragraph: Any, where: str, identifier: str, title: Any, settings: QuestionAnswerSource) -> Document | SetAside:
    if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
        return SetAside(where, 'no paragraph with "qas"')
    context = paragraph.get("context") if isinstance(paragraph.get("context"), str) else ""
    pairs, names = [], []
    for item in paragraph["qas"]:
        question = _first(item, QUESTIONS)
        answer = settings.unanswerable if isinstance(item, dict) and item.get("is_impossible") else _first(item, ANSWERS)
        if question and answer:
            pairs.append(settings.template.replace("{question}", question).replace("{answer}", answer))
            names.append(item.get("id"))
    if not pairs and not context.strip():
        keys = ", ".join(list(paragraph)[:8])
        return SetAside(where, f"no question with an answer (looked for {QUESTIONS[0]} and {ANSWERS[1]}; it has {keys})")
    metadata = {"question_ids": [name for name in names if name is not None]}
    metadata |= {"title": title} if isinstance(title, str) else {}
    metadata |= {
        key: paragraph[key] for key in ("licence", "license", "url", "language") if isinstance(paragraph.get(key), str)
    }
    return Document(identifier, "\n\n".join(filter(None, [context.strip(), *pairs])), settings.name, metadata)


def _first(item: Any, keys: tuple[str, ...]) -> str:
    """The first text under one of the keys: a string, or the most frequent of a list's (of strings or {"text": ...})."""
    for key in keys if isinstance(item, dict) else ():
        value = item.get(key)
        if isinstance(value, dict):  # datasets' form of SQuAD: {"text": [...], "answer_start": [...]}
            value = value.get("text")
        values = value if isinstance(value, list) else [value]
        texts = [v.get("text") if isinstance(v, dict) else v for v in values]
        texts = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
        if texts:
            return max(texts, key=texts.count)
    return ""
