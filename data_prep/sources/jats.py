"""Articles in JATS (NISO Z39.96) and its NLM forerunners, as PubMed Central gives them, and in TEI as GROBID does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from data_prep.document import Document, SetAside
from data_prep.sources import signals
from data_prep.sources.article_text import Writer
from data_prep.sources.files import Piece, SourceSettings, Unreadable, find_files, guarded, open_compressed
from data_prep.sources.xml_reader import Element, all_of, attribute, cut, first, language_of, line_of, name_of, parse

PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
_RETRACTIONS = {"retraction": "notice", "partial-retraction": "notice", "expression-of-concern": "expression of concern"}
_TEI_IDS = {"DOI": "doi", "arXiv": "arxiv_id", "PMC": "pmcid", "PMID": "pmid"}


class JatsSource(SourceSettings):
    """Articles in JATS or NLM XML (.xml, .nxml), such as PubMed Central's packages: title, abstract, sections, captions and
    tables; the list of references is left out. Articles within articles (translations, reviews) are documents of their own."""

    type: Literal["jats"]
    tables: bool = True
    """Tables as rows, cells divided by tabs; false: their captions alone."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return tuple(f"{ending}{packed}" for ending in (".xml", ".nxml") for packed in PACKED)


class TeiSource(SourceSettings):
    """Articles in TEI XML (.xml, .tei), as GROBID makes them from PDF: title, abstract, sections, captions and tables."""

    type: Literal["tei"]
    tables: bool = True
    """Tables as rows, cells divided by tabs; false: their captions alone."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return tuple(f"{ending}{packed}" for ending in (".xml", ".tei") for packed in PACKED)


def pieces(settings: JatsSource | TeiSource, base: Path) -> list[Piece]:
    """Input files, from folders and archives those with the ending."""
    return find_files(settings, base)


def read(piece: Piece, settings: JatsSource | TeiSource) -> Iterator[Document | SetAside]:
    """The articles of one file."""
    tag, make = ("article", _articles) if settings.type == "jats" else ("TEI", _tei)
    place = 0
    with open_compressed(piece.path) as file:
        for text in cut(file, tag, settings.max_document_bytes):
            where = f"{piece.path}, article {place + 1}"
            if text is None:
                yield SetAside(where, f"longer than max_document_megabytes ({settings.max_document_megabytes})")
            else:
                made = guarded(where, make, text, piece, settings, place)
                yield from [made] if isinstance(made, SetAside) else made
            place += 1
    if not place:
        raise Unreadable(f"no <{tag}> in it: not {'JATS' if tag == 'article' else 'TEI'}")


def _articles(text: str, piece: Piece, settings: JatsSource, place: int) -> list[Document]:
    """An article and those within it."""
    root = parse(text)
    name = f"{settings.name}/{piece.name}" + (f"#{place}" if place else "")
    made = [_article(root, name, settings, {})]
    inherited = {key: made[0].metadata[key] for key in ("licence", "journal") if key in made[0].metadata}
    for index, inner in enumerate(all_of(root, "sub-article", "response"), 1):
        made.append(_article(inner, f"{name}/{index}", settings, inherited))
    return made[:1] + [document for document in made[1:] if document.text]


def _article(root: Element, name: str, settings: JatsSource, inherited: dict[str, Any]) -> Document:
    writer = Writer(settings.tables)
    parts = {name_of(child): child for child in root}
    front = parts.get("front", parts.get("front-stub"))
    meta = first(front, "article-meta") if front is not None else None
    meta = front if meta is None else meta
    metadata = dict(inherited)
    abstracts: list[Element] = []
    if meta is not None:
        metadata |= _facts(root, front, meta, writer)  # type: ignore[arg-type]
        abstracts = [child for child in meta if name_of(child) in ("abstract", "trans-abstract")]
    main = [abstract for abstract in abstracts if attribute(abstract, "abstract-type") not in ("graphical", "toc")]
    text = writer.text(*main, *(parts.get(part) for part in ("body", "back", "floats-group", "floats-wrap")))
    title = metadata.get("title")
    return Document(name, "\n\n".join(part for part in (title, text) if part), settings.name, metadata)


def _facts(root: Element, front: Element, meta: Element, writer: Writer) -> dict[str, Any]:
    """What an article says of itself."""
    kind = root.get("article-type") or ""
    authors = [node for node in all_of(meta, "contrib") if node.get("contrib-type", "author") == "author"]
    dates = sorted(filter(None, (_date(node) for node in all_of(meta, "pub-date"))))
    found: dict[str, Any] = {
        "title": writer.line(_title(meta)),
        "author": "; ".join(filter(None, map(_person, authors))),
        "journal": line_of(first(front, "journal-title")),
        "date": dates[0] if dates else "",
        "language": language_of(root) or "",
        "article_type": kind,
        "licence": licence_of(meta) or "",
    }
    for node in (child for child in meta if name_of(child) == "article-id"):
        key = {"doi": "doi", "pmc": "pmcid", "pmcid": "pmcid", "pmid": "pmid"}.get(node.get("pub-id-type", ""))
        if key and (value := line_of(node)):
            found[key] = f"PMC{value}" if key == "pmcid" and value.isdigit() else value
    if kind in _RETRACTIONS:
        found["retraction"] = _RETRACTIONS[kind]
    elif kind == "retracted-article" or any(
        node.get("related-article-type") == "retraction-forward" for node in all_of(meta, "related-article")
    ):
        found["retraction"] = "retracted"
    if "pmcid" in found:
        found["url"] = f"https://pmc.ncbi.nlm.nih.gov/articles/{found['pmcid']}/"
    elif "doi" in found:
        found["url"] = f"https://doi.org/{found['doi']}"
    if identifier := found.get("pmcid") or found.get("doi") or found.get("pmid"):
        found["original_id"] = identifier
    return {key: value for key, value in found.items() if value}


def _title(meta: Element) -> Element | None:
    group = first(meta, "title-group")
    return first(group if group is not None else meta, "article-title")


def _person(node: Element) -> str:
    collective = first(node, "collab")
    name = first(node, "name")
    if name is None:
        named = collective if collective is not None else first(node, "string-name")
        return line_of(named)
    return " ".join(filter(None, (line_of(first(name, part)) for part in ("given-names", "surname", "suffix"))))


def _date(node: Element) -> str:
    """A date in ISO 8601, as exact as it is given."""
    given = [line_of(first(node, part)) for part in ("year", "month", "day")]
    if not given[0].isdigit():
        return ""
    parts = [given[0]]
    for value in given[1:]:
        if not value.isdigit():
            break
        parts.append(f"{int(value):02d}")
    return "-".join(parts)


def licence_of(meta: Element) -> str | None:
    """The licence: its address or wording as an SPDX id where that is known, else as it is written."""
    said: list[str] = []
    for licence in all_of(meta, "license", "licence"):
        said += [attribute(licence, "href") or "", *(line_of(node) for node in all_of(licence, "license_ref"))]
        said += [attribute(node, "href") or "" for node in all_of(licence, "ext-link", "uri")]
        said += [line_of(licence), licence.get("license-type") or ""]
    said += [line_of(node) for node in all_of(meta, "license_ref", "copyright-statement") if node is not None]
    said = [" ".join(text.split()) for text in said if text and text.strip()]
    known = next((identifier for text in said if (identifier := signals.spdx(text))), None)
    if known or not said:
        return known
    return said[0][:300] if all_of(meta, "license", "licence") else None


def _tei(text: str, piece: Piece, settings: TeiSource, place: int) -> list[Document]:
    root = parse(text)
    writer = Writer(settings.tables)
    header = first(root, "teiHeader")
    body = first(root, "text")
    metadata: dict[str, Any] = {}
    abstract = None
    if header is not None:
        abstract = first(header, "abstract")
        title = first(header, "titleStmt", "title")
        people = all_of(source, "author") if (source := first(header, "sourceDesc")) is not None else all_of(header, "author")
        names = [_tei_person(node) for node in people]
        published = first(header, "publicationStmt", "date")
        licence = first(header, "availability", "licence")
        said = (licence.get("target") or line_of(licence)) if licence is not None else ""
        metadata = {
            "title": writer.line(title),
            "author": "; ".join(dict.fromkeys(filter(None, names))),
            "date": (published.get("when") or line_of(published)) if published is not None else "",
            "licence": signals.spdx(said) or said[:300],
            "language": next(filter(None, (language_of(node) for node in (root, body, header) if node is not None)), ""),
        }
        for node in all_of(header, "idno"):
            if (key := _TEI_IDS.get(node.get("type", ""))) and key not in metadata:
                metadata[key] = line_of(node)
        if metadata.get("doi"):
            metadata["url"] = f"https://doi.org/{metadata['doi']}"
        metadata = {key: value for key, value in metadata.items() if value}
    written = writer.text(abstract, first(body, "body") if body is not None else None)
    shown = "\n\n".join(part for part in (metadata.get("title"), written) if part)
    name = f"{settings.name}/{piece.name}" + (f"#{place}" if place else "")
    return [Document(name, shown, settings.name, metadata)]


def _tei_person(node: Element) -> str:
    name = first(node, "persName")
    if name is None:
        return ""
    parts = [line_of(child) for child in name if name_of(child) in ("forename", "surname")]
    return re.sub(r"\s+", " ", " ".join(parts)) or line_of(name)
