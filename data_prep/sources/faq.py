"""FAQ pages in HTML: schema.org's FAQPage, definition lists, <details>, and headings that ask, each with the text below."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from resiliparse.parse.html import DOMNode, HTMLTree

from data_prep.document import Document, SetAside
from data_prep.sources import page, page_facts
from data_prep.sources.files import Piece, SourceSettings, find_files, read_whole

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
ANSWERS_END = (*HEADINGS, "footer", "nav")
MAX_WRAPPERS = 4
"""Elements around a heading whose neighbours may hold its answer."""
_ASKS = re.compile(r"[?？؟;՞፧⁇]\W{0,2}$")
"""Question marks of Latin, Chinese, Arabic, Greek, Armenian and Ethiopic writing, with what may stand behind."""
_QUESTION_MARK = re.compile(r"\s*(?:Q|Question|Frage|F|P|Pregunta)\s*\d*\s*[:.．：]\s*(.+)", re.IGNORECASE)
_ANSWER_MARK = re.compile(r"^\s*(?:A|Answer|Antwort|R|Respuesta)\s*\d*\s*[:.．：]\s*", re.IGNORECASE)


SUFFIXES = tuple(kind + packed for kind in (".html", ".htm", ".xhtml") for packed in ("", ".gz", ".bz2", ".xz", ".zst"))


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
    metadata: dict[str, Any] = page_facts.facts_of(tree)
    if signs := page_facts.opt_outs(tree):
        metadata["opt_out"] = signs
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
    forms = (_from_schema, _from_microdata, _from_details, _from_headings, _from_definitions, _from_marks)
    return next((found for form in forms if (found := form(tree))), [])


def _from_schema(tree: HTMLTree) -> list[tuple[str, str]]:
    found = []
    for node in tree.document.query_selector_all("script[type='application/ld+json']")[:]:
        try:
            data = json.loads(node.text)
        except (ValueError, RecursionError):
            continue
        for item in _walk(data):
            answer = item.get("acceptedAnswer") or item.get("suggestedAnswer")
            answer = answer[0] if isinstance(answer, list) and answer else answer
            if "Question" in (item.get("@type"), *_listed(item.get("@type"))) and isinstance(answer, dict):
                question, text = str(item.get("name") or item.get("text") or ""), str(answer.get("text") or "")
                if question.strip() and text.strip():
                    found.append((_plain(question), _plain(text)))
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _from_microdata(tree: HTMLTree) -> list[tuple[str, str]]:
    """schema.org's Question and Answer in the attributes of the page's elements."""
    found = []
    for node in tree.body.query_selector_all("[itemtype*='schema.org/Question']")[:]:
        name = node.query_selector("[itemprop~=name]") or node.query_selector("[itemprop~=text]")
        answer = node.query_selector("[itemprop~=acceptedAnswer], [itemprop~=suggestedAnswer]")
        if name is None or answer is None:
            continue
        text = answer.query_selector("[itemprop~=text]") or answer
        found.append((_line(name), _plain(text.html)))
    return [pair for pair in found if all(pair)]


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
    for node in tree.body.query_selector_all("details")[:]:
        summary = node.query_selector("summary")
        if summary is not None:
            question, text = _line(summary), _plain(node.html)
            found.append((question, text.removeprefix(question).strip()))
    return [pair for pair in found if all(pair)]


def _from_definitions(tree: HTMLTree) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for node in tree.body.query_selector_all("dt, dd")[:]:
        if node.tag == "dt":
            found.append((_line(node), ""))
        elif found:
            question, answer = found[-1]
            found[-1] = (question, f"{answer}\n\n{_plain(node.html)}".strip())
    return [pair for pair in found if all(pair)]


def _from_headings(tree: HTMLTree) -> list[tuple[str, str]]:
    """Headings, or else bold lines, that ask, each with what follows it."""
    return _followed(tree.body.query_selector_all(", ".join(HEADINGS))[:]) or _followed(_bold_lines(tree))


def _followed(headings: Iterable[DOMNode]) -> list[tuple[str, str]]:
    """Those of the headings that ask, and what stands between each and the next heading or question. A heading in a wrapper, as
    accordions have it, is followed by what follows its wrapper."""
    found = []
    for heading in headings:
        question = _line(heading)
        if not _ASKS.search(question):
            continue
        parts: list[str] = []
        start: DOMNode | None = heading
        for _ in range(MAX_WRAPPERS):
            node = start.next if start is not None else None
            while node is not None and not (node.tag in ANSWERS_END or _holds_heading(node)):
                parts.append(node.html)
                node = node.next
            if node is not None or _plain("".join(parts)) or start is None or start.tag == "body":
                break
            start = start.parent
        if answer := _plain("".join(parts)):
            found.append((question, answer))
    return found


def _bold_lines(tree: HTMLTree) -> list[DOMNode]:
    """Paragraphs that are bold as a whole: headings in all but name."""
    lines = []
    for bold in tree.body.query_selector_all("p > b, p > strong, div > b, div > strong")[:]:
        around = bold.parent
        if around.text.strip() == bold.text.strip():
            around.setattr("data-question", "")
            lines.append(around)
    return lines


def _from_marks(tree: HTMLTree) -> list[tuple[str, str]]:
    """Paragraphs that begin with Q: and A:, as printed interviews and help texts have it."""
    found: list[tuple[str, str]] = []
    for line in page.text_of(page.parse_text(tree.body.html), main_content=False).split("\n"):
        if match := _QUESTION_MARK.match(line):
            found.append((match.group(1).strip(), ""))
        elif found and line.strip():
            question, answer = found[-1]
            line = line if answer else _ANSWER_MARK.sub("", line)
            found[-1] = (question, f"{answer}\n\n{line.strip()}".strip())
    return [pair for pair in found if all(pair)]


def _holds_heading(node: DOMNode) -> bool:
    if not node.tag or node.tag.startswith("#"):
        return False
    return node.hasattr("data-question") or node.query_selector(f"{', '.join(HEADINGS)}, [data-question]") is not None


def _line(node: DOMNode) -> str:
    return page.line_of(node).rstrip("¶# ").strip()
