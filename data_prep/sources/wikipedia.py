"""Wikipedia and other MediaWiki XML dumps (pages-articles), any language: one document per article."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from xml.etree import ElementTree

from pydantic import Field

from data_prep.document import Document, SetAside
from data_prep.sources import wikitext
from data_prep.sources.files import Piece, SourceSettings, find_files, open_compressed

SUFFIXES = tuple(f".xml{packed}" for packed in ("", ".bz2", ".gz", ".xz", ".zst"))
APPARATUS = """references|notes|footnotes|citations|sources|bibliography|further reading|external links|
see also|works cited|notes and references|einzelnachweise|weblinks|literatur|siehe auch|
anmerkungen|quellen|références|notes et références|liens externes|voir aussi|bibliographie|
annexes|articles connexes|referencias|notas|notas y referencias|enlaces externos|
véase también|bibliografía|referências|ligações externas|ver também|bibliografia|note|
voci correlate|altri progetti|collegamenti esterni|bronnen|externe links|zie ook|referenties|
przypisy|linki zewnętrzne|zobacz też|примечания|ссылки|литература|см. также|脚注|外部リンク|関連項目|
参考文献|出典|参考资料|外部链接|参见|参考文献|외부 링크|각주|같이 보기|المراجع|مراجع|وصلات خارجية|انظر أيضا|
referencies|vegeu també|enllaços externs"""
"""Headings of sections that list works and links, in the larger Wikipedias."""
_REDIRECT = re.compile(r"\s*#\s*\w+\s*:?\s*\[\[[^\]\n]+\]\]", re.UNICODE)
_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:disambig\w*|dab|hndis|geodis|begriffsklärung|homonymie|desambiguación|desambiguação|disambigua|dp|ujednoznacznienie|"
    r"неоднозначность|aimai|曖昧さ回避|disambig|消歧义)\s*[|}]",
    re.IGNORECASE,
)


class WikipediaSource(SourceSettings):
    """MediaWiki dumps: *-pages-articles*.xml.bz2."""

    type: Literal["wikipedia"]
    namespaces: list[int] = Field(default_factory=lambda: [0])
    """Numbers of the namespaces to take; 0 holds the articles."""
    disambiguation_pages: bool = False
    """Take pages that only list articles of like names."""
    drop_sections: list[str] | None = None
    """Headings (any case) of sections to leave out; null: references, links and their like in the larger languages."""


def pieces(settings: WikipediaSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .xml, packed or not."""
    return find_files(settings, base, SUFFIXES)


def read(piece: Piece, settings: WikipediaSource) -> Iterator[Document | SetAside]:
    """Articles of one dump. One that is cut off or damaged is read up to there. Redirects are passed over."""
    sections = [title.strip() for title in APPARATUS.split("|")] if settings.drop_sections is None else settings.drop_sections
    unwanted = frozenset(title.lower() for title in sections)
    licence = settings.licence or "CC-BY-SA-4.0"
    pages = 0
    try:
        with open_compressed(piece.path) as stream:
            site = _Site()
            for page in _pages(stream, site):
                pages += 1
                if page["namespace"] not in settings.namespaces or page["redirect"] or _REDIRECT.match(page["text"]):
                    continue
                if not settings.disambiguation_pages and _DISAMBIGUATION.search(page["text"]):
                    continue
                try:
                    text = wikitext.clean(page["text"], site.unwanted_links, unwanted)
                except (RecursionError, ValueError, RuntimeError) as error:
                    yield SetAside(
                        f"{piece.path}, page {page['id']} ({page['title']})", f"markup: {type(error).__name__}: {error}"
                    )
                    continue
                identifier = f"{settings.name}/{piece.name}#{page['id']}"
                yield Document(identifier, text, settings.name, site.metadata(page) | {"licence": licence})
    except (ElementTree.ParseError, OSError, EOFError, ValueError) as error:
        yield SetAside(f"{piece.path}, after page {pages}", f"unreadable from here on: {type(error).__name__}: {error}")


class _Site:
    """What a dump says of its wiki."""

    def __init__(self) -> None:
        self.language: str | None = None
        self.base = ""
        self.unwanted_links = frozenset({"file", "image", "category", "media"})

    def learn(self, element: ElementTree.Element) -> None:
        """Take over <siteinfo>: the address, and what this language calls files (6), categories (14) and media (-2)."""
        names = set(self.unwanted_links)
        for child in element.iter():
            tag = child.tag.rpartition("}")[2]
            if tag == "base" and child.text and "/" in child.text:
                self.base = child.text.rsplit("/", 1)[0]
            elif tag == "namespace" and child.get("key") in ("6", "14", "-2") and child.text:
                names.add(child.text.strip().lower())
        self.unwanted_links = frozenset(names)

    def metadata(self, page: dict[str, Any]) -> dict[str, Any]:
        found = {"title": page["title"], "page_id": page["id"], "revision_id": page["revision"], "date": page["date"]}
        if self.base:
            found["url"] = f"{self.base}/{quote(page['title'].replace(' ', '_'), safe='/:(),')}"
        if self.language:
            found["language"] = self.language
        return found


def _pages(stream: Any, site: _Site) -> Iterator[dict[str, Any]]:
    """Pages of a dump, in bounded memory. The dump may declare no entities: they are how XML bombs are made."""
    parser = ElementTree.XMLPullParser(("start", "end"))
    parser.feed("")
    root: ElementTree.Element | None = None
    head = b""
    while chunk := stream.read(1 << 18):
        if len(head) < 4096:
            head += chunk[:4096]
            if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
                raise ValueError("it declares a document type or entities, which no dump does")
        parser.feed(chunk)
        for event, element in parser.read_events():
            tag = element.tag.rpartition("}")[2]
            if event == "start":
                if root is None:
                    root = element
                    site.language = element.get("{http://www.w3.org/XML/1998/namespace}lang")
            elif tag == "siteinfo":
                site.learn(element)
            elif tag == "page":
                yield _page(element)
                assert root is not None
                root.clear()
    parser.close()


def _page(element: ElementTree.Element) -> dict[str, Any]:
    page: dict[str, Any] = {"title": "", "id": 0, "namespace": 0, "redirect": False, "revision": 0, "date": None, "text": ""}
    for child in element:
        tag = child.tag.rpartition("}")[2]
        if tag == "title":
            page["title"] = child.text or ""
        elif tag == "ns":
            page["namespace"] = int(child.text or 0)
        elif tag == "id":
            page["id"] = int(child.text or 0)
        elif tag == "redirect":
            page["redirect"] = True
        elif tag == "revision":
            fields = {field.tag.rpartition("}")[2]: field.text for field in child}
            page |= {"revision": int(fields.get("id") or 0), "date": fields.get("timestamp"), "text": fields.get("text") or ""}
    return page
