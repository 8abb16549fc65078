"""Books in EPUB 2 and 3 (https://www.w3.org/TR/epub-33/): the texts of the spine in its order, without navigation."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from data_prep.document import Document, SetAside
from data_prep.sources import page, signals
from data_prep.sources.files import Piece, SourceSettings, Unreadable, find_files, guarded, read_whole
from data_prep.sources.xml_reader import Element, all_of, attribute, first, line_of, parse_whole

TEXTS = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml", "application/xml")
_OF_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""Methods that disguise fonts and encrypt nothing else."""
_CLOSED = re.compile(r"<([A-Za-z][\w:-]*)((?:[^<>\"']|\"[^\"]*\"|'[^']*')*)/>")
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"]
)
_HEAD = re.compile(r"\A.*?(?=<body\b)", re.DOTALL | re.IGNORECASE)
_NAVIGATION = re.compile(
    r"<nav\b[^>]*epub:type=[\"'][^\"']*(?:toc|landmarks|page-list)[^>]*>.*?</nav>", re.DOTALL | re.IGNORECASE
)
_LEFT_OUT = {"toc", "cover", "index-of-pages"}


class EpubSource(SourceSettings):
    """Books in EPUB, without DRM: one document per book, or per chapter (file of its spine)."""

    type: Literal["epub"]
    per: Literal["book", "chapter"] = "book"
    """What is one document."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return (".epub",)


@dataclass(frozen=True)
class _Book:
    archive: zipfile.ZipFile
    package: Element
    folder: str
    """Folder of the package document, from which its links start."""


def pieces(settings: EpubSource, base: Path) -> list[Piece]:
    """Books, from folders and archives those ending in .epub."""
    return find_files(settings, base)


def read(piece: Piece, settings: EpubSource) -> Iterator[Document | SetAside]:
    """The documents of one book. A chapter that cannot be read is set aside by its name, the others are kept."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(read_whole(piece, settings)))
    except zipfile.BadZipFile as error:
        raise Unreadable(f"no EPUB: {error}") from None
    with archive:
        book = _opened(archive)
        metadata = _facts(book.package)
        texts: list[tuple[str, str]] = []
        room = settings.max_document_bytes
        for name in _spine(book):
            made = guarded(f"{piece.path}, {name}", _chapter, book, name, room)
            if isinstance(made, SetAside):
                yield made
            elif made:
                texts.append((name, made))
                room -= len(made)
    identifier = f"{settings.name}/{piece.name}"
    if settings.per == "chapter":
        for place, (name, text) in enumerate(texts):
            facts = {**metadata, "chapter": name}
            yield guarded(f"{piece.path}, {name}", Document, f"{identifier}#{place}", text, settings.name, facts)
    elif texts:
        yield guarded(piece.path, Document, identifier, "\n\n".join(text for _, text in texts), settings.name, metadata)
    else:
        yield SetAside(piece.path, "no text in it: its pages are pictures, or its spine is empty")


def _opened(archive: zipfile.ZipFile) -> _Book:
    """The package document. Raises Unreadable for what is no EPUB, and for an encrypted one."""
    names = set(archive.namelist())
    if "META-INF/container.xml" not in names:
        raise Unreadable("no EPUB: META-INF/container.xml is missing")
    root = first(_parsed(archive, "META-INF/container.xml"), "rootfile")
    path = (root.get("full-path") if root is not None else None) or ""
    if path not in names:
        raise Unreadable(f"no EPUB: its package document {path or '(unnamed)'} is missing")
    book = _Book(archive, _parsed(archive, path), posixpath.dirname(path))
    if "META-INF/encryption.xml" in names:
        locked = _encrypted(_parsed(archive, "META-INF/encryption.xml")) & set(_spine(book))
        if locked:
            raise Unreadable(f"encrypted (DRM): {len(locked)} of its texts, such as {min(locked)}; an open copy is needed")
    return book


def _parsed(archive: zipfile.ZipFile, name: str) -> Element:
    if archive.getinfo(name).file_size > 64 << 20:
        raise Unreadable(f"{name} is longer than 64 MB")
    return parse_whole(io.BytesIO(archive.read(name)))


def _encrypted(root: Element) -> set[str]:
    """Names of the files that are encrypted, fonts aside."""
    found = set()
    for data in all_of(root, "EncryptedData"):
        method, reference = first(data, "EncryptionMethod"), first(data, "CipherReference")
        if reference is not None and (method is None or method.get("Algorithm") not in _OF_FONTS):
            found.add(unquote(reference.get("URI") or ""))
    return found


def _spine(book: _Book) -> list[str]:
    """Names of the texts in reading order, without navigation."""
    items = {item.get("id"): item for item in all_of(book.package, "item")}
    guided = {
        _resolve(book.folder, (node.get("href") or "").partition("#")[0])
        for node in all_of(book.package, "reference")
        if node.get("type") in _LEFT_OUT
    }
    names = []
    for reference in all_of(book.package, "itemref"):
        item = items.get(reference.get("idref"))
        if item is None or item.get("media-type") not in TEXTS or "nav" in (item.get("properties") or "").split():
            continue
        name = _resolve(book.folder, item.get("href") or "")
        if name not in guided and name not in names:
            names.append(name)
    return names


def _resolve(folder: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(folder, unquote(link)))


def _chapter(book: _Book, name: str, room: int) -> str:
    try:
        info = book.archive.getinfo(name)
    except KeyError:
        raise Unreadable("is in the book's spine, but not in its archive") from None
    if info.file_size > max(room, 0):
        raise Unreadable("the book is longer than max_document_megabytes")
    markup = page.decode_page(book.archive.read(info), None)
    return text_of(markup.text if hasattr(markup, "text") else markup[0])


def text_of(markup: str) -> str:
    """The text of a page in XHTML, in which any element may be closed where it opens: <a id="p1"/>, <title/>."""
    markup = _CLOSED.sub(lambda match: match.group() if match.group(1).lower() in _VOID else _opened_and_closed(match), markup)
    markup = _NAVIGATION.sub("", _HEAD.sub("<html>", markup, count=1))
    return page.text_of(page.parse_text(markup), main_content=False)


def _opened_and_closed(match: re.Match[str]) -> str:
    return f"<{match.group(1)}{match.group(2)}></{match.group(1)}>"


def _facts(package: Element) -> dict[str, Any]:
    """What the package document says of the book."""
    metadata = first(package, "metadata")
    said: dict[str, list[str]] = {}
    for node in metadata.iter() if metadata is not None else []:
        if node.tag.startswith("{http://purl.org/dc/") and (text := line_of(node)):
            said.setdefault(node.tag.rpartition("}")[2], []).append(text)
    rights = next(iter(said.get("rights", [])), "")
    unique = package.get("unique-identifier")
    named = [line_of(node) for node in all_of(package, "identifier") if attribute(node, "id") == unique]
    identifier = next(iter([*named, *said.get("identifier", [])]), "")
    modified = [line_of(node) for node in all_of(package, "meta") if node.get("property") == "dcterms:modified"]
    places = [identifier, *said.get("identifier", []), *said.get("source", [])]
    url = next((place.split()[0] for place in places if place.startswith("http")), "")
    found = {
        "title": next(iter(said.get("title", [])), ""),
        "author": "; ".join(dict.fromkeys(said.get("creator", []))),
        "language": next(iter(said.get("language", [])), ""),
        "date": next(iter(said.get("date", modified)), ""),
        "publisher": next(iter(said.get("publisher", [])), ""),
        "licence": (signals.spdx(rights) or rights[:300]) if rights else "",
        "url": url,
        "original_id": identifier,
    }
    return {key: value for key, value in found.items() if value}
