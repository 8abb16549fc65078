"""Join the lines of prose that was wrapped at a fixed width; keep those of verse, lists, tables and plays.

The sign is not how long the lines are but why they end: a wrapped line ends because the first word of the next one did not fit
any more. A line behind which that word would have fitted ends early; paragraphs with many such lines are kept as they are.
"""

from __future__ import annotations

import re
from itertools import pairwise
from statistics import median

SLACK = 5
"""Characters by which editors left lines shorter than they could be without meaning to end them."""
MOSTLY = 0.34
"""A paragraph is kept when more than this share of its lines ends early at the book's width."""
OWN = 0.15
"""And joined when at most this share ends early at its own width, such as a narrow quotation."""
MANY = 6
"""Lines from which a paragraph's own width says something."""
LEAST_WIDTH = 45
"""Nobody wraps prose at less; characters."""
_BLANK = re.compile(r"\n[ \t]*\n+")
_CJK = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_SUSPENDED = re.compile(r"(?:and|or|to|nor|und|oder|bis|et|ou|y|o|en|of|e|och|og|eller)\b")
"""Words after which a hyphen at the end of a line is none within a word: two- and threefold."""


def unwrap(text: str) -> str:
    """The text with each prose paragraph on one line. Paragraphs are separated by blank lines.

    Words wrapped at any width of 45 characters or more and joined again come out as they were; a hyphen at the end of a line
    stays and its word is made whole.
    """
    paragraphs = [
        paragraph.rstrip().expandtabs().split("\n") for paragraph in _BLANK.split(text.strip("\n")) if paragraph.strip()
    ]
    width = book_width(paragraphs)
    return "\n\n".join(_join(lines) if is_prose(lines, width) else "\n".join(lines) for lines in paragraphs).strip()


def book_width(paragraphs: list[list[str]]) -> int | None:
    """The width at which a book's prose is wrapped, in characters; None where hardly any of its long paragraphs is prose."""
    long = [lines for lines in paragraphs if len(lines) >= MANY and not _is_set_off(lines)]
    widths = [
        _longest(lines) for lines in long if _longest(lines) >= LEAST_WIDTH and _early_share(lines, _longest(lines)) <= OWN
    ]
    if long:
        return int(median(widths)) if len(widths) >= 0.2 * len(long) else None
    longest = max((_longest(lines) for lines in paragraphs), default=0)
    return longest if longest >= LEAST_WIDTH else None


def is_prose(lines: list[str], width: int | None) -> bool:
    """Whether a paragraph's lines end where they do for lack of room. `width` is the book's, see book_width."""
    if len(lines) == 1 or _is_set_off(lines):
        return False
    if len(lines) > MANY and _longest(lines) >= LEAST_WIDTH and _early_share(lines, _longest(lines)) <= OWN:
        return True
    return width is not None and _early_share(lines, width - SLACK if width > LEAST_WIDTH + SLACK else width) <= MOSTLY


def _is_set_off(lines: list[str]) -> bool:
    """Whether lines behind the first are indented, or have columns: verse with indents, tables, lists."""
    columns = sum("   " in line.strip() for line in lines)
    return any(line.startswith(" ") for line in lines[1:]) or columns > len(lines) / 2


def _longest(lines: list[str]) -> int:
    return max(len(line.rstrip()) for line in lines)


def _early_share(lines: list[str], width: int) -> float:
    """The share of lines, without the last, behind which the next line's first word would have fitted."""
    early = 0
    for line, following in pairwise(lines):
        word = following.split(maxsplit=1)[0]
        # of Chinese: a character and the mark that may not begin a line
        early += len(line.rstrip()) + (2 if _CJK.match(word) else 1 + len(word)) <= width
    return early / max(1, len(lines) - 1)


def _join(lines: list[str]) -> str:
    text = lines[0].strip()
    for line in lines[1:]:
        following = line.strip()
        hyphenated = re.search(r"[^\W\d_]-$|\w--$", text) and not _SUSPENDED.match(following)
        unspaced = hyphenated or (_CJK.match(text[-1:]) and _CJK.match(following))
        text += following if unspaced else f" {following}"
    return text
