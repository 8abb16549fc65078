"""Read what a page says of itself: title, author, language, date, address, licence, and signals against training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import orjson
from resiliparse.parse.html import HTMLTree

from data_prep.sources import page, signals

MAX_DATA = 1 << 20
"""Bytes of one JSON-LD script that are read."""
_DATES = (
    "article:published_time", "datepublished", "dc.date", "dc.date.issued", "dcterms.date", "dcterms.created", "dcterms.issued",
    "date", "pubdate", "publishdate", "citation_publication_date", "citation_date", "parsely-pub-date", "sailthru.date",
)  # fmt: skip
_AUTHORS = ("author", "article:author", "dc.creator", "dcterms.creator", "citation_author", "parsely-author")
_DATE = re.compile(r"(?:1[89]|20)\d\d\b.*|.*\b(?:1[89]|20)\d\d\b")
_NO_AI = re.compile(r"\bno-?(?:image-?)?(?:ai|ml)(?:-?training)?\b", re.IGNORECASE)
_NO_TRAINING = re.compile(r"\b(?:ai-train|train-ai|train-genai)\s*=\s*(?:no?|0|false)\b", re.IGNORECASE)


def facts_of(tree: HTMLTree, headers: Iterable[tuple[str, str]] = ()) -> dict[str, Any]:
    """The well-known metadata that a page carries, without `opt_out`; `headers`: the HTTP response's."""
    metas = list(_metas(tree))
    data = list(_json_ld(tree))
    licence, evidence = signals.licence_of(tree)
    facts = {
        "title": page.title_of(tree),
        "author": _first(metas, _AUTHORS, lambda text: not text.startswith("http")),
        "language": page.language_of(tree) or _language(metas, headers),
        "date": _first(metas, _DATES, _DATE.fullmatch)
        or next(filter(None, (_text(item, "datePublished") for item in data)), None),
        "url": _canonical(tree, metas),
        "licence": licence or next((known for item in data if (known := signals.spdx(_text(item, "license") or ""))), None),
        "licence_evidence": evidence,
    }
    return {key: value for key, value in facts.items() if value}


def opt_outs(tree: HTMLTree | None, headers: Iterable[tuple[str, str]] = ()) -> list[str]:
    """Signals against training: noai and noimageai in X-Robots-Tag and in meta tags for robots or for one agent, TDMRep's
    tdm-reservation (W3C community report, 2024), and Content-Usage or Content-Signal that deny training (IETF aipref drafts,
    contentsignals.org). noindex is not one: it speaks of search. Sorted, without repeats."""
    found = set()
    spoken = [(name.strip().lower().replace("_", "-"), value, "") for name, value in headers]
    spoken += [(name, value, "meta: ") for name, value in (_metas(tree) if tree is not None else [])]
    for name, value, place in spoken:
        if name in ("tdm-reservation", "tdmrep") and value.strip().strip("\"'") in ("1", "true"):
            found.add("tdm-reservation")
        elif name in ("content-usage", "content-signal") and denies_training(value):
            found.add(f"{place}{name}")
        elif name == "x-robots-tag" or (place and not _speaks_to_people(name)):
            found |= {f"{place or 'X-Robots-Tag: '}{match.lower()}" for match in _NO_AI.findall(value)}
    return sorted(found)


def denies_training(value: str) -> bool:
    """True where a Content-Usage or Content-Signal value says no to training: "ai-train=no", "train-ai=n"."""
    return _NO_TRAINING.search(value) is not None


def _speaks_to_people(name: str) -> bool:
    """True for meta tags whose content is prose, where "no AI" would be a topic and not a rule."""
    return any(word in name for word in ("description", "title", "keyword", "author", "abstract", "subject", "news_", "name"))


def _metas(tree: HTMLTree) -> Iterator[tuple[str, str]]:
    """(name in lower case, content) of the page's meta tags; the name may be in property, itemprop or http-equiv."""
    for node in tree.document.query_selector_all("meta[content]") if tree.document else []:
        for key in ("name", "property", "itemprop", "http-equiv"):
            if name := node.getattr(key):
                yield name.strip().lower(), node.getattr("content") or ""


def _first(metas: list[tuple[str, str]], names: tuple[str, ...], is_one: Any) -> str | None:
    """The value of the first of the names that the page gives one, on one line."""
    for wanted in names:
        for name, value in metas:
            if name == wanted and (value := " ".join(value.split())) and len(value) < 200 and is_one(value):
                return value
    return None


def _language(metas: list[tuple[str, str]], headers: Iterable[tuple[str, str]]) -> str | None:
    """The language of Content-Language, where it is one, without its region."""
    said = [
        value for name, value in [*metas, *((name.lower(), value) for name, value in headers)] if name == "content-language"
    ]
    return page.primary_language(said[0]) if said else None


def _canonical(tree: HTMLTree, metas: list[tuple[str, str]]) -> str | None:
    nodes = tree.document.query_selector_all("link[rel~='canonical']") if tree.document else []
    named = [node.getattr("href") or "" for node in nodes] + [value for name, value in metas if name == "og:url"]
    return next((url.strip() for url in named if re.match(r"\s*https?://\S+\s*$", url)), None)


def _json_ld(tree: HTMLTree) -> Iterator[dict[str, Any]]:
    """The objects of the page's JSON-LD, its own before those within."""
    for node in tree.document.query_selector_all("script[type='application/ld+json']") if tree.document else []:
        with suppress(orjson.JSONDecodeError):
            data = orjson.loads(node.text) if len(node.text) < MAX_DATA else None
            stack = data if isinstance(data, list) else [data]
            for item in stack:
                if isinstance(item, dict):
                    inner = item.get("@graph")
                    yield from (
                        [item, *(inner_item for inner_item in inner if isinstance(inner_item, dict))]
                        if isinstance(inner, list)
                        else [item]
                    )


def _text(item: dict[str, Any], key: str) -> str | None:
    value = item.get(key)
    return value.strip() if isinstance(value, str) and value.strip() and len(value) < 500 else None
