"""Values of Arrow tables and other typed records as JSON has them: what Python or JSON cannot hold becomes text, or null."""

from __future__ import annotations

import base64
import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

LARGEST = 2**63


def plain(value: Any) -> Any:
    """A value that JSON can hold: times, decimals, durations and ids as text, bytes as their text or base64, NaN as null,
    integers beyond 64 bits as their digits."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return int(value) if -LARGEST <= value < 2 * LARGEST else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _text_of(bytes(value))
    if isinstance(value, (datetime, date, time, timedelta, Decimal)):
        return None if str(value) in ("NaT", "NaN", "Infinity", "-Infinity") else str(value)
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _text_of(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode()


def column_values(column: pa.Array, labels: list[str] | None = None) -> list[Any]:
    """The values of a column, each `plain`; `labels` are the names of a class's numbers. A value that Python cannot hold, such
    as a time out of range or in an unknown zone, costs itself alone: it becomes Arrow's text of it, or null."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    try:
        values = column.to_pylist()
    except Exception:  # Arrow, zoneinfo and datetime each raise kinds of their own
        values = _one_by_one(column)
    if labels is not None:
        return [labels[v] if isinstance(v, int) and 0 <= v < len(labels) else plain(v) for v in values]
    if pa.types.is_map(column.type):
        values = [value if value is None else dict(value) for value in values]
    return [plain(value) for value in values]


def _one_by_one(column: pa.Array) -> list[Any]:
    if pa.types.is_struct(column.type):
        fields = [column_values(column.field(index)) for index in range(column.type.num_fields)]
        names = [field.name for field in column.type]
        valid = column.is_valid().to_pylist()
        return [
            dict(zip(names, row, strict=True)) if there else None
            for row, there in zip(zip(*fields, strict=True), valid, strict=True)
        ]
    return [_python_value(scalar) for scalar in column]


def _python_value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except Exception:  # as above
        if isinstance(scalar, (pa.ListScalar, pa.LargeListScalar)):
            return _one_by_one(scalar.values)
        return _arrow_text(scalar)


def _arrow_text(scalar: pa.Scalar) -> str | None:
    zone = getattr(scalar.type, "tz", None)
    try:
        if zone is not None:  # the zone is unknown to this machine: the time is UTC
            return f"{scalar.cast(pa.int64()).cast(pa.timestamp(scalar.type.unit)).cast(pa.string()).as_py()} UTC"
        return scalar.cast(pa.string()).as_py()
    except Exception:  # a kind that has no text
        return None


def labels_of(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of classes by column, where Hugging Face datasets has written them beside the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        classes = {name: f["names"] for name, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
        return {name: list(names) for name, names in classes.items() if isinstance(names, list)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
