"""What templates and parser functions of wikitext show in a sentence, by a table of names (data/wikipedia_templates.json).

The table gives, for a language or for all ("*"), patterns with the names of the templates they are for. In a pattern
    {1} {name} {lt/1}   is an argument, or the first of several that is not empty; {-1} is the last unnamed one
    {*, }               are all unnamed ones, with the given text between them
    [ ... ]             is left out when an argument in it is empty; \\[ is a bracket
    @name               is a function of template_numbers.py or template_names.py
    ""                  shows nothing: notes, icons, calls for sources
A pattern whose arguments outside brackets are all empty shows nothing, and so does @hole: text that only MediaWiki can make
(ages, the current year). Such holes are counted: a hole is better than a wrong number.

Templates that the table does not know show their unnamed arguments where they stand in a sentence, and nothing where they stand
alone on their lines, as boxes do. Arguments without words are no text; a number in front of them makes the whole a hole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from data_prep.sources import template_names, template_numbers
from data_prep.sources.template_arguments import Arguments, template_data

_NAMESPACES = "template vorlage modèle plantilla predefinição sjabloon szablon шаблон mall قالب subst safesubst msg"
_NAMESPACE = re.compile(rf"(?:{'|'.join(_NAMESPACES.split())}):")
_TOKEN = re.compile(r"\{[^{}]*\}|\\.|[\[\]]|[^\[\]{}\\]+|[{}\\]", re.DOTALL)
_ORDINAL = re.compile(r"(?:\d+|[ivxlcdm]+)(?:er|ers|re|e|es|ère|ème|nd|nde|o|a)(?: siècle)?(?: av\. j\.-c\.)?")
_WORD = re.compile(r"[^\W\d_]{2}|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_NOTE = re.compile(r"ipac?-[a-z-]+|[a-z]{2,3} icon|infobox .*|(?:cite|citar|citeer|cytuj|ref-?) .*|.*-stub")
"""Pronunciations, marks of languages, boxes and quoted works, named by pattern."""
_FILE = r"\S+\.(?:jpe?g|png|svg|gif|ogg|pdf|webm|tiff?)"
_NO_TEXT = re.compile(
    rf"(?:https?:)?//\S*|{_FILE}|#[0-9a-f]{{3,8}}|[a-z-]+: ?[\w#%.-]+;.*|[a-z-]+:[\w#%.-]+|\d+(?:px|em|%)", re.IGNORECASE
)
_CODE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,8})?")
_FUNCTIONS = vars(template_names) | vars(template_numbers)
MAX_NAMED = 3
"""A template that the table does not know, with more named arguments than this, is a box."""


@cache
def patterns(language: str) -> dict[str, str]:
    """Pattern by name in lower case: those of the language, then those of all; a language without any takes those of others."""
    tables = template_data()["shown"]
    others = [] if language in tables else [key for key in tables if key != "*"]
    found: dict[str, str] = {}
    for key in [language, "*", *others]:
        for pattern, names in tables.get(key, {}).items():
            for name in names:
                if key not in others or not name.startswith("lang-"):
                    found.setdefault(name, pattern)
    return found


def plain_name(name: str) -> str:
    """The name of a template as the table has it: lower case, single spaces, without its namespace."""
    return _NAMESPACE.sub("", " ".join(name.replace("_", " ").split()).lower()).strip()


def show(name: str, arguments: Arguments, alone: bool) -> tuple[str, str]:
    """(text, how) of a template: how is "shown", "nothing", "hole", "unknown shown" or "unknown box".

    `name` as written; `alone`: the template stands on a line without other text.
    """
    plain = plain_name(name)
    known = patterns(arguments.language)
    if (pattern := known.get(plain)) is not None:
        return _known(pattern, plain, arguments)
    if plain in template_data()["ship_prefixes"] and arguments.count:
        return _counted(template_names.ship_of(plain.upper(), arguments))
    if plain.startswith("lang-") and arguments.count:
        return _counted(template_names.language_label(arguments, plain[5:], arguments.first("1")))
    if _NOTE.fullmatch(plain):
        return "", "nothing"
    if _ORDINAL.fullmatch(plain) and arguments.language in ("fr", ""):
        return name.strip(), "shown"
    if re.fullmatch(r"[A-Z]{3}", name.strip()) and (country := template_names.country(name.strip(), arguments.language)):
        return ("" if arguments.first("1") == "#" else country), "shown"
    if alone or arguments.named > MAX_NAMED:
        return "", "unknown box"
    return _unknown(arguments)


def _known(pattern: str, name: str, arguments: Arguments) -> tuple[str, str]:
    if not pattern:
        return "", "nothing"
    if pattern.startswith("@"):
        function: Callable[[Arguments, str], str | None] = _FUNCTIONS[pattern[1:]]
        return _counted(function(arguments, name))
    return _counted(_filled(_parsed(pattern), arguments))


def _counted(text: str | None) -> tuple[str, str]:
    return ("", "hole") if text is None else (text, "shown")


@cache
def _parsed(pattern: str) -> tuple[Any, ...]:
    """A pattern as text (str), fields (lists of names) and groups in brackets (tuples of these)."""
    stack: list[list[Any]] = [[]]
    for token in _TOKEN.findall(pattern):
        if token == "[":
            stack.append([])
        elif token == "]":
            group = tuple(stack.pop())
            stack[-1].append(group)
        elif token.startswith("{"):
            stack[-1].append([token[1:-1]] if token.startswith("{*") else token[1:-1].split("/"))
        else:
            stack[-1].append(token.removeprefix("\\"))
    return tuple(stack[0])


def _filled(parts: tuple[Any, ...], arguments: Arguments, group: bool = False) -> str | None:
    """The pattern with its arguments. None when its fields, outside of groups, are all empty, or in a group: one is."""
    text, found = "", []
    for part in parts:
        if isinstance(part, list):
            joined = part[0].startswith("*")
            value = part[0][1:].join(arguments.unnamed()) if joined else arguments.first(*part)
            found.append(value)
        elif isinstance(part, tuple):
            value = _filled(part, arguments, group=True) or ""
        else:
            value = part
        text += value
    missing = not all(found) if group else bool(found) and not any(found)
    return None if missing else text


def _unknown(arguments: Arguments) -> tuple[str, str]:
    """Unnamed arguments that are words: the rule for templates that the table does not know."""
    values = [value for value in arguments.unnamed() if value]
    while len(values) > 1 and _CODE.fullmatch(values[0]):
        values = values[1:]  # the language of what follows
    if not values:
        return "", "hole"
    if not _WORD.search(values[0]):
        return "", "hole"
    words = [value for value in values if _WORD.search(value) and not _NO_TEXT.fullmatch(value)]
    return (" ".join(words), "unknown shown") if words else ("", "hole")
