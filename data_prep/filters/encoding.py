"""Encoding repair: mojibake, control characters, Unicode composition."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from typing import Literal

import ftfy
from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import pieces

_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]")
_NEWLINE = re.compile("\r\n?|\x0c|\u2028|\u2029|\x85")
_SUSPECT = re.compile("[ÂÃâåÐÑ×Ø][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|ï»¿|ï¿½")
_SURROGATE = re.compile("[\ud800-\udfff]")


class EncodingRepair(FilterSettings):
    """Mends text decoded with the wrong encoding (ftfy), removes control and zero-width characters, composes Unicode (NFC)."""

    type: Literal["encoding_repair"]
    max_replacement_share: float = Field(default=0.01, ge=0, le=1)
    """Documents with a larger share of U+FFFD, the sign of bytes that could not be decoded, are dropped."""


def apply(document: Document, settings: EncodingRepair) -> Document | Drop:
    """Repair by paragraph, and only paragraphs that look broken: ftfy reads 1 MB/s. Zero-width joiners stay: Indic scripts,
    Persian and emoji need them. Not implemented: guessing an encoding other than those ftfy knows."""
    lost = document.text.count("\ufffd") + sum(1 for _ in _SURROGATE.finditer(document.text))
    if lost > settings.max_replacement_share * len(document.text):
        return Drop("undecodable characters", f"{lost} of {len(document.text)}, at most {settings.max_replacement_share:.1%}")
    text = "".join(map(_repair, pieces(document.text)))
    return document if text == document.text else replace(document, text=text)


def _repair(text: str) -> str:
    text = _NEWLINE.sub("\n", text)
    if _SUSPECT.search(text):
        text = "\n".join(ftfy.fix_encoding(line) if _SUSPECT.search(line) else line for line in text.split("\n"))
    return unicodedata.normalize("NFC", _SURROGATE.sub("\ufffd", _CONTROL.sub("", text)))
