"""Documents taken down after the shards were written: a ledger beside the manifest. Tokens stay where they are, so the order of
all others stays too; readers mask what the ledger names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shards import locks
from data_prep.shards.cache import CacheSettings
from data_prep.shards.format import ShardError, manifest_text
from data_prep.shards.storage import join, read_whole
from data_prep.shards.writer import write_whole

LEDGER = "takedown.json"


class Takedowns:
    """Spans of the token stream that nobody may learn from."""

    def __init__(self, entries: list[dict[str, Any]]):
        self.entries = entries
        """What was taken down when and why: {"time", "reason", "request", "documents": [{"id", "url", "start", "tokens"}]}."""
        spans = sorted({(d["start"], d["start"] + d["tokens"]) for entry in entries for d in entry["documents"]})
        self._spans = np.array(spans, dtype=np.int64).reshape(-1, 2)
        self._before = np.concatenate([[0], np.cumsum(self._spans[:, 1] - self._spans[:, 0])])

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def tokens(self) -> int:
        """Tokens of all documents taken down."""
        return int(self._before[-1])

    def count(self, start: np.ndarray | int, stop: np.ndarray | int) -> np.ndarray:
        """Number of tokens taken down within [start, stop), elementwise."""
        return self._up_to(stop) - self._up_to(start)

    def _up_to(self, position: np.ndarray | int) -> np.ndarray:
        index = np.searchsorted(self._spans[:, 0], position)  # spans that start before it
        last = np.maximum(index - 1, 0)
        if not len(self._spans):
            return np.zeros_like(index)
        beyond = np.maximum(self._spans[last, 1] - position, 0) * (index > 0)
        return self._before[index] - beyond

    def mask(self, start: int, stop: int) -> np.ndarray:
        """bool [stop - start]: true for the tokens taken down."""
        out = np.zeros(stop - start, dtype=bool)
        first = np.searchsorted(self._spans[:, 1], start, side="right")
        for low, high in self._spans[first : np.searchsorted(self._spans[:, 0], stop)].tolist():
            out[max(low - start, 0) : high - start] = True
        return out


def read_takedowns(folder: str | Path, fingerprint: str, cache: CacheSettings | None = None) -> Takedowns:
    """The ledger of a folder of shards, empty when there is none. Raises ShardError when it is damaged or of other shards."""
    ledger = read_ledger(folder, cache)
    if ledger is None:
        return Takedowns([])
    if ledger["fingerprint"] != fingerprint:
        raise ShardError(
            f"{join(folder, LEDGER)}: made for shards {ledger['fingerprint']}, these are {fingerprint}: the corpus was built "
            f"anew. Ask for its takedowns again with `python -m data_prep takedown`, then remove the old ledger."
        )
    return Takedowns(ledger["entries"])


def read_ledger(folder: str | Path, cache: CacheSettings | None = None) -> dict[str, Any] | None:
    """What the ledger holds, with the `fingerprint` of its shards; None where there is none. Raises ShardError when damaged."""
    path = join(folder, LEDGER)
    content = read_whole(path, cache)
    if content is None:
        return None
    try:
        text = content.decode()
        ledger = json.loads(text)
        whole = isinstance(ledger, dict) and text == manifest_text(ledger)
    except ValueError as error:
        raise ShardError(
            f"{path}: damaged: {error}. Restore it from a backup: without it, documents taken down return."
        ) from None
    if not whole:
        raise ShardError(f"{path}: damaged or edited: its checksum does not match. Restore it from a backup.")
    return ledger


def write_takedowns(folder: Path, fingerprint: str, entries: list[dict[str, Any]]) -> None:
    """Write the ledger whole or not at all, flushed to disk; within `ledger_lock`."""
    ledger = {"format": "moenda takedowns", "version": 1, "fingerprint": fingerprint, "entries": entries}
    write_whole(folder / LEDGER, manifest_text(ledger).encode())


@contextmanager
def ledger_lock(folder: Path) -> Iterator[None]:
    """Keep other takedowns of these shards waiting from before the ledger is read until it is written: none is lost."""
    folder.mkdir(exist_ok=True)
    with locks.hold(folder / f".{LEDGER}.lock", wait=True):
        yield
