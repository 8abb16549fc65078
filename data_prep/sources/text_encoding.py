"""The encoding of text files: as its mark, the recipe or the file says; UTF-8 where the bytes prove it; else found by chardet.

A found encoding is a guess: its documents carry `encoding_assumed`, which the summary counts. Where the guess gives no text the
file is set aside by name.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import chardet
from pydantic import Field, field_validator

from data_prep.sources.files import SourceSettings, Unreadable

AUTO = "auto"
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    b"\x84\x31\x95\x33": "gb18030",
}
"""Byte-order marks; UTF-32's little-endian one begins as UTF-16's, so it comes first."""
SAMPLE_BYTES = 200_000
"""A guess rests on this much of the lines that are no ASCII."""
TELLING_BYTES = 1000
"""Less of such lines says little."""
SEARCHED_BYTES = 64 << 20
"""How far a file of lines is searched for such lines."""
MOSTLY_UTF_8 = 10
"""Whole characters of several bytes for each byte that is none, from which a text is damaged UTF-8 and nothing else."""
MAX_CONTROLS = 1 / 500
"""Control characters and unassigned ones among a text's characters, above which a guess gives no text."""
_SHIFTS = re.compile(rb"\x1b[$(][@-\x7f]|\x1b\$\)C|~\{[!-~]{2,}?~\}")
"""Escape sequences of ISO 2022 and HZ, whose bytes are all ASCII."""
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ufffd\ue000-\uf8ff]")
_STRAY = bytes([*range(1, 9), *range(14, 27), *range(28, 32), 127])
_NO_ASCII = re.compile(rb"[\x80-\xff]")


class TextSettings(SourceSettings):
    """What every source of text files has."""

    encoding: str = Field(default=AUTO)
    """Encoding of the files, by a name that Python knows ("cp1251", "shift_jis"), where it is known: bytes that do not fit are
    replaced and counted. "auto": as the file's own mark or header says, UTF-8 where it is that, else the most likely one, which
    the summary counts as assumed; files of which none can be told are set aside."""

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        if encoding != AUTO and _codec(encoding) is None:
            raise ValueError(
                f'"{encoding}" is no encoding that Python knows; "auto" finds it, or name one such as "cp1252", "gb18030"'
            )
        return encoding


@dataclass(frozen=True)
class Decoded:
    """A text and how its bytes were read."""

    text: str
    encoding: str
    """Python's name of the codec; with the number of bytes replaced, where any were."""
    assumed: bool = False
    """Whether the encoding is a guess, or bytes were replaced."""

    @property
    def facts(self) -> dict[str, Any]:
        """The metadata that say so."""
        return {"encoding": self.encoding} | ({"encoding_assumed": True} if self.assumed else {})


def decode(raw: bytes, encoding: str = AUTO, declared: str | None = None) -> Decoded:
    """Read the bytes of a whole text.

    `encoding`: the recipe's word for it, which holds. `declared`: what the file says of itself, which holds where the bytes
    fit. A mark at the beginning goes before both and is taken off.

    Raises Unreadable for bytes that are no text in any encoding.
    """
    for mark, marked in MARKS.items():
        if raw.startswith(mark):
            return _replacing(raw, marked)
    if encoding != AUTO:
        return _replacing(raw, encoding)
    plain = b"\0" not in raw[:SAMPLE_BYTES] and not _SHIFTS.search(raw, 0, SAMPLE_BYTES)
    for candidate in ("utf-8" if plain else None, declared):
        name = candidate and _codec(candidate)
        text = _strict(raw, name) if name else None
        if text is not None:
            return Decoded(text.removeprefix("\ufeff"), str(name))
    if damaged := _damaged_utf_8(raw):
        return damaged
    return _guessed(raw, guess(raw))


def guess(raw: bytes) -> str:
    """The most likely encoding of bytes that are no UTF-8. Raises Unreadable where chardet sees none."""
    binary = b"\0" in raw[:SAMPLE_BYTES]
    sample = raw[:SAMPLE_BYTES] if binary or _SHIFTS.search(raw, 0, SAMPLE_BYTES) else _telling(raw)
    found = chardet.detect(sample, max_bytes=SAMPLE_BYTES)["encoding"]
    name = _codec(found) if found else None
    if name is None or (binary and not name.startswith(("utf-16", "utf-32"))):
        raise Unreadable(f"no text in an encoding that can be told{_ADVICE}")
    return name


_ADVICE = '; where you know it, name it in the source\'s settings: "encoding": "cp1251", say'


def _telling(raw: bytes) -> bytes:
    """The lines that tell encodings apart, up to SAMPLE_BYTES; where they say little, the text around them too. Control
    characters, such as the one that ends a file of DOS, are left out: chardet would see no text."""
    parts, size, place = [], 0, 0
    while size < SAMPLE_BYTES and (found := _NO_ASCII.search(raw, place)):
        # of a line without end, what lies about its first byte that tells
        start = max(raw.rfind(b"\n", place, found.start()) + 1, place, found.start() - SAMPLE_BYTES // 2)
        place = raw.find(b"\n", found.end()) + 1 or len(raw)
        parts.append(raw[start : min(place, start + SAMPLE_BYTES - size)])
        size += len(parts[-1])
    if size <= TELLING_BYTES:
        first = found.start() if (found := _NO_ASCII.search(raw)) else 0
        start = max(0, min(first - SAMPLE_BYTES // 2, len(raw) - SAMPLE_BYTES))
        parts = [raw[start : start + SAMPLE_BYTES]]
    return b"".join(parts).translate(None, _STRAY)


def _guessed(raw: bytes, encoding: str) -> Decoded:
    decoded = _replacing(raw, encoding)
    shown = decoded.text[: 4 * SAMPLE_BYTES]
    if len(_CONTROLS.findall(shown)) > max(1, MAX_CONTROLS * len(shown)):
        raise Unreadable(f"no text in the most likely encoding ({encoding}){_ADVICE}")
    return Decoded(decoded.text, decoded.encoding, assumed=True)


def _damaged_utf_8(raw: bytes) -> Decoded | None:
    """The text of UTF-8 with some bytes that are none; None when it is rather something else."""
    if b"\0" in raw[:SAMPLE_BYTES]:
        return None
    text = raw.decode("utf-8", "replace")
    replaced = text.count("\ufffd")
    whole = len(text) - len(text.encode("ascii", "ignore")) - replaced
    if not replaced or whole < MOSTLY_UTF_8 * replaced:
        return None
    return Decoded(text, f"utf-8, {replaced} bytes replaced", assumed=True)


def _replacing(raw: bytes, encoding: str) -> Decoded:
    """The text in a known encoding; bytes that do not fit become U+FFFD, and are counted."""
    name = _codec(encoding) or encoding
    text = _strict(raw, name)
    if text is not None:
        return Decoded(text.removeprefix("\ufeff"), name.removesuffix("-sig"))
    text = raw.decode(name, "replace").removeprefix("\ufeff")
    return Decoded(text, f"{name.removesuffix('-sig')}, {text.count(chr(0xFFFD))} bytes replaced", assumed=True)


def _strict(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except (UnicodeError, LookupError):
        return None


def _codec(name: str) -> str | None:
    """Python's name of a text encoding; None for what it does not know, and for codecs that are no encodings (base64)."""
    try:
        info = codecs.lookup(name.strip().lower())
        info.decode(b"", "strict")
    except (LookupError, ValueError, TypeError):
        return None
    return info.name if getattr(info, "_is_text_encoding", True) else None


class LineDecoder:
    """Reads the lines of one file: each that is UTF-8 as that, the others in one encoding, found from all of them together."""

    def __init__(self, encoding: str, reopen: Callable[[], AbstractContextManager[BinaryIO]]):
        """`encoding`: the setting. `reopen`: opens the file again, to gather the lines that tell its encoding."""
        self.encoding, self._reopen = encoding, reopen
        self.facts: dict[str, Any] = {} if encoding == AUTO else {"encoding": encoding}
        """What a document's metadata are to say of the file's encoding, once it was told from a line; {} while all is UTF-8."""

    def decode(self, line: bytes) -> Decoded:
        """The text of one line. Raises Unreadable when it is none in the file's encoding."""
        if self.encoding != AUTO:
            return _replacing(line, self.encoding)
        text = _strict(line, "utf-8")
        if text is not None:
            return Decoded(text.removeprefix("\ufeff"), "utf-8")
        decoded = _damaged_utf_8(line) or _guessed(line, self._found)
        self.facts = {"encoding": decoded.encoding.split(",")[0], "encoding_assumed": True}
        return decoded

    @cached_property
    def _found(self) -> str:
        parts, size, searched = [], 0, 0
        with self._reopen() as file:
            while size < SAMPLE_BYTES and searched < SEARCHED_BYTES and (line := file.readline(SAMPLE_BYTES)):
                searched += len(line)
                if _strict(line, "utf-8") is None:
                    parts.append(line)
                    size += len(line)
        return guess(b"".join(parts))


@contextmanager
def in_bytes_of_ascii(file: BinaryIO, encoding: str) -> Iterator[BinaryIO]:
    """The same file where line ends are single bytes; one of UTF-16 or UTF-32, by its mark, its zero bytes or the setting,
    comes as UTF-8."""
    buffered = io.BufferedReader(file, 1 << 20) if not hasattr(file, "peek") else file  # type: ignore[type-var]
    head = buffered.peek(1 << 10)[: 1 << 10]  # type: ignore[attr-defined]
    wide = next((name for mark, name in MARKS.items() if head.startswith(mark) and "utf-8" not in name), None)
    if wide is None and encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        wide = encoding
    if wide is None and encoding == AUTO and b"\0" in head:
        wide = guess(head[: len(head) // 4 * 4])
    yield io.BufferedReader(_Recoded(buffered, wide), 1 << 20) if wide else buffered


class _Recoded(io.RawIOBase):
    """A stream of wide characters as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str):
        self._file, self._decoder, self._ready = file, codecs.getincrementaldecoder(encoding)("replace"), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._file.read(1 << 16)
            self._ready = self._decoder.decode(data, final=not data).encode("utf-8", "replace")
            if not data:
                break
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
