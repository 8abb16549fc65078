"""Web pages saved as files: one document a page, with what the page says of itself."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from data_prep.document import Document, SetAside
from data_prep.sources import page, page_facts
from data_prep.sources.files import Piece, SourceSettings, Unreadable, find_files, guarded, read_whole
from data_prep.sources.page_figures import Powers

SUFFIXES = tuple(
    kind + packed
    for kind in (".html", ".htm", ".xhtml", ".xht", ".mhtml", ".mht")
    for packed in ("", ".gz", ".bz2", ".xz", ".zst")
)


class HTMLSource(SourceSettings):
    """Folders and archives of web pages: .html, .htm, .xhtml, and pages saved as one file (.mhtml, .mht), packed or not.

    Title, author, language, date, canonical address, licence and signals against training are taken from each page.
    """

    type: Literal["html"]
    main_content: bool = True
    """Leave out menus, headers, footers, comments and asides of pages; false: all visible text."""
    powers: Powers = "caret"
    """How raised and lowered figures are written: 10<sup>6</sup> as 10^6 ("caret"), 10⁶ ("unicode") or 106 ("plain", which
    changes numbers)."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: HTMLSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending as pages do."""
    return find_files(settings, base)


def read(piece: Piece, settings: HTMLSource) -> Iterator[Document | SetAside]:
    """The one document of a page."""
    yield guarded(piece.path, _document, read_whole(piece, settings), piece, settings)


def _document(raw: bytes, piece: Piece, settings: HTMLSource) -> Document:
    raw, declared, metadata = _saved_page(raw)
    if b"\0" in raw[:1024] and not re.search(rb"[\xff\xfe\x3c]", raw[:4]):
        raise Unreadable("no HTML: a binary file")
    decoded = page.decode_page(raw, declared)
    tree = page.parse_text(decoded.text)
    metadata |= {"encoding": decoded.encoding} | ({"encoding_assumed": True} if decoded.assumed else {})
    metadata |= page_facts.facts_of(tree)
    if found := page_facts.opt_outs(tree):
        metadata["opt_out"] = found
    text = page.text_of(tree, settings.main_content, settings.powers)
    return Document(f"{settings.name}/{piece.name}", text, settings.name, metadata)


def _saved_page(raw: bytes) -> tuple[bytes, str | None, dict[str, Any]]:
    """(page, declared encoding, metadata) of a page; one saved as MHTML (RFC 2557) is its first HTML part."""
    if not re.match(rb"(?:[\w-]+:[^\n]*\r?\n(?:[ \t][^\n]*\r?\n)*){2}", raw[:2000]):
        return raw, None, {}
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    for part in message.walk():
        if part.get_content_type() in ("text/html", "application/xhtml+xml"):
            content = part.get_payload(decode=True)
            url = str(part.get("Content-Location") or message.get("Snapshot-Content-Location") or "")
            return (
                content if isinstance(content, bytes) else b"",
                part.get_content_charset(),
                {"url": url} if url.startswith("http") else {},
            )
    raise Unreadable("an MHTML file without a page in it")
