"""Which documents were taken down already when each start of a run began: those its steps have masked, and no others.

RUN/takedowns.json, a list by ascending first_step: {"first_step", "sources": {fingerprint: {"name", "requests", "digest"}}}.
The ledger of takedowns beside the shards only grows, so the number of its first requests and their digest say what it was.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from data_prep.shards.takedown import Takedowns
from trainer.data.corpus import Corpus
from trainer.run_folder import write_json

TAKEDOWNS_FILE = "takedowns.json"


def record_start(folder: Path, corpus: Corpus, first_step: int) -> None:
    """Write down what this start, whose first step is `first_step`, masks; what later steps masked, which will be done again,
    is dropped. `corpus` as it was opened for this start."""
    starts = [start for start in _read(folder) if start["first_step"] < first_step]
    sources = {
        source.fingerprint: {"name": source.name, **_state(windows.shards.takedowns.entries)}
        for source, windows in zip(corpus.mixture.sources, corpus.windows, strict=True)
    }
    if not starts or starts[-1]["sources"] != sources:
        starts.append({"first_step": first_step, "sources": sources})
    write_json(folder / TAKEDOWNS_FILE, starts)


class MaskedSpans:
    """What each step of a run masked."""

    def __init__(self, folder: Path, corpus: Corpus):
        """Of a run folder, with the sources as they are now."""
        self._starts = _read(folder)
        self._sources = list(zip(corpus.mixture.sources, corpus.windows, strict=True))
        self._known: dict[tuple[int, int], Takedowns | None] = {}

    def masked(self, step: int, source: int, start: int, stop: int) -> bool | None:
        """Whether the step masked the document [start, stop) of a source's stream, which it consumed; None: that is not known,
        as the run began before such records were kept, or its record or the ledger of takedowns is not whole."""
        now = bool(self._sources[source][1].shards.takedowns.count(start, stop))
        at = next((index for index in reversed(range(len(self._starts))) if self._starts[index]["first_step"] <= step), -1)
        if at == -1 or self._sources[source][0].fingerprint not in self._starts[at]["sources"]:
            return None if now else False
        then = self._takedowns(at, source)
        return None if then is None else bool(then.count(start, stop))

    def _takedowns(self, at: int, source: int) -> Takedowns | None:
        if (at, source) not in self._known:
            mixed, windows = self._sources[source]
            recorded = self._starts[at]["sources"][mixed.fingerprint]
            entries = windows.shards.takedowns.entries[: recorded["requests"]]
            self._known[at, source] = Takedowns(entries) if _state(entries).items() <= recorded.items() else None
        return self._known[at, source]


def _state(entries: list[dict[str, Any]]) -> dict[str, Any]:
    text = json.dumps(entries, sort_keys=True)
    return {"requests": len(entries), "digest": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def _read(folder: Path) -> list[dict[str, Any]]:
    """The starts on record; none where there is no record, or nothing can be read from it."""
    try:
        starts = json.loads((folder / TAKEDOWNS_FILE).read_text(encoding="utf-8"))
        return starts if all(_is_start(start) for start in starts) else []
    except (OSError, ValueError, TypeError):
        return []


def _is_start(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and type(value.get("first_step")) is int
        and isinstance(value.get("sources"), dict)
        and all(isinstance(one, dict) and {"name", "requests", "digest"} == one.keys() for one in value["sources"].values())
        and all(type(one["requests"]) is int for one in value["sources"].values())
    )
