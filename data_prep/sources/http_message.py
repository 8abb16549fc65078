"""HTTP responses as crawlers store them: with any line ends, and contents that are not what their headers say."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from io import BytesIO

import zstandard
from fastwarc.stream_io import BrotliReader

from data_prep.sources.files import Unreadable

_BLANK_LINE = re.compile(rb"\r{0,2}\n\r{0,2}\n")
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})")
_CHUNK = re.compile(rb"\s*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")


@dataclass(frozen=True)
class Response:
    """One response."""

    status: int | None
    fields: list[tuple[str, str]]
    body: bytes

    def field(self, name: str) -> str:
        """The first field of a name, in any spelling; "" when there is none."""
        return next((value for field, value in self.fields if field.lower() == name), "")

    @property
    def kind(self) -> str:
        """The content type without parameters, in lower case; "" when it is not said."""
        return self.field("content-type").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str | None:
        """The encoding that the content type names."""
        match = re.search(r"charset\s*=\s*[\"']?\s*([\w:.-]{2,40})", self.field("content-type"), re.IGNORECASE)
        return match.group(1) if match else None

    def content(self, limit: int) -> bytes:
        """The body, decoded. Where it does not have the form that its header claims, as when a crawler unpacked it and kept the
        header, or chunks are wrong, what can be read is taken. Raises Unreadable when that is nothing, or beyond the limit."""
        body = self.body
        if "chunked" in self.field("transfer-encoding").lower():
            body = _unchunked(body)
        for coding in reversed(re.split(r"[,\s]+", self.field("content-encoding").lower().strip())):
            body = _decoded(body, coding, limit)
        if len(body) > limit:
            raise Unreadable("longer than max_document_megabytes")
        return body


def parse_response(block: bytes) -> Response:
    """A response of its bytes. Without a status line, all of it is the body."""
    status = _STATUS.match(block)
    if status is None and not block.startswith(b"HTTP/"):
        return Response(None, [], block)
    blank = _BLANK_LINE.search(block)
    head, body = (block[: blank.start()], block[blank.end() :]) if blank else (block, b"")
    fields: list[tuple[str, str]] = []
    for line in re.split(r"\r?\n", head.decode("utf-8", "replace"))[1:]:
        if line[:1] in (" ", "\t") and fields:
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {line.strip()}")
        elif ":" in line:
            name, _, value = line.partition(":")
            fields.append((name.strip(), value.strip()))
    return Response(int(status.group(1)) if status else None, fields, body)


def _unchunked(raw: bytes) -> bytes:
    """The chunks' contents up to the first that is damaged; all, where there are no chunks."""
    parts, place = [], 0
    while size := _CHUNK.match(raw, place):
        parts.append(raw[size.end() : size.end() + int(size.group(1), 16)])
        place = size.end() + int(size.group(1), 16)
    return b"".join(parts) if parts else raw


def _decoded(raw: bytes, coding: str, limit: int) -> bytes:
    """Content of a coding (RFC 9110, 8.4.1). Other words, such as a charset's name, say nothing of how bytes are packed."""
    if raw[:2] == b"\x1f\x8b" and coding in ("", "none", "identity", "utf-8", "utf8", "gzip", "x-gzip", "deflate", "br"):
        return _inflated(raw, limit)
    if coding in ("gzip", "x-gzip", "deflate", "x-deflate", "zlib"):
        return _inflated(raw, limit)
    if coding not in ("br", "zstd", "compress", "x-compress", "dcb", "dcz"):
        return raw
    try:
        if coding == "br":
            return BrotliReader(BytesIO(raw)).read(limit + 1)
        if coding == "zstd":
            return (
                zstandard.ZstdDecompressor(max_window_size=2**31)
                .stream_reader(BytesIO(raw), read_across_frames=True)
                .read(limit + 1)
            )
    except (OSError, ValueError, RuntimeError, zstandard.ZstdError) as error:
        if raw.lstrip()[:1] == b"<":  # unpacked by the crawler
            return raw
        raise Unreadable(f"content in no form that its header claims ({coding}): {error}") from None
    if raw.lstrip()[:1] == b"<":
        return raw
    raise Unreadable(f"content packed as {coding}, which is not read")


def _inflated(raw: bytes, limit: int) -> bytes:
    """What can be decompressed of gzip, zlib or bare deflate data, of which several may follow each other; else the bytes."""
    for window in (47, -15):
        parts, rest = [], raw
        try:
            while rest and sum(map(len, parts)) <= limit:
                inflater = zlib.decompressobj(window)
                parts.append(inflater.decompress(rest, limit + 1))
                rest = inflater.unused_data if inflater.eof else b""
        except zlib.error:
            pass
        if any(parts):
            return b"".join(parts)
    return raw
