"""The documents that tokens come from, as `documents-*.parquet` beside each shard lists them in the shard's order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.shards.format import MissingError, ShardError
from data_prep.shards.megatron import MegatronShards
from data_prep.shards.reader import TokenShards
from data_prep.shards.storage import ByteStream, join, open_bytes

COLUMNS = ["id", "source", "licence", "url", "start", "tokens"]


def documents(shards: TokenShards | MegatronShards, spans: list[tuple[int, int]] | None = None) -> Iterator[dict[str, Any]]:
    """Histories (COLUMNS) of the documents with a token in one of the (start, stop) spans of the stream, or of all documents,
    each once and in the stream's order; `start` is the document's first token in the stream."""
    import pyarrow as pa

    wanted = np.array([(0, shards.tokens)] if spans is None else sorted(spans), np.int64).reshape(-1, 2)
    if isinstance(shards, MegatronShards):
        yield from _megatron_documents(shards, wanted)
        return
    for name, first, last in _shards_of(shards, wanted):
        here = wanted[(wanted[:, 1] > first) & (wanted[:, 0] < last)] - first
        for batch in _table(shards, name).iter_batches(columns=COLUMNS):
            starts = batch["start"].to_numpy()
            stops = starts + batch["tokens"].to_numpy()
            low, high = np.searchsorted(stops, here[:, 0], side="right"), np.searchsorted(starts, here[:, 1])
            rows = np.unique(np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)]))
            for row in batch.take(pa.array(rows)).to_pylist():
                yield row | {"start": row["start"] + first}


def find(shards: TokenShards | MegatronShards, document: str) -> list[tuple[int, int]]:
    """(start, stop) in the stream of the documents with this id; none where there is no such document."""
    import pyarrow.compute as pc

    if isinstance(shards, MegatronShards):
        everything = np.array([(0, shards.tokens)], np.int64)
        rows = (row for row in _megatron_documents(shards, everything) if row["id"] == document)
        return [(row["start"], row["start"] + row["tokens"]) for row in rows]
    found = []
    for name, first, _ in shards.shard_spans():
        for batch in _table(shards, name).iter_batches(columns=["id", "start", "tokens"]):
            for row in batch.filter(pc.equal(batch["id"], document)).to_pylist():
                found.append((first + row["start"], first + row["start"] + row["tokens"]))
    return found


def _shards_of(shards: TokenShards, wanted: np.ndarray) -> Iterator[tuple[str, int, int]]:
    """Spans of the shards that hold one of the sorted spans."""
    done = 0
    for start, stop in wanted.tolist():
        for name, first, last in shards.shard_spans(max(start, done), stop):
            yield name, first, last
            done = last


def _table(shards: TokenShards, name: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    url = join(shards.folder, name.replace("shard-", "documents-").replace(".tokens", ".parquet"))
    try:
        return pq.ParquetFile(ByteStream(open_bytes(url, shards.cache, version=shards.fingerprint)))
    except MissingError:
        raise ShardError(f"{url}: missing, so the documents of {name} are not known. Build the corpus again.") from None
    except pa.ArrowException as error:
        raise ShardError(f"{url}: damaged: {error}. Build the corpus again.") from None


def _megatron_documents(shards: MegatronShards, spans: np.ndarray) -> Iterator[dict[str, Any]]:
    """A Megatron corpus knows no more of a document than its pair and its number there."""
    last = -1
    for start, stop in spans.tolist():
        for name, number, begin, end in shards.document_spans(start, stop):
            if begin > last:
                facts = {"id": f"{name}#{number}", "source": name, "licence": None, "url": None}
                yield facts | {"start": begin, "tokens": end - begin}
                last = begin
