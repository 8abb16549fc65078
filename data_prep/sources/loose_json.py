"""JSON as data sets have it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import orjson

from data_prep.sources.text_encoding import Decoded, decode

_LARGE = 2.0**63


def loads(raw: bytes, decode: Callable[[bytes], Decoded] = decode) -> Any:
    """The value of a JSON text: as the standard has it, or with what Python's json writes beyond: numbers that are none or
    beyond all bounds (NaN and 1e400 become null), lone surrogates (U+FFFD). Integers beyond 64 bits, which orjson would
    round to floats, become their digits as text. What is no UTF-8 is read by `decode`.

    Raises ValueError, as Unreadable for bytes in no encoding that can be told.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if not _is_utf_8(raw):
            return loads(decode(raw).text.encode("utf-8", "replace"))
        try:
            return _loads_slowly(raw)
        except (ValueError, RecursionError):
            raise error from None
    return _loads_slowly(raw) if _has_large_number(value) else value


def _loads_slowly(raw: bytes) -> Any:
    value = json.loads(raw, parse_constant=lambda _: None, parse_int=_integer, parse_float=_finite)
    text = json.dumps(value, ensure_ascii=False)
    return orjson.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < 19 or (len(digits) < 21 and -(2**63) <= int(digits) < 2**64) else digits


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _has_large_number(value: Any) -> bool:
    """Whether a float may stand for an integer that orjson rounded."""
    if isinstance(value, float):
        return abs(value) >= _LARGE
    if isinstance(value, dict):
        return any(map(_has_large_number, value.values()))
    return isinstance(value, list) and any(map(_has_large_number, value))


def _is_utf_8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
