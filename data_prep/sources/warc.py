"""Archives of the web: WARC (pages as they came, HTML -> text) and WET (text that Common Crawl extracted), ARC of before 2009,
any compression. A damaged record, or one that cannot be read, costs itself alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import xxhash
from fastwarc.stream_io import Lz4Reader
from pydantic import Field

from data_prep.document import Document, PassedOver, SetAside
from data_prep.sources import page, page_facts
from data_prep.sources.archive_frames import Frames
from data_prep.sources.archive_records import Reader, Record
from data_prep.sources.files import Piece, SourceSettings, Unreadable, describe, find_files, guarded, open_compressed, open_raw
from data_prep.sources.http_message import Response, parse_response
from data_prep.sources.page_figures import Powers
from data_prep.sources.site_rules import AGENTS, SiteRules
from strict_json import ConfigError

PACKINGS = ("", ".gz", ".zst", ".bz2", ".xz", ".lz4")
SUFFIXES = tuple(kind + packed for kind in (".warc", ".wet", ".warc.wet.txt", ".arc") for packed in PACKINGS)
_HTML_TYPES = ("text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml")
_CRAWLERS = ("metadata", "urn", "dns", "whois", "screenshot", "thumbnail", "warcinfo")
"""Schemes of the addresses under which crawlers keep their own logs and settings."""
_UNSAID = ("", "unknown", "unknown/unknown", "application/unknown", "application/octet-stream", "no-type", "content/unknown")
"""Content types that say nothing: what begins with a tag of HTML is taken for a page."""


class WarcSource(SourceSettings):
    """WARC, WET and ARC files of Common Crawl, wget, Heritrix and other crawlers."""

    type: Literal["warc"]
    main_content: bool = True
    """Leave out menus, headers, footers, comments and asides of pages; false: all visible text."""
    powers: Powers = "caret"
    """How raised and lowered figures are written: 10<sup>6</sup> as 10^6 ("caret"), 10⁶ ("unicode") or 106 ("plain", which
    changes numbers)."""
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


def read(piece: Piece, settings: WarcSource) -> Iterator[Document | PassedOver | SetAside]:
    """Documents of one file: its WET records, and its responses and resources that hold HTML or plain text."""
    robots = SiteRules(settings.agents, Path(piece.beside) if piece.beside else None)
    number = 0
    damage: list[str] = []
    try:
        with _open(piece) as stream:
            damage = getattr(stream, "damage", damage)
            for number, record in enumerate(Reader(stream, settings.max_document_bytes).records(), 1):
                where = f"{piece.path}, record {number}"
                if record is None:
                    yield SetAside(where, "longer than max_document_megabytes")
                    continue
                identifier = f"{settings.name}/{piece.name}#{number}"
                item = guarded(where, _document, record, identifier, settings, robots)
                if item is not None:
                    yield item
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield SetAside(f"{piece.path}, after record {number}", f"unreadable from here on: {describe(error)}")
    yield from (SetAside(piece.path, reason) for reason in damage)
    if number == 0 and not damage:
        yield SetAside(piece.path, "holds no record of WARC (0.17 to 1.1) or ARC")


@contextmanager
def _open(piece: Piece) -> Iterator[BinaryIO]:
    """The archive's bytes, unpacked. Its first bytes tell how it is packed: crawlers' names are not to be trusted."""
    with open_raw(piece.path) as raw:
        head = raw.read(4)
    if head[:3] == b"\x1f\x8b\x08" or head in (b"\x28\xb5\x2f\xfd", b"\x5d\x2a\x4d\x18"):
        with Frames(piece.path) as stream:
            yield stream
    elif head == b"\x04\x22\x4d\x18":
        with open_raw(piece.path) as raw:
            yield Lz4Reader(raw)
    elif head[:2] == b"BZ" or head == b"\xfd7zX":
        with open_compressed(piece.path) as stream:
            yield stream
    else:
        with open_raw(piece.path) as raw:
            yield raw


def _document(record: Record, identifier: str, settings: WarcSource, robots: SiteRules) -> Document | PassedOver | None:
    """The document of a record; None for records that describe others, or the rules of a site."""
    if record.damage:
        raise Unreadable(record.damage)
    url = record.header.get("warc-target-uri", "").strip("<> ")
    if record.kind in ("warcinfo", "request") or not record.kind:
        return None
    metadata: dict[str, Any] = {"url": url, "record_id": record.header.get("warc-record-id", "").strip("<> ")}
    if date := record.header.get("warc-date"):
        metadata["date"] = date
    if record.kind == "conversion":
        languages = record.header.get("warc-identified-content-language")
        if languages:
            metadata["language"] = languages.split(",")[0].strip()
        text = record.block.decode("utf-8", "replace")
        return Document(identifier, text, settings.name, metadata | robots.signals(url, []))
    if record.kind == "resource" and url.partition(":")[0].lower() in _CRAWLERS:
        return PassedOver(settings.name, "resource of the crawler")
    if record.kind not in ("response", "resource"):
        return PassedOver(settings.name, f"{record.kind} record")
    return _from_response(_response(record), url, metadata, identifier, settings, robots)


def _response(record: Record) -> Response:
    """The HTTP response that a record holds; for what was got otherwise (ftp, dns, files) one is made of its content type."""
    if record.block[:5] == b"HTTP/":
        return parse_response(record.block)
    if record.header.get("content-type", "").startswith("application/http") and re.match(rb"[^\n<]*\n[\w-]+:", record.block):
        return parse_response(b"HTTP/1.0 " + record.block.lstrip())  # a status line without its beginning
    return Response(None, [("Content-Type", record.header.get("content-type", ""))], record.block)


def _from_response(
    response: Response, url: str, metadata: dict[str, Any], identifier: str, settings: WarcSource, robots: SiteRules
) -> Document | PassedOver | None:
    """The document of an HTTP response, or what it is counted as."""
    if response.status not in (200, 203, None):
        return PassedOver(settings.name, f"status {response.status}")
    kind = response.kind if not response.kind.startswith("application/http") else ""
    raw = response.content(settings.max_document_bytes)
    if robots.learn(url, raw):
        return None
    if kind in _UNSAID and re.match(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body|!--)", raw, re.IGNORECASE):
        kind = "text/html"
    if kind != "text/plain" and kind not in _HTML_TYPES:
        return PassedOver(settings.name, kind if re.fullmatch(r"[\w.+-]{1,60}/[\w.+-]{1,80}", kind) else "no content type")
    decoded = page.decode_page(raw, response.charset)
    metadata |= {"encoding": decoded.encoding} | ({"encoding_assumed": True} if decoded.assumed else {})
    if kind == "text/plain":
        metadata |= robots.signals(url, page_facts.opt_outs(None, response.fields))
        return Document(identifier, decoded.text, settings.name, metadata)
    tree = page.parse_text(decoded.text)
    metadata |= robots.signals(url, page_facts.opt_outs(tree, response.fields))
    facts = page_facts.facts_of(tree, response.fields)
    if url.startswith("http"):
        facts.pop("url", None)
    if "date" in metadata and "date" in facts:
        metadata["published"] = facts.pop("date")
    text = page.text_of(tree, settings.main_content, settings.powers)
    return Document(identifier, text, settings.name, metadata | facts)
