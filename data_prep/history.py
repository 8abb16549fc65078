"""From tokens back to documents: which documents a window holds, and taking documents down."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.shards import ShardError, TokenShards
from data_prep.shards.takedown import write_takedowns

COLUMNS = ["id", "source", "licence", "url", "start", "tokens"]


def documents(shards: TokenShards, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
    """Histories of the documents with a token in [start, stop) of the stream, in order; `start` is the place in the stream."""
    stop = shards.tokens if stop is None else stop
    for name, first, last in shards.shard_spans():
        if last <= start or first >= stop:
            continue
        file = shards.folder / name.replace("shard-", "documents-").replace(".tokens", ".parquet")
        if not file.is_file():
            raise ShardError(f"{file}: missing, so the documents of {name} are not known. Build the corpus again.")
        for batch in pq.ParquetFile(file).iter_batches(columns=COLUMNS):
            for row in batch.to_pylist():
                row["start"] += first
                if row["start"] < stop and row["start"] + row["tokens"] > start:
                    yield row


def of_window(shards: TokenShards, index: int, length: int) -> list[dict[str, Any]]:
    """Documents of window `index` of `length` tokens, each with `in_window`: how many of its tokens are inputs there."""
    start = index * length
    if not 0 <= start < shards.tokens:
        raise ValueError(f"window {index}: there are {-(-(shards.tokens - 1) // length):,} windows of {length}.")
    stop = min(start + length, shards.tokens)
    found = []
    for row in documents(shards, start, stop):
        row["in_window"] = min(stop, row["start"] + row["tokens"]) - max(start, row["start"])
        found.append(row)
    return found


def take_down(folder: Path, ids: list[str], url_patterns: list[str], reason: str) -> list[dict[str, Any]]:
    """Tombstone documents by id or by URL pattern (* and ?, as in file names); returns those newly taken down.

    Raises ValueError when an id is not in these shards, or a pattern matches nothing.
    """
    shards = TokenShards.open(folder)
    gone = {d["id"] for entry in shards.takedowns.entries for d in entry["documents"]}
    wanted, found, matched = set(ids), [], set()
    for row in documents(shards):
        hits = {row["id"]} & wanted | {p for p in url_patterns if row["url"] and fnmatchcase(row["url"], p)}
        matched |= hits
        if hits and row["id"] not in gone:
            found.append({key: row[key] for key in ("id", "url", "start", "tokens")})
    if missing := [*sorted(wanted - matched), *(p for p in url_patterns if p not in matched)]:
        raise ValueError(
            f"{folder}: no document {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''} among {shards.documents:,}. "
            f"Nothing was changed. Ids are shown by `python -m data_prep trace` and `peek`; validation has its own folder."
        )
    if found:
        time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        entry = {"time": time, "reason": reason, "request": [*ids, *url_patterns], "documents": found}
        write_takedowns(folder, shards.fingerprint, [*shards.takedowns.entries, entry])
    return found
