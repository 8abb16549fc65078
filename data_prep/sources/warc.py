"""Common Crawl: WARC (pages as they came, HTML -> text) and WET (text that Common Crawl extracted), any compression.

Records are read with FastWARC. Where a file is damaged, reading goes on at the next record that can be found.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import xxhash
from fastwarc.warc import ArchiveIterator, WarcRecordType
from pydantic import Field

from data_prep.document import Document, SetAside
from data_prep.sources import page, page_facts, signals
from data_prep.sources.files import Piece, SourceSettings, find_files, open_compressed, open_raw
from data_prep.sources.site_rules import AGENTS, SiteRules
from strict_json import ConfigError

SUFFIXES = tuple(kind + packed for kind in (".warc", ".wet", ".warc.wet.txt") for packed in ("", ".gz", ".zst", ".bz2"))
_START = re.compile(rb"(?m)^WARC/1\.\d\r?\n")
_HTML_TYPES = ("text/html", "application/xhtml+xml")


class WarcSource(SourceSettings):
    """WARC and WET files of Common Crawl, wget and other crawlers."""

    type: Literal["warc"]
    main_content: bool = True
    """Leave out menus, headers, footers and asides of pages; false: all visible text."""
    robots: str | None = None
    """Folder, relative to the recipe, of robots.txt files named by host (example.org.txt) and of tdmrep.json files
    (example.org.tdmrep.json). Both are heeded too where the archives themselves hold them, for the pages that follow."""
    agents: list[str] = Field(default_factory=lambda: list(AGENTS))
    """Crawlers for AI training: a page that its robots.txt denies to one of them is marked in its metadata (`opt_out`)."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: WarcSource, base: Path) -> list[Piece]:
    """Input files; from folders those whose names end as WARC and WET files do.

    Raises ConfigError when `robots` is no folder.
    """
    found = find_files(settings, base)
    if settings.robots is None:
        return found
    folder = Path(os.path.abspath(base / Path(settings.robots).expanduser()))
    if not folder.is_dir():
        raise ConfigError(f"source {settings.name}: robots: {folder} is no folder.")
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
    state = xxhash.xxh3_64_hexdigest(repr(files).encode())  # other rules make other documents
    return [replace(piece, beside=str(folder), changed=f"{piece.changed} {state}") for piece in found]


def read(piece: Piece, settings: WarcSource) -> Iterator[Document | SetAside]:
    """Documents of one file: its WET records, and its responses with status 200 that hold HTML or plain text."""
    robots = SiteRules(settings.agents, Path(piece.beside) if piece.beside else None)
    with _open(piece, settings) as stream:
        for number, found in _records(stream, piece, settings):
            if isinstance(found, SetAside):
                yield found
                continue
            where = f"{piece.path}, record {number}"
            try:
                document = _document(*found, f"{settings.name}/{piece.name}#{number}", settings, robots)
            except (ValueError, OSError, RuntimeError) as error:
                yield SetAside(where, f"{type(error).__name__}: {error}")
                continue
            if document is not None:
                yield document


def _open(piece: Piece, settings: WarcSource) -> Any:
    """The archive's bytes. Whether it is gzip is seen from its first bytes: crawlers' names are not to be trusted."""
    with open_raw(piece.path) as raw:
        if raw.read(2) == b"\x1f\x8b":
            return _Members(piece.path, settings.max_document_bytes)
    return open_raw(piece.path) if piece.path.split("::")[0].endswith(".gz") else open_compressed(piece.path)


def _records(stream: BinaryIO, piece: Piece, settings: WarcSource) -> Iterator[tuple[int, Any]]:
    """(number, (record, its bytes)) of all records, and SetAside where some had to be passed over. The file is never whole in
    memory: it is cut where lines begin with WARC/1, and each piece is parsed by itself: a damaged one harms no other."""
    number = 0
    try:
        for chunk in _cut(stream, settings.max_document_bytes):
            number += 1
            if chunk is None:
                yield number, SetAside(f"{piece.path}, record {number}", "longer than max_document_megabytes")
                continue
            try:
                repaired = _repaired(chunk)
                record = next(iter(ArchiveIterator(io.BytesIO(repaired), parse_http=True, auto_decode="all")), None)
                if record is not None:
                    yield number, (record, repaired)
            except (OSError, ValueError, RuntimeError) as error:
                yield number, SetAside(f"{piece.path}, record {number}", f"damaged: {error}")
    except (OSError, EOFError, ValueError) as error:
        yield number, SetAside(f"{piece.path}, after record {number}", f"unreadable from here on: {error}")
    damage = getattr(stream, "damage", [])
    yield from ((number, SetAside(piece.path, reason)) for reason in damage)
    if number == 0 and not damage:
        yield 0, SetAside(piece.path, "holds no WARC record (ARC files of before 2008: convert them with `warcio recompress`)")


def _cut(stream: BinaryIO, limit: int) -> Iterator[bytes | None]:
    """The bytes of each record, None for one over the limit. A record's length is taken from its Content-Length when a record
    or the end follows there, else it goes on to the next line that starts a record."""
    buffer, ended, skipping = b"", False, False
    while True:
        while not ended and len(buffer) < (1 << 20):
            data = stream.read(1 << 20)
            ended = not data
            buffer += data
        start = _START.search(buffer)
        if start is None:
            if ended:
                return
            buffer = buffer[-16:]
            continue
        buffer = buffer[start.start() :]
        end, known = _record_end(buffer)
        while end is None and not ended and len(buffer) <= limit + (1 << 20):
            wanted = (known or 0) + 64 - len(buffer)
            data = stream.read(max(1 << 20, min(wanted, limit)))
            ended = not data
            buffer += data
            end, known = _record_end(buffer)
        if end is None:
            end = len(buffer)
            if not ended:
                skipping = True
        yield None if skipping or end > limit else buffer[:end]
        skipping = False
        buffer = buffer[end:]


def _record_end(buffer: bytes) -> tuple[int | None, int | None]:
    """(where the first record of the buffer ends, None if that lies beyond it; the end its header claims)."""
    header = re.search(rb"\r?\n\r?\n", buffer)
    if header is None:
        return None, None
    length = re.search(rb"(?im)^content-length:\s*(\d{1,18})\s*$", buffer[: header.end()])
    if length is not None:
        claimed = header.end() + int(length.group(1))
        follow = re.match(rb"(?:\r?\n){0,4}(?=WARC/1\.)", buffer[claimed : claimed + 64]) if claimed <= len(buffer) else None
        if follow:
            return claimed + follow.end(), claimed
        if claimed > len(buffer):
            following = _START.search(buffer, header.end())
            if following is None or claimed < len(buffer) + (1 << 26):
                return None, claimed
    following = _START.search(buffer, header.end())
    return (following.start() if following else None), None


def _repaired(chunk: bytes) -> bytes:
    """The record with CRLF line ends in its header, a blank line after it and a Content-Length that is true."""
    header = re.search(rb"\r?\n\r?\n", chunk)
    if header is None:
        raise ValueError("a header without end")
    lines = re.split(rb"\r?\n", chunk[: header.start()])
    body = chunk[header.end() :]
    declared = next((int(line.split(b":")[1]) for line in lines if re.match(rb"(?i)content-length:\s*\d+\s*$", line)), None)
    if declared is not None and len(body) < 0.9 * declared:
        raise ValueError(f"cut off: {len(body):,} of {declared:,} bytes")
    if declared is not None:
        body = body[:declared]
    if body.startswith(b"HTTP/"):
        head, blank, content = _divided(body)
        body = b"\r\n".join(re.split(rb"\r?\n", head)) + (b"\r\n\r\n" if blank else b"") + content
    lines = [line for line in lines if not line.lower().startswith(b"content-length:")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body, b"", b""])


def _divided(message: bytes) -> tuple[bytes, bytes, bytes]:
    """(header, blank line, content) of a message with any line ends."""
    blank = re.search(rb"\r?\n\r?\n", message)
    return (message[: blank.start()], blank.group(), message[blank.end() :]) if blank else (message, b"", b"")


def _payload(record: Any, chunk: bytes, limit: int) -> bytes:
    """The content of a response. Where it does not have the form that its header claims, as when a crawler unpacked it and kept
    the header, or chunks are wrong, what can be read is taken. Raises ValueError when that is nothing."""
    try:
        return record.reader.read()
    except OSError as error:
        raw = _divided(_divided(chunk)[2])[2]
        headers = {str(name).lower(): str(value).lower() for name, value in record.http_headers}
        if "chunked" in headers.get("transfer-encoding", ""):
            raw = _unchunked(raw)
        encoding = headers.get("content-encoding", "")
        if raw[:2] == b"\x1f\x8b" or "deflate" in encoding:
            raw = _inflated(raw, limit)
        if not encoding or raw.lstrip()[:1] == b"<":
            return raw
        raise ValueError(f"content in no form that its header claims ({encoding}): {error}") from None


def _unchunked(raw: bytes) -> bytes:
    """The chunks' contents up to the first that is damaged; all, where there are no chunks."""
    parts, place = [], 0
    while size := re.compile(rb"\s*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n").match(raw, place):
        parts.append(raw[size.end() : size.end() + int(size.group(1), 16)])
        place = size.end() + int(size.group(1), 16)
    return b"".join(parts) if parts else raw


def _inflated(raw: bytes, limit: int) -> bytes:
    """What can be decompressed of gzip, zlib or bare deflate data."""
    for window in (47, -15):
        try:
            found = zlib.decompressobj(window).decompress(raw, limit)
        except zlib.error:
            continue
        if found:
            return found
    return raw


def _document(record: Any, chunk: bytes, identifier: str, settings: WarcSource, robots: SiteRules) -> Document | None:
    headers = record.headers
    url = (headers.get("WARC-Target-URI") or "").strip("<> ")
    metadata: dict[str, Any] = {"url": url, "record_id": (headers.get("WARC-Record-ID") or "").strip("<>")}
    if record.record_date is not None:
        metadata["date"] = record.record_date.isoformat()
    if record.record_type == WarcRecordType.conversion:
        languages = headers.get("WARC-Identified-Content-Language")
        if languages:
            metadata["language"] = languages.split(",")[0]
        text = record.reader.read().decode("utf-8", "replace")
        return Document(identifier, text, settings.name, metadata | robots.signals(url, []))
    if record.record_type != WarcRecordType.response or not record.is_http or record.http_headers is None:
        return None
    kind = (record.http_content_type or "").lower()
    if record.http_headers.status_code not in (200, None):
        return None
    raw = _payload(record, chunk, settings.max_document_bytes)
    if robots.learn(url, raw):
        return None
    fields = [(str(name), str(value)) for name, value in record.http_headers]
    if kind == "text/plain":
        text = page.decode_page(raw, record.http_charset).text
        return Document(identifier, text, settings.name, metadata | robots.signals(url, page_facts.opt_outs(None, fields)))
    if kind not in _HTML_TYPES and not (not kind and raw.lstrip()[:1] == b"<"):
        return None
    tree = page.parse(raw, record.http_charset)
    licence, evidence = signals.licence_of(tree)
    metadata |= robots.signals(url, page_facts.opt_outs(tree, fields))
    if language := page.language_of(tree):
        metadata["language"] = language
    if title := page.title_of(tree):
        metadata["title"] = title
    if licence:
        metadata["licence"] = licence
    if evidence:
        metadata["licence_evidence"] = evidence
    return Document(identifier, page.text_of(tree, settings.main_content), settings.name, metadata)


class _Members(io.RawIOBase):
    """The bytes of a file of gzip members, one per record. A damaged member is passed over up to the next one, and noted."""

    def __init__(self, path: str, limit: int):
        super().__init__()
        self._file, self._limit = open_raw(path), limit
        self._input, self._ready, self._place = b"", b"", 0
        self._member: Any = None
        self._size = 0
        self.damage: list[str] = []
        """What was passed over, by the member's place in the file."""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, b"" at the end."""
        out = []
        while size > 0:
            if not self._ready and not self._inflate():
                break
            out.append(self._ready[:size])
            self._ready = self._ready[size:]
            size -= len(out[-1])
        return b"".join(out)

    def _inflate(self) -> bool:
        """Fill `_ready`; False at the end of the file."""
        while not self._ready:
            if len(self._input) < 18:
                self._fill()
            if self._member is None:
                if not self._input:
                    return False
                if not self._seek_member():
                    continue
            if not self._input:
                self._give_up("cut off")
                return False
            try:
                self._ready = self._member.decompress(self._input, 1 << 20)
            except zlib.error as error:
                self._give_up(str(error))
                continue
            self._size += len(self._ready)
            self._input = self._member.unconsumed_tail or (self._member.unused_data if self._member.eof else b"")
            if self._size > self._limit + (1 << 20):
                self._give_up("longer than max_document_megabytes")
            elif self._member.eof:
                self._member = None
        return True

    def _fill(self) -> None:
        data = self._file.read(1 << 20)
        self._place += len(data)
        self._input += data

    def _seek_member(self) -> bool:
        """Start the next member; without one in sight, pass over what was read."""
        start = self._input.find(b"\x1f\x8b\x08")
        if start < 0:
            if self._input.strip(b"\0"):
                self._note("no gzip member here")
            self._input = b""
            return False
        if start:
            self._note(f"{start:,} bytes between gzip members")
        self._input = self._input[start:]
        self._member, self._size = zlib.decompressobj(31), 0
        return True

    def _give_up(self, why: str) -> None:
        self._note(f"damaged gzip member: {why}")
        self._member, self._input = None, self._input[1:]  # one byte on: not the same member again

    def _note(self, reason: str) -> None:
        if len(self.damage) < 100:
            self.damage.append(f"near byte {max(0, self._place - len(self._input)):,}: {reason}")
