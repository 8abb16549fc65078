"""TrainState: where a run stands. Saved whole with every checkpoint; data position, schedule and dropout follow from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from trainer.batch import BatchPlan


@dataclass(frozen=True)
class TrainState:
    """Progress of a run after `step` optimizer steps."""

    step: int = 0
    """Optimizer steps done."""
    tokens_seen: int = 0
    """Tokens consumed by all ranks together; data order, batch and learning rate are functions of this number."""

    skipped_in_a_row: int = 0
    """Of the last steps, those that changed no weight, as their gradients were not finite."""

    def advance(self, batch: BatchPlan, skipped: bool = False) -> TrainState:
        """The state after one more optimizer step, which consumes its batch also if it was skipped."""
        return TrainState(
            step=self.step + 1,
            tokens_seen=self.tokens_seen + batch.global_batch_tokens,
            skipped_in_a_row=self.skipped_in_a_row + 1 if skipped else 0,
        )

    def to_json(self) -> dict[str, int]:
        """As written to state.json."""
        return asdict(self)


def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every part: initialisation by parameter name, dropout by step and rank.

    A seed per purpose, instead of one stream shared by all, makes each draw a function of what it is for, so that
    resuming, or splitting the model differently, cannot shift it.
    """
    text = "/".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def differences(saved: dict[str, Any], current: dict[str, Any]) -> Iterator[str]:
    """One line per entry in which two run identities differ, with dotted names."""
    before, now = dict(flatten(saved)), dict(flatten(current))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            yield f"{key}: {before.get(key, 'absent')} in the run folder, {now.get(key, 'absent')} in this run file"


def flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested sections."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from flatten(inner, f"{prefix}{key}.")
        else:
            yield prefix + key, inner
