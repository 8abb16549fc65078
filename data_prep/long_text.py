"""Texts too long to be held as str, which takes up to four bytes a character: kept as UTF-8 and worked on in pieces.

A piece ends where nothing that is done with texts here looks across: before white space where there is any, so that no word is
cut, and always at a boundary of Unicode's normal forms (UAX 15, section 9).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cached_property

import orjson

PIECE_BYTES = 1 << 20
_NEAR = 1 << 16
"""Bytes behind a piece's size in which white space is looked for."""
_BETWEEN_WORDS = re.compile(rb"(?<=[A-Za-z0-9.,;:]) (?=[A-Za-z])")
_WHITE_SPACE = re.compile(rb"(?<=[^ \t\r\n])[ \t\r\n]")
_TOKEN = re.compile(rb'\\(?:u[0-9A-Fa-f]{4}|[^u])|["\\]')
_ESCAPES = {
    rb"\"": b'"',
    rb"\\": b"\\",
    rb"\/": b"/",
    rb"\n": b"\n",
    rb"\r": b"\r",
    rb"\t": b"\t",
    rb"\b": b"\b",
    rb"\f": b"\f",
}


_BEGINNINGS = frozenset(("Cc", "Ll", "Lu", "Nd", "Pd", "Pe", "Po", "Ps", "Sm", "So", "Zs"))


class LongText:
    """UTF-8 that stands in the place of a str in a document, and is decoded a piece at a time."""

    def __init__(self, data: bytes | bytearray):
        self.data = data

    def __str__(self) -> str:
        return self.data.decode()

    def __len__(self) -> int:
        """Characters."""
        return sum(len(piece) for piece in self.pieces())

    def strip(self) -> LongText:
        """The text without white space at its ends."""
        start, stop = 0, len(self.data)
        spans = list(zip(self.cuts, self.cuts[1:], strict=False))
        for low, high in spans:
            piece = self.data[low:high].decode()
            start = high - len(piece.lstrip().encode())
            if start < high:
                break
        for low, high in reversed(spans):
            stop = low + len(self.data[low:high].decode().rstrip().encode())
            if stop > low:
                break
        return self if stop - start == len(self.data) else LongText(self.data[start : max(start, stop)])

    @cached_property
    def cuts(self) -> list[int]:
        """Bytes at which the pieces begin, and the end."""
        return [*_cuts(self.data), len(self.data)]

    def pieces(self) -> Iterator[str]:
        """The text, about a million bytes at a time."""
        for start, stop in zip(self.cuts, self.cuts[1:], strict=False):
            yield self.data[start:stop].decode()

    def between(self, spans: list[tuple[int, int]]) -> Iterator[bytes]:
        """UTF-8 of parts of the text, given by characters, ascending and apart."""
        bounds = iter(self._bytes_at([place for span in spans for place in span]))
        for start, stop in zip(bounds, bounds, strict=True):
            yield self.data[start:stop]

    def _bytes_at(self, characters: list[int]) -> list[int]:
        found, passed = [], 0
        pieces = zip(self.cuts, self.pieces(), strict=False)
        start, piece = next(pieces, (0, ""))
        for place in characters:
            while place > passed + len(piece):
                passed += len(piece)
                start, piece = next(pieces)
            found.append(start + len(piece[: place - passed].encode()))
        return found


def pieces(text: str | LongText, size: int = 0) -> Iterator[str]:
    """The text in pieces: a short one whole, a long one about a million characters at a time, cut as LongText is.

    `size`: characters of the pieces of a str, in place of a million."""
    size = size or PIECE_BYTES
    if isinstance(text, LongText):
        yield from text.pieces()
    elif len(text) <= size:
        yield text
    else:
        start = 0
        while start < len(text):
            stop = start + size
            if stop < len(text):
                near = text[stop : stop + _NEAR]
                place = next(iter(re.finditer(r"(?<=\S)[ \t\r\n]", near)), None)
                stop = stop + place.start() if place else _safe(text, stop)
            yield text[start:stop]
            start = stop


def utf8_bytes(text: str | LongText) -> int:
    """Length of the text in UTF-8; a lone surrogate counts as the question mark that it is written as."""
    if isinstance(text, LongText):
        return len(text.data)
    return len(text) if text.isascii() else sum(len(piece.encode("utf-8", "replace")) for piece in pieces(text))


def shorten(data: bytes) -> str | LongText:
    """A text from its UTF-8: a str unless it is long."""
    return LongText(data) if len(data) > PIECE_BYTES else data.decode()


def _cuts(data: bytes | bytearray) -> Iterator[int]:
    place = 0
    while place < len(data):
        yield place
        wanted = place + PIECE_BYTES
        if wanted >= len(data):
            return
        for pattern in (_BETWEEN_WORDS, _WHITE_SPACE):
            if found := pattern.search(data, wanted, wanted + _NEAR):
                place = found.start()
                break
        else:
            place = _safe_byte(data, wanted)


def _safe_byte(data: bytes | bytearray, place: int) -> int:
    """The first boundary of normal forms from this byte on."""
    while place < len(data):
        while place < len(data) and data[place] & 0xC0 == 0x80:
            place += 1
        near = data[place : place + _NEAR]
        cut = len(near)
        while cut and near[-1] & 0x80 and place + cut < len(data) and data[place + cut] & 0xC0 == 0x80:
            cut -= 1  # no character is cut
        text = near[:cut].decode()
        found = _safe(text, 0)
        if found < len(text):
            return place + len(text[:found].encode())
        place += cut
    return place


def _safe(text: str, place: int) -> int:
    """The first character from `place` on that never joins the one before it, in any version of Unicode's normal forms."""
    while place < len(text) and not _begins(text[place]):
        place += 1
    return place


def _begins(character: str) -> bool:
    """Whether it is certain that a character is composed with none before: what is a letter of a script whose vowels and
    syllables compose, a mark, or unknown is passed over."""
    kind = unicodedata.category(character)
    return kind in _BEGINNINGS or (kind[0] != "M" and "\u3041" <= character <= "\u9fff")


class JsonText:
    """The text of a JSON string as it comes: what a line holds from behind `"text":"` on."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes | None:
        """Take the next bytes of the line; returns what is behind the text once it has ended.

        Escapes beyond ASCII are not met in lines that orjson writes, and raise ValueError when they are halves of a character.
        """
        chunk, place = self._rest + chunk, 0
        for found in _TOKEN.finditer(chunk):
            token = found.group()
            self.data += chunk[place : found.start()]
            place = found.start()
            if token == b'"':
                return chunk[place + 1 :]
            if token == b"\\":  # an escape that goes on in the next chunk
                break
            self.data += _ESCAPES[token] if token in _ESCAPES else orjson.loads(b'"' + token + b'"').encode()
            place = found.end()
        else:
            self.data += chunk[place:]
            place = len(chunk)
        self._rest = chunk[place:]
        return None


def json_text(text: str | LongText, write: Callable[[bytes], object]) -> None:
    """Write a JSON string without its quotation marks, piece by piece."""
    for piece in pieces(text):
        write(orjson.dumps(piece.encode("utf-8", "replace").decode())[1:-1])
