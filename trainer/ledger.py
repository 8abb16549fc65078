"""The ledger: of every optimizer step, a hash of the windows that all ranks consumed, chained to the step before.

RUN/ledger.jsonl, a line a step: {"step", "tokens", "sequence_length", "digest", "chain"}. `digest` is the sum, modulo 2^64, of
a hash of each window (source, number, position in the order, length), made by the rank that read it: the same however the work
is split. `chain` hashes the chain of the step before together with this line, so that equal chains mean equal histories.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.batch_ramp import BatchSchedule
from trainer.state import TrainState

if TYPE_CHECKING:
    from trainer.data.corpus import Corpus

LEDGER_FILE = "ledger.jsonl"
MASK = 2**64 - 1
CHECKED = 100
"""Steps before a resume that are compared with the order."""
START = "0" * 32
"""The chain before the first step."""


class LedgerError(ValueError):
    """The ledger does not say what this run would have consumed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one step consumed."""

    step: int
    tokens: int
    """Tokens consumed until its end."""
    sequence_length: int
    digest: int
    """uint64."""
    chain: str
    """128 bits, hex."""

    def line(self) -> str:
        """As it is written."""
        return json.dumps({**asdict(self), "digest": f"{self.digest:016x}"}) + "\n"


def digest(sources: np.ndarray, windows: np.ndarray, positions: np.ndarray, sequence_length: int) -> int:
    """Sum of a hash of each window, modulo 2^64; `sources` uint64 fingerprints. The arrays are of one shape."""
    hashes = _mix(sources ^ _mix(windows.astype(np.uint64)))
    hashes = _mix(hashes ^ _mix(positions.astype(np.uint64) + np.uint64(sequence_length * 0x9E3779B97F4A7C15 & MASK)))
    return int(hashes.sum(dtype=np.uint64))


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64 (Steele, Lea & Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def chained(chain: str, step: int, tokens: int, sequence_length: int, step_digest: int) -> Entry:
    """The entry of a step that follows `chain`."""
    text = f"{chain}/{step}/{tokens}/{sequence_length}/{step_digest:016x}"
    return Entry(step, tokens, sequence_length, step_digest, hashlib.blake2b(text.encode(), digest_size=16).hexdigest())


def planned(corpus: Corpus, batches: BatchSchedule, tokens_seen: int) -> tuple[int, int, int]:
    """(tokens after it, window length, digest) of the step that begins after `tokens_seen` tokens, by the data order."""
    plan, length = batches.at(tokens_seen), corpus.length_at(tokens_seen)
    after = tokens_seen + plan.global_batch_tokens
    return after, length, digest_of(corpus, tokens_seen, after, length)


def digest_of(corpus: Corpus, first_token: int, stop: int, sequence_length: int) -> int:
    """Digest of the tokens [first_token, stop) of the data order, whole windows of it."""
    first, end = first_token // corpus.sequence_length, stop // corpus.sequence_length
    source, window = corpus.mixture.locate(first, end - first)
    return digest(corpus.mixture.keys[source], window, np.arange(first, end), sequence_length)


def entries_by_plan(corpus: Corpus, batches: BatchSchedule, first_step: int, stop: int, chain: str) -> Iterator[Entry]:
    """What the ledger will say, or should, of the steps after `first_step` up to `stop`."""
    tokens = batches.tokens_after(first_step)
    for step in range(first_step + 1, stop + 1):
        tokens, length, step_digest = planned(corpus, batches, tokens)
        entry = chained(chain, step, tokens, length, step_digest)
        chain = entry.chain
        yield entry


class Ledger:
    """The ledger of a running job; silent where `writes` is False."""

    def __init__(
        self, folder: Path, state: TrainState, chain: str | None, corpus: Corpus, batches: BatchSchedule, writes: bool
    ):
        """Go on after `state`, whose checkpoint holds `chain`: later lines, of steps that will be done again, are dropped.

        The last steps are compared with what the data order says of them now; all of them, when the file is lost. Raises
        LedgerError when something else was consumed.
        """
        self._path, self._chain, self._waiting, self._file = folder / LEDGER_FILE, START, None, None
        if not writes:
            return
        entries = self._recorded(state.step)
        if len(entries) < state.step or (entries and chain not in (None, entries[-1].chain)):
            print(f"{self._path}: lost or damaged after step {len(entries)}; computed anew from the data order.", flush=True)
            entries = list(entries_by_plan(corpus, batches, 0, state.step, START))
        if entries:
            self._chain = entries[-1].chain
            self._check(entries, chain, corpus, batches)
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(entry.line() for entry in entries), encoding="utf-8")
        os.replace(partial, self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def add(self, state: TrainState, sequence_length: int, consumed: Any) -> None:
        """Record the step that ends in `state`. `consumed` is the engine's tensor (targets, digest) of it, on the device; it is
        waited for when the next step is recorded, so that no step waits for its own."""
        if self._file is None:
            return
        self._settle()
        self._waiting = (state, sequence_length, consumed)

    def settled(self) -> str | None:
        """The chain of all steps recorded, which are on the disk then; None on ranks that do not write."""
        if self._file is None:
            return None
        self._settle()
        os.fsync(self._file.fileno())
        return self._chain

    def close(self) -> None:
        """Settle and close."""
        if self.settled() is not None:
            self._file.close()

    def _settle(self) -> None:
        if self._waiting is None:
            return
        state, length, consumed = self._waiting
        step_digest = consumed.tolist()[1] & MASK
        entry = chained(self._chain, state.step, state.tokens_seen, length, step_digest)
        self._file.write(entry.line())
        self._file.flush()
        self._chain, self._waiting = entry.chain, None

    def _recorded(self, steps: int) -> list[Entry]:
        """The entries of the first steps, up to a damaged line."""
        found: list[Entry] = []
        try:
            for entry in read(self._path.parent):
                if entry.step != len(found) + 1 or entry.step > steps:
                    break
                found.append(entry)
        except LedgerError:
            pass  # the order itself says what is lost, and the checkpoint whether that is right
        return found

    def _check(self, entries: list[Entry], chain: str | None, corpus: Corpus, batches: BatchSchedule) -> None:
        first = max(0, len(entries) - CHECKED)
        before = entries[first - 1].chain if first else START
        planned_entries = entries_by_plan(corpus, batches, first, len(entries), before)
        for entry, expected in zip(entries[first:], planned_entries, strict=True):
            if entry != expected:
                raise self._apart(entry.step, f"{entry.line().strip()}, not {expected.line().strip()}")
        if chain not in (None, entries[-1].chain):
            raise self._apart(len(entries), f"its checkpoint has the chain {chain}, not {entries[-1].chain}")

    def _apart(self, step: int, found: str) -> LedgerError:
        return LedgerError(
            f"{self._path}: until step {step} other windows were consumed than this run file and these shards would give now: "
            f"{found}. To go on would repeat some tokens and skip others. Restore the run file, the shards and the moenda that "
            f"this run began with, or choose another run.folder."
        )


def read(folder: Path) -> Iterator[Entry]:
    """Entries of a run folder's ledger in order, each proven to follow the one before; a last line that a kill left
    half-written is passed over. Raises LedgerError at the first line that is not what was written."""
    path = folder / LEDGER_FILE
    if not path.is_file():
        return
    chain = START
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                values = json.loads(line)
                entry = chained(chain, number, values["tokens"], values["sequence_length"], int(values["digest"], 16))
                right = entry.line().encode() == line
            except (ValueError, KeyError, TypeError, RecursionError):
                right = False
            if not right:
                raise LedgerError(f"{path}: line {number} is damaged or edited. A resume computes the ledger anew.")
            chain = entry.chain
            yield entry
