"""Project Gutenberg books: the licence around the book is removed, its chapters stay together.

The markers follow the editions in circulation: "*** START OF THE PROJECT GUTENBERG EBOOK" and "*** END OF ..." (since about
2003), and "*END*THE SMALL PRINT" with "End of The Project Gutenberg Etext" (1990s). Not removed: transcriber's notes inside the
book, illustrations' captions, tables of contents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, SourceSettings, decode, find_files, normalise_newlines, read_whole

SUFFIXES = (".txt",)


class GutenbergSource(SourceSettings):
    """Plain-text books of Project Gutenberg, any edition."""

    type: Literal["gutenberg"]
    split: Literal["book", "chapters"] = "book"
    """book: a book is one document, all chapters in order. chapters: each chapter is a document; none is ever cut."""
    unwrap: bool = True
    """Join the hard-wrapped lines of a paragraph; verse and tables (indented or short lines) keep theirs."""
    require_markers: bool = True
    """Set aside files without Project Gutenberg's start marker; false: take them whole."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


LANGUAGES = {
    "english": "en", "french": "fr", "german": "de", "spanish": "es", "italian": "it", "dutch": "nl", "portuguese": "pt",
    "finnish": "fi", "swedish": "sv", "danish": "da", "norwegian": "no", "latin": "la", "greek": "el", "hungarian": "hu",
    "polish": "pl", "czech": "cs", "russian": "ru", "chinese": "zh", "japanese": "ja", "esperanto": "eo", "catalan": "ca",
    "tagalog": "tl", "welsh": "cy", "hebrew": "he", "romanian": "ro", "bulgarian": "bg", "serbian": "sr", "icelandic": "is",
}  # fmt: skip
"""Names of languages in the headers of books -> ISO 639-1."""
_START = re.compile(
    r"^[ \t]*\*{3}[ \t]*START OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT).*$"
    r"|^[ \t]*\*END\W{0,2}THE SMALL PRINT.*$"
    r"|^[ \t]*\*{3}[ \t]*START OF TH(?:E|IS) PROJECT GUTENBERG.*$",
    re.IGNORECASE | re.MULTILINE,
)
_START_CONTINUES = re.compile(r"\A(?:[^\n]*\*{3}[ \t]*\n)")
_END = re.compile(
    r"^[ \t]*\*{3}[ \t]*END OF TH(?:E|IS) PROJECT GUTENBERG.*$"
    r"|^[ \t]*\**[ \t]*End of (?:the |this )?Project Gutenberg.*$"
    r"|^[ \t]*This is the end of (?:the )?Project Gutenberg.*$",
    re.IGNORECASE | re.MULTILINE,
)
_CREDITS = re.compile(
    r"\A\s*(?:(?:This )?E-?(?:text|book) (?:was )?(?:prepared|produced) by|Produced by|Prepared by|Transcribed (?:from|by)|"
    r"\[?Transcriber.s note|HTML version by|This etext was)[^\n]*(?:\n[^\n]+)*\n",
    re.IGNORECASE,
)
_FIELD = re.compile(r"^(Title|Author|Language|Release Date|Posting Date):[ \t]*(.+)$", re.MULTILINE)
_NUMBER = re.compile(r"\[(?:EBook|Etext|eBook) ?#(\d+)\]", re.IGNORECASE)
_HEADING = re.compile(
    r"^[ \t]*(?:(?:CHAPTER|BOOK|PART|CANTO|LETTER|ACT|STAVE)\s+(?:[IVXLCDM]+|\d+|THE\s+\w+|[A-Z][a-z]+|[A-Z]+)\b.{0,60}"
    r"|PREFACE|PROLOGUE|EPILOGUE|INTRODUCTION|[IVXLC]{1,7}\.)[ \t]*$",
    re.MULTILINE,
)


def pieces(settings: GutenbergSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .txt."""
    return find_files(settings, base)


def read(piece: Piece, settings: GutenbergSource) -> Iterator[Document | SetAside]:
    """The book in one file, or its chapters."""
    text, encoding = decode(read_whole(piece, settings))
    text = normalise_newlines(text)
    body = strip_boilerplate(text)
    if body is None and settings.require_markers:
        yield SetAside(piece.path, "no Project Gutenberg start marker (require_markers is true)")
        return
    metadata = _metadata(text) | {"encoding": encoding}
    body = text if body is None else body
    chapters = split_chapters(body) if settings.split == "chapters" else [body]
    for index, chapter in enumerate(chapters):
        name = piece.name if settings.split == "book" else f"{piece.name}#{index}"
        content = unwrap(chapter) if settings.unwrap else chapter.strip()
        yield Document(f"{settings.name}/{name}", content, settings.name, metadata)


def strip_boilerplate(text: str) -> str | None:
    """The book between header and licence, or None when there is no start marker."""
    starts = list(_START.finditer(text, 0, max(60_000, len(text) // 2)))
    if not starts:
        return None
    body = text[starts[-1].end() :].lstrip("\n")
    if not starts[-1].group().rstrip().endswith("*"):  # a marker that was wrapped onto a second line
        body = _START_CONTINUES.sub("", body)
    ends = [match for match in _END.finditer(body) if match.start() > len(body) // 3]
    if ends:
        body = body[: ends[0].start()]
    while credit := _CREDITS.match(body):
        body = body[credit.end() :]
    return body.strip() + "\n"


def split_chapters(body: str) -> list[str]:
    """The text cut before each chapter heading. Headings with less than 400 characters of text below, as in a table of
    contents, do not begin a chapter; what precedes the first one goes with it."""
    starts = [match.start() for match in _HEADING.finditer(body)]
    bounds = [0]
    for start, following in pairwise([*starts, len(body)]):
        if following - start >= 400:
            bounds.append(start)
    if len(bounds) > 1 and bounds[1] < 5000:
        del bounds[1]
    return [body[a:b] for a, b in pairwise([*bounds, len(body)]) if body[a:b].strip()]


def unwrap(text: str) -> str:
    """Join the lines of prose paragraphs; a paragraph with indented lines, or mostly short ones, is kept as it is."""
    paragraphs = re.split(r"\n[ \t]*\n+", text.strip("\n"))
    return "\n\n".join(_unwrap_paragraph(paragraph) for paragraph in paragraphs if paragraph.strip()).strip()


def _unwrap_paragraph(paragraph: str) -> str:
    lines = [line.rstrip() for line in paragraph.split("\n")]
    indented = any(line.startswith((" ", "\t")) for line in lines[1:])
    longest = max(len(line) for line in lines)
    if len(lines) == 1 or indented or longest < 45:
        return "\n".join(lines)
    return " ".join(line.strip() for line in lines)


def _metadata(text: str) -> dict[str, Any]:
    head = text[:20_000]
    fields = {key.lower().replace(" ", "_"): value.strip() for key, value in reversed(_FIELD.findall(head))}
    if number := _NUMBER.search(head):
        fields["ebook"] = int(number.group(1))
        fields["url"] = f"https://www.gutenberg.org/ebooks/{number.group(1)}"
    dates = [fields.pop(key) for key in ("release_date", "posting_date") if key in fields]
    if language := LANGUAGES.get(fields.get("language", "").lower()):
        fields["language"] = language
    if dates:
        fields["date"] = _NUMBER.sub("", dates[0]).strip()
    return fields
