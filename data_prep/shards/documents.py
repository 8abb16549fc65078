"""The documents that tokens come from, as `documents-*.parquet` beside each shard lists them in the shard's order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shards.format import HEADER_BYTES, MissingError, ShardError, ShardHeader
from data_prep.shards.megatron import MegatronShards
from data_prep.shards.reader import TokenShards
from data_prep.shards.storage import ByteStream, join, open_bytes

_TYPES = {"id": "string", "source": "string", "licence": "string", "url": "string", "start": "int64", "tokens": "int64"}
COLUMNS = list(_TYPES)
SHARD_KEY = b"moenda.shard"
"""Of the table's metadata: fingerprint of the shard whose documents it lists."""
_REMEDY = "Build the corpus again, or copy the file again from where it was built."


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
        for batch in _rows(shards, name, first, last, COLUMNS):
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
    for name, first, last in shards.shard_spans():
        for batch in _rows(shards, name, first, last, ["id", "start", "tokens"]):
            for row in batch.filter(pc.equal(batch["id"], document)).to_pylist():
                found.append((first + row["start"], first + row["start"] + row["tokens"]))
    return found


def verify(shards: TokenShards) -> Iterator[str]:
    """Check every page of the tables of documents, and each against its shard's own; yields their names, one by one.

    Raises ShardError for damage, for a table of another shard, and for one that is missing where others are there."""
    urls = [(str(_url(shards, name)), name, first, last) for name, first, last in shards.shard_spans()]
    if not any(Path(url).exists() for url, *_ in urls):
        return  # shards that were written without: nothing of their documents is known
    for url, name, first, last in urls:
        for _ in _rows(shards, name, first, last, None):
            pass
        yield url


def ids_and_places(folder: Path, names: list[str]) -> Iterator[tuple[str, int, int]]:
    """(id, first token in the stream, tokens) of the documents of local shards, in order, before a manifest lists them."""
    import pyarrow.parquet as pq

    before = 0
    for name in names:
        for batch in pq.ParquetFile(join(folder, _table(name))).iter_batches(columns=["id", "start", "tokens"]):
            for row in batch.to_pylist():
                yield row["id"], before + row["start"], row["tokens"]
        with (folder / name).open("rb") as file:
            before += ShardHeader.unpack(file.read(HEADER_BYTES), folder / name).tokens


def _shards_of(shards: TokenShards, wanted: np.ndarray) -> Iterator[tuple[str, int, int]]:
    """Spans of the shards that hold one of the sorted spans."""
    done = 0
    for start, stop in wanted.tolist():
        for name, first, last in shards.shard_spans(max(start, done), stop):
            yield name, first, last
            done = last


def _url(shards: TokenShards, name: str) -> str | Path:
    return join(shards.folder, _table(name))


def _table(name: str) -> str:
    """The file of a shard's documents."""
    return name.replace("shard-", "documents-").replace(".tokens", ".parquet")


def _rows(shards: TokenShards, name: str, first: int, last: int, columns: list[str] | None) -> Iterator[Any]:
    """Record batches of the documents of a shard, which has the tokens [first, last) of the stream; `columns`: None for all.

    Each page is checked, and places and lengths are compared with the shard's own table. Raises ShardError when they differ."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    url, done = _url(shards, name), 0
    starts = shards.document_starts_in(first, last) - first
    tokens = np.diff(starts, append=last - first)
    try:
        stream = ByteStream(open_bytes(url, shards.cache, version=shards.fingerprint))
        file = pq.ParquetFile(stream, page_checksum_verification=True)
        found = {field.name: str(field.type) for field in file.schema_arrow}
        if wrong := [name for name, kind in _TYPES.items() if found.get(name) != kind]:
            raise ShardError(f"{url}: damaged: columns {', '.join(wrong)} are missing or of another type. {_REMEDY}")
        said = (file.schema_arrow.metadata or {}).get(SHARD_KEY)
        if said is not None and said.decode() != shards.shard_fingerprint(first):
            raise ShardError(f"{url}: its documents are those of another shard than {name}. {_REMEDY}")
        if file.metadata.num_rows != len(starts):
            raise ShardError(f"{url}: lists {file.metadata.num_rows:,} documents, {name} has {len(starts):,}. {_REMEDY}")
        for batch in file.iter_batches(columns=columns):
            batch.validate(full=True)
            stop = done + len(batch)
            if not (
                np.array_equal(batch["start"].to_numpy(), starts[done:stop])
                and np.array_equal(batch["tokens"].to_numpy(), tokens[done:stop])
            ):
                raise ShardError(f"{url}: its documents are not where those of {name} are: of another shard. {_REMEDY}")
            done = stop
            yield batch
    except MissingError:
        raise ShardError(f"{url}: missing, so the documents of {name} are not known. {_REMEDY}") from None
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        raise ShardError(f"{url}: damaged: {error}. {_REMEDY}") from None
    if done != len(starts):
        raise ShardError(f"{url}: damaged: {done:,} of {len(starts):,} documents are there. {_REMEDY}")


def _megatron_documents(shards: MegatronShards, spans: np.ndarray) -> Iterator[dict[str, Any]]:
    """A Megatron corpus knows no more of a document than its pair and its number there."""
    last = -1
    for start, stop in spans.tolist():
        for name, number, begin, end in shards.document_spans(start, stop):
            if begin > last:
                facts = {"id": f"{name}#{number}", "source": name, "licence": None, "url": None}
                yield facts | {"start": begin, "tokens": end - begin}
                last = begin
