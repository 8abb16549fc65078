"""Stage 4: unique documents -> token shards, with the history of every token beside them.

Each part becomes shards of its own, so that parts are tokenised in parallel and the bytes do not depend on how many are at
once. `documents-*.parquet` lists the documents of a shard in order: any token's document, source, licence and URL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_prep.document import read_records
from data_prep.fast_tokenizer import EngineDiffers
from data_prep.holdout import Holdout
from data_prep.long_text import LongText
from data_prep.shards import ShardWriter
from data_prep.shards.documents import SHARD_KEY
from data_prep.stage import Task, partial_name
from data_prep.tokenizer import CorpusTokenizer

T = TypeVar("T")
SPLITS = ("train", "validation")
BATCH_BYTES = 4 << 20
"""Documents are encoded together up to this many bytes of text."""
CHECK_EVERY, CHECKED = 64, 8
"""The first documents of every so many batches are encoded by Hugging Face's tokenizers too, and compared."""
HISTORY = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("url", pa.string()),
        ("start", pa.int64()),
        ("tokens", pa.int64()),
        ("text_bytes", pa.int64()),
        ("metadata", pa.string()),
    ]
)
"""Columns of documents-*.parquet; `start` is the document's first token in its shard, `tokens` count its end-of-document."""


def work(task: Task, folder: Path) -> dict[str, Any]:
    """Tokenise one part into train and validation shards, with the fast engine where it proves equal on samples of the part."""
    part, tokenizer_folder, tokens_per_shard, holdout = task.arguments
    tokenizer = _open_tokenizer(tokenizer_folder, xxhash.xxh3_64_hexdigest((tokenizer_folder / "tokenizer.json").read_bytes()))
    try:
        return _tokenise(task.name, part, folder, tokenizer, tokens_per_shard, holdout)
    except EngineDiffers as difference:
        tokenizer = CorpusTokenizer(tokenizer_folder, fast=False)
        tokenizer.slow_because = str(difference)
        return _tokenise(task.name, part, folder, tokenizer, tokens_per_shard, holdout)


@lru_cache(maxsize=1)
def _open_tokenizer(folder: Path, checksum: str) -> CorpusTokenizer:
    """One opening per worker process serves all its parts."""
    return CorpusTokenizer(folder)


def _tokenise(
    name: str, part: Path, folder: Path, tokenizer: CorpusTokenizer, tokens_per_shard: int, holdout: Holdout
) -> dict[str, Any]:
    forced_before = tokenizer.forced_cuts
    with ExitStack() as stack:
        outputs = {
            split: stack.enter_context(ShardSequence(folder / split, name, tokenizer, tokens_per_shard)) for split in SPLITS
        }
        behind = stack.enter_context(_Behind())
        for number, (records, texts) in enumerate(_ahead(_batches(part))):
            if number % CHECK_EVERY == 0:
                tokenizer.check(texts[:CHECKED])
            splits = [holdout.split(record["id"]) for record in records]
            if isinstance(texts[0], LongText):  # is alone
                behind.wait()
                outputs[splits[0]].add_long(records[0], len(texts[0].data), tokenizer.encode_long(texts[0]))
                continue
            ids, offsets = tokenizer.encode_batch(texts)
            behind.submit(_add, outputs, splits, records, [len(text) for text in texts], ids, offsets)
    return {
        "outputs": [name for output in outputs.values() for name in output.files],
        "shards": {split: output.shards for split, output in outputs.items()},
        "sources": {split: output.sources for split, output in outputs.items()},
        "slow_because": tokenizer.slow_because,
        "forced_cuts": tokenizer.forced_cuts - forced_before,
    }


def _add(
    outputs: dict[str, ShardSequence],
    splits: list[str],
    records: list[dict[str, Any]],
    sizes: list[int],
    ids: np.ndarray,
    offsets: np.ndarray,
) -> None:
    start = 0
    for split, run in groupby(splits):  # neighbours of one split are added together
        stop = start + sum(1 for _ in run)
        outputs[split].add(records[start:stop], sizes[start:stop], ids, offsets[start : stop + 1])
        start = stop


def _batches(part: Path) -> Iterator[tuple[list[dict[str, Any]], list[bytes] | list[LongText]]]:
    """(records, their texts in UTF-8); a long text is alone."""
    records: list[dict[str, Any]] = []
    texts: list[bytes] = []
    size = 0
    for record in read_records(part, long_texts=True):
        text = record.pop("text")
        if isinstance(text, LongText):
            if records:
                yield records, texts
            yield [record], [text]
            records, texts, size = [], [], 0
            continue
        text = text.encode()
        records.append(record)
        texts.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield records, texts
            records, texts, size = [], [], 0
    if records:
        yield records, texts


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; each is made in a thread while the one before is used. Decompression and encoding release the GIL."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Any] = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item


class _Behind:
    """Calls made one after the other in a thread, at most one waiting; an error of one is raised by the next, or at the end."""

    def __enter__(self) -> _Behind:
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[Any] | None = None
        return self

    def wait(self) -> None:
        """Wait for the last call."""
        if self._last is not None:
            self._last.result()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call the function when the one before is done."""
        self.wait()
        self._last = self._thread.submit(function, *arguments)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()


@dataclass
class ShardSequence:
    """The shards that one part fills in a folder, one after the other; a context manager."""

    folder: Path
    part: str
    tokenizer: CorpusTokenizer
    tokens_per_shard: int
    shards: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    _writer: ShardWriter | None = None
    _history: list[pa.RecordBatch] = field(default_factory=list)

    def __enter__(self) -> ShardSequence:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._close()
        elif self._writer is not None:
            self._writer.__exit__(kind, error, trace)

    def add(self, records: list[dict[str, Any]], sizes: list[int], ids: np.ndarray, offsets: np.ndarray) -> None:
        """Append documents: number i is ids[offsets[i]:offsets[i + 1]], from sizes[i] bytes of text.

        A shard is closed by the document that fills it.
        """
        while records:
            writer = self._writer or self._open()
            filled = writer.tokens + offsets[1:] - offsets[0] + np.arange(1, len(records) + 1)
            count = min(len(records), int(np.searchsorted(filled, self.tokens_per_shard)) + 1)
            self._append(writer, records[:count], sizes[:count], ids, offsets[: count + 1])
            records, sizes, offsets = records[count:], sizes[count:], offsets[count:]
            self._close_if_full(writer)

    def add_long(self, record: dict[str, Any], size: int, pieces: Iterator[np.ndarray]) -> None:
        """Append one document whose ids come in pieces, of `size` bytes of text."""
        writer = self._writer or self._open()
        start = writer.tokens
        writer.add_pieces(pieces, size)
        self._note([record], np.array([start]), np.array([writer.tokens - start]), [size])
        self._close_if_full(writer)

    def _close_if_full(self, writer: ShardWriter) -> None:
        if writer.tokens >= self.tokens_per_shard:
            self._close()

    def _append(
        self, writer: ShardWriter, records: list[dict[str, Any]], sizes: list[int], ids: np.ndarray, offsets: np.ndarray
    ) -> None:
        tokens = np.diff(offsets) + 1
        starts = writer.tokens + np.cumsum(tokens) - tokens
        writer.add_many(ids, offsets, sum(sizes))
        self._note(records, starts, tokens, sizes)

    def _note(self, records: list[dict[str, Any]], starts: np.ndarray, tokens: np.ndarray, sizes: list[int]) -> None:
        self._history.append(_history(records, starts, tokens, sizes))
        for record, count, size in zip(records, tokens.tolist(), sizes, strict=True):
            totals = self.sources.setdefault(record["source"], {"documents": 0, "tokens": 0, "text_bytes": 0})
            totals["documents"] += 1
            totals["tokens"] += count
            totals["text_bytes"] += size

    def _open(self) -> ShardWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"shard-{self.part.removeprefix('part-')}-{len(self.shards):03d}.tokens"
        self.shards.append(name)
        tokenizer = self.tokenizer
        self._writer = ShardWriter(self.folder / name, tokenizer.vocab_size, tokenizer.eod_id, tokenizer.fingerprint)
        return self._writer.__enter__()

    def _close(self) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.__exit__(None, None, None)
        name = self.shards[-1]
        history = self.folder / name.replace("shard-", "documents-").replace(".tokens", ".parquet")
        partial = partial_name(history)
        try:
            table = pa.Table.from_batches(self._history, HISTORY)
            table = table.replace_schema_metadata({SHARD_KEY: writer.header.fingerprint})
            pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
            partial.replace(history)
        finally:
            partial.unlink(missing_ok=True)
        self.files += [f"{self.folder.name}/{name}", f"{self.folder.name}/{history.name}"]
        self._history = []


def _history(records: list[dict[str, Any]], starts: np.ndarray, tokens: np.ndarray, sizes: list[int]) -> pa.RecordBatch:
    def known(key: str) -> list[str | None]:
        values = [record["metadata"].get(key) for record in records]
        return [None if value is None else str(value) for value in values]

    columns = {
        "id": [record["id"] for record in records],
        "source": [record["source"] for record in records],
        "licence": known("licence"),
        "url": known("url"),
        "start": starts,
        "tokens": tokens,
        "text_bytes": sizes,
        "metadata": [orjson.dumps(record["metadata"]) for record in records],
    }
    return pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in HISTORY], schema=HISTORY)


def documents_of(shards_folder: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """Histories of all documents of the named shards, in order."""
    for name in names:
        file = shards_folder / name.replace("shard-", "documents-").replace(".tokens", ".parquet")
        yield from pq.read_table(file).to_pylist()
