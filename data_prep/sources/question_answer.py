"""Questions and answers: SQuAD-style JSON (Rajpurkar et al. 2016, 2018), or records with a question and an answer.

Instructions and conversations are such records, too: Alpaca's (instruction, input, output), Dolly's (instruction, context,
response), ShareGPT's (conversations of from and value) and messages of role and content.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from data_prep.document import Document, SetAside
from data_prep.sources.fields import CONVERSATIONS, is_conversation, messages, metadata_of
from data_prep.sources.files import Piece, Unreadable, find_files, guarded, read_whole
from data_prep.sources.loose_json import loads
from data_prep.sources.text_encoding import Decoded, TextSettings, decode

SUFFIXES = tuple(kind + packed for kind in (".json", ".jsonl") for packed in ("", ".gz", ".zst", ".bz2", ".xz"))
QUESTIONS = ("question", "query", "instruction", "prompt", "q")
ANSWERS = ("answers", "answer", "response", "output", "completion", "a")
CONTEXTS = ("context", "input", "passage")


class QuestionAnswerSource(TextSettings):
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
    decoded = decode(read_whole(piece, settings), settings.encoding)
    for place, entry in _entries(decoded.text.encode("utf-8", "replace")):
        where, identifier = f"{piece.path}, {place}", f"{settings.name}/{piece.name}#{place}"
        if not isinstance(entry, dict):
            yield SetAside(where, f"not an object: {str(entry)[:80]}")
        elif isinstance(entry.get("paragraphs"), list):
            details = {key: value for key, value in entry.items() if key != "paragraphs"}
            for number, paragraph in enumerate(entry["paragraphs"]):
                place = f"{where}, paragraph {number}"
                yield guarded(place, _paragraph, paragraph, f"{identifier}.{number}", details, settings, decoded)
        elif conversation := next((entry[key] for key in CONVERSATIONS if _has_messages(entry, key)), None):
            yield guarded(where, _paragraph, entry | _turns(conversation), identifier, {}, settings, decoded)
        else:
            yield guarded(where, _paragraph, entry | {"qas": entry.get("qas", [entry])}, identifier, {}, settings, decoded)


def _has_messages(entry: dict[str, Any], key: str) -> bool:
    return isinstance(entry.get(key), list) and is_conversation(entry[key])


def _turns(conversation: list[Any]) -> dict[str, Any]:
    """A conversation as a paragraph: what the system says is its context, and each answer goes with what was asked since the
    one before."""
    context, asked, pairs = [], [], []
    try:
        said = messages(conversation)
    except Unreadable as error:
        return {"qas": [], "problem": str(error)}
    for role, content in said:
        if role == "system":
            context.append(content)
        elif role == "assistant" and asked:
            pairs.append({"question": "\n\n".join(asked), "answer": content})
            asked = []
        elif role == "assistant" and pairs:
            pairs[-1]["answer"] += f"\n\n{content}"
        elif role == "assistant":
            context.append(content)
        else:
            asked.append(content)
    return {"context": "\n\n".join(context), "qas": pairs}


def _entries(raw: bytes) -> Iterator[tuple[str, Any]]:
    """(place, entry): of {"data": [...]}, of a list, or of one object per line."""
    try:
        whole = loads(raw)
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


def _paragraph(
    paragraph: Any, identifier: str, outer: dict[str, Any], settings: QuestionAnswerSource, decoded: Decoded
) -> Document:
    if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
        raise Unreadable('no paragraph with "qas"')
    if "problem" in paragraph:
        raise Unreadable(paragraph["problem"])
    context = _first(paragraph, CONTEXTS)
    pairs, names = [], []
    for item in paragraph["qas"]:
        question = _first(item, QUESTIONS)
        answer = settings.unanswerable if isinstance(item, dict) and item.get("is_impossible") else _first(item, ANSWERS)
        if question and answer:
            pairs.append(_pair(question, answer, settings.template))
            names.append(item.get("id"))
    if not pairs and not _is_passage(paragraph, context):
        keys = ", ".join([key for key in paragraph if key != "qas"][:8])
        raise Unreadable(f"no question with an answer (looked for {QUESTIONS[0]} and {ANSWERS[1]}; it has {keys})")
    used = {"qas", "paragraphs", "id", *QUESTIONS, *ANSWERS, *CONTEXTS, *CONVERSATIONS}
    metadata = {"question_ids": [name for name in names if name is not None]}
    metadata |= metadata_of(outer, None, used) | metadata_of(paragraph, None, used)
    metadata |= decoded.facts if decoded.assumed else {}
    return Document(identifier, "\n\n".join(filter(None, [context, *pairs])), settings.name, metadata)


def _pair(question: str, answer: str, template: str) -> str:
    fields = {"{question}": question, "{answer}": answer}
    return re.sub(r"\{(?:question|answer)\}", lambda field: fields[field.group()], template)


def _is_passage(paragraph: dict[str, Any], context: str) -> bool:
    """Whether a paragraph stands by its context alone: one of a set of passages, or whose questions have no answer in it. A
    record with an instruction and no answer is incomplete instead."""
    asked = [item for item in paragraph["qas"] if isinstance(item, dict) and _first(item, QUESTIONS)]
    impossible = all(item.get("is_impossible") or "answers" in item for item in asked)
    return bool(context) and impossible


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
