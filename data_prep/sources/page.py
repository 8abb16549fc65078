"""HTML -> text: what a reader came for, without the page's frame, or all that is visible.

Parsing and laying out are Resiliparse's (Bevendorff et al., ECIR 2018), the choice of the main content is main_content's. Added
here, as real pages showed it missing: characters that stand alone between tags are kept (CJK, dashes); edit links of MediaWiki
and ruby glosses go; raised figures and formulas keep their meaning; blank lines, list marks and table cells are put in order.

Not done: pages that scripts build, text in images, indentation of code inside list items.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import DOMNode, HTMLTree

from data_prep.sources import page_figures
from data_prep.sources.main_content import keep_main_content

MAX_DEPTH = 2500
"""Elements within elements. Parsing time grows with the square of the depth; browsers stop at 512."""
MAX_ATTRIBUTE_BYTES = 1 << 17
"""Bytes of one tag, with the same reason; embedded images do not count."""
MAX_CELLS = 20_000
"""Empty first cells of rows that are looked at."""
SKIPPED = ["script, style, noscript, template, svg, button, select, input, textarea, option, datalist, img, picture, area"]
SKIPPED += [".mw-editsection", "sup.reference", "#toc"]  # of MediaWiki, the most crawled of all page makers
SKIPPED += ["rt, rp"]
_VOID = frozenset("a area base br col embed hr img input link meta param source track wbr p li td th tr dt dd option".split())  # noqa: SIM905
"""Elements without content, and those that end when the next one begins."""
_CLOSED = frozenset("path circle rect line polygon polyline ellipse use stop g image animate".split())  # noqa: SIM905
"""Elements of SVG, which <x/> closes; in HTML it does not."""
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/<>]*)(?:[^<>]*(/)>)?")
_LONG_TAG = re.compile(rf"<[a-zA-Z][^<>]{{{MAX_ATTRIBUTE_BYTES}}}")
_ALONE = re.compile(
    r">(\s*(?:[\u0800-\u2021\u2023-\u2038\u203b-\u218f\u2200-\u22ff\u2600-\u262f\u2631-\u2714\u2717-\u27bf\u2c00-\ud7ff"
    r"\uf900-\ufdcf\ufdf0-\ufffc]|&(?!nbsp;|bull;|#160;|#xa0;|para;|#182;|[lr]s?aquo;|times;)#?\w{2,8};))(?=\s*(?:<|\Z))"
)
"""A character of three bytes that is alone between tags: Resiliparse takes it for an icon. Bullets, arrows, crosses and
menu signs are left out, mostly they are icons."""
_MARK = "\ufdd0"
"""A noncharacter that makes such text longer; it is taken out of the result."""
_FILLER = "\ufdd1"
_CELLS = re.compile(r"(?<=[^\t\n])\t\t((?:\t\t)*)[ \xa0]*")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_BULLETS = re.compile(r"^  ( *)•(?: |$)", re.MULTILINE)
_NUMBERS = re.compile(r"^  ( *)(?=\d+\. )", re.MULTILINE)


class UnreadablePage(ValueError):
    """HTML that would take unbounded time."""


def parse(raw: bytes, declared: str | None = None) -> HTMLTree:
    """The page's tree; `declared`: the encoding that the HTTP header names.

    Raises UnreadablePage for a page nested too deeply, or with an endless tag.
    """
    return parse_text(decode_page(raw, declared).text)


def parse_text(markup: str) -> HTMLTree:
    """The same of characters."""
    markup = markup.replace("\0", "")
    if _may_be_deep(markup) and (depth := _depth(markup)) > MAX_DEPTH:
        raise UnreadablePage(f"elements nested {depth:,} deep, more than {MAX_DEPTH:,}")
    if (tag := _LONG_TAG.search(markup)) and markup.count("=", *tag.span()) > 1000:
        raise UnreadablePage(f"a tag of more than {MAX_ATTRIBUTE_BYTES:,} bytes of attributes")
    return HTMLTree.parse(_ALONE.sub(rf">\1{_MARK}", markup))


def text_of(tree: HTMLTree, main_content: bool = True, powers: page_figures.Powers = "caret") -> str:
    """The text: paragraphs apart by blank lines, one list item or table row per line, cells apart by tabs. Changes the tree.

    `powers`: how raised and lowered figures are written, see page_figures.
    """
    if tree.body is None:
        return ""
    page_figures.write_out(tree, powers)
    if main_content:
        keep_main_content(tree)
    _fill_first_cells(tree)
    text = extract_plain_text(
        tree,
        main_content=False,
        preserve_formatting=True,
        alt_texts=True,  # without them, whole figures go, and tables within; pictures are skipped by SKIPPED
        links=False,
        form_fields=False,
        noscript=False,
        skip_elements=SKIPPED,
    )
    return _tidied(text)


def line_of(node: DOMNode) -> str:
    """The text within an element, on one line."""
    return " ".join(node.text.replace(_MARK, "").split())


def title_of(tree: HTMLTree) -> str | None:
    """The page's title on one line."""
    return " ".join((tree.title or "").replace(_MARK, "").split()) or None


def language_of(tree: HTMLTree) -> str | None:
    """What the page says of its language, without region: "pt" for lang="pt-BR"."""
    root = tree.document.document_element
    said = (root.getattr("lang") or root.getattr("xml:lang") or "") if root else ""
    return primary_language(said)


def primary_language(said: str) -> str | None:
    """The language of a BCP 47 tag without its region: "pt" of "pt-BR"; None for what is no tag."""
    primary = re.split(r"[-_]", said.strip())[0].lower()
    return primary if re.fullmatch(r"[a-z]{2,3}", primary) else None


def _may_be_deep(markup: str) -> bool:
    """Whether there is a place with more than MAX_DEPTH unclosed tags before it, counted roughly and fast."""
    if markup.count("<") <= MAX_DEPTH:
        return False
    depth = 0
    for start in range(0, len(markup), 4096):
        part = markup[start : start + 4096]
        closed = part.count("</")
        opened = part.count("<") - closed
        if depth + opened > MAX_DEPTH:
            return True
        depth = max(0, depth + opened - closed)
    return False


def _depth(markup: str) -> int:
    depth = deepest = 0
    for closing, name, closed in _TAG.findall(markup):
        if (name := name.lower()) in _VOID or (closed and name in _CLOSED):
            continue
        depth = max(0, depth - 1) if closing else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _fill_first_cells(tree: HTMLTree) -> None:
    """Put a sign into empty cells at the start of a row, which else would shift to the left."""
    for cell in tree.body.query_selector_all("td:first-child, th:first-child")[:MAX_CELLS]:
        if not cell.text.strip() and cell.next_element_sibling is not None:
            cell.text = _FILLER


def _tidied(text: str) -> str:
    text = text.replace(_MARK, "")
    if "\t\t" in text:
        text = _CELLS.sub(lambda match: "\t" + match.group(1)[::2], text).replace(" \t", "\t")
    if "  • " in text:
        text = _BULLETS.sub(r"\1- ", text)
    text = "\n".join([line.rstrip().lstrip("\t") for line in _NUMBERS.sub(r"\1", text).split("\n")])
    text = text.replace(_FILLER, "") if _FILLER in text else text
    text = _BLANK_LINES.sub("\n\n", text).rstrip()
    start = len(text) - len(text.lstrip())
    return text[text.rfind("\n", 0, start) + 1 :].lstrip(" ")  # a tab at the start is an empty cell


class Decoded(NamedTuple):
    """A page's characters, and how they were found."""

    text: str
    encoding: str
    assumed: bool
    """True when the encoding was detected or guessed, false when the bytes prove it or it was declared."""


def decode_page(raw: bytes, declared: str | None) -> Decoded:
    """The text of a page, whatever its bytes.

    A byte order mark decides, then valid UTF-8 (other encodings hardly ever look like it, and wrong declarations are
    common), then `declared` by the HTTP header and the page's own declaration when the bytes are possible in them, then
    detection (uchardet). Labels mean what the WHATWG Encoding Standard says: "iso-8859-1" is Windows-1252.
    """
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return Decoded(raw[len(mark) :].decode(encoding, "replace"), encoding, False)
    head = raw[:4096]
    if head.count(0) > len(head) // 4:  # UTF-16 without a mark: every second byte of markup is zero
        encoding = "utf-16-be" if head[::2].count(0) > head[1::2].count(0) else "utf-16-le"
        return Decoded(raw.decode(encoding, "replace"), encoding, False)
    labels = [declared or "", *(label.decode("ascii") for label in _DECLARED.findall(head))]
    named = [_PYTHON.get(name, name) for label in labels if (name := map_encoding_to_html5(label, fallback_utf8=False))]
    if "iso-2022-jp" in named and b"\x1b$" in raw:
        return Decoded(raw.decode("iso-2022-jp", "replace"), "iso-2022-jp", False)
    text = raw.decode("utf-8", "replace")
    lost = text.count("\ufffd")
    if lost == 0 or len(text) - len(raw.translate(None, _NOT_ASCII)) > 8 * lost:  # a few wrong bytes in much UTF-8
        return Decoded(text, "utf-8", False)
    detected = detect_encoding(raw)
    for encoding in [*named, _PYTHON.get(detected, detected), "cp1252"]:
        try:
            return Decoded(raw.decode(encoding), encoding, encoding not in named)
        except (UnicodeDecodeError, LookupError):
            continue
    return Decoded(raw.decode("cp1252", "replace"), "cp1252", True)


_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_DECLARED = re.compile(rb"<(?:meta|\?xml)[^>]{0,300}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w:.-]{2,40})", re.IGNORECASE)
_PYTHON = {"shift_jis": "cp932", "euc-kr": "cp949", "big5": "big5hkscs", "gbk": "gb18030", "windows-1252": "cp1252"}
"""Python's names for what the WHATWG Encoding Standard means by these labels."""
_NOT_ASCII = bytes(range(128, 256))
