"""Articles in XML (JATS, TEI) -> text: headings, paragraphs, lists, captions, tables as rows, formulas as TeX.

Raised and lowered figures keep their meaning (10^6, x_1). Left out: lists of references, pointers to them that are numbers,
graphics. A formula is its TeX where the article has that, else its MathML written out.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from data_prep.sources import mathml
from data_prep.sources.scripts import lowered, raised
from data_prep.sources.xml_reader import Element, all_of, attribute, first, line_of, name_of


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LEFT_OUT = _words(
    """ref-list graphic inline-graphic object-id contrib-group aff author-notes fn-group bio processing-meta kwd-group
    listBibl idno permissions related-article related-object custom-meta-group journal-meta counts history alt-text long-
    desc x milestone pb front-stub front sub-article response email surface facsimile"""
)
_BLOCKS = _words(
    """p sec title head subtitle abstract trans-abstract body back app ack disp-quote fig-group caption verse-group attrib
    table-wrap-foot speech app-group disp-formula-group floats-group floats-wrap fn div figDesc quote lg note closer
    opener glossary notes sig-block question answer"""
)
_HEADS = frozenset({"title", "head", "subtitle"})
_POINTERS = re.compile(r"[\s\d,;–—\-()\[\]*†‡]*\Z")
_EMPTY = re.compile(r"[ \t]*[(\[][\s,;–—-]*[)\]]")
_DOCUMENT = re.compile(r"\\begin\s*\{document\}(.*?)\\end\s*\{document\}", re.DOTALL)
PARAGRAPH = "\ufdd4"
LINE = "\ufdd3"
CELL = "\ufdd5"
_ENDS = re.compile(rf"\s*[{PARAGRAPH}{LINE}][{PARAGRAPH}{LINE}\s]*")
_KEPT_SPACE, _KEPT_LINE = "\ufdd7", "\ufdd8"
_POINTER = "\ufdd6"


class Writer:
    """Writes the elements of one article."""

    def __init__(self, tables: bool = True):
        self._tables = tables

    def text(self, *nodes: Element | None) -> str:
        """The text of elements, paragraphs divided by blank lines."""
        return _tidied(PARAGRAPH.join(self._element(node) for node in nodes if node is not None))

    def line(self, node: Element | None) -> str:
        """The text of one element on one line."""
        return " ".join(_tidied(self._inside(node)).split()) if node is not None else ""

    def _inside(self, node: Element) -> str:
        parts = [node.text or ""]
        for child in node:
            if name_of(child) in ("sup", "sub", "hi"):
                before = next((part for part in reversed(parts) if part), "")
                parts.append(self._script(child, before[-1:], (child.tail or "")[:1]))
            else:
                parts.append(self._element(child))
            parts.append(child.tail or "")
        return "".join(parts)

    def _element(self, node: Element) -> str:
        tag = name_of(node)
        if not tag or tag in _LEFT_OUT:
            return ""
        if tag in ("sup", "sub", "hi"):
            return self._script(node, "", "")
        if tag in ("xref", "ref"):
            return self._pointer(node)
        if tag in ("disp-formula", "inline-formula", "formula", "tex-math", "math"):
            return self._formula(node, display=tag == "disp-formula" or (tag == "formula" and node.get("notation") != "inline"))
        if tag == "alternatives":
            return self._alternatives(node)
        if tag in ("list", "def-list"):
            return self._list(node)
        if tag in ("table-wrap", "table"):
            return self._table(node) if tag == "table" else f"{PARAGRAPH}{self._labelled(node)}{PARAGRAPH}"
        if tag in ("fig", "media", "boxed-text", "supplementary-material", "figure", "statement"):
            return f"{PARAGRAPH}{self._labelled(node)}{PARAGRAPH}"
        if tag in ("preformat", "code"):
            text = "".join(node.itertext())
            return f"{PARAGRAPH}{_fixed(text)}{PARAGRAPH}" if tag == "preformat" or "\n" in text else self._inside(node)
        if tag in ("break", "lb"):
            return LINE
        if tag == "label":  # of sections; those of figures, tables and statements are written with them
            return ""
        if tag in ("verse-line", "l"):
            return f"{LINE}{self._inside(node)}{LINE}"
        if tag in _BLOCKS:
            return f"{PARAGRAPH}{self._inside(node)}{PARAGRAPH}"
        return self._inside(node)

    def _script(self, node: Element, before: str, after: str) -> str:
        """A raised or lowered text between the characters `before` and `after`; spaces at its ends stay outside of it."""
        kind = name_of(node) if name_of(node) != "hi" else (node.get("rend") or "")[:3]
        inner = self._inside(node)
        text = " ".join(inner.split())
        if kind not in ("sup", "sub") or not text or _POINTER in inner:  # numbers of references
            return inner
        if kind == "sup" and not before:  # the mark of a note, at its beginning
            return f"{text} "
        written = raised(text) if kind == "sup" else lowered(text, before, after)
        end = " " if inner[-1].isspace() or (written != text and after.isalnum() and not text[-1].isdigit()) else ""
        return f"{' ' if inner[0].isspace() else ''}{written}{end}"

    def _pointer(self, node: Element) -> str:
        """A reference's number goes; the name of a figure, or of authors and year, stays."""
        text = self._inside(node)
        kind = node.get("ref-type") or node.get("type") or ""
        if kind in ("bibr", "fn", "aff", "corresp", "table-fn", "author-notes", "foot") and _POINTERS.match(line_of(node)):
            return _POINTER
        return text

    def _labelled(self, node: Element) -> str:
        """A figure's or table's label and caption in one paragraph, then what else it holds."""
        label = next((child for child in node if name_of(child) == "label"), None)
        caption = next((child for child in node if name_of(child) in ("caption", "figDesc")), None)
        shown = self.line(label)
        rest = "".join(self._element(child) for child in node if child is not label and child is not caption)
        named = self._element(caption).strip(PARAGRAPH) if caption is not None else ""
        dot = "" if not shown or shown[-1] in ".:" else "."
        return f"{shown}{dot if named else ''} {named}{PARAGRAPH}{rest}" if shown else f"{named}{PARAGRAPH}{rest}"

    def _alternatives(self, node: Element) -> str:
        """The most telling of several forms of one thing."""
        for wanted in (("tex-math",), ("math",), ("table",), ("code", "preformat", "textual-form")):
            for child in node:
                if name_of(child) in wanted:
                    return self._element(child)
        return ""

    def _formula(self, node: Element, display: bool) -> str:
        tag = name_of(node)
        tex = node if tag == "tex-math" else first(node, "tex-math")
        if tex is not None:
            written = tex_of("".join(tex.itertext()), display)
        else:
            maths = node if tag == "math" else first(node, "math")
            if maths is not None:
                annotation = next((a for a in all_of(maths, "annotation") if "tex" in (a.get("encoding") or "").lower()), None)
                if annotation is not None:
                    written = tex_of("".join(annotation.itertext()), display)
                else:
                    written = mathml.to_text(ElementTree.tostring(maths, encoding="unicode"))
            else:
                written = self._inside(node)
        if not display:
            return _fixed(written) if written.startswith("$") else written
        label = next((self.line(child) for child in node if name_of(child) == "label"), "")
        return f"{PARAGRAPH}{_fixed(written)}{f' {label}' if label else ''}{PARAGRAPH}"

    def _list(self, node: Element) -> str:
        kind = node.get("list-type") or node.get("type") or ""
        lines = []
        for place, item in enumerate((child for child in node if name_of(child) in ("list-item", "def-item", "item")), 1):
            label = next((self.line(child) for child in item if name_of(child) == "label"), "")
            sign = label or (f"{place}." if kind in ("order", "ordered", "number") else "-")
            text = self._inside(item)
            if name_of(item) == "def-item":
                term = self.line(first(item, "term"))
                text = f"{term}: {self.line(first(item, 'def'))}"
            text = _ENDS.sub(LINE, text.strip(f" \n{PARAGRAPH}{LINE}"))
            lines.append(f"{sign} {text}")
        title = next((self.line(child) for child in node if name_of(child) in _HEADS), "")
        return f"{PARAGRAPH}{title}{LINE if title else ''}{LINE.join(lines)}{PARAGRAPH}"

    def _table(self, node: Element) -> str:
        """Rows on lines, cells divided by tabs; a cell over n columns is followed by n - 1 empty ones."""
        if not self._tables:
            return ""
        rows = []
        waiting: dict[int, int] = {}
        for row in all_of(node, "tr", "row"):
            cells: list[str] = []
            for cell in row:
                if name_of(cell) not in ("td", "th", "entry", "cell"):
                    continue
                while waiting.get(len(cells), 0):
                    waiting[len(cells)] -= 1
                    cells.append("")
                width, height = (number(attribute(cell, name)) for name in (("colspan", "rowspan")))
                for column in range(len(cells), len(cells) + width):
                    waiting[column] = height - 1
                cells += [" ".join(_tidied(self._inside(cell)).split()), *[""] * (width - 1)]
            if any(cells):
                rows.append(CELL.join(cells).rstrip(CELL))
        return f"{PARAGRAPH}{LINE.join(rows)}{PARAGRAPH}"


def number(text: str | None) -> int:
    """A span of columns or rows: 1 where it is none."""
    return min(int(text), 1000) if text and text.isdigit() and int(text) else 1


def tex_of(source: str, display: bool) -> str:
    """A formula's TeX between dollar signs, out of the document that PMC makes of it."""
    found = _DOCUMENT.search(source)
    tex = (found.group(1) if found else source).strip()
    if tex.startswith(("$", "\\(", "\\[", "\\begin")):
        return tex
    return f"$${tex}$$" if display else f"${tex}$"


def _fixed(text: str) -> str:
    """Text whose spaces and lines stay as they are."""
    return text.strip("\n").replace(" ", _KEPT_SPACE).replace("\n", _KEPT_LINE).replace("\t", _KEPT_SPACE * 4)


_TIDY = (
    (re.compile(rf"[\s,;–—-]*{_POINTER}(?:[\s,;–—-]*{_POINTER})*"), _POINTER),
    (re.compile(rf"\s*[(\[]\s*{_POINTER}\s*[)\]]"), ""),
    (re.compile(rf"\s*{_POINTER}"), ""),
    (_EMPTY, ""),
    (re.compile(r"[ \t\r\n\xa0]+"), " "),
    (re.compile(rf" ?{CELL} ?"), "\t"),
    (re.compile(rf"[ {LINE}]*{PARAGRAPH}[ {LINE}{PARAGRAPH}]*"), "\n\n"),
    (re.compile(rf" *{LINE}[ {LINE}]*"), "\n"),
    (re.compile(_KEPT_SPACE), " "),
    (re.compile(_KEPT_LINE), "\n"),
)


def _tidied(text: str) -> str:
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    return text.strip(" \n")
