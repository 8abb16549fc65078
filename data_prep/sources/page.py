"""HTML -> text: what a reader came for, without the page's frame (resiliparse)."""

from __future__ import annotations

import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

_META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
SKIPPED = ["script", "style", "noscript", "template", "svg", "form", "button", "select"]
SKIPPED += [".mw-editsection", "sup.reference", "#toc"]  # of MediaWiki, the most crawled of all page makers


def parse(raw: bytes, declared: str | None = None) -> HTMLTree:
    """The page's tree. Encoding: byte order mark, the HTTP header, <meta charset>, then detection."""
    text = decode_page(raw, declared)
    return HTMLTree.parse(text.replace("\0", ""))


def decode_page(raw: bytes, declared: str | None) -> str:
    """The page's characters; bytes that fit no declared encoding are replaced, never refused."""
    for mark, name in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if raw.startswith(mark):
            return raw[len(mark) :].decode(name, "replace")
    in_page = _META_CHARSET.search(raw, 0, 4096)
    for name in (declared, in_page and in_page.group(1).decode("ascii", "replace"), "utf-8"):
        try:
            if name:
                return raw.decode("cp1252" if name.lower() in ("iso-8859-1", "latin-1", "latin1", "ascii") else name)
        except (LookupError, UnicodeError):
            continue
    return bytes_to_str(raw, detect_encoding(raw[:65536]))


def title_of(tree: HTMLTree) -> str | None:
    """The page's title."""
    return (tree.title or "").strip() or None


def text_of(tree: HTMLTree, main_content: bool = True) -> str:
    """Visible text, paragraphs divided by blank lines; with `main_content` without menus, asides, headers and footers."""
    text = extract_plain_text(
        tree,
        main_content=main_content,
        preserve_formatting=True,
        alt_texts=False,
        links=False,
        form_fields=False,
        noscript=False,
        skip_elements=SKIPPED,
    )
    lines = (line.rstrip().lstrip("\t") for line in text.split("\n"))
    return _BLANK.sub("\n\n", "\n".join(lines)).strip()
