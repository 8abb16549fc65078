"""The global batch in tokens, solved once and exactly.

    sequence_length x micro_batch_size x gradient_accumulation_steps x data_parallel_size = global_batch_tokens

Either this holds, or the run is refused with the nearest numbers for which it would. Nothing is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Annotated, Literal

from pydantic import Field

from strict_json import StrictModel

AUTO_MICRO_BATCH_TOKENS = 16384
"""Most tokens of one micro-batch chosen by "auto": enough to keep a GPU busy, small enough for its activations to fit beside
a model that fills it. Measure and set micro_batch_size to go beyond."""
AUTO_MICRO_BATCHES_PER_STAGE = 4
"""Micro-batches per pipeline stage that "auto" aims at: with 4 p of them the bubble (p-1)/(m+p-1) stays under a fifth."""


class BatchError(ValueError):
    """The batch numbers do not multiply to the global batch."""


class RampSection(StrictModel):
    """A global batch that grows at the beginning, as GPT-3's did (arXiv 2005.14165, section 2.3): many small steps while the
    gradient is still large against its noise."""

    start_tokens: int = Field(ge=1)
    """Tokens of the first optimizer steps; GPT-3: 32 thousand."""
    over_tokens: int = Field(ge=1)
    """Tokens over which the batch grows, in equal increments at equal distances; the first step that begins at or after
    them has global_batch_tokens. GPT-3: 4 to 12 billion."""
    increment_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """By how much it grows at a time; "auto": the greatest common divisor of start_tokens and global_batch_tokens."""

    def increment(self, global_batch_tokens: int) -> int:
        """increment_tokens, with "auto" filled in."""
        return gcd(self.start_tokens, global_batch_tokens) if self.increment_tokens == "auto" else self.increment_tokens


class BatchSection(StrictModel):
    """How many tokens one optimizer step consumes, and how they are split."""

    global_batch_tokens: int = Field(ge=1)
    """Tokens of one optimizer step over all devices; GPT-3 used 0.5 million (125M) to 3.2 million (175B)."""
    micro_batch_size: int | Literal["auto"] = "auto"
    """Windows per device in one forward pass; "auto": the largest that divides evenly and has at most 16384 tokens."""
    gradient_accumulation_steps: int | Literal["auto"] = "auto"
    """Forward and backward passes per optimizer step, at the full batch; "auto": what the other numbers leave."""
    ramp: RampSection | None = None
    """Growth of the batch from a smaller one, in tokens; null: the full batch from the first step on."""


@dataclass(frozen=True)
class BatchPlan:
    """A batch whose numbers multiply exactly."""

    sequence_length: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    data_parallel_size: int

    @property
    def windows_per_rank(self) -> int:
        """Windows that one data-parallel rank consumes per step."""
        return self.micro_batch_size * self.gradient_accumulation_steps

    @property
    def windows_per_step(self) -> int:
        """Windows of one step over all ranks."""
        return self.windows_per_rank * self.data_parallel_size

    @property
    def global_batch_tokens(self) -> int:
        """Tokens of one step over all ranks."""
        return self.windows_per_step * self.sequence_length

    def describe(self) -> str:
        """The equation, for a person."""
        return (
            f"{self.sequence_length} tokens/window x {self.micro_batch_size} micro-batch x "
            f"{self.gradient_accumulation_steps} accumulation x {self.data_parallel_size} data-parallel = "
            f"{self.global_batch_tokens:,} tokens per step"
        )


def solve(section: BatchSection, sequence_length: int, data_parallel_size: int, pipeline_stages: int = 1) -> BatchPlan:
    """The one split of the global batch that the section allows, or BatchError with every number and the nearest ways out."""
    for name in ("micro_batch_size", "gradient_accumulation_steps"):
        value = getattr(section, name)
        if value != "auto" and value < 1:
            raise BatchError(f"batch.{name} is {value}; it must be at least 1.")
    micro, accumulation = section.micro_batch_size, section.gradient_accumulation_steps
    known = _product(sequence_length, data_parallel_size, micro, accumulation)
    if section.global_batch_tokens % known or ("auto" not in (micro, accumulation) and section.global_batch_tokens != known):
        raise BatchError(_refusal(section, sequence_length, data_parallel_size, known))
    rest = section.global_batch_tokens // known
    if micro == "auto" and accumulation == "auto":
        micro = _auto_micro_batch(_common_windows(section, rest, known), sequence_length, pipeline_stages)
        accumulation = rest // micro
    elif micro == "auto":
        micro = rest
    elif accumulation == "auto":
        accumulation = rest
    return BatchPlan(sequence_length, micro, accumulation, data_parallel_size)


def _common_windows(section: BatchSection, windows: int, tokens: int) -> int:
    """The most windows of a rank that every rung of the ramp holds a whole number of times; `tokens` of a window on all ranks.
    Where there is none, `windows`: the ramp is then refused with the numbers."""
    if section.ramp is None:
        return windows
    # every rung is a sum of these two
    start, increment = section.ramp.start_tokens, section.ramp.increment(section.global_batch_tokens)
    return windows if start % tokens or increment % tokens else gcd(start // tokens, increment // tokens)


def _product(sequence_length: int, data_parallel_size: int, *factors: int | str) -> int:
    product = sequence_length * data_parallel_size
    for factor in factors:
        product *= 1 if factor == "auto" else factor
    return product


def _auto_micro_batch(windows: int, sequence_length: int, stages: int) -> int:
    """Largest divisor of a rank's windows within the token limit that still leaves the pipeline enough micro-batches."""
    fitting = [m for m in _divisors(windows) if m == 1 or m * sequence_length <= AUTO_MICRO_BATCH_TOKENS]
    if stages == 1:
        return fitting[-1]
    enough = [m for m in fitting if windows // m >= AUTO_MICRO_BATCHES_PER_STAGE * stages]
    return enough[-1] if enough else 1


def _refusal(section: BatchSection, length: int, ranks: int, known: int) -> str:
    tokens, micro, accumulation = (
        section.global_batch_tokens,
        section.micro_batch_size,
        section.gradient_accumulation_steps,
    )
    both_given = "auto" not in (micro, accumulation)
    below, above = tokens // known * known, -(-tokens // known) * known
    relation = "is not" if both_given else "is not a multiple of"
    factors = {
        "data.sequence_length": length,
        "micro_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "data-parallel ranks": ranks,
    }
    product = " x ".join(f"{value} ({name})" for name, value in factors.items() if value != "auto")
    lines = [f"batch.global_batch_tokens = {tokens} {relation} {known} = {product}.", "What works:"]
    nearest = [known] if both_given else sorted({value for value in (below, above) if value > 0})
    lines.append(f"  global_batch_tokens = {' or '.join(map(str, nearest))}, all else as it is")
    if tokens % (length * ranks) == 0:
        lines += _other_splits(tokens // (length * ranks), micro, accumulation)
    if tokens % length == 0:
        fixed = _product(1, 1, micro, accumulation)
        if (tokens // length) % fixed == 0:
            fitting = _divisors(tokens // length // fixed)
            if both_given:
                fitting = fitting[-1:]
            lines.append(f"  data-parallel ranks = {_list(_nearest(fitting, ranks))}, all else as it is")
    else:
        lines.append(f"  ({tokens} tokens are {tokens / length:.3f} windows of {length}: no split makes them whole)")
    return "\n".join(lines)


def _other_splits(windows: int, micro: int | str, accumulation: int | str) -> list[str]:
    """Ways to divide a rank's windows that keep one of the two numbers, or replace both."""
    lines = []
    if accumulation != "auto" and windows % accumulation == 0:
        lines.append(f"  micro_batch_size = {windows // accumulation}, all else as it is")
    if micro != "auto":
        if windows % micro == 0:
            lines.append(f"  gradient_accumulation_steps = {windows // micro}, all else as it is")
        pairs = [f"{m} with gradient_accumulation_steps {windows // m}" for m in _nearest(_divisors(windows), micro)]
        lines.append(f"  micro_batch_size = {_list(pairs)}")
    return lines


def _nearest(values: list[int], target: int, count: int = 4) -> list[int]:
    return sorted(sorted(values, key=lambda value: (abs(value - target), value))[:count])


def _list(values: list[int] | list[str]) -> str:
    return ", ".join(map(str, values[:-1])) + (" or " if len(values) > 1 else "") + str(values[-1])


def _divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]
