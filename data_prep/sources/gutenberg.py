"""Project Gutenberg books: the licence around the book is removed, its chapters stay together.

The markers follow the editions in circulation: "*** START OF THE PROJECT GUTENBERG EBOOK" and "*** END OF ..." (since about
2003, until 2004 with the small print behind them), and "*END*THE SMALL PRINT" with "End of The Project Gutenberg Etext"
(1990s), each in the book's language too. Not removed: transcriber's notes, captions, tables of contents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from data_prep.document import Document, SetAside
from data_prep.sources.files import Piece, find_files, normalise_newlines, read_whole
from data_prep.sources.text_encoding import TextSettings, decode
from data_prep.sources.unwrapping import unwrap

SUFFIXES = (".txt",)


class GutenbergSource(TextSettings):
    """Plain-text books of Project Gutenberg, any edition."""

    type: Literal["gutenberg"]
    split: Literal["book", "chapters"] = "book"
    """book: a book is one document, all chapters in order. chapters: each chapter is a document; none is ever cut."""
    unwrap: bool = True
    """Join the hard-wrapped lines of a paragraph; verse, lists and tables (lines with room left) keep theirs."""
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
_WORDS_OF_START = "start|begin|beginning|d[ée]but|in[ií]cio|inizio|comienzo|beginn|anfang|alku"
_WORDS_OF_END = "end|ende|fin|fine|fim|final|einde|slut|slutet|slutten|loppu|koniec|konec|v[ée]ge|finis|τέλος|конец"
_MARKER = re.compile(
    rf"^[ \t]*\*{{2,3}}[ \t]*(?P<start>(?:{_WORDS_OF_START})\b[^\n]*GUTENBERG[^\n]*)$"
    r"|^[ \t]*(?P<small>\*END\W{0,2}(?:OF )?THE SMALL PRINT[^\n]*)$"
    rf"|^[ \t]*(?P<end>\*{{2,3}}[ \t]*(?:{_WORDS_OF_END})\b[^\n]*GUTENBERG[^\n]*)$"
    rf"|^[ \t*_\[]*(?P<weak>(?:This is the )?(?:{_WORDS_OF_END})\b[^\n.]{{0,60}}\bpro\w?[jgy]e\w+ gutenberg[^\n]*)$"
    r"|^[ \t*_\[]*(?P<last>(?:End|Ende) (?:of|dieses|des|diese) [^\n.]{0,40}(?:Gutenberg|E-?text)[^\n]{0,60})$",
    re.IGNORECASE | re.MULTILINE,
)
"""Lines around a book. A weak end (no asterisks) is one in the last two thirds of the text only."""
_START_CONTINUES = re.compile(r"\A(?:[^\n]*\*{3}[ \t]*\n)")
_CREDITS = re.compile(
    r"\A\s*(?:(?:This )?E-?(?:text|book) (?:was )?(?:prepared|produced) by|Produced by|Prepared by|Transcribed (?:from|by)|"
    r"\[?Transcriber.s note|HTML version by|This etext was)[^\n]*(?:\n[^\n]+)*\n",
    re.IGNORECASE,
)
_FIELD = re.compile(r"^[ \t]*([A-Z][A-Za-z ]{2,30}):[ \t]*(.*)$")
_KEYS = {
    "title": "title", "titel": "title", "titre": "title", "título": "title", "titolo": "title", "author": "author",
    "authors": "author", "autor": "author", "auteur": "author", "autore": "author", "language": "language",
    "sprache": "language", "langue": "language", "translator": "translator", "translators": "translator",
    "editor": "editor", "editors": "editor",
    "illustrator": "illustrator", "contributor": "contributor", "commentator": "contributor", "release date": "date",
    "posting date": "posted", "most recently updated": "updated", "last updated": "updated",
    "original publication": "published",
}  # fmt: skip
"""Names of fields in the headers of books -> metadata. Any other name ends a field."""
_ENCODING = re.compile(rb"^Character set encoding:[ \t]*([\w.:-]{2,30})", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"\[?\b(?:EBook|Etext|eBook|E-text|E-book) ?#\s?(\d+)\]?", re.IGNORECASE)
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
    raw = read_whole(piece, settings)
    named = _ENCODING.search(raw, 0, 20_000)
    decoded = decode(raw, settings.encoding, declared=named.group(1).decode() if named else None)
    text = normalise_newlines(decoded.text)
    body = strip_boilerplate(text)
    if body is None and settings.require_markers:
        yield SetAside(piece.path, "no Project Gutenberg start marker (require_markers is true)")
        return
    if body == "":
        yield SetAside(piece.path, "no text between the start and end markers of Project Gutenberg")
        return
    metadata = _metadata(text) | decoded.facts
    body = text if body is None else body
    chapters = split_chapters(body) if settings.split == "chapters" else [body]
    for index, chapter in enumerate(chapters):
        name = piece.name if settings.split == "book" else f"{piece.name}#{index}"
        content = unwrap(chapter) if settings.unwrap else chapter.strip()
        yield Document(f"{settings.name}/{name}", content, settings.name, metadata)


def strip_boilerplate(text: str) -> str | None:
    """The book between header and licence, or None when there is no start marker.

    It is the longest stretch from a start marker to the next marker: a start marker behind the end is the licence's.
    """
    markers = list(_MARKER.finditer(text))
    start = next((place for place, match in enumerate(markers) if match["start"] or match["small"]), None)
    if start is None:
        return None
    strong = next((match.start() for match in markers[start:] if match["end"]), len(text))
    earliest = markers[start].end() + (strong - markers[start].end()) // 3
    bounds = [match for match in markers if not (match["weak"] or match["last"]) or match.start() > earliest]
    stretches = []
    for place, match in enumerate(bounds):
        if match["start"] or match["small"]:
            stop = bounds[place + 1].start() if place + 1 < len(bounds) else len(text)
            further = place + 1 < len(bounds) and (bounds[place + 1]["start"] or bounds[place + 1]["small"])
            # a header may end in more than one marker; what stands between them is no book unless it is long
            if not further or stop > max(60_000, len(text) // 2):
                stretches.append((match, text[match.end() : stop]))
    match, body = max(stretches, key=lambda stretch: len(stretch[1].strip()))
    body = body.lstrip("\n")
    if not match.group().rstrip().endswith("*"):  # a marker that was wrapped onto a second line
        body = _START_CONTINUES.sub("", body)
    while credit := _CREDITS.match(body):
        body = body[credit.end() :]
    return body.strip() + "\n" if body.strip() else ""


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


def _metadata(text: str) -> dict[str, Any]:
    """Fields of the header: those in front of the first marker, with the lines they go on in."""
    first = _MARKER.search(text)
    head = text[: min(20_000, first.start() if first and first.start() > 0 else 20_000)]
    found = _header_fields(head)
    fields: dict[str, Any] = {key: "; ".join(values) for key, values in found.items()}
    if number := _NUMBER.search(head):
        fields["ebook"] = int(number.group(1))
        fields["url"] = f"https://www.gutenberg.org/ebooks/{number.group(1)}"
    languages = [
        name.strip() for name in re.split(r",|;|/|&|\band\b|\bund\b|\bet\b", fields.pop("language", "")) if name.strip()
    ]
    codes = list(dict.fromkeys(LANGUAGES.get(name.lower(), name) for name in languages))
    if codes:
        fields["language"] = codes[0] if len(codes) == 1 else codes
    for key in ("date", "posted", "updated"):
        if key in fields:
            fields[key] = re.sub(r"\s*This file .*", "", _NUMBER.sub("", fields[key])).strip(" ;")
    if posted := fields.pop("posted", ""):
        fields.setdefault("date", posted)
    return {key: value for key, value in fields.items() if value}


def _header_fields(head: str) -> dict[str, list[str]]:
    """Values by metadata key. A title goes on in the next line, an author's next line names a second one."""
    found: dict[str, list[str]] = {}
    key = ""
    for line in head.split("\n"):
        match = _FIELD.match(line)
        if match and (name := match.group(1).strip().lower()) in _KEYS:
            key = _KEYS[name]
            found.setdefault(key, []).append(match.group(2).strip())
        elif match or not line.strip() or line.lstrip().startswith(("[", "*")):
            key = ""
        elif key in ("author", "translator", "editor", "illustrator") and not re.search(r"(?:,|&|\band)$", found[key][-1]):
            found[key].append(line.strip())
        elif key:
            found[key][-1] = f"{found[key][-1]} {line.strip()}".strip()
    return {key: list(dict.fromkeys(value for value in values if value)) for key, values in found.items()}
