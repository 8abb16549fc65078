"""What every stage between extract and tokenise does with a part: divide its documents into kept and dropped, and count.

Each dropped document is written out whole, with the step, the reason and the numbers, so that a person can see what was lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.document import SUFFIX, Document, Drop, RecordWriter, to_record
from data_prep.long_text import pieces, utf8_bytes

KEPT, DROPPED = f".kept{SUFFIX}", f".dropped{SUFFIX}"
SAMPLES = 3
"""Dropped documents shown per part and reason."""


def sift(name: str, folder: Path, verdicts: Iterable[tuple[str, Document, Drop | None]]) -> dict[str, Any]:
    """Write the kept and the dropped documents of part `name`; `verdicts` are (step, document, Drop or None to keep it).

    Returns the outputs, and counts: `kept` and `kept_bytes` by source, `dropped` by "step: reason" and source, and samples.
    """
    kept: dict[str, int] = {}
    kept_bytes: dict[str, int] = {}
    dropped: dict[str, dict[str, int]] = {}
    samples: dict[str, list[dict[str, str]]] = {}
    with RecordWriter(folder / f"{name}{KEPT}") as keeper, RecordWriter(folder / f"{name}{DROPPED}") as dropper:
        for step, document, drop in verdicts:
            record, source = to_record(document), document.source
            if drop is None:
                keeper.add(record)
                kept[source] = kept.get(source, 0) + 1
                kept_bytes[source] = kept_bytes.get(source, 0) + utf8_bytes(record["text"])
                continue
            why = {"step": step, "reason": drop.reason, "detail": drop.detail}
            dropper.add({**record, **why} | ({"kept_instead": drop.kept_instead} if drop.kept_instead else {}))
            reason = f"{step}: {drop.reason}"
            by_source = dropped.setdefault(reason, {})
            by_source[source] = by_source.get(source, 0) + 1
            if len(shown := samples.setdefault(reason, [])) < SAMPLES:
                detail = drop.detail or (f"repeats {drop.kept_instead}" if drop.kept_instead else "")
                shown.append({"id": document.id, "detail": detail, "text": next(pieces(record["text"]), "")[:300]})
    return {
        "outputs": [f"{name}{KEPT}", f"{name}{DROPPED}"],
        "kept": kept,
        "kept_bytes": kept_bytes,
        "dropped": dropped,
        "samples": samples,
    }
