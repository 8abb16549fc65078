"""Posts.xml of the data dumps of Stack Exchange: each question with its answers is one document.

A dump is sorted by id, not by question. Posts go through an SQLite file in the system's folder for temporary files, which sorts
on disk: memory does not grow with the dump, and the folder needs about a third of its size.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import orjson

from data_prep.document import Document, SetAside
from data_prep.sources import page, signals
from data_prep.sources.files import Piece, SourceSettings, Unreadable, find_files, guarded, open_compressed
from data_prep.sources.xml_reader import cut, parse

PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
QUESTION, ANSWER = "1", "2"
_FIELDS = ("Id", "Title", "Body", "Tags", "Score", "CreationDate", "ContentLicense", "AcceptedAnswerId", "ClosedDate")
_SITE = re.compile(r"((?:[a-z0-9-]+\.)+(?:com|net|org))(?:-Posts)?(?:\.\w+)?\Z", re.IGNORECASE)
_TAGS = re.compile(r"<([^<>]+)>|([^<>|]+)")


class StackExchangeSource(SourceSettings):
    """Posts.xml of Stack Exchange's data dumps: questions with their answers, the accepted one first, then by score."""

    type: Literal["stack_exchange"]
    min_score: int | None = None
    """Questions and answers with a lower score are left out."""
    answered_only: bool = False
    """Leave out questions without an answer."""
    answer_prefix: str = "Answer: "
    """What stands before each answer."""
    site: str | None = None
    """Host of the site, for addresses; null: by the name of the folder, as in cooking.stackexchange.com/Posts.xml."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return (".7z", *(f"{name}{packed}" for name in ("Posts.xml", "posts.xml") for packed in PACKED))


def pieces(settings: StackExchangeSource, base: Path) -> list[Piece]:
    """Files called Posts.xml, and packed dumps, which are named when they are read."""
    return find_files(settings, base)


def read(piece: Piece, settings: StackExchangeSource) -> Iterator[Document | SetAside]:
    """A document per question, by id. Answers whose question is not there are counted and set aside."""
    if piece.path.lower().split("::")[0].endswith(".7z"):
        raise Unreadable(f"a 7z archive is not read: unpack it (7z x {Path(piece.path).name}); its Posts.xml is needed")
    with (
        tempfile.TemporaryDirectory(prefix="stack_exchange-") as folder,
        closing(sqlite3.connect(f"{folder}/posts.db")) as posts,
    ):
        posts.execute("PRAGMA journal_mode = OFF")
        posts.execute("PRAGMA synchronous = OFF")
        posts.execute("CREATE TABLE post (question INTEGER, kind INTEGER, score INTEGER, id INTEGER, fields BLOB)")
        yield from _sort_in(piece, settings, posts)
        yield from _joined(piece, settings, posts)


def _sort_in(piece: Piece, settings: StackExchangeSource, posts: sqlite3.Connection) -> Iterator[SetAside]:
    """Put all questions and answers into the table; give the rows that cannot be read."""
    rows = 0
    with open_compressed(piece.path) as file:
        for row in cut(file, "row", settings.max_document_bytes):
            rows += 1
            made = guarded(f"{piece.path}, row {rows}", _post, row, settings)
            if isinstance(made, SetAside):
                yield made
            elif made:
                posts.execute("INSERT INTO post VALUES (?, ?, ?, ?, ?)", made)
    if not rows:
        raise Unreadable("no <row> in it: not a Posts.xml of Stack Exchange")


def _post(row: str | None, settings: StackExchangeSource) -> tuple[int, int, int, int, bytes] | None:
    """(question, kind, score, id, fields) of a post; None for wiki pages and other kinds, and for a low score."""
    if row is None:
        raise Unreadable(f"longer than max_document_megabytes ({settings.max_document_megabytes})")
    found = parse(row).attrib
    kind = found.get("PostTypeId")
    if kind not in (QUESTION, ANSWER):
        if kind is None and "Body" not in found:
            raise Unreadable("a row without PostTypeId and Body: no post")
        return None
    identifier, score = int(found["Id"]), int(found.get("Score") or 0)
    if settings.min_score is not None and score < settings.min_score:
        return None
    question = identifier if kind == QUESTION else int(found["ParentId"])
    fields = {key: found[key] for key in _FIELDS if key in found}
    return question, int(kind), score, identifier, zlib.compress(orjson.dumps(fields), 1)


def _joined(piece: Piece, settings: StackExchangeSource, posts: sqlite3.Connection) -> Iterator[Document | SetAside]:
    """Questions with what answers them."""
    site = settings.site or site_of(piece)
    question: dict[str, str] | None = None
    number, orphans = None, 0
    answers: list[tuple[int, int, dict[str, str]]] = []
    for parent, kind, score, identifier, packed in posts.execute("SELECT * FROM post ORDER BY question, kind, id"):
        fields = orjson.loads(zlib.decompress(packed))
        if parent != number:
            if question is not None:
                yield guarded(f"{piece.path}, question {number}", _document, question, answers, piece, settings, site)
            question, answers, number = None, [], parent
        if kind == int(QUESTION):
            question = fields
        elif question is not None:
            answers.append((score, identifier, fields))
        else:
            orphans += 1
    if question is not None:
        yield guarded(f"{piece.path}, question {number}", _document, question, answers, piece, settings, site)
    if orphans:
        yield SetAside(piece.path, f"{orphans:,} answers to questions that are not in the file, or have too low a score")


def _document(
    question: dict[str, str],
    answers: list[tuple[int, int, dict[str, str]]],
    piece: Piece,
    settings: StackExchangeSource,
    site: str | None,
) -> Document:
    accepted = question.get("AcceptedAnswerId")
    ordered = [fields for _, _, fields in sorted(answers, key=lambda item: (str(item[1]) != accepted, -item[0], item[1]))]
    title = " ".join(question.get("Title", "").split())
    parts = [title, _text(question), *(settings.answer_prefix + _text(answer) for answer in ordered)]
    licences = sorted({signals.spdx(said) or said for post in (question, *ordered) if (said := post.get("ContentLicense"))})
    metadata: dict[str, Any] = {
        "title": title,
        "url": f"https://{site}/questions/{question['Id']}" if site else "",
        "date": question.get("CreationDate", ""),
        "licence": " AND ".join(licences),
        "tags": [first or second for first, second in _TAGS.findall(question.get("Tags", ""))],
        "original_id": question["Id"],
    }
    metadata = {key: value for key, value in metadata.items() if value}
    chosen = any(answer["Id"] == accepted for answer in ordered)
    metadata |= {"score": int(question.get("Score") or 0), "answers": len(ordered), "accepted": chosen}
    text = "" if settings.answered_only and not ordered else "\n\n".join(part for part in parts if part.strip())
    return Document(f"{settings.name}/{piece.name}#{question['Id']}", text, settings.name, metadata)


def _text(post: dict[str, str]) -> str:
    """The text of a post's HTML."""
    return page.text_of(page.parse_text(f"<body>{post.get('Body', '')}</body>"), main_content=False)


def site_of(piece: Piece) -> str | None:
    """The host that a folder or archive of the path is called by, the nearest one."""
    inner, *chain = piece.path.split("::")
    for part in [*reversed(inner.split("/")), *(name for link in chain for name in reversed(link.split("/")))]:
        if found := _SITE.search(part):
            return found.group(1).lower()
    return None
