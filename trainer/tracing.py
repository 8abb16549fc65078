"""From optimizer steps to the documents that they consumed, and from a document to the steps that saw it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shards.documents import documents, find
from trainer import ledger
from trainer.config import RunConfig, load
from trainer.data.corpus import Corpus, open_corpus
from trainer.run_folder import EFFECTIVE_FILE
from trainer.takedown_record import TAKEDOWNS_FILE, MaskedSpans

FATES = {False: "trained on", True: "masked", None: "not known whether masked"}
"""What became of a document's tokens in a step."""


class TraceError(ValueError):
    """What is asked for is not in this run."""


@dataclass(frozen=True)
class Run:
    """What a run has consumed, as its ledger and its data say."""

    folder: Path
    config: RunConfig
    corpus: Corpus
    entries: list[ledger.Entry]
    masks: MaskedSpans

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run folder and the shards that it was trained on. Raises TraceError when it has none."""
        if not (folder / EFFECTIVE_FILE).is_file():
            raise TraceError(f"{folder}: no {EFFECTIVE_FILE}: not the folder of a run that has started.")
        config = load(folder / EFFECTIVE_FILE, [])
        entries = list(ledger.read(folder))
        if not entries:
            raise TraceError(f"{folder}: {ledger.LEDGER_FILE} holds no step yet.")
        corpus = open_corpus(config.data, config.run.seed)
        return cls(folder, config, corpus, entries, MaskedSpans(folder, corpus))

    def tokens_before(self, step: int) -> int:
        """Tokens consumed before a step."""
        return self.entries[step - 2].tokens if step > 1 else 0

    def step_at(self, token: int) -> int:
        """The step that consumed a token of the order."""
        return bisect_left(self.entries, token + 1, key=lambda entry: entry.tokens) + 1

    def check(self, step: int) -> None:
        """Raise TraceError unless the ledger says that the step consumed what the order gives it today."""
        entry = self.entries[step - 1]
        now = ledger.digest_of(self.corpus, self.tokens_before(step), entry.tokens, entry.sequence_length)
        if now != entry.digest:
            raise TraceError(
                f"{self.folder}: step {step} consumed other windows than {EFFECTIVE_FILE} and the shards in their places give "
                f"now: the shards were replaced, or the file was edited. Trace with the ones that it was trained on."
            )


def of_step(run: Run, step: int) -> list[dict[str, Any]]:
    """Documents of a step with `source` (of the run), `id`, `licence`, `url`, `origin` (their source in the corpus),
    `taken_down` (by now), `masked` (whether the step masked it, rather than train on it; None: that is not known), and
    `tokens`: how many of its tokens the step consumed as inputs. Ordered by source, then by place in it."""
    if not 1 <= step <= len(run.entries):
        raise TraceError(f"{run.folder}: step {step}: the ledger holds the steps 1 to {len(run.entries)}.")
    run.check(step)
    corpus, length = run.corpus, run.corpus.sequence_length
    first, stop = run.tokens_before(step) // length, run.entries[step - 1].tokens // length
    sources, windows = corpus.mixture.locate(first, stop - first)
    found = []
    for number in np.unique(sources).tolist():
        name, shards = corpus.mixture.sources[number].name, corpus.windows[number].shards
        spans = [span for window in windows[sources == number].tolist() for span in corpus.windows[number].spans(window)]
        for row, tokens in _with_tokens(shards, sorted(spans)):
            gone = bool(shards.takedowns.count(row["start"], row["start"] + 1))
            masked = run.masks.masked(step, number, row["start"], row["start"] + row["tokens"])
            facts = {key: row[key] for key in ("id", "licence", "url")} | {"origin": row["source"]}
            found.append({"source": name, **facts, "taken_down": gone, "masked": masked, "tokens": tokens})
    return found


def _with_tokens(shards: Any, spans: list[tuple[int, int]]) -> Iterator[tuple[dict[str, Any], int]]:
    """(document, its tokens in the sorted spans)."""
    starts = np.array([start for start, _ in spans])
    stops = np.array([stop for _, stop in spans])
    longest = int((stops - starts).max())
    for row in documents(shards, spans):
        begin, end = row["start"], row["start"] + row["tokens"]
        # windows may stand twice in a step, so that stops need not rise; few spans lie around one document
        near = slice(*np.searchsorted(starts, (begin - longest, end)))
        inside = np.minimum(stops[near], end) - np.maximum(starts[near], begin)
        yield row, int(inside[inside > 0].sum())


def of_document(run: Run, document: str) -> list[dict[str, Any]]:
    """Steps that consumed a document, ascending, each with the `source` (of the run), its `tokens` of the document there, and
    `masked`: whether they were masked, as the document had been taken down, and so not trained on; None: that is not known.

    Raises TraceError when no source holds it.
    """
    corpus, length = run.corpus, run.corpus.sequence_length
    consumed = run.entries[-1].tokens // length
    seen: Counter[tuple[int, str, bool | None]] = Counter()
    known = False
    for number, (source, windows) in enumerate(zip(corpus.mixture.sources, corpus.windows, strict=True)):
        for begin, end in find(windows.shards, document):
            known = True
            held = windows.holding(begin, end)
            tokens = [
                sum(max(0, min(stop, end) - max(start, begin)) for start, stop in windows.spans(window))
                for window in held.tolist()
            ]
            positions, which = corpus.mixture.positions(number, held, consumed)
            for position, place in zip(positions.tolist(), which.tolist(), strict=True):
                step = run.step_at(position * length)  # steps are made of whole windows
                seen[step, source.name, run.masks.masked(step, number, begin, end)] += tokens[place]
    if not known:
        names = ", ".join(source.name for source in corpus.mixture.sources)
        raise TraceError(f"{run.folder}: no document {document} in its sources ({names}).")
    for step in sorted({step for step, *_ in seen}):  # steps near each other share what is computed of the order
        run.check(step)
    rows = [dict(zip(("step", "source", "masked", "tokens"), (*key, tokens), strict=True)) for key, tokens in seen.items()]
    return sorted(rows, key=lambda row: (row["step"], row["source"], FATES[row["masked"]]))


def describe_step(run: Run, step: int, rows: list[dict[str, Any]]) -> str:
    """For a person: totals by licence, then a line a document."""
    entry, before = run.entries[step - 1], run.tokens_before(step)
    licences: Counter[str] = Counter()
    for row in rows:
        licences[row["licence"] or "licence unknown"] += row["tokens"]
    lines = [
        f"step {step}: tokens {before:,} to {entry.tokens:,} of the run, {len(rows):,} documents, windows of "
        f"{entry.sequence_length} tokens, ledger {entry.chain}",
        *(f"{tokens:>10,} tokens   {licence}" for licence, tokens in licences.most_common()),
        "",
    ]
    for row in rows:
        facts = (row["id"], row["source"], row["origin"], row["licence"] or "licence unknown", row["url"] or "no URL")
        gone = f"   TAKEN DOWN, {FATES[row['masked']]} in this step" if row["taken_down"] or row["masked"] is not False else ""
        lines.append(f"{row['tokens']:>10,} tokens   {'   '.join(facts)}{gone}")
    return "\n".join(lines)


def describe_document(run: Run, document: str, rows: list[dict[str, Any]]) -> str:
    """For a person: a line a step."""
    done = f"{len(run.entries):,} steps done"
    if not rows:
        return f"{document}: in the data, but none of the {done} has seen it yet."
    steps = Counter(FATES[row["masked"]] for row in rows)
    shares = ", ".join(f"{fate} in {steps[fate]}" for fate in FATES.values() if steps[fate])
    lines = [f"{document}: in {len({row['step'] for row in rows})} of {done}: {shares}"]
    lines += [f"step {row['step']:>8}   {row['tokens']:>8,} tokens   {row['source']}   {FATES[row['masked']]}" for row in rows]
    if None in {row["masked"] for row in rows}:
        lines.append(
            f"The run's {TAKEDOWNS_FILE} and the shards' takedown.json do not say whether this document was taken down before "
            f"those steps (older runs kept no such record)."
        )
    return "\n".join(lines)
