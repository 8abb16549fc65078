"""FAQ pages in HTML: schema.org's FAQPage, definition lists, <details>, and headings that ask, each with the text below."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from resiliparse.parse.html import DOMNode, HTMLTree

from data_prep.document import Document, SetAside
from data_prep.sources import page, signals
from data_prep.sources.files import Piece, SourceSettings, find_files, read_whole

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
ANSWERS_END = (*HEADINGS, "footer", "nav")


SUFFIXES = (".html", ".htm", ".xhtml", ".html.gz")


class FAQSource(SourceSettings):
    """A document per page (all questions and answers in order), or per pair."""

    type: Literal["faq"]
    split: Literal["page", "pairs"] = "page"
    """page: all pairs of a page as one document; pairs: each its own."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: FAQSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .html, .htm or .xhtml."""
    return find_files(settings, base)


def read(piece: Piece, settings: FAQSource) -> Iterator[Document | SetAside]:
    """The questions and answers of one page; a page without any is set aside."""
    tree = page.parse(read_whole(piece, settings))
    found = pairs(tree)
    if not found:
        yield SetAside(piece.path, "no questions with answers (FAQPage, <dt>/<dd>, <details>, or headings ending in ?)")
        return
    metadata: dict[str, Any] = {"title": page.title_of(tree)}
    licence, _ = signals.licence_of(tree)
    metadata |= {"licence": licence} if licence else {}
    texts = [f"{question}\n\n{answer}" for question, answer in found]
    if settings.split == "page":
        yield Document(f"{settings.name}/{piece.name}", "\n\n".join(texts), settings.name, metadata)
        return
    for number, text in enumerate(texts):
        yield Document(f"{settings.name}/{piece.name}#{number}", text, settings.name, dict(metadata))


def pairs(tree: HTMLTree) -> list[tuple[str, str]]:
    """(question, answer) in the page's order, by the first of the forms that the page uses."""
    if tree.body is None:
        return []
    return _from_schema(tree) or _from_details(tree) or _from_headings(tree) or _from_definitions(tree)


def _from_schema(tree: HTMLTree) -> list[tuple[str, str]]:
    found = []
    for node in tree.document.query_selector_all("script[type='application/ld+json']"):
        try:
            data = json.loads(node.text)
        except (ValueError, RecursionError):
            continue
        for item in _walk(data):
            answer = item.get("acceptedAnswer") or item.get("suggestedAnswer")
            answer = answer[0] if isinstance(answer, list) and answer else answer
            if item.get("@type") == "Question" and isinstance(answer, dict):
                question, text = str(item.get("name") or item.get("text") or ""), str(answer.get("text") or "")
                if question.strip() and text.strip():
                    found.append((_plain(question), _plain(text)))
    return found


def _walk(data: Any) -> Iterator[dict[str, Any]]:
    stack = [data]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
        if isinstance(item, (dict, list)):
            stack.extend(reversed(list(item.values()) if isinstance(item, dict) else item))


def _plain(markup: str) -> str:
    return page.text_of(page.parse_text(f"<body>{markup}</body>"), main_content=False)


def _from_details(tree: HTMLTree) -> list[tuple[str, str]]:
    found = []
    for node in tree.body.query_selector_all("details"):
        summary = node.query_selector("summary")
        if summary is not None:
            question, text = _line(summary), _plain(node.html)
            found.append((question, text.removeprefix(question).strip()))
    return [pair for pair in found if all(pair)]


def _from_definitions(tree: HTMLTree) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for node in tree.body.query_selector_all("dt, dd"):
        if node.tag == "dt":
            found.append((_line(node), ""))
        elif found:
            question, answer = found[-1]
            found[-1] = (question, f"{answer}\n\n{_plain(node.html)}".strip())
    return [pair for pair in found if all(pair)]


def _from_headings(tree: HTMLTree) -> list[tuple[str, str]]:
    """Headings with a question mark, and what stands between them and the next heading of the same or a higher level."""
    found = []
    for heading in tree.body.query_selector_all(", ".join(HEADINGS)):
        question = _line(heading)
        if "?" not in question[-3:]:
            continue
        parts, node = [], heading.next
        while node is not None and not (node.tag in ANSWERS_END or _holds_heading(node)):
            parts.append(node.html)
            node = node.next
        answer = _plain("".join(parts))
        if answer:
            found.append((question, answer))
    return found


def _holds_heading(node: DOMNode) -> bool:
    return bool(node.tag) and not node.tag.startswith("#") and node.query_selector(", ".join(HEADINGS)) is not None


def _line(node: DOMNode) -> str:
    return page.line_of(node).rstrip("¶# ").strip()
