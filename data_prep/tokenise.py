"""Stage 4: unique documents -> token shards, with the history of every token beside them.

Each part becomes shards of its own, so that parts are tokenised in parallel and the bytes do not depend on how many are at
once. `documents-*.parquet` lists the documents of a shard in order: any token's document, source, licence and URL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dedup.exact import holdout_key
from data_prep.document import Document, read_documents
from data_prep.shards import ShardWriter
from data_prep.stage import Task, partial_name
from data_prep.tokenizer import CorpusTokenizer

SPLITS = ("train", "validation")
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


@dataclass(frozen=True)
class Holdout:
    """Which documents are held out for validation: those whose key is below `below`, but never the one with `never`."""

    seed: int
    below: int
    never: int

    @classmethod
    def choose(cls, seed: int, fraction: float, smallest: int, largest: int) -> Holdout:
        """Hold out `fraction` of the documents; one at least when there are two, and never all."""
        below = max(int(fraction * 2**64), smallest + 1) if fraction > 0 else 0
        return cls(seed, below, largest)

    def split(self, document_id: str) -> str:
        """ "train" or "validation"."""
        key = holdout_key(document_id, self.seed)
        return "validation" if key < self.below and key != self.never else "train"


def work(task: Task, folder: Path) -> dict[str, Any]:
    """Tokenise one part into train and validation shards."""
    part, tokenizer_folder, tokens_per_shard, holdout = task.arguments
    tokenizer = CorpusTokenizer(tokenizer_folder)
    outputs = {split: _ShardSequence(folder / split, task.name, tokenizer, tokens_per_shard) for split in SPLITS}
    documents, texts = tee(read_documents(part))
    for document, ids in zip(documents, tokenizer.encode_all(document.text for document in texts), strict=True):
        outputs[holdout.split(document.id)].add(document, ids)
    for output in outputs.values():
        output.close()
    return {
        "outputs": [name for output in outputs.values() for name in output.files],
        "shards": {split: output.shards for split, output in outputs.items()},
        "sources": {split: output.sources for split, output in outputs.items()},
    }


@dataclass
class _ShardSequence:
    """The shards that one part fills in one split, one after the other."""

    folder: Path
    part: str
    tokenizer: CorpusTokenizer
    tokens_per_shard: int
    shards: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    _writer: ShardWriter | None = None
    _history: list[dict[str, Any]] = field(default_factory=list)

    def add(self, document: Document, ids: Any) -> None:
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"shard-{self.part.removeprefix('part-')}-{len(self.shards):03d}.tokens"
            self.shards.append(name)
            tokenizer = self.tokenizer
            writer = ShardWriter(self.folder / name, tokenizer.vocab_size, tokenizer.eod_id, tokenizer.fingerprint)
            self._writer = writer.__enter__()
        size = len(document.text.encode())
        start = self._writer.tokens
        self._writer.add(ids, size)
        tokens = self._writer.tokens - start
        self._history.append(_history(document, start, tokens, size))
        totals = self.sources.setdefault(document.source, {"documents": 0, "tokens": 0, "text_bytes": 0})
        for key, value in (("documents", 1), ("tokens", tokens), ("text_bytes", size)):
            totals[key] += value
        if self._writer.tokens >= self.tokens_per_shard:
            self.close()

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.__exit__(None, None, None)
        name = self.shards[-1]
        history = self.folder / name.replace("shard-", "documents-").replace(".tokens", ".parquet")
        partial = partial_name(history)
        pq.write_table(pa.Table.from_pylist(self._history, HISTORY), partial, compression="zstd")
        partial.replace(history)
        self.files += [f"{self.folder.name}/{name}", f"{self.folder.name}/{history.name}"]
        self._writer, self._history = None, []


def _history(document: Document, start: int, tokens: int, text_bytes: int) -> dict[str, Any]:
    known = {key: document.metadata.get(key) for key in ("licence", "url")}
    return {
        "id": document.id,
        "source": document.source,
        **{key: None if value is None else str(value) for key, value in known.items()},
        "start": start,
        "tokens": tokens,
        "text_bytes": text_bytes,
        "metadata": orjson.dumps(document.metadata, default=str).decode(),
    }


def documents_of(shards_folder: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """Histories of all documents of the named shards, in order."""
    for name in names:
        file = shards_folder / name.replace("shard-", "documents-").replace(".tokens", ".parquet")
        yield from pq.read_table(file).to_pylist()
