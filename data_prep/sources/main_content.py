"""Cut a page down to what a reader came for: the article, without menus, comments, related items, sharing and promotion.

Two steps, as the best of the field do them (trafilatura, Readability): elements whose tag, role, class or id names a part of
the frame go, unless much of the page's text is in them; then the smallest element that holds most of the text is sought.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

from resiliparse.parse.html import DOMNode, HTMLTree

MAX_NAMED = 30_000
"""Elements with a class or id that are looked at."""
LARGE = 0.5
"""Share of the page's text outside links that makes an element too large to be frame."""
LEAST = 0.25
"""Share of that text which must be left, else nothing is frame."""
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
_WORDS = frozenset(
    ["comment", "comments", "commentlist", "respond", "reply", "replies", "livefyre", "popular", "trending", "nav", "navs", "navbar", "navigation", "navi", "menu", "menus", "submenu", "crumb", "crumbs", "breadcrumb", "breadcrumbs", "pagination", "pager", "paging", "foot", "masthead", "topbar", "registration", "login", "signin", "ad", "ads", "adbox", "popup", "popover", "lightbox", "tooltip", "toolbar", "tools", "toolbox", "byline", "bylines", "bio", "biography", "tag", "tags", "tagged", "category", "categories", "dateline", "timestamp", "published", "print", "caption", "captions", "credit", "credits", "disclaimer", "legal", "vote", "votes", "poll", "quiz", "survey", "feedback", "hidden", "toc", "teaser", "teasers", "carousel", "slider", "slideshow", "gallery", "player", "noprint", "printfooter", "catlinks", "share", "shares", "shared", "sharer", "sharing", "paywall", "sidebar", "sidebars", "widgets", "overlay"]
)
_BEGINNINGS = (
    "disqus", "comment", "related", "recommend", "recirc", "suggest", "outbrain", "taboola", "social", "addthis",
    "addtoany", "sharedaddy", "sociable", "footer", "newsletter", "subscri", "signup", "mailchimp", "promo", "advert",
    "adsense", "adslot", "sponsor", "affiliate", "banner", "cookie", "consent", "gdpr", "modal", "copyright",
    "rating", "navbox", "sidebar", "breadcrumb", "sharing", "sharebar", "sharebutton",
)  # fmt: skip
_PAIRS = frozenset(
    ["more-from", "more-stories", "more-news", "more-on", "more-articles", "read-more", "read-next", "read-also", "also-read", "also-like", "you-may", "most-read", "most-popular", "most-viewed", "follow-us", "tweet-this", "side-bar", "site-header", "site-footer", "site-map", "mast-head", "top-bar", "header-nav", "header-menu", "header-top", "news-letter", "sign-up", "opt-in", "log-in", "ad-unit", "ad-slot", "ad-wrap", "ad-wrapper", "ad-container", "ad-block", "ad-text", "ad-label", "pop-up", "by-line", "author-bio", "author-box", "author-info", "author-card", "author-profile", "author-meta", "author-desc", "author-about", "author-avatar", "about-author", "about-the", "tag-list", "tag-cloud", "tag-links", "cat-links", "post-meta", "post-info", "post-footer", "post-tags", "post-nav", "post-navigation", "post-date", "entry-meta", "entry-utility", "entry-footer", "entry-info", "article-meta", "article-footer", "article-info", "article-tools", "article-tags", "article-actions", "article-share", "article-social", "meta-data", "meta-info", "wp-caption", "image-credit", "image-caption", "photo-credit", "visually-hidden", "sr-only", "screen-reader", "jump-link", "table-of", "back-to", "card-list", "video-player", "mw-editsection", "mw-jump", "jp-relatedposts"]
)
"""Words of class names and ids by which makers of pages name parts of the frame: whole, by their beginnings, and in pairs."""
_WORD_ENDS = re.compile(r"[-_]+|__+")
_HOLDERS = frozenset(("div", "main", "article", "section", "center", "table", "tbody", "tr", "td", "form", "span"))
_COMMENTS = re.compile(r"comment|disqus|respond|replies", re.IGNORECASE)
_KEPT = re.compile(r"\b(?:article-?body|entry-?content|post-?content|story-?body|content-?body|main-?content)\b", re.IGNORECASE)


def keep_main_content(tree: HTMLTree) -> None:
    """Take everything else out of the tree, in place."""
    body = tree.body
    for node in body.query_selector_all(_GONE)[:]:
        node.decompose()
    total = _unlinked(body)
    removed: list[tuple[DOMNode, DOMNode, DOMNode | None]] = []
    _drop_frame(body, total, removed)
    if _unlinked(body) < min(LEAST * total, TINY):  # what was taken for frame was the page: a forum's posts, a page of cards
        for node, parent, following in reversed(removed):
            parent.insert_before(node, following)
    _drop_menus(body)
    root = _smallest_with_most(body)
    if root.tag != "body":
        body.replace_children(root)


def _drop_frame(body: DOMNode, total: int, removed: list[tuple[DOMNode, DOMNode, DOMNode | None]]) -> None:
    """Remove elements that are named as parts of the frame and hold no large share of the text; note where they were."""

    def drop(node: DOMNode) -> None:
        removed.append((node, node.parent, node.next))
        node.remove()

    for node in body.query_selector_all(_FRAME)[:]:
        if body.contains(node) and not _is_large(node, total):
            drop(node)
    for attribute in ("class", "id"):
        for node in body.query_selector_all(f"[{attribute}]")[:MAX_NAMED]:
            names = node.getattr(attribute)
            if not _names_frame(names) or node.tag in ("body", "main", "article", "h1") or not body.contains(node):
                continue
            rest_is_page = _COMMENTS.search(names) and total - _unlinked(node) > ENOUGH
            if rest_is_page or not _is_large(node, total):
                drop(node)


def _drop_menus(body: DOMNode) -> None:
    """Remove lists of which nearly all the text is in links, outermost first."""
    for items in body.query_selector_all("ul, ol")[:MAX_NAMED]:
        links = items.query_selector_all("a")[:]
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
        words = [word for word in _WORD_ENDS.split(name) if word]
        if not _WORDS.isdisjoint(words) or words[:1] == ["widget"] or any(word.startswith(_BEGINNINGS) for word in words):
            return True
        if any(f"{left}-{right}" in _PAIRS for left, right in pairwise(words)):
            return True
    return False


def _is_large(node: DOMNode, total: int) -> bool:
    return len(node.text) > LARGE * total and _unlinked(node) > LARGE * total


def _unlinked(node: DOMNode) -> int:
    """Characters that are in no link."""
    return len(node.text) - sum(len(link.text) for link in node.query_selector_all("a")[:])


def _smallest_with_most(body: DOMNode) -> DOMNode:
    """The smallest element that holds most of the text of paragraphs."""
    total = _mass(body)
    if not total:
        return body
    node = body
    while True:
        best, mass = None, 0
        for child in node.children[:]:
            size = _mass(child)
            if size > mass:
                best, mass = child, size
        if best is None or best.tag not in _HOLDERS or mass < MOST * total:
            return node
        node = best


def _mass(node: DOMNode) -> int:
    """Characters of paragraphs and the like, without those of a few words."""
    if node.tag in ("p", "pre"):
        return max(0, len(node.text) - 20)
    return sum(max(0, len(block.text) - 20) for block in node.query_selector_all("p, pre, li, td, dd, blockquote")[:])
