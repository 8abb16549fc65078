"""MediaWiki's markup -> text, by mwparserfromhell's tree: what a reader of the page sees, without tables, notes and boxes."""

from __future__ import annotations

import re
from collections import Counter

import mwparserfromhell

from data_prep.sources.wikitext_tree import HEADING, Renderer, Wiki

_EMPTY = re.compile(r"[ \t]*[(（]\s*(?:[,;:–—/，；]\s*)*[)）]|\(\s*[,;]\s*")
_SPACES = re.compile(r"[ \t\xa0]+")
_BEFORE_STOP = re.compile(r" +([,.;:!?)](?:\s|$))")
_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_TAGS = """abbr b bdi big blockquote br center cite code dd del dfn div dl dt em font gallery h1 h2 h3 h4 h5 h6 hr i
includeonly ins kbd li math noinclude nowiki ol onlyinclude p poem pre ref references s section small source span strike strong
sub sup table td th tr tt u ul var wbr"""
_LEFTOVER = (
    r"__[A-Z]+__",
    r"\[\[|\]\]",
    r"\{\{+|\}\}+",
    r"^\s*(?:\{\||\|[-}+]|\||!.*!!).*$",
    r"'''?",
    rf"(?i:[<\ue002]/?(?:{'|'.join(_TAGS.split())})\b[^<>\n]{{0,200}}>)",
)
_MAGIC = re.compile("|".join(_LEFTOVER), re.MULTILINE)
_DOUBLED = re.compile(r"\[(?=\[)|\](?=\])|\{(?=\{)|\}(?=\})")
"""Brackets that what stood between them had kept apart."""
_PRIVATE = re.compile("[\ue000-\ue00f]")
MAX_OPEN = 500
"""Templates, links and tags within each other, or without end. Parsing time grows with the square of them."""
_OPENS = re.compile(
    r"(\{\{)|(\[\[)|(\[(?=https?:|ftp:|//))|(<!--)|(<(?!(?:br|hr|wbr|img|li|p|dd|dt|td|th|tr)\b)[a-zA-Z])|(-\{)"
    r"|(\}\})|(\]\])|(\])|(-->)|(</|/>)|(\}-)"
)
"""Six ways to open something, and the six to close it, in the same order."""
_TABLE = re.compile(r"^[ \t]*:*[ \t]*\{\||^[ \t]*\|\}(?!\})", re.MULTILINE)
_VARIANT = re.compile(r"-\{(?!\{)((?:(?!-\{)[^{}]|\{\{[^{}]*\}\}|\{(?!\{)|\}(?![-}]))*)\}-")
_CODE = r"(?:zh|sr|kk|ku|iu|tg|uz|gan|shi|crh|ban|tly|wuu|sh)(?:-[a-z]{1,9})*"
_CHOICES = re.compile(rf"(?:^|;)\s*(?:[^;:{{}}]*=>)?\s*({_CODE})\s*:((?:&[#\w]+;|[^;])*)", re.IGNORECASE)
VARIANTS = ("zh-hans", "zh-cn", "zh-sg", "zh-my", "sr-ec", "sr-cyrl")
"""Variants taken first where none is asked for."""


def clean(
    markup: str,
    unwanted_links: frozenset[str],
    unwanted_sections: frozenset[str],
    wiki: Wiki | None = None,
    templates: Counter[tuple[str, str]] | None = None,
) -> str:
    """The article's text: paragraphs and headings on their own lines, a blank line between, list items as "- item".

    `unwanted_links`: lower-case namespace names (file, category, ...) whose links show no text. `unwanted_sections`: lower-case
    headings left out with all below them. `templates` counts (how, name) of each template: "shown", "nothing", "hole" (text
    that only MediaWiki can make), "unknown shown", "unknown box". Not implemented: expansion of templates and modules, tables.

    Raises ValueError for markup with hundreds of brackets or tags that do not end, on which the parser takes for ever.
    """
    wiki = wiki or Wiki()
    markup = _PRIVATE.sub("", markup)
    if (open_ones := _most_open(markup)) > MAX_OPEN:
        raise ValueError(f"{open_ones:,} templates, links or tags that are open at once, more than {MAX_OPEN}")
    tree = mwparserfromhell.parse(_one_variant(_without_tables(markup), wiki.variant), skip_style_tags=True)
    renderer = Renderer(unwanted_links, wiki)
    parts: list[str] = []
    renderer.render(tree, parts, page=True)
    if templates is not None:
        templates.update(renderer.templates)
    return renderer.restore(_drop_sections(_tidy("".join(parts)), unwanted_sections))


def _one_variant(markup: str, wanted: str) -> str:
    """The markup with one variant of each -{zh-hans:计算机;zh-hant:電腦}-, inner ones first."""
    for _ in range(4):  # as deep as they are nested
        if "-{" not in markup:
            break
        markup, changed = _VARIANT.subn(lambda match: _variant_of(match.group(1), wanted), markup)
        if not changed:
            break
    return markup


def _variant_of(content: str, wanted: str) -> str:
    """Text of one -{flags|variants}-: rules that show nothing (H, T, -) give nothing, R and plain text stand for themselves."""
    flags, bar, rules = content.partition("|")
    if not bar or not re.fullmatch(r"[\s;A-Za-z+-]*", flags):
        flags, rules = "", content
    codes = {flag.strip() for flag in flags.split(";")}
    if codes & {"H", "T", "-"}:
        return ""
    choices = {code.lower(): text.strip() for code, text in _CHOICES.findall(rules)}
    if not choices or "R" in codes:
        return rules
    return next((choices[code] for code in (wanted.lower(), *VARIANTS) if code in choices), next(iter(choices.values())))


def _without_tables(markup: str) -> str:
    """The markup without {| tables |}, nested ones too; one without end goes to the next blank line. Linear.

    Only at the start of a line do the marks begin and end a table, as in MediaWiki: |{|x|}| elsewhere is text.
    """
    if "{|" not in markup:
        return markup
    parts, place, depth = [], 0, 0
    for match in _TABLE.finditer(markup):
        if match.group().endswith("{|"):
            if depth == 0:
                parts.append(markup[place : match.start()])
                place = match.start()
            depth += 1
        elif depth:
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


def _tidy(text: str) -> str:
    text = _DOUBLED.sub("", _MAGIC.sub("", text))
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
        if block.startswith(HEADING):
            level, title = int(block[1]), block[2:].strip()
            if skip and level > skip:
                continue
            skip = level if title.lower() in unwanted else 0
            while kept and kept[-1][0] >= level:
                kept.pop()
            if not skip and title:
                kept.append((level, title))
        elif not skip and block.strip(" -\n"):
            kept.append((0, block.replace(HEADING, "")))
    while kept and kept[-1][0]:
        kept.pop()
    return "\n\n".join(block for _, block in kept)
