"""MediaWiki's markup -> text, by mwparserfromhell's tree: what a reader of the page sees, without tables, notes and boxes."""

from __future__ import annotations

import re

import mwparserfromhell
from mwparserfromhell.nodes import Comment, ExternalLink, Heading, HTMLEntity, Tag, Template, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

FIRST = """nowrap|nobr|small|big|em|strong|math|mvar|quote|blockquote|cquote|quotation|abbr|tooltip|uss|sic|visible anchor|
val|num|formatnum|smallcaps|sc|as of|ill|interlanguage link|unité"""
SHOWN = {name.strip(): 0 for name in FIRST.split("|")} | {"lang": -1, "langx": -1, "transl": -1, "ship": -1}
"""Templates whose text is a part of the sentence: name -> which unnamed argument is shown."""
CONVERT = ("convert", "cvt")
DASHES = {"snd": " – ", "spnd": " – ", "ndash": "–", "mdash": "—", "nbsp": " ", "spaces": " ", "'": "'", "=": "=", "!": "|"}
DROPPED_TAGS = {"ref", "references", "table", "gallery", "timeline", "imagemap", "score", "graph", "mapframe", "templatedata"}
DROPPED_TAGS |= {"syntaxhighlight", "source", "hiero", "noinclude", "includeonly", "style", "script", "indicator", "chem"}
BLOCKS = {"p", "div", "br", "blockquote", "poem", "center", "hr"}
_EMPTY = re.compile(r"[ \t]*[(（]\s*(?:[,;:–—/]\s*)*[)）]|\(\s*[,;]\s*")
_SPACES = re.compile(r"[ \t\xa0]+")
_BEFORE_STOP = re.compile(r" +([,.;:!?)](?:\s|$))")
_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_LEFTOVER = (r"__[A-Z]+__", r"\[\[|\]\]", r"\{\{+|\}\}+", r"^\s*[|!{].*$", r"'''?", r"</?\w+[^<>\n]{0,200}>")
_MAGIC = re.compile("|".join(_LEFTOVER), re.MULTILINE)
MAX_OPEN = 500
"""Templates, links and tags within each other, or without end. Parsing time grows with the square of them."""
_OPENS = re.compile(
    r"(\{\{)|(\[\[)|(\[(?=https?:|ftp:|//))|(<!--)|(<(?!(?:br|hr|wbr|img|li|p|dd|dt|td|th|tr)\b)[a-zA-Z])|(-\{)"
    r"|(\}\})|(\]\])|(\])|(-->)|(</|/>)|(\}-)"
)
"""Six ways to open something, and the six to close it, in the same order."""
_TABLE = re.compile(r"\{\||\|\}")


def clean(markup: str, unwanted_links: frozenset[str], unwanted_sections: frozenset[str]) -> str:
    """The article's text: paragraphs and headings on their own lines, a blank line between, list items as "- item".

    `unwanted_links`: lower-case namespace names (file, category, ...) whose links show no text. `unwanted_sections`: lower-case
    headings left out with all below them. Not implemented: expansion of templates and modules, tables.

    Raises ValueError for markup with hundreds of brackets or tags that do not end, on which the parser takes for ever.
    """
    if (open_ones := _most_open(markup)) > MAX_OPEN:
        raise ValueError(f"{open_ones:,} templates, links or tags that are open at once, more than {MAX_OPEN}")
    tree = mwparserfromhell.parse(_without_tables(markup), skip_style_tags=True)
    parts: list[str] = []
    _render(tree, parts, unwanted_links)
    text = "".join(parts)
    return _drop_sections(_tidy(text), unwanted_sections)


def _without_tables(markup: str) -> str:
    """The markup without {| tables |}, nested ones too; one without end goes to the next blank line. Linear."""
    if "{|" not in markup:
        return markup
    parts, place, depth = [], 0, 0
    for match in _TABLE.finditer(markup):
        if match.group() == "{|":
            if depth == 0:
                parts.append(markup[place : match.start()])
                place = match.start()
            depth += 1
        elif depth and not markup.startswith("|}}", match.start()):
            depth -= 1
            if depth == 0:
                place = match.end()
    if depth:
        end = markup.find("\n\n", place)
        place = end if end >= 0 else len(markup)
    return "".join([*parts, markup[place:]])


def _most_open(markup: str) -> int:
    """The most things that are open at one place, counted roughly, in linear time."""
    depth, deepest = [0] * 6, 0
    for match in _OPENS.finditer(markup):
        kind = match.lastindex or 0
        if kind <= 6:
            depth[kind - 1] += 1
            deepest = max(deepest, sum(depth))
        elif depth[kind - 7]:
            depth[kind - 7] -= 1
    return deepest


def _render(tree: Wikicode, out: list[str], unwanted: frozenset[str]) -> None:
    for node in tree.nodes:
        if isinstance(node, Text):
            out.append(str(node.value))
        elif isinstance(node, Wikilink):
            _link(node, out, unwanted)
        elif isinstance(node, Tag):
            _tag(node, out, unwanted)
        elif isinstance(node, Template):
            _template(node, out, unwanted)
        elif isinstance(node, Heading):
            out.append(f"\n\n\x01{node.level}")
            _render(node.title, out, unwanted)
            out.append("\n\n")
        elif isinstance(node, HTMLEntity):
            out.append(node.normalize() or "")
        elif isinstance(node, ExternalLink):
            if node.title is not None:
                _render(node.title, out, unwanted)
        else:
            assert isinstance(node, Comment) or node is not None


def _link(node: Wikilink, out: list[str], unwanted: frozenset[str]) -> None:
    target = str(node.title).strip()
    namespace = target.lstrip(":").split(":")[0].strip().lower() if ":" in target else ""
    if namespace in unwanted and not target.startswith(":"):
        return
    if node.text is not None:
        _render(node.text, out, unwanted)
    else:
        out.append(target.lstrip(":").replace("_", " "))


def _tag(node: Tag, out: list[str], unwanted: frozenset[str]) -> None:
    name = str(node.tag).strip().lower()
    if name in DROPPED_TAGS:
        return
    if node.wiki_markup and name in ("li", "dt", "dd"):
        out.append("- " if name == "li" and not (out and out[-1].endswith("- ")) else "")
    elif name == "math" and node.contents is not None:
        out.append(f"${str(node.contents).strip()}$")
    elif name == "nowiki" and node.contents is not None:
        out.append(str(node.contents))
    else:
        if name in BLOCKS:
            out.append("\n")
        if node.contents is not None:
            _render(node.contents, out, unwanted)
        if name in BLOCKS - {"br"}:
            out.append("\n")


def _template(node: Template, out: list[str], unwanted: frozenset[str]) -> None:
    name = str(node.name).strip().lower().replace("_", " ")
    if name in DASHES:
        out.append(DASHES[name])
        return
    plain = [parameter.value for parameter in node.params if not parameter.showkey]
    if name.startswith("lang-") and plain:
        _render(plain[0], out, unwanted)
    elif name in SHOWN and plain and SHOWN[name] < len(plain):
        _render(plain[SHOWN[name]], out, unwanted)
    elif name in CONVERT and len(plain) >= 2:
        out.append(f"{str(plain[0]).strip()} {str(plain[1]).strip()}")


def _tidy(text: str) -> str:
    text = _MAGIC.sub("", text)
    text = _SPACES.sub(" ", text)
    while (tidier := _EMPTY.sub(lambda match: "(" if match.group().endswith((", ", "; ", ",", ";")) else "", text)) != text:
        text = tidier
    text = _BEFORE_STOP.sub(r"\1", text)
    return _LINES.sub("\n\n", "\n".join(line.strip() for line in text.split("\n"))).strip()


def _drop_sections(text: str, unwanted: frozenset[str]) -> str:
    """Without the unwanted sections, and without headings that nothing follows."""
    kept: list[tuple[int, str]] = []  # (level of a heading, 0 for text)
    skip = 0
    for block in text.split("\n\n"):
        if block.startswith("\x01"):
            level, title = int(block[1]), block[2:].strip()
            if skip and level > skip:
                continue
            skip = level if title.lower() in unwanted else 0
            while kept and kept[-1][0] >= level:
                kept.pop()
            if not skip and title:
                kept.append((level, title))
        elif not skip and block.strip(" -\n"):
            kept.append((0, block.replace("\x01", "")))
    while kept and kept[-1][0]:
        kept.pop()
    return "\n\n".join(block for _, block in kept)
