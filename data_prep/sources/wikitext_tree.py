"""The tree of wikitext -> text: links, tags, templates and parser functions, as a reader of the page sees them."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from babel import Locale
from mwparserfromhell.nodes import Comment, ExternalLink, Heading, HTMLEntity, Tag, Template, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

from data_prep.sources import templates
from data_prep.sources.raised import Style, subscript, superscript
from data_prep.sources.template_arguments import Arguments
from data_prep.sources.template_numbers import localised

DROPPED_TAGS = {"ref", "references", "table", "gallery", "timeline", "imagemap", "score", "graph", "mapframe", "maplink"}
DROPPED_TAGS |= {
    "templatedata",
    "hiero",
    "includeonly",
    "style",
    "script",
    "indicator",
    "templatestyles",
    "section",
    "categorytree",
}
BLOCKS = {"p", "div", "br", "blockquote", "poem", "center", "hr", "pre", "syntaxhighlight", "source"}
AS_WRITTEN = {"nowiki", "pre", "syntaxhighlight", "source", "chem", "ce", "code"}
"""Tags whose content is shown as it is written."""
NO_TEXT = {
    "#tag",
    "defaultsort",
    "displaytitle",
    "#vardefine",
    "#seo",
    "#section",
    "#lst",
    "int",
    "filepath",
    "urlencode",
    "#babel",
    "#coordinates",
}
TITLES = {"pagename", "fullpagename", "basepagename", "subpagename", "pagenamee", "rootpagename"}
SWITCHES = re.compile(r"__[A-Z]+__")
PROTECTED = re.compile("\ue000(\\d+)\ue001")
"""Text that the tidying of blanks and leftovers must not touch, by its number."""
LESS, HEADING = "\ue002", "\ue003"
"""Stands for < that is no tag; begins a heading."""
_OTHER_CODES = """als bat-smg be-x-old be-tarask cbk-zam eml fiu-vro map-bms nds-nl nrm roa-rup roa-tara simple zh-classical
zh-min-nan zh-yue bh mo sh no diq pms pnb vec vls frr stq szl ksh pdc rmy pih tpi hif azb ckb mzn glk mwl ext lij lmo"""


@cache
def language_codes() -> frozenset[str]:
    """Prefixes of links to Wikipedias in other languages."""
    return frozenset(code.replace("_", "-").lower() for code in Locale("en").languages) | frozenset(_OTHER_CODES.split())


@dataclass(frozen=True)
class Wiki:
    """The wiki and page whose markup is read."""

    language: str = ""
    """Language code; decides between templates of the same name, and how dates and decimals are written."""
    title: str = ""
    powers: Style = "caret"
    variant: str = ""
    """Variant of Chinese (or Serbian ...) that is taken where the page marks several, such as zh-hant."""


@dataclass
class Renderer:
    """Renders nodes into text and counts what templates came to."""

    unwanted_links: frozenset[str]
    wiki: Wiki
    protected: list[str] = field(default_factory=list)
    templates: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(how, name) of each template that was met."""

    def text(self, code: Wikicode | None) -> str:
        """The text of a part of the tree, such as a template's argument."""
        out: list[str] = []
        if code is not None:
            self.render(code, out)
        return "".join(out)

    def protect(self, text: str) -> str:
        """A stand-in for text that is to stay as it is; restore() puts it back."""
        self.protected.append(text)
        return f"\ue000{len(self.protected) - 1}\ue001"

    def restore(self, text: str) -> str:
        """Text with all stand-ins replaced."""
        while PROTECTED.search(text):
            text = PROTECTED.sub(lambda match: self.protected[int(match.group(1))], text)
        return text.replace(LESS, "<")

    def render(self, tree: Wikicode, out: list[str], page: bool = False) -> None:
        """Append the text of the nodes. `page`: they are the page itself, where templates alone on a line are boxes."""
        nodes = tree.nodes
        for place, node in enumerate(nodes):
            if isinstance(node, Text):
                out.append(str(node.value).replace("<", LESS))
            elif isinstance(node, Wikilink):
                self._link(node, out)
            elif isinstance(node, Tag):
                self._tag(node, out, nodes, place)
            elif isinstance(node, Template):
                alone = page and _line_is_blank(out) and _rest_is_blank(nodes[place + 1 :])
                out.append(self._template(node, _around(out, nodes, place), alone))
            elif isinstance(node, Heading):
                out.append(f"\n\n{HEADING}{node.level}")
                self.render(node.title, out)
                out.append("\n\n")
            elif isinstance(node, HTMLEntity):
                out.append((node.normalize() or "").replace("<", LESS))
            elif isinstance(node, ExternalLink):
                if node.title is not None:
                    self.render(node.title, out)
                elif not node.brackets:
                    out.append(str(node.url))

    def _link(self, node: Wikilink, out: list[str]) -> None:
        target = str(node.title).strip()
        prefix = target.split(":")[0].strip().lower() if ":" in target else ""
        if prefix in self.unwanted_links or (prefix in language_codes() and prefix):
            return
        if node.text is not None:
            self.render(node.text, out)
        else:
            out.append(self.text(node.title).strip().lstrip(":").replace("_", " "))

    def _tag(self, node: Tag, out: list[str], nodes: Sequence[Any], place: int) -> None:
        name = str(node.tag).strip().lower()
        if name in DROPPED_TAGS:
            return
        if node.wiki_markup and name in ("li", "dt", "dd"):
            inline = name == "dd" and not _line_is_blank(out)  # ;title: definition
            out.append(": " if inline else "- " if name == "li" and not (out and out[-1].endswith("- ")) else "")
        elif name in ("sup", "sub"):
            raised = superscript if name == "sup" else subscript
            out.append(raised(self.text(node.contents), *_around(out, nodes, place), self.wiki.powers))
        elif name == "math" and node.contents is not None:
            out.append(self.protect(f"${str(node.contents).strip()}$"))
        else:
            if name in BLOCKS:
                out.append("\n")
            if name in AS_WRITTEN and node.contents is not None:
                content = self.text(node.contents) if name == "code" else str(node.contents)
                content = html.unescape(content) if name in ("nowiki", "pre") else content
                out.append(self.protect(content.strip("\n")))
            elif node.contents is not None:
                self.render(node.contents, out)
            if name in BLOCKS - {"br"}:
                out.append("\n")

    def _template(self, node: Template, around: tuple[str, str], alone: bool) -> str:
        written = self.text(node.name).strip()
        if ":" in written and (found := self._function(written, node)) is not None:
            text, how = found
        elif written.lower() in TITLES:
            text, how = self.wiki.title, "shown"
        else:
            arguments = self._arguments(node, around)
            text, how = templates.show(written, arguments, alone)
        self.templates[how, templates.plain_name(written.partition(":")[0] if written[:1] == "#" else written)] += 1
        return text

    def _arguments(self, node: Template, around: tuple[str, str]) -> Arguments:
        values = {str(parameter.name).strip(): parameter.value for parameter in node.params}
        return Arguments(values, self.text, self.wiki.language, around, self.wiki.powers)

    def _function(self, written: str, node: Template) -> tuple[str, str] | None:
        """A parser function such as {{formatnum:6000}}; None for a template."""
        name, _, first = written.partition(":")
        name, first = name.strip().lower(), first.strip()
        rest = [
            parameter.value if not parameter.showkey else f"{parameter.name}={parameter.value}" for parameter in node.params
        ]

        def value(place: int) -> str:
            if place >= len(rest):
                return ""
            return rest[place].strip() if isinstance(rest[place], str) else self.text(rest[place]).strip()

        if name == "formatnum":
            return (first if rest else localised(first, self.wiki.language)), "shown"
        if name in ("lc", "uc", "lcfirst", "ucfirst"):
            change = {"lc": str.lower, "uc": str.upper, "lcfirst": _lower_first, "ucfirst": _upper_first}[name]
            return change(first), "shown"
        if name == "#if":
            return value(0 if first else 1), "shown"
        if name == "#ifeq":
            return value(1 if first == value(0) else 2), "shown"
        if name == "#switch":
            return self._switch(first, node), "shown"
        if name in ("#dateformat", "#formatdate"):
            return first, "shown"
        if name in NO_TEXT:
            return "", "nothing"
        return ("", "hole") if name.startswith("#") else None

    def _switch(self, subject: str, node: Template) -> str:
        """{{#switch: subject | case | case = result | default}}."""
        matched, default = False, ""
        for parameter in node.params:
            key = self.text(parameter.name if parameter.showkey else parameter.value).strip()
            matched |= key == subject
            if parameter.showkey and matched:
                return self.text(parameter.value).strip()
            if parameter.showkey and key == "#default":
                default = self.text(parameter.value).strip()
            elif not parameter.showkey and parameter is node.params[-1]:
                default = key
        return default


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _around(out: list[str], nodes: Sequence[Any], place: int) -> tuple[str, str]:
    """The characters before and after a node, "" at the ends."""
    before = next((piece[-1] for piece in reversed(out) if piece), "")
    following = nodes[place + 1] if place + 1 < len(nodes) else None
    text = str(following.value) if isinstance(following, Text) else ""
    if isinstance(following, HTMLEntity):
        text = following.normalize() or ""
    return before, text[:1]


def _line_is_blank(out: list[str]) -> bool:
    """Whether nothing but blanks stands on the current line."""
    for piece in reversed(out):
        line = piece.rpartition("\n")
        if line[2].strip():
            return False
        if line[1]:
            return True
    return True


def _rest_is_blank(nodes: Sequence[Any]) -> bool:
    """Whether what follows up to the end of the line shows nothing: blanks, comments, notes, more templates."""
    for node in _until_text(nodes):
        head, newline, _ = str(node.value).partition("\n")
        if head.strip():
            return False
        if newline:
            return True
    return True


def _until_text(nodes: Sequence[Any]) -> Iterator[Text]:
    """The Text nodes among those of one line, up to the first node that shows something else."""
    for node in nodes:
        if isinstance(node, Text):
            yield node
        elif isinstance(node, Tag) and str(node.tag).strip().lower() not in DROPPED_TAGS | {"br"}:
            yield Text("\n" if node.wiki_markup and str(node.tag) in ("li", "dt", "dd") else "tag")
        elif isinstance(node, (Wikilink, ExternalLink, HTMLEntity)):
            yield Text("link")
        elif isinstance(node, (Comment, Template)):
            continue
