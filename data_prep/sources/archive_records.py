"""Records of WARC (0.17 to 1.1) and ARC files (1 and 2), also of damaged ones: each is cut out and stands for itself.

The file is never whole in memory. A record ends where its header says, if another record or the end of the file follows there;
else at the next line that starts a record. So a wrong length costs one record, and a record that quotes a header stays whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from data_prep.sources.files import Unreadable

WINDOW = 1 << 18
LONGEST_START = 12_000
"""Bytes by which a record's start is known, its URL with it."""
_BLANK_LINE = re.compile(rb"\r{0,2}\n\r{0,2}\n")
_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*(\d{1,18})[ \t]*\r?$")
_ARC_HEADER = re.compile(
    rb"(?m)^([a-z][a-z0-9+.-]{1,20}:[^\n]{1,8000}?) ([\d.]{7,15}|[\da-fA-F:]{2,39}|-) (\d{4,20}) "
    rb"(\S{0,200}(?: [^\n]{0,2000}?)?) (\S{1,20})\r?\n"
)
"""URL (with spaces, sometimes), IP address, date, content type, further fields in version 2, length."""


@dataclass(frozen=True)
class Record:
    """One record, with a header whose names are in lower case."""

    kind: str
    """WARC-Type; "response" or "resource" for a record of ARC, by whether it begins with an HTTP status line."""
    header: dict[str, str]
    block: bytes
    """What the header speaks of: an HTTP message for a response."""
    damage: str = ""
    """Why the record cannot be trusted."""


@dataclass(frozen=True)
class Form:
    """How records of a kind of archive begin, and are read."""

    start: re.Pattern[bytes]
    head: Callable[[bytes], tuple[int, int | None] | None]
    """(bytes of the header, bytes that it claims for the block) of a buffer; None: its header does not end in it."""
    read: Callable[[bytes], Record]


class Reader:
    """Cuts an archive's bytes, uncompressed, into records."""

    def __init__(self, stream: BinaryIO, limit: int):
        self._stream, self._limit = stream, limit
        self._buffer, self._ended = b"", False

    def records(self) -> Iterator[Record | None]:
        """All records in order, None for each that is longer than the limit."""
        self._fill(WINDOW)
        form = ARC if _ARC_HEADER.match(self._buffer.lstrip()) else WARC
        while self._find_start(form):
            end = self._find_end(form)
            yield None if end is None else form.read(self._buffer[:end])
            self._buffer = self._buffer[end or 0 :]

    def _fill(self, size: int) -> bool:
        """Read on until `size` bytes are there; False at the end of the file."""
        parts, missing = [self._buffer], size - len(self._buffer)
        while missing > 0 and not self._ended:
            data = self._stream.read(max(missing, WINDOW))
            self._ended = not data
            parts.append(data)
            missing -= len(data)
        self._buffer = b"".join(parts)
        return missing <= 0

    def _find_start(self, form: Form) -> bool:
        """Drop what lies before the next record; False when there is none."""
        while True:
            more = self._fill(WINDOW)
            if start := form.start.search(self._buffer):
                self._buffer = self._buffer[start.start() :]
                return True
            if not more:
                return False
            self._buffer = self._buffer[-LONGEST_START:]

    def _find_end(self, form: Form) -> int | None:
        """Where the record at the start of the buffer ends. None for one over the limit: the buffer then begins behind it."""
        head, length = form.head(self._buffer) or (1, None)
        if length is not None and head + length <= self._limit:
            self._fill(head + length + LONGEST_START)
            if self._is_boundary(form, head + length):
                return head + length
        searched, long = head, length is not None and length > self._limit
        while not (following := form.start.search(self._buffer, searched)) and not self._ended:
            long = long or len(self._buffer) > self._limit
            if long:
                self._buffer = self._buffer[-LONGEST_START:]
            searched = max(1, len(self._buffer) - LONGEST_START)
            self._fill(len(self._buffer) + 16 * WINDOW)
        end = following.start() if following else len(self._buffer)
        if long:
            self._buffer = self._buffer[end:]
            return None
        return end

    def _is_boundary(self, form: Form, place: int) -> bool:
        """True when blank lines and then a record, or the end of the file, follow at `place`."""
        if place > len(self._buffer):
            return False
        rest = self._buffer[place : place + LONGEST_START + 64].lstrip(b"\r\n \0")
        if not rest and self._ended:
            return not self._buffer[place:].strip(b"\r\n \0")
        return form.start.match(rest) is not None


def _warc_head(buffer: bytes) -> tuple[int, int | None] | None:
    blank = _BLANK_LINE.search(buffer)
    if blank is None:
        return None
    length = _LENGTH.search(buffer, 0, blank.end())
    return blank.end(), int(length.group(1)) if length else None


def _warc_record(raw: bytes) -> Record:
    blank = _BLANK_LINE.search(raw)
    if blank is None:
        return Record("", {}, b"", "damaged: a header without end")
    head = raw[: blank.start()]
    header: dict[str, str] = {}
    name = ""
    for line in head.decode("utf-8", "replace").splitlines()[1:]:
        if line[:1] in (" ", "\t") and name:
            header[name] += f" {line.strip()}"
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if colon and name not in header:
            header[name] = value.strip()
    block = raw[blank.end() :]
    length = header.get("content-length", "")
    damage = ""
    if length.isascii() and length.isdigit():
        damage = _missing(int(length), block, bare_lines=b"\r\n" not in head)
        block = block[: int(length)] if not block[int(length) :].strip() else block.rstrip(b"\r\n")  # or a length too short
    else:
        block = block.rstrip(b"\r\n")
    return Record(header.get("warc-type", "").lower(), header, block, damage)


def _missing(claimed: int, block: bytes, bare_lines: bool) -> str:
    """Why a block is not whole; "" when it is, or when it lacks no more than the line ends that a converter took out."""
    missing = claimed - len(block)
    if missing <= (block.count(b"\n") + 4 if bare_lines else 0):
        return ""
    return f"damaged: cut off, {len(block):,} of {claimed:,} bytes"


def _arc_head(buffer: bytes) -> tuple[int, int | None] | None:
    match = _ARC_HEADER.match(buffer)
    return (match.end(), int(match.group(5)) if match.group(5).isdigit() else None) if match else None


def _arc_record(raw: bytes) -> Record:
    match = _ARC_HEADER.match(raw)
    if match is None:
        raise Unreadable("damaged: no header of ARC")
    url, _, date, kind, _ = (part.decode("utf-8", "replace") for part in match.groups())
    length = match.group(5)
    block = raw[match.end() :]
    damage = (
        _missing(int(length), block, bare_lines=b"\r\n" not in block)
        if length.isdigit()
        else f"damaged: a length of {length.decode('utf-8', 'replace')}"
    )
    block = block[: int(length)] if length.isdigit() else block
    digits = date[:14].ljust(14, "0")
    when = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}T{digits[8:10]}:{digits[10:12]}:{digits[12:14]}Z"
    header = {"warc-target-uri": url, "warc-date": when, "content-type": kind.split(" ")[0]}
    if url.startswith("filedesc:"):
        return Record("warcinfo", header, block)
    form = "response" if block[:5] == b"HTTP/" else "resource"
    return Record(form, header, block, damage)


WARC = Form(re.compile(rb"(?m)^WARC/(?:0\.1[78]|1\.\d)[ \t]*\r{0,2}\n(?=[A-Za-z][\w-]*[ \t]*:)"), _warc_head, _warc_record)
ARC = Form(_ARC_HEADER, _arc_head, _arc_record)
