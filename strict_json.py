"""The one strict reader of the JSON files that users edit: run files (trainer) and recipes (data_prep).

JSON configs of this field are read leniently, and a misspelt key that is ignored in silence costs days. Here every
key is known or refused with the nearest right one, a key given twice is refused, NaN and Infinity are refused, and
all mistakes of a file are reported together.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A mistake in a file that the user wrote; the message names the file, the key and the way out."""


class StrictModel(BaseModel):
    """A config section: unknown keys are refused, values are not coerced between types, instances are immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


Model = TypeVar("Model", bound=StrictModel)


def read(path: str | Path) -> dict[str, Any]:
    """Read one JSON object. Raises ConfigError for a missing file, bad JSON, a repeated key, NaN or Infinity."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [str(p) for p in sorted(path.parent.glob("*.json"))] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file.{did_you_mean(str(path), siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply for a configuration.") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}, column {error.colno}: {_json_mistake(text, error)}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the file must hold one JSON object, not {_json_type(value)}.")
    return value


def override(config: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Apply `--set section.key=value` assignments to a copy of `config`; a value that is not JSON is taken as text."""
    config = json.loads(json.dumps(config))
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        keys = dotted.split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set {assignment}: expected section.key=value.")
        try:
            value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        except json.JSONDecodeError:
            value = text
        parent = config
        for key in keys[:-1]:
            parent = parent.setdefault(key, {})
            if not isinstance(parent, dict):
                raise ConfigError(f"--set {assignment}: {key} holds a value, not a section.")
        parent[keys[-1]] = value
    return config


def validate(model: type[Model], config: dict[str, Any], origin: str | Path) -> Model:
    """Check `config` against `model`. Raises ConfigError that lists every mistake with its dotted key."""
    try:
        return model.model_validate_json(json.dumps(config))
    except ValidationError as error:
        mistakes = [_describe(model, mistake) for mistake in _alternatives_joined(model, error.errors(include_url=False))]
        raise ConfigError("\n".join([f"{origin}:", *(f"  {mistake}" for mistake in mistakes)])) from None


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """' Did you mean "x"?' for the nearest of `known`, or '' when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""


def _alternatives_joined(model: type[StrictModel], mistakes: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Mistakes, those of one value that is none of several kinds (pydantic: one per kind, with the kind's name) as one."""
    joined: dict[tuple[str | int, ...], dict[str, Any]] = {}
    for mistake in mistakes:
        *place, kind = mistake["loc"] or ("",)
        section, field = _model_at(model, place[:-1]), place[-1] if place else None
        known = section.model_fields.get(field) if section is not None and isinstance(field, str) else None
        plain = known is not None and get_origin(known.annotation) in (Union, UnionType) and not [*_models_in(known.annotation)]
        if not plain or not isinstance(kind, str) or mistake["type"] == "extra_forbidden":
            joined[mistake["loc"]] = mistake
        elif tuple(place) in joined:
            other = mistake["msg"].removeprefix("Input should be ")
            joined[tuple(place)]["msg"] += f", or {other}"
        else:
            joined[tuple(place)] = mistake | {"loc": tuple(place)}
    yield from joined.values()


def _describe(model: type[StrictModel], mistake: dict[str, Any]) -> str:
    location = [str(part) for part in mistake["loc"]]
    dotted = ".".join(location)
    if mistake["type"] == "extra_forbidden":
        section = _model_at(model, mistake["loc"][:-1])
        known = sorted(field.alias or name for name, field in section.model_fields.items()) if section else []
        hint = did_you_mean(location[-1], known)
        if not hint:
            homes = [name for name in _dotted_keys(model) if name.rpartition(".")[2] == location[-1]]
            hint = f" It belongs at {' or '.join(homes)}." if homes else f" Known here: {', '.join(known)}."
        return f'{dotted}: unknown key "{location[-1]}".{hint}'
    if mistake["type"] == "missing":
        return f"{dotted}: this key is required and missing."
    if mistake["type"] == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in mistake["ctx"]["expected_tags"].split(", ")]
        tag = mistake["ctx"]["tag"]
        hint = did_you_mean(tag, tags) or f" Known here: {', '.join(sorted(tags))}."
        return f'{dotted}.type: there is no type "{tag}".{hint}'
    if mistake["type"] == "union_tag_not_found":
        return f"{dotted}.type: this key is required and missing."
    message = mistake["msg"].removeprefix("Value error, ")
    value = mistake.get("input")
    shown = f" (got {json.dumps(value)})" if isinstance(value, (str, int, float, bool)) or value is None else ""
    if mistake["type"] == "string_too_short" and value == "":
        return f"{dotted}: must not be empty."
    return f"{dotted}: {(message + shown).removesuffix('.')}." if dotted else f"{message}"


def _model_at(model: type[BaseModel], location: Iterable[str | int]) -> type[BaseModel] | None:
    """The section class at a pydantic error location; list indices and union tags are stepped over."""
    current: type[BaseModel] | None = model
    candidates: list[type[BaseModel]] = [model]
    for part in location:
        if isinstance(part, str) and current is not None and part in current.model_fields:
            candidates = list(_models_in(current.model_fields[part].annotation))
            current = candidates[0] if len(candidates) == 1 else None
        else:  # an index into a list, or pydantic's tag for the member of a union that it tried
            tagged = [c for c in candidates if c.__name__ == part or _tag_of(c) == part]
            if len(tagged) == 1:
                current = tagged[0]
            elif current is None and candidates and not isinstance(part, int):
                return None
    return current


def _tag_of(model: type[BaseModel]) -> str | None:
    """The literal value of a discriminating `type` field, if the model has one."""
    field = model.model_fields.get("type")
    values = get_args(field.annotation) if field else ()
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in _models_in(field.annotation):
            yield from _dotted_keys(inner, f"{prefix}{name}.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ConfigError(f"key given more than once: {', '.join(repeated)}. Keep one of them.")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ConfigError(f"{name} is not a JSON number.")


def _json_mistake(text: str, error: json.JSONDecodeError) -> str:
    """What is wrong where the parser stopped, in plain words where it is a mistake that people make, with the line shown."""
    before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if after.startswith(("//", "/*", "#")):
        said = "a comment, which JSON does not know; take it out"
    elif after.startswith("'"):
        said = "single quotes; JSON wants double ones"
    elif after.startswith(("}", "]")) and before.endswith(","):
        said = f'a comma before the closing "{after[0]}"; take the comma out'
    elif error.msg.startswith("Illegal trailing comma"):
        said = "a comma after the last entry; take it out"
    elif error.msg == "Expecting ',' delimiter" and after:
        said = "a comma is missing before this"
    else:
        said = f"{error.msg}"
    line = text.split("\n")[error.lineno - 1].rstrip("\r")
    start = max(0, error.colno - 80)
    caret = "".join("\t" if c == "\t" else " " for c in line[start : error.colno - 1])
    return f"not valid JSON: {said}.\n  {line[start : start + 120]}\n  {caret}^"


def _json_type(value: Any) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
