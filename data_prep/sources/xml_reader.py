"""XML from other people, read safely: no entity is expanded by a parser, no DTD is read, nothing is fetched.

The declaration of the document type goes before parsing. Entities by name become the characters that HTML means by them,
or stay as they are written. Records are cut out by their tags and parsed one by one, so that memory does not
grow with the file and a damaged record costs only itself.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator
from typing import BinaryIO
from xml.etree import ElementTree

from data_prep.sources.files import Unreadable

Element = ElementTree.Element
CHUNK = 1 << 20
HEAD = 4 << 20
"""Characters within which the root element must begin."""
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_ENCODING = re.compile(rb"\A\s*<\?xml[^>]*?\bencoding\s*=\s*[\"']([\w:.-]{2,40})[\"']")
_PROLOG = re.compile(
    r"\A\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*<!DOCTYPE[^\[>]*(?:\[(?:[^\]\"']|\"[^\"]*\"|'[^']*')*\]\s*)?>", re.DOTALL
)
_ROOT = re.compile(r"<[A-Za-z_]")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9A-Fa-f]{1,6});)(?:([A-Za-z][\w.]{0,31});)?")
_NUMERIC = re.compile(r"&#(?:x([0-9A-Fa-f]{1,6})|(\d{1,7}));")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PREFIX = re.compile(r"</?([A-Za-z_][\w.-]*):|\s([A-Za-z_][\w.-]*):[\w.-]+\s*=")
_OPENING = re.compile(r"(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")
_ISO = {"rarr": "→", "lsqb": "[", "rsqb": "]", "lcub": "{", "rcub": "}", "emsp14": " ", "b.alpha": "α", "thinsp": " "}


def name_of(node: Element) -> str:
    """The tag without its namespace."""
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def attribute(node: Element, name: str) -> str | None:
    """An attribute by its name without namespace: "href" also finds xlink:href."""
    return next((value for key, value in node.attrib.items() if key.rpartition("}")[2] == name), None)


def language_of(node: Element) -> str | None:
    """The language that an element names itself, in lower case as far as the primary part goes."""
    said = (node.get(XML_LANG) or node.get("lang") or "").strip()
    return said or None


def first(node: Element, *path: str) -> Element | None:
    """The first descendant by tags without namespaces, one step of `path` after the other."""
    for step in path:
        node = next((child for child in node.iter() if child is not node and name_of(child) == step), None)  # type: ignore[assignment]
        if node is None:
            return None
    return node


def all_of(node: Element, *tags: str) -> list[Element]:
    """All descendants with one of the tags, in the document's order."""
    return [child for child in node.iter() if child is not node and name_of(child) in tags]


def line_of(node: Element | None) -> str:
    """All text within an element on one line."""
    return " ".join("".join(node.itertext()).split()) if node is not None else ""


def texts(stream: BinaryIO, encoding: str | None = None) -> Iterator[str]:
    """The document in pieces that end behind a tag: decoded, without comments and document type, entities replaced.

    Raises Unreadable for an encoding that is not known.
    """
    raw = stream.read(CHUNK)
    decoder = _decoder(raw, encoding)
    buffer, ended, headed = "", False, False
    while not ended:
        ended = not raw
        buffer += decoder.decode(raw, final=ended)
        raw = b"" if ended else stream.read(CHUNK)
        if not headed:
            buffer, headed = _behind_doctype(buffer, ended)
            if not headed and not ended:
                continue
        end = len(buffer) if ended else buffer.rfind(">") + 1
        comment = buffer.rfind("<!--", 0, end)
        if not ended and comment >= 0 and buffer.find("-->", comment, end) < 0 and len(buffer) - comment < HEAD:
            end = comment
        if end:
            yield _cleaned(buffer[:end])
            buffer = buffer[end:]


def _decoder(head: bytes, encoding: str | None) -> codecs.IncrementalDecoder:
    """The decoder for a document's bytes: by their mark, by what they declare, else UTF-8 as XML has it."""
    mark = next((name for sign, name in _MARKS if head.startswith(sign)), None)
    if mark is None and head[:4].count(0) >= 2:
        mark = "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
    declared = _ENCODING.match(head)
    name = mark or encoding or (declared.group(1).decode("ascii") if declared else "utf-8")
    try:
        return codecs.getincrementaldecoder("cp1252" if name.lower() == "iso-8859-1" else name)("replace")
    except LookupError:
        raise Unreadable(f"its XML declaration names the encoding {name}, which is not known") from None


def _behind_doctype(buffer: str, ended: bool) -> tuple[str, bool]:
    """(the document without its type, whether its root begins in it). Raises Unreadable when there is no root."""
    buffer = buffer.removeprefix("\ufeff")
    if prolog := _PROLOG.match(buffer):
        return buffer[prolog.end() :], True
    open_type = buffer.find("<!DOCTYPE")
    root = _ROOT.search(buffer)
    if root and (open_type < 0 or open_type > root.start()):
        return buffer[root.start() :], True
    if ended or len(buffer) > HEAD:
        raise Unreadable("no XML: no root element in it")
    return buffer, False


def _cleaned(text: str) -> str:
    if "<!--" in text:
        text = _COMMENT.sub("", text)
    if "&" in text:
        text = _NUMERIC.sub(_valid, _ENTITY.sub(_replaced, text))
    return _NOT_XML.sub("", text)


def _replaced(match: re.Match[str]) -> str:
    name = match.group(1)
    if name is None:  # a bare &
        return "&amp;"
    if name in _ISO:
        return html.escape(_ISO[name])
    character = html.entities.html5.get(f"{name};")
    return html.escape(character) if character else f"&amp;{name};"


def _valid(match: re.Match[str]) -> str:
    number = int(match.group(1), 16) if match.group(1) else int(match.group(2))
    character = chr(number) if number <= 0x10FFFF else ""
    return match.group() if character and not _NOT_XML.match(character) else ""


def parse(text: str) -> Element:
    """The tree of cleaned XML, in which prefixes need no declaration. Raises Unreadable with the place of a fault."""
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        if "unbound prefix" not in str(error):
            raise Unreadable(f"damaged XML: {error}") from None
    names = {first or second for first, second in _PREFIX.findall(text)} - {"xml", "xmlns"}
    declared = set(re.findall(r"\bxmlns:([\w.-]+)\s*=", text))
    added = "".join(f' xmlns:{name}="urn:{name}"' for name in sorted(names - declared))
    try:
        return ElementTree.fromstring(re.sub(r"\A\s*<[^\s/>]+", lambda match: match.group() + added, text, count=1))
    except ElementTree.ParseError as error:
        raise Unreadable(f"damaged XML: {error}") from None


def parse_whole(stream: BinaryIO) -> Element:
    """The tree of a document that fits in memory."""
    return parse("".join(texts(stream)))


def cut(stream: BinaryIO, tag: str, limit: int) -> Iterator[str | None]:
    """The text of each element `tag`, whatever it stands in; None for one longer than `limit` characters. An element that the
    next one begins in, or the file ends in, has lost its end: it is given as far as it goes."""
    begins = re.compile(rf"<((?:[A-Za-z_][\w.-]*:)?{tag})(?=[\s/>])")
    closes = re.compile(rf"</(?:[A-Za-z_][\w.-]*:)?{tag}\s*>")
    buffer = ""
    for piece in texts(stream):
        buffer += piece
        position = 0
        while start := begins.search(buffer, position):
            end = _end_of(buffer, start, begins, closes)
            if end is None:
                break
            yield buffer[start.start() : end] if end - start.start() <= limit else None
            position = end
        if start is None:
            position = max(position, buffer.rfind("<"), 0)
        elif len(buffer) - start.start() > limit:
            yield None
            position = start.end()
        else:
            position = start.start()
        buffer = buffer[position:]
    if start := begins.search(buffer):
        yield buffer[start.start() :]


def _end_of(buffer: str, start: re.Match[str], begins: re.Pattern[str], closes: re.Pattern[str]) -> int | None:
    """Where the element that begins at `start` ends; None when the buffer ends first."""
    opening = _OPENING.match(buffer, start.end())
    if opening is None:
        return None
    if opening.group().endswith("/>"):
        return opening.end()
    closing = closes.search(buffer, opening.end())
    again = begins.search(buffer, opening.end(), closing.start() if closing else len(buffer))
    if again:
        return again.start()
    return closing.end() if closing else None
