"""From tokens back to documents: which documents a window holds, and taking documents down."""

from __future__ import annotations

import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from data_prep.shards import MegatronShards, TokenShards, Windows, open_shards
from data_prep.shards.documents import documents, ids_and_places
from data_prep.shards.storage import is_remote
from data_prep.shards.takedown import ledger_lock, read_ledger, read_takedowns, write_takedowns


def of_window(windows: Windows, index: int) -> list[dict[str, Any]]:
    """Documents of a window, each with `in_window`: how many of its tokens are inputs there."""
    if not 0 <= index < len(windows):
        raise ValueError(f"window {index}: there are {len(windows):,} windows of {windows.sequence_length}.")
    spans = windows.spans(index)
    found = []
    for row in documents(windows.shards, spans):
        begin, end = row["start"], row["start"] + row["tokens"]
        row["in_window"] = sum(max(0, min(stop, end) - max(start, begin)) for start, stop in spans)
        found.append(row)
    return found


def take_down(
    folder: str | Path, ids: list[str], url_patterns: list[str], reason: str, tokenizer: Path | None = None
) -> list[dict[str, Any]]:
    """Tombstone documents by id or by URL pattern (* and ?, as in file names); returns those newly taken down. `tokenizer`: the
    folder of a Megatron corpus's.

    Raises ValueError when an id is not in these shards, or a pattern matches nothing.
    """
    if is_remote(folder):
        raise ValueError(f"{folder}: takedowns are written to a local folder only; copy its takedown.json to the remote one.")
    shards = open_shards(folder, tokenizer)
    with ledger_lock(shards.folder):
        return _take_down(shards, ids, url_patterns, reason)


def _take_down(
    shards: TokenShards | MegatronShards, ids: list[str], url_patterns: list[str], reason: str
) -> list[dict[str, Any]]:
    entries = read_takedowns(shards.folder, shards.fingerprint).entries  # those of the shards may be older than the lock
    gone = {d["id"] for entry in entries for d in entry["documents"]}
    wanted, found, matched = set(ids), [], set()
    for row in documents(shards):
        hits = {row["id"]} & wanted | {p for p in url_patterns if row["url"] and fnmatchcase(row["url"], p)}
        matched |= hits
        if hits and row["id"] not in gone:
            found.append({key: row[key] for key in ("id", "url", "start", "tokens")})
    if missing := [*sorted(wanted - matched), *(p for p in url_patterns if p not in matched)]:
        raise ValueError(
            f"{shards.folder}: no document {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''} among "
            f"{shards.documents:,}. Nothing was changed. "
            f"Ids are shown by `python -m data_prep trace` and `peek`; validation has its own folder."
        )
    if found:
        time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        entry = {"time": time, "reason": reason, "request": [*ids, *url_patterns], "documents": found}
        write_takedowns(shards.folder, shards.fingerprint, [*entries, entry])
    return found


def carry_over(folder: Path, names: list[str], fingerprint: str) -> list[str]:
    """Give the documents that were taken down their places in a corpus that has grown, of shards `names`. Returns the ids of
    those that are not in it any more; they stay in the ledger, under "absent", and are masked should they return."""
    ledger = read_ledger(folder)
    if ledger is None:
        return []
    entries = ledger["entries"]
    gone = {d["id"]: d for entry in entries for d in [*entry["documents"], *entry.get("absent", [])]}
    if ledger["fingerprint"] != fingerprint:
        places = {key: place for key, *place in ids_and_places(folder, names) if key in gone}
        for entry in entries:
            asked = [*entry["documents"], *entry.pop("absent", [])]
            here = [d for d in asked if d["id"] in places]
            entry["documents"] = [
                {"id": d["id"], "url": d["url"], "start": start, "tokens": tokens}
                for d in here
                for start, tokens in [places[d["id"]]]
            ]
            if len(here) < len(asked):
                entry["absent"] = [{"id": d["id"], "url": d["url"]} for d in asked if d["id"] not in places]
        with ledger_lock(folder):
            write_takedowns(folder, fingerprint, entries)
    return [d["id"] for entry in entries for d in entry.get("absent", [])]
