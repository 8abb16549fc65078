"""JSON as data sets have it."""

from __future__ import annotations

import json
from typing import Any

import orjson

from data_prep.sources.files import decode


def loads(raw: bytes) -> Any:
    """The value of a JSON text: as the standard has it, or with what Python's json writes beyond: NaN (it becomes null), lone
    surrogates (U+FFFD). What is no UTF-8 is read as Windows-1252.

    Raises ValueError.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if not _is_utf_8(raw):
            return loads(decode(raw)[0].encode())
        if not (b"\\u" in raw or b"NaN" in raw or b"Infinity" in raw):
            raise
        try:
            text = json.dumps(json.loads(raw, parse_constant=lambda _: None), ensure_ascii=False)
        except (ValueError, RecursionError):
            raise error from None
        return orjson.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def _is_utf_8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
