"""WebDataset: tar files in which the files of a sample follow each other and share a name (a/1.txt, a/1.json, a/1.cls)."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any, Literal

from data_prep.document import Document, SetAside
from data_prep.sources.archives import CheckedInfo, printable
from data_prep.sources.fields import RecordSettings, document, fields_of, metadata_of
from data_prep.sources.files import Piece, Unreadable, guarded, name_of, open_compressed
from data_prep.sources.loose_json import loads
from data_prep.sources.text_encoding import decode
from strict_json import ConfigError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
TEXTS = ("txt", "text", "md", "caption", "transcript", "cls", "id", "lang", "url", "license", "licence")
"""Last endings of members that are text; json is parsed, others (images, sound) are passed over."""
UNREAD = object()


class WebDatasetSource(RecordSettings):
    """Tar files of samples; a document is a sample: the members of one name up to its first point."""

    type: Literal["webdataset"]
    text_key: str = "txt"
    """Ending of the member that is the text, or a path into a JSON one: "json.caption"."""
    metadata_keys: list[str] | None = None
    """Endings or paths kept as metadata; null: all other texts, and the entries of "json"."""

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: WebDatasetSource, base: Path) -> list[Piece]:
    """The tar files, each read whole; from folders those ending in .tar, packed or not.

    Raises ConfigError for a path that matches none.
    """
    found: dict[str, None] = {}
    for entry in settings.paths:
        matches = sorted(glob(os.path.join(base, os.path.expanduser(entry)), recursive=True))
        inside = [path for match in matches if os.path.isdir(match) for path in sorted(Path(match).rglob("*"))]
        paths = [
            os.path.abspath(path)
            for path in (*matches, *inside)
            if str(path).lower().endswith(SUFFIXES) and os.path.isfile(path)
        ]
        if not paths:
            raise ConfigError(f"source {settings.name}: {entry} matches no tar file (looked for {base / entry}).")
        found |= dict.fromkeys(paths)
    status = {path: os.stat(path) for path in found}
    return [
        Piece(printable(path), name_of(path, base), status[path].st_size, str(status[path].st_mtime_ns))
        for path in sorted(found)
    ]


def read(piece: Piece, settings: WebDatasetSource) -> Iterator[Document | SetAside]:
    """Documents of one tar file; a sample without text is set aside by its name."""
    with open_compressed(piece.path) as file, tarfile.open(fileobj=file, mode="r|", tarinfo=CheckedInfo) as archive:
        for key, record in _samples(archive, settings):
            identifier = f"{settings.name}/{piece.name}#{key}"
            yield guarded(f"{piece.path}, sample {key}", _document, record, identifier, settings)


def _samples(archive: tarfile.TarFile, settings: WebDatasetSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, {ending: value}) of each run of members of one name."""
    current: str | None = None
    record: dict[str, Any] = {}
    for member in archive:
        folder, name = os.path.split(member.name)
        stem, _, ending = name.partition(".")
        if not member.isfile() or not stem:
            continue
        key = f"{folder}/{stem}" if folder else stem
        if key != current and current is not None:
            yield current, record
            record = {}
        current = key
        record[ending.lower()] = _value(archive, member, settings)
    if current is not None:
        yield current, record


def _value(archive: tarfile.TarFile, member: tarfile.TarInfo, settings: WebDatasetSource) -> Any:
    """What a member holds; an Unreadable stands for what cannot be read, so that it costs its sample alone."""
    kind = member.name.rpartition(".")[2].lower()
    if kind not in (*TEXTS, "json"):
        return UNREAD
    if member.size > settings.max_document_bytes:
        return Unreadable(f"{member.name} is longer than max_document_megabytes ({settings.max_document_megabytes})")
    stream = archive.extractfile(member)
    raw = stream.read() if stream is not None else b""
    try:
        return loads(raw) if kind == "json" else decode(raw).text
    except ValueError as error:
        return Unreadable(f"{member.name} is not JSON: {error}")


def _document(record: dict[str, Any], identifier: str, settings: WebDatasetSource) -> Document:
    problem = next((value for value in record.values() if isinstance(value, Unreadable)), None)
    if problem is not None:
        raise problem
    names = list(record)
    record = {ending: value for ending, value in record.items() if value is not UNREAD}
    used = [settings.text_key, *(fields_of(settings.text) if settings.text else [])]
    try:
        return document(
            record, settings.text_key, identifier, metadata_of(record, settings.metadata_keys, used, ("json",)), settings
        )
    except Unreadable as error:
        raise Unreadable(f"{error} (members: {', '.join(names[:12])})") from None
