"""What a document is made of: prose, program code, or no text at all (tables of numbers, encoded data, binary remains)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import replace
from typing import Literal

from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import lines

LOOKED_AT = 100_000
"""Characters of a document that are judged: from its beginning, middle and end alike."""
_KEYWORD = re.compile(
    r"(?:(?:export |public |private |protected |static |async |final |abstract |const |inline |pub |unsafe )*"
    r"(?:def \w+\s*\(|class \w+\s*[(:{]|fn \w+|func \w+\(|function\b\s*\w*\s*\(|interface \w+\s*\{|struct \w+|enum \w+\s*[:{]"
    r"|namespace \w+|package [\w.]+;?$|impl\b.*\{)"
    r"|import [\w.{*\"'<]+(?: as \w+| from .+)?;?$|from [\w.]+ import |#\s*(?:include|define|ifdef|ifndef|if|endif)\b"
    r"|using [\w.]+;|return\b[^.]*;?$|(?:let|var|const)\s+[\w{\[].*=|if\s*\(.*\)\s*\{?$|if .+:$|for\s*\(.*|for \w.* in .+:$"
    r"|while\s*\(?.+\)?\s*[:{]$|else\b\s*[:{]$|elif .+:$|try\s*[:{]$|except\b.*:$|catch\s*\(|finally\s*[:{]$|@\w+(?:\(.*\))?$"
    r"|(?:SELECT|INSERT INTO|UPDATE|CREATE TABLE|ALTER TABLE|DELETE FROM)\b|\$\w+\s*=|end$|fi$|done$|esac$|then$|do$|echo\b"
    r"|(?:int|void|char|float|double|bool|long|unsigned|size_t|string|auto)\s+[\w*&:]+\s*[=;(\[,])"
)
_ASSIGNMENT = re.compile(r"[\w.\[\]\"'>)(, *-]+?(?:[-+*/|&^:%]|<<|>>|\?\?)?=\s*[^=\s]")
_CALL = re.compile(r"\w\(")
_COMMENT = re.compile(r"(?://|/\*|\*/|\* |#!|--\s|<!--|\"\"\"|''')")
_ENDINGS = (";", "{", "}", "\\", "(", "[", "=>", "&&", "||", '",', "',", "],", "),", "},")
_MARKUP = re.compile(r"</?[a-zA-Z][\w:-]*(?:\s[^<>]*)?/?>|<!DOCTYPE", re.IGNORECASE)
_DECLARATION = re.compile(r"[\w-]+\s*:\s*[^;{}]+;$")
_KEY_VALUE = re.compile(r"[\"'][^\"']*[\"']\s*:\s*(?:[\"'\[{\d-]|true|false|null)")
_ENCODED = re.compile(r"[A-Za-z0-9+/_=-]{60,}|(?:[0-9a-fA-F]{2}[\s:,]+){16,}|(?:0x[0-9a-fA-F]+[\s,]+){8,}")
_PLAIN_END = (".", "?", "!", "”", "。", "！", "？", "…", "।", "؟")


class Content(FilterSettings):
    """Tells code and non-text from text; what becomes of each is the recipe's to say."""

    type: Literal["content"]
    code: Literal["keep", "drop"] = "drop"
    """What becomes of documents that are mostly program code, markup or data."""
    max_code_lines: float = Field(default=0.3, gt=0, le=1)
    """Documents with a larger share of lines (by characters) that read as code are code."""
    non_text: Literal["keep", "drop"] = "drop"
    """What becomes of documents that are no text: numbers, encoded data, binary remains."""
    min_letters: float = Field(default=0.5, ge=0, lt=1)
    """Smallest share of letters and marks among the characters that are not white space."""
    max_encoded: float = Field(default=0.3, gt=0, le=1)
    """Largest share of characters within runs such as base64 or hexadecimal dumps."""
    max_unprintable: float = Field(default=0.02, ge=0, le=1)
    """Largest share of control, private and unassigned characters and of U+FFFD."""


def apply(document: Document, settings: Content) -> Document | Drop:
    """Our own rules, for there is no paper that gives any for mixed corpora; bench/quality.py measures them on files of known
    kind. Kept documents of either kind are marked in the metadata (`content`: "code" or "non-text").

    Not implemented: telling programming languages apart; taking code blocks out of prose; StarCoder's rules on the quality of
    code (Li et al. 2023, section 3).
    """
    text = sample(document.text)
    found = non_text(text, settings)
    if found:
        return _verdict(document, "non-text", settings.non_text, found)
    share = code_share(text)
    if share > settings.max_code_lines:
        return _verdict(document, "code", settings.code, f"{share:.0%} of the text reads as code")
    return document


def _verdict(document: Document, kind: str, policy: str, detail: str) -> Document | Drop:
    if policy == "drop":
        return Drop(kind, detail)
    return replace(document, metadata={**document.metadata, "content": kind})


def sample(text: str) -> str:
    """The text, or of a long one three pieces of whole lines."""
    if len(text) <= LOOKED_AT:
        return text
    size = LOOKED_AT // 3
    pieces = [text[start : start + size] for start in (0, (len(text) - size) // 2, len(text) - size)]
    return "\n".join(piece.partition("\n")[2] or piece for piece in pieces)


def non_text(text: str, settings: Content) -> str:
    """Why the text is none; "" when it is one."""
    kinds: Counter[str] = Counter()
    for character, count in Counter(text).items():
        kind = "space" if character.isspace() else unicodedata.category(character)
        kinds["bad" if character == "\ufffd" or kind in ("Cc", "Co", "Cn", "Cs") else kind[0] if kind != "space" else kind] += (
            count
        )
    visible = len(text) - kinds["space"]
    if not visible:
        return ""
    if kinds["bad"] > settings.max_unprintable * visible:
        return f"{kinds['bad'] / visible:.1%} of the characters cannot be printed"
    letters = kinds["L"] + kinds["M"]
    if letters < settings.min_letters * visible:
        return f"{letters / visible:.0%} of the characters are letters"
    encoded = sum(len(match.group()) for match in _ENCODED.finditer(text) if _looks_encoded(match.group()))
    if encoded > settings.max_encoded * len(text):
        return f"{encoded / len(text):.0%} of the text is encoded data"
    return ""


def _looks_encoded(run: str) -> bool:
    """Not a word, address path or ruler: upper and lower case, or letters and digits, mixed."""
    kinds = (any(c.isdigit() for c in run), any(c.isupper() for c in run), any(c.islower() for c in run))
    return sum(kinds) >= 2 and len(set(run)) >= 6


def code_share(text: str) -> float:
    """Share of the characters in lines that read as code, the lines between two such lines (comments, strings) included."""
    rows = lines(text)
    marks = [_reads_as_code(row) for row in rows]
    # a line of words alone between lines of code belongs to them: strings, comments, arguments
    for index in range(1, len(rows) - 1):
        if not marks[index] and marks[index - 1] and any(marks[index + 1 : index + 3]) and not _is_sentence(rows[index]):
            marks[index] = True
    total = sum(min(len(row), 200) for row in rows)
    return sum(min(len(row), 200) for row, mark in zip(rows, marks, strict=True) if mark) / total if total else 0.0


def _is_sentence(row: str) -> bool:
    return row.count(" ") >= 7 and row.endswith(_PLAIN_END)


def _reads_as_code(row: str) -> bool:
    if row.startswith(("$$", "\\")):  # LaTeX is how papers write
        return False
    if len(row) <= 2:
        return row in ("{", "}", "};", "})", ")", "]", "),", "],", "},", "*/", "/*", "();")
    if _KEYWORD.match(row) or _MARKUP.match(row) or _KEY_VALUE.match(row):
        return True
    words = row.count(" ") + 1
    if _COMMENT.match(row):
        return not row.startswith(("* ", "--")) or words < 12
    symbols = sum(row.count(mark) for mark in "{}[]()<>=;_|&$@\\/+*#`:")
    if words >= 12 and symbols < words / 4:
        return False  # a long line of words that happens to end in a semicolon or comma
    if row.endswith(_PLAIN_END) and row.count(" ") >= 3:
        return False
    if _ASSIGNMENT.match(row) or _DECLARATION.match(row) or (_CALL.search(row) and row.endswith((")", ":", *_ENDINGS))):
        return symbols >= 2
    return row.endswith(_ENDINGS) and symbols * 1.5 >= len(row) ** 0.5
