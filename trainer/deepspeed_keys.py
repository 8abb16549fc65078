"""DeepSpeed's own keys, checked: it ignores most misspelt ones in silence.

The table deepspeed_keys.json is a JSON Schema written by tools/deepspeed_keys.py from DeepSpeed itself, so that checking
needs no import of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from strict_json import ConfigError, did_you_mean

TABLE = Path(__file__).with_name("deepspeed_keys.json")
_KINDS = {"boolean": bool, "integer": int, "number": (int, float), "string": str, "array": list, "object": dict}


@cache
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def json_schema() -> dict[str, Any]:
    """JSON Schema of the `deepspeed` section; every value may also be "auto"."""
    return _with_auto(_table()["schema"], top=True)


def check(config: dict[str, Any]) -> None:
    """Raise ConfigError listing each key that DeepSpeed does not know, has removed, or that holds a value of the wrong kind.

    "auto" passes everywhere: what becomes of it is decided where keys are derived.
    """
    mistakes = list(_mistakes(config, _table()["schema"], ""))
    if mistakes:
        raise ConfigError("\n  ".join(["the deepspeed section:", *mistakes]))


def _mistakes(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    if value == "auto":
        return
    shown = f"deepspeed.{path}" if path else "deepspeed"
    kind = schema.get("type")
    if kind and not _is_kind(value, kind):
        yield f"{shown} is {json.dumps(value)}, not {'an' if kind[0] in 'aio' else 'a'} {kind}."
        return
    if "enum" in schema and value not in schema["enum"]:
        options = ", ".join(json.dumps(option) for option in schema["enum"])
        yield f"{shown} is {json.dumps(value)}, not one of {options}."
    if "properties" not in schema or not isinstance(value, dict):
        return
    for key, inner in value.items():
        dotted = f"{path}.{key}" if path else key
        if key in schema["properties"]:
            yield from _mistakes(inner, schema["properties"][key], dotted)
        elif dotted in _table()["removed"]:
            yield f"deepspeed.{dotted}: {_table()['removed'][dotted]}"
        else:
            yield f'deepspeed.{dotted}: DeepSpeed has no key "{key}" here and would ignore it.{_hint(key, schema)}'


def _hint(key: str, schema: dict[str, Any]) -> str:
    near = did_you_mean(key, schema["properties"])
    if near:
        return near
    homes = [path for path in _paths(_table()["schema"]) if path.rpartition(".")[2] == key]
    if homes:
        return f" It belongs at deepspeed.{' or deepspeed.'.join(homes)}."
    return f" Known here: {', '.join(schema['properties'])}." if len(schema["properties"]) < 20 else ""


def _paths(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, inner in schema.get("properties", {}).items():
        yield prefix + key
        yield from _paths(inner, f"{prefix}{key}.")


def _is_kind(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()  # 5e8 is how many write bucket sizes
    return isinstance(value, _KINDS[kind])


def _with_auto(schema: dict[str, Any], top: bool = False) -> dict[str, Any]:
    result = dict(schema)
    if "properties" in result:
        result["properties"] = {key: _with_auto(inner) for key, inner in result["properties"].items()}
    if top or not ("type" in result or "enum" in result):
        return result
    described = {key: result.pop(key) for key in ("description", "default", "deprecated") if key in result}
    return {"anyOf": [result, {"const": "auto"}], **described}
