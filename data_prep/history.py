"""From tokens back to documents: which documents a window holds, and taking documents down."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.shards import MegatronShards, ShardError, TokenShards, Windows, open_shards
from data_prep.shards.format import MissingError
from data_prep.shards.storage import ByteStream, is_remote, join, open_bytes
from data_prep.shards.takedown import write_takedowns

COLUMNS = ["id", "source", "licence", "url", "start", "tokens"]


def documents(shards: TokenShards | MegatronShards, spans: list[tuple[int, int]] | None = None) -> Iterator[dict[str, Any]]:
    """Histories of the documents with a token in one of the (start, stop) spans of the stream, or of all documents, in the
    stream's order; `start` is the document's first token in the stream."""
    wanted = np.array([(0, shards.tokens)] if spans is None else sorted(spans), np.int64).reshape(-1, 2)
    if isinstance(shards, MegatronShards):
        yield from _megatron_documents(shards, wanted)
        return
    for name, first, last in shards.shard_spans():
        here = wanted[(wanted[:, 1] > first) & (wanted[:, 0] < last)] - first
        if not len(here):
            continue
        url = join(shards.folder, name.replace("shard-", "documents-").replace(".tokens", ".parquet"))
        try:
            file = ByteStream(open_bytes(url, shards.cache, version=shards.fingerprint))
        except MissingError:
            raise ShardError(f"{url}: missing, so the documents of {name} are not known. Build the corpus again.") from None
        for batch in pq.ParquetFile(file).iter_batches(columns=COLUMNS):
            starts = batch["start"].to_numpy()
            stops = starts + batch["tokens"].to_numpy()
            low, high = np.searchsorted(stops, here[:, 0], side="right"), np.searchsorted(starts, here[:, 1])
            rows = np.unique(np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)]))
            for row in batch.take(pa.array(rows)).to_pylist():
                yield row | {"start": row["start"] + first}


def _megatron_documents(shards: MegatronShards, spans: np.ndarray) -> Iterator[dict[str, Any]]:
    """A Megatron corpus knows no more of a document than its pair and its number there."""
    last = -1
    for start, stop in spans.tolist():
        for name, number, begin, end in shards.document_spans(start, stop):
            if begin > last:
                facts = {"id": f"{name}#{number}", "source": name, "licence": None, "url": None}
                yield facts | {"start": begin, "tokens": end - begin}
                last = begin


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
        write_takedowns(shards.folder, shards.fingerprint, [*shards.takedowns.entries, entry])
    return found
