"""Wikipedia and other MediaWiki XML dumps (pages-articles), any language: one document per article."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from xml.etree import ElementTree

from pydantic import Field

from data_prep.document import Document, SetAside
from data_prep.sources import wikitext
from data_prep.sources.files import Piece, SourceSettings, find_files, guarded, open_compressed
from data_prep.sources.raised import Style
from data_prep.sources.wikitext_tree import Wiki

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
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BARE = re.compile(r"&(?!(?:lt|gt|amp|quot|apos|#\d{1,7}|#x[0-9a-fA-F]{1,6});)")
HEAD_BYTES = 1 << 22
"""What may stand before the first page."""
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
    powers: Style = "caret"
    """How raised numbers are written: 10^6 (caret), 10⁶ (unicode, with CO₂ for CO2) or 106 (plain, which changes numbers)."""
    variant: str = ""
    """Variant to take where a page marks several, such as zh-hant or zh-tw; "": the simplified one, else the first."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: WikipediaSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .xml, packed or not."""
    return find_files(settings, base)


def read(piece: Piece, settings: WikipediaSource) -> Iterator[Document | SetAside]:
    """Articles of one dump; a damaged page is set aside, the rest goes on. Redirects are passed over."""
    sections = [title.strip() for title in APPARATUS.split("|")] if settings.drop_sections is None else settings.drop_sections
    unwanted = frozenset(title.lower() for title in sections)
    licence = settings.licence or "CC-BY-SA-4.0"
    number = 0
    try:
        with open_compressed(piece.path) as stream:
            site = _Site()
            for number, raw in enumerate(_cut(stream, site, settings.max_document_bytes), 1):
                where = f"{piece.path}, page {number}"
                if raw is None:
                    yield SetAside(where, f"longer than max_document_megabytes ({settings.max_document_megabytes})")
                    continue
                page = guarded(where, _page, raw, site)
                if isinstance(page, SetAside):
                    yield page
                elif _is_wanted(page, settings):
                    made = guarded(f"{where} ({page['title']})", _text, page, site, unwanted, settings)
                    if isinstance(made, SetAside):
                        yield made
                        continue
                    text, holes = made
                    metadata = site.metadata(page) | {"licence": licence} | ({"holes": holes} if holes else {})
                    yield Document(f"{settings.name}/{piece.name}#{page['id']}", text, settings.name, metadata)
            if number == 0:
                yield SetAside(piece.path, "no <page> in it: no MediaWiki dump")
    except (OSError, EOFError, ValueError) as error:
        yield SetAside(f"{piece.path}, after page {number}", f"unreadable from here on: {type(error).__name__}: {error}")


def _is_wanted(page: dict[str, Any], settings: WikipediaSource) -> bool:
    """Whether a page is an article: modules, data and style sheets (of another <model>) are none, redirects neither."""
    if page["namespace"] not in settings.namespaces or page["model"] != "wikitext":
        return False
    if page["redirect"] or _REDIRECT.match(page["text"]):
        return False
    return settings.disambiguation_pages or not _DISAMBIGUATION.search(page["text"])


def _text(page: dict[str, Any], site: _Site, unwanted: frozenset[str], settings: WikipediaSource) -> tuple[str, int]:
    """(text, number of places where only MediaWiki knows the text) of a page."""
    wiki = Wiki((site.language or "").lower(), page["title"], settings.powers, settings.variant)
    templates: Counter[tuple[str, str]] = Counter()
    text = wikitext.clean(page["text"], site.unwanted_links, unwanted, wiki, templates)
    return text, sum(count for (how, _), count in templates.items() if how == "hole")


class _Site:
    """What a dump says of its wiki."""

    def __init__(self) -> None:
        self.language: str | None = None
        self.base = ""
        self.namespaces: dict[str, int] = {}
        """Of this language, by name in lower case."""
        self.unwanted_links = frozenset({"file", "image", "category", "media"})

    def learn(self, head: bytes) -> None:
        """Take over what stands before the first page: language, address, and the names of the namespaces, of which links to
        files (6), categories (14) and media (-2) show no text. A head that is not in form tells nothing."""
        start = head.find(b"<mediawiki")
        try:
            root = ElementTree.fromstring(head[start:] + b"</mediawiki>")
        except ElementTree.ParseError:
            return
        self.language = root.get("{http://www.w3.org/XML/1998/namespace}lang")
        for child in root.iter():
            tag = child.tag.rpartition("}")[2]
            if tag == "base" and child.text and "/" in child.text:
                self.base = child.text.rsplit("/", 1)[0]
            elif tag == "namespace" and child.text and re.fullmatch(r"-?\d+", child.get("key", "")):
                self.namespaces[child.text.strip().lower()] = int(child.get("key", "0"))
        unwanted = {name for name, number in self.namespaces.items() if number in (6, 14, -2)}
        self.unwanted_links |= unwanted

    def namespace_of(self, title: str) -> int:
        """By the title's beginning, as dumps of before 2012 have it."""
        return self.namespaces.get(title.partition(":")[0].strip().lower(), 0) if ":" in title else 0

    def metadata(self, page: dict[str, Any]) -> dict[str, Any]:
        found = {"title": page["title"], "page_id": page["id"], "revision_id": page["revision"], "date": page["date"]}
        if self.base:
            found["url"] = f"{self.base}/{quote(page['title'].replace(' ', '_'), safe='/:(),')}"
        if self.language:
            found["language"] = self.language
        return found


def _cut(stream: Any, site: _Site, limit: int) -> Iterator[bytes | None]:
    """The bytes of each <page>, None for one over the limit. Text is escaped in a dump, so that the tags mark nothing else; the
    dump is never parsed as a whole, and entities, with which XML bombs are made, are not known."""
    buffer, ended, headed = b"", False, False
    while True:
        start = buffer.find(b"<page>")
        if start >= 0 and not headed:
            site.learn(buffer[:start])
            headed = True
        end = buffer.find(b"</page>", max(0, start))
        if start >= 0 and end >= 0:
            again = buffer.rfind(b"<page>", start, end)
            if again > start:  # the page before has no end
                yield buffer[start:again]
                start = again
            yield buffer[start : end + len(b"</page>")]
            buffer = buffer[end + len(b"</page>") :]
            continue
        if ended:
            if start >= 0:
                yield buffer[start:]
            return
        if start >= 0 and len(buffer) - start > limit:
            yield None
            buffer, start = buffer[start + len(b"<page>") :], -1
        if start < 0 and (headed or len(buffer) > HEAD_BYTES):
            buffer = buffer[-16:]  # a tag may begin here
        chunk = stream.read(1 << 20)
        ended = not chunk
        buffer = buffer + chunk


def _parsed(raw: bytes) -> ElementTree.Element:
    """The page's tree. Characters that XML does not have, wrong UTF-8 and bare & are mended. Raises ParseError for the rest."""
    try:
        return ElementTree.fromstring(raw)
    except ElementTree.ParseError:
        text = _NOT_XML.sub("", raw.decode("utf-8", "replace"))
        return ElementTree.fromstring(_BARE.sub("&amp;", text).encode())


def _page(raw: bytes, site: _Site) -> dict[str, Any]:
    """Fields of a <page>. Raises ParseError or ValueError for one that is damaged."""
    element = _parsed(raw)
    page: dict[str, Any] = {"title": "", "id": 0, "namespace": None, "redirect": False, "revision": 0, "date": None, "text": ""}
    page["model"] = "wikitext"
    for child in element:
        if child.tag == "title":
            page["title"] = child.text or ""
        elif child.tag == "ns":
            page["namespace"] = int(child.text or 0)
        elif child.tag == "id":
            page["id"] = int(child.text or 0)
        elif child.tag == "redirect":
            page["redirect"] = True
        elif child.tag == "revision":
            fields = {field.tag: field.text for field in child}
            page |= {"revision": int(fields.get("id") or 0), "date": fields.get("timestamp"), "text": fields.get("text") or ""}
            page["model"] = fields.get("model") or "wikitext"
    if page["namespace"] is None:
        page["namespace"] = site.namespace_of(page["title"])
    return page
