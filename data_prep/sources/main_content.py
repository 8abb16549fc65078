"""Cut a page down to what a reader came for: the article, without menus, comments, related items, sharing and promotion.

Two steps, as the best of the field do them (trafilatura, Readability): elements whose tag, role, class or id names a part of
the frame go, unless much of the page's text is in them; then the smallest element that holds most of the text is sought.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

from resiliparse.parse.html import DOMNode, HTMLTree

Measure = Callable[[DOMNode], int]
"""Characters of an element that a reader came for."""
MAX_NAMED = 30_000
"""Elements with a class or id that are looked at."""
LARGE = 0.4
"""Share of the page's text outside links that makes an element too large to be frame."""
LEAST = 0.25
"""Share of that text which must be left, else nothing is frame."""
EFFORT = 200_000
"""Elements that are looked at to measure a page, one in another counted each time."""
SHORT = 40
"""Characters outside links of paragraphs that are too short to tell prose."""
TINY = 300
"""Characters outside links that are too few for a page from which much was removed."""
ENOUGH = 1000
"""Characters outside a section of comments that make a page of their own."""
MOST = 0.8
"""Share of the text that the chosen element holds."""

_GONE = (
    "script, style, noscript, template, svg, iframe, object, video, audio, canvas, button, select, input, textarea, option, "
    "datalist, nav, menu"
)
_FRAME = (
    "aside, body > header, body > div > header, footer, form, figcaption, dialog, [role=navigation], [role=banner], "
    "[role=contentinfo], "
    "[role=complementary], [role=search], [role=dialog], "
    "[role=alert], [role=menu], [role=menubar], [role=tablist], [role=toolbar], [hidden]"
)


def _read_names() -> list[frozenset[str]]:
    """The three lists of data/frame_names.txt."""
    lines = (Path(__file__).parent / "data" / "frame_names.txt").read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    return [frozenset(part.split()) for part in re.split(r"^\[.*\]$", text, flags=re.MULTILINE)[1:]]


_WORDS, _beginnings, _PAIRS = _read_names()
_BEGINNINGS = tuple(sorted(_beginnings))
"""Words of class names and ids by which makers of pages name parts of the frame: whole, by their beginnings, and in pairs."""
_WORD_ENDS = re.compile(r"[-_]+|__+")
_HOLDERS = frozenset(("div", "main", "article", "section", "center", "table", "tbody", "tr", "td", "form", "span"))
_STATES = (
    "has-",
    "has_",
    "is-",
    "with-",
    "no-",
    "js-",
    "one-",
    "two-",
    "hide-",
    "category-",
    "tag-",
    "field-label",
    "promoted",
)
"""Beginnings of names that tell the state of what they stand on."""
_EXACT = frozenset(("category", "categories", "tag", "tags", "tagged", "hidden", "gallery", "print", "paywall", "feedback"))
"""Words that name a part of the frame only where nothing is added."""
_COMMENTS = re.compile(r"comment|disqus|respond|replies", re.IGNORECASE)
_KEPT = re.compile(
    r"\b(?:article-?body|entry-?content|post-?content|story-?body|content-?body|main-?content|hentry|type-post|type-page|"
    r"field-{1,2}name-body|view-mode-full)\b",
    re.IGNORECASE,
)


@dataclass
class Budget:
    """Bounds the work on one page: elements within elements would else be counted again at every level."""

    left: int

    def nodes(self, node: DOMNode, selector: str) -> tuple[DOMNode, ...]:
        """The elements of a selector; none once the budget is spent."""
        if self.left <= 0:
            return ()
        found = node.query_selector_all(selector)[:]
        self.left -= len(found) + len(node.text) // 100 + 1
        return found


def keep_main_content(tree: HTMLTree) -> None:
    """Take everything else out of the tree, in place."""
    body = tree.body
    for node in body.query_selector_all(_GONE)[:]:
        node.decompose()
    budget = Budget(EFFORT)
    measure = partial(_prose, budget) if _prose(budget, body) >= ENOUGH / 2 else partial(_unlinked, budget)
    total = measure(body)
    removed: list[tuple[DOMNode, DOMNode, DOMNode | None]] = []
    _drop_frame(body, measure, removed)
    if measure(body) < min(LEAST * total, TINY):  # what was taken for frame was the page: a forum's posts, a page of cards
        for node, parent, following in reversed(removed):
            parent.insert_before(node, following)
    _drop_menus(body, budget)
    root = _smallest_with_most(body, measure)
    if root.tag != "body":
        body.replace_children(root)


def _drop_frame(body: DOMNode, measure: Measure, removed: list[tuple[DOMNode, DOMNode, DOMNode | None]]) -> None:
    """Remove elements that are named as parts of the frame and hold no large share of the text; note where they were."""

    def drop(node: DOMNode) -> None:
        removed.append((node, node.parent, node.next))
        node.remove()

    total = measure(body)
    for node in body.query_selector_all(_FRAME)[:]:
        if body.contains(node) and measure(node) <= LARGE * total:
            drop(node)
    for attribute in ("class", "id"):
        for node in body.query_selector_all(f"[{attribute}]")[:MAX_NAMED]:
            names = node.getattr(attribute)
            if not _names_frame(names) or node.tag in ("body", "main", "article", "h1") or not body.contains(node):
                continue
            size = measure(node)
            if size <= LARGE * total or (_COMMENTS.search(names) and total - size > ENOUGH):
                drop(node)


def _drop_menus(body: DOMNode, budget: Budget) -> None:
    """Remove lists of which nearly all the text is in links, outermost first."""
    for items in body.query_selector_all("ul, ol")[:MAX_NAMED]:
        links = budget.nodes(items, "a")
        if len(links) > 1 and body.contains(items):
            size = len(" ".join(items.text.split()))
            if sum(len(link.text) for link in links) > 0.8 * size:
                items.remove()


@lru_cache(maxsize=1 << 16)
def _names_frame(names: str) -> bool:
    """True for class names, or an id, of which a word names a part of the frame and none the content."""
    if _KEPT.search(names):
        return False
    for name in names.lower().split():
        if name.startswith(_STATES):
            continue
        if name in _EXACT:
            return True
        words = [word for word in _WORD_ENDS.split(name) if word]
        if not _WORDS.isdisjoint(words) or words[:1] == ["widget"] or any(word.startswith(_BEGINNINGS) for word in words):
            return True
        if any(f"{left}-{right}" in _PAIRS for left, right in pairwise(words)):
            return True
    return False


def _prose(budget: Budget, node: DOMNode) -> int:
    """Characters of paragraphs, without short ones and those of links."""
    if node.tag in ("p", "pre"):
        return _unlinked(budget, node)
    sizes = [len(block.text) for block in budget.nodes(node, "p, pre")]
    linked = sum(len(link.text) for link in budget.nodes(node, "p a, pre a")) if sizes else 0
    return max(0, sum(size for size in sizes if size > SHORT) - linked)


def _unlinked(budget: Budget, node: DOMNode) -> int:
    """Characters that are in no link."""
    return len(node.text) - sum(len(link.text) for link in budget.nodes(node, "a"))


def _smallest_with_most(body: DOMNode, measure: Measure) -> DOMNode:
    """The smallest element that holds most of the text."""
    least = MOST * measure(body)
    node = body
    while True:
        best = max(node.children[:], key=measure, default=None)
        if best is None or best.tag not in _HOLDERS or measure(best) < least:
            return node
        node = best
