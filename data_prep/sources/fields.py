"""From a record to its text and metadata: one way for every source of records (JSON, tables, Arrow)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from string import Formatter
from typing import Any

from pydantic import field_validator

from data_prep.document import Document
from data_prep.sources import metadata
from data_prep.sources.files import SourceSettings, Unreadable
from data_prep.sources.values import plain

ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
"""Roles under other names."""
NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    str: "a string",
}
CONVERSATIONS = ("messages", "conversations", "conversation")
MISSING = object()


class RecordSettings(SourceSettings):
    """Settings of sources that read records. A key may be a path: "meta.text" is `text` in the object `meta`."""

    text: str | None = None
    """Form of the text instead of one key, such as "{instruction}\\n{context}\\n{response}", with keys or paths in braces and
    {{ }} for braces themselves. A line is left out where all its fields are missing or empty."""
    message: str = "{role}: {content}"
    """Form of one message where the text is a conversation: a list of objects with role and content (or from and value), whose
    contents may be lists of parts. Messages are joined by blank lines."""

    @field_validator("text")
    @classmethod
    def _has_fields(cls, text: str | None) -> str | None:
        if text is not None and not fields_of(text):
            raise ValueError('the text names no key in braces, as "{instruction}" does')
        return text

    @field_validator("message")
    @classmethod
    def _has_content(cls, message: str) -> str:
        if "{content}" not in message:
            raise ValueError('the message needs "{content}"')
        return message


def fields_of(template: str) -> list[str]:
    """Keys that a template names. Raises ValueError for one that is no template."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}: braces that are meant as such are doubled") from None
    for _, name, form, conversion in parts:
        if name is not None and (not name.strip() or form or conversion):
            raise ValueError(f'"{{{name}}}" names no key; braces that are meant as such are doubled')
    return list(dict.fromkeys(name for _, name, _, _ in parts if name))


def lookup(record: Any, path: str) -> Any:
    """The value under a key, or along a path of keys and places in lists; MISSING where there is none."""
    if isinstance(record, dict) and path in record:
        return record[path]
    first, dot, rest = path.partition(".")
    while dot:
        if isinstance(record, dict) and first in record:
            return lookup(record[first], rest)
        if isinstance(record, list) and first.isdecimal():
            return lookup(record[int(first)], rest) if int(first) < len(record) else MISSING
        more, dot, rest = rest.partition(".")
        first = f"{first}.{more}"  # a key may hold a point itself
    if isinstance(record, list) and path.isdecimal() and int(path) < len(record):
        return record[int(path)]
    return MISSING


def text_of(record: dict[str, Any], key: str, settings: RecordSettings) -> str:
    """The text of a record: what is under the key, a conversation there, or the template filled. Raises Unreadable."""
    if settings.text is not None:
        return _filled(record, settings)
    value = lookup(record, key)
    if isinstance(value, str):
        return value
    if isinstance(value, list) and is_conversation(value):
        return conversation(value, settings.message)
    if value is not MISSING:
        raise Unreadable(f'no string under "{key}": it is {NAMES.get(type(value), type(value).__name__)}')
    hint = next(
        (f'; "{name}" is a conversation, which can be named as the text' for name in CONVERSATIONS if name in record), ""
    )
    raise Unreadable(f'no string under "{key}": it has {", ".join(list(record)[:12])}{hint}')


def _filled(record: dict[str, Any], settings: RecordSettings) -> str:
    lines = []
    for line in str(settings.text).split("\n"):
        parts = list(Formatter().parse(line))
        values = [_field(record, name, settings) for _, name, _, _ in parts if name is not None]
        if not values or any(values):
            given = iter(values)
            lines.append("".join(before + (next(given) if name is not None else "") for before, name, _, _ in parts))
    if not any(_field(record, name, settings) for name in fields_of(str(settings.text))):
        raise Unreadable(f"no text under {', '.join(fields_of(str(settings.text)))}: it has {', '.join(list(record)[:12])}")
    return "\n".join(lines).strip("\n")


def _field(record: dict[str, Any], name: str, settings: RecordSettings) -> str:
    value = lookup(record, name)
    if value is MISSING or value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value).strip()
    if isinstance(value, list) and is_conversation(value):
        return conversation(value, settings.message)
    if isinstance(value, (dict, list)):
        raise Unreadable(f'no text under "{name}": it is {NAMES[type(value)]}')
    return json.dumps(value)


def is_conversation(value: list[Any]) -> bool:
    """Whether a list holds messages, each with a role and content under one of the names in use."""
    return bool(value) and all(isinstance(item, dict) and _said(item) is not MISSING for item in value)


def messages(value: list[Any]) -> list[tuple[str, str]]:
    """(role, content) of each message that has text; roles by their usual names. Raises Unreadable for content that is none."""
    found = []
    for item in value:
        role = str(item.get("role") or item.get("from") or "")
        content = _content(_said(item))
        if content:
            found.append((ROLES.get(role, role), content))
    return found


def conversation(value: list[Any], form: str) -> str:
    """The text of a list of messages. Raises Unreadable."""
    said = messages(value)
    if not said:
        raise Unreadable("no message with text in the conversation")
    return "\n\n".join(form.replace("{role}", role).replace("{content}", content) for role, content in said)


def _said(item: dict[str, Any]) -> Any:
    named = "role" in item or "from" in item
    return next((item[key] for key in ("content", "value", "text") if key in item), MISSING) if named else MISSING


def _content(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in value]
        strange = next((part for part, text in zip(value, texts, strict=True) if not isinstance(text, str)), None)
        if strange is None:
            return "\n".join(text.strip() for text in texts if text.strip())
        kind = strange.get("type") if isinstance(strange, dict) else NAMES.get(type(strange))
        raise Unreadable(f"a message with a part that is no text: {kind}")
    raise Unreadable(f"a message whose content is {NAMES.get(type(value), type(value).__name__)}")


def metadata_of(
    record: dict[str, Any], chosen: list[str] | None, used: Iterable[str], nested: tuple[str, ...] = metadata.NESTED
) -> dict[str, Any]:
    """Metadata of a record: the keys or paths chosen; without a choice all others that are text, numbers or booleans, those
    that everybody knows (a list of licences, a date) in any form, and the entries of the objects under `nested`."""
    if chosen is not None:
        return {path: plain(value) for path in chosen if (value := lookup(record, path)) is not MISSING}
    used = set(used)
    found: dict[str, Any] = {}
    for key, value in record.items():
        known = value is not None and (key in nested or metadata.is_well_known(key))
        if key not in used and (known or isinstance(value, (str, int, float))):
            found[key] = plain(value)
    for name in nested:
        if isinstance(found.get(name), dict):
            entries = found.pop(name)
            found |= {key: value for key, value in entries.items() if f"{name}.{key}" not in used}
    return found


def document(record: dict[str, Any], key: str, identifier: str, details: dict[str, Any], settings: RecordSettings) -> Document:
    """The document of a record. Raises Unreadable where it has no text."""
    return Document(identifier, text_of(record, key, settings), settings.name, details)
