"""The global batch over a run: a function of the tokens consumed, which no resume and no other split of the work changes.

Rung k of the ramp, start + k x increment tokens, is taken by the steps that begin at k/K x over_tokens or later; K rungs come
before the full batch. Every rung is made of whole micro-batches on every rank: only the accumulation changes.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property

from trainer.batch import BatchError, BatchPlan, BatchSection, solve


@dataclass(frozen=True)
class Rung:
    """Consecutive steps of one batch."""

    first_step: int
    """Steps before it."""
    first_token: int
    """Tokens before it."""
    batch: BatchPlan


@dataclass(frozen=True)
class BatchSchedule:
    """Which batch each step has."""

    full: BatchPlan
    start_tokens: int | None = None
    increment_tokens: int = 0
    over_tokens: int = 0

    @cached_property
    def rungs(self) -> tuple[Rung, ...]:
        """Every rung that has a step; the last, with the full batch, is without end."""
        if self.start_tokens is None:
            return (Rung(0, 0, self.full),)
        found, step, tokens = [], 0, 0
        count = (self.full.global_batch_tokens - self.start_tokens) // self.increment_tokens
        for index in range(count):
            size = self.start_tokens + index * self.increment_tokens
            end = -(-(index + 1) * self.over_tokens // count)
            steps = max(0, -(-(end - tokens) // size))
            if steps:
                found.append(Rung(step, tokens, self._batch(size)))
            step, tokens = step + steps, tokens + steps * size
        return (*found, Rung(step, tokens, self.full))

    def _batch(self, tokens: int) -> BatchPlan:
        micro_batches = tokens // (self.full.global_batch_tokens // self.full.gradient_accumulation_steps)
        return replace(self.full, gradient_accumulation_steps=micro_batches)

    def at(self, tokens_seen: int) -> BatchPlan:
        """The batch of the step that begins after `tokens_seen` tokens."""
        return self.rungs[bisect_right(self.rungs, tokens_seen, key=lambda rung: rung.first_token) - 1].batch

    def steps(self, total_tokens: int) -> int:
        """Steps until at least `total_tokens` tokens are consumed; the last one may go past them."""
        rung = self.rungs[max(0, bisect_right(self.rungs, total_tokens - 1, key=lambda rung: rung.first_token) - 1)]
        return rung.first_step + -(-(total_tokens - rung.first_token) // rung.batch.global_batch_tokens)

    def tokens_after(self, step: int) -> int:
        """Tokens consumed by the first `step` steps."""
        rung = self.rungs[bisect_right(self.rungs, step, key=lambda rung: rung.first_step) - 1]
        return rung.first_token + (step - rung.first_step) * rung.batch.global_batch_tokens

    def describe(self) -> str:
        """The ramp for a person; empty when there is none."""
        if self.start_tokens is None:
            return ""
        return (
            f"{self.start_tokens:,} tokens per step at first, +{self.increment_tokens:,} at a time, the full batch after "
            f"{self.rungs[-1].first_token:,} tokens ({self.rungs[-1].first_step:,} steps)"
        )


def plan_batches(section: BatchSection, sequence_length: int, data_parallel_size: int, stages: int = 1) -> BatchSchedule:
    """Solve the full batch, then the ramp to it. Raises BatchError with every number and the nearest ways out."""
    full = solve(section, sequence_length, data_parallel_size, stages)
    ramp = section.ramp
    if ramp is None:
        return BatchSchedule(full)
    unit = full.sequence_length * full.micro_batch_size * full.data_parallel_size
    increment, total = ramp.increment(section.global_batch_tokens), section.global_batch_tokens
    if ramp.start_tokens >= total:
        raise BatchError(
            f"batch.ramp.start_tokens = {ramp.start_tokens} must be less than batch.global_batch_tokens = {total}, to which it "
            f"grows. Without growth, remove batch.ramp."
        )
    product = (
        f"{unit} = {full.sequence_length} (data.sequence_length) x {full.micro_batch_size} (micro_batch_size) x "
        f"{full.data_parallel_size} (data-parallel ranks)"
    )
    for name, value, most in (("start_tokens", ramp.start_tokens, total - unit), ("increment_tokens", increment, total)):
        if value % unit:
            near = {max(unit, value // unit * unit), -(-value // unit) * unit}
            near = sorted(choice for choice in near if choice <= most)
            lines = [f"  batch.ramp.{name} = {' or '.join(map(str, near))}, all else as it is"] if near else []
            if full.micro_batch_size > 1 and value % (unit // full.micro_batch_size) == 0:
                lines.append("  a smaller batch.micro_batch_size")
            raise BatchError(
                f"batch.ramp.{name} = {value} is not a multiple of {product}, so its steps would not be whole micro-batches.\n"
                + "\n".join(["What works:", *lines] if lines else ["Remove batch.ramp, or raise batch.global_batch_tokens."])
            )
    rise = total - ramp.start_tokens
    if rise % increment:
        raise BatchError(
            f"batch.ramp goes from start_tokens = {ramp.start_tokens} to batch.global_batch_tokens = {total}, but {rise} is "
            f"not a multiple of increment_tokens = {increment}.\nWhat works:\n"
            f"  batch.ramp.increment_tokens = {_divisor_near(rise, unit, increment)}, all else as it is"
        )
    return BatchSchedule(full, ramp.start_tokens, increment, ramp.over_tokens)


def _divisor_near(rise: int, unit: int, wanted: int) -> int:
    """The multiple of `unit` dividing `rise` that is nearest to `wanted`."""
    parts = rise // unit
    fitting = [d * unit for d in range(1, parts + 1) if parts % d == 0]
    return min(fitting, key=lambda value: abs(value - wanted))
