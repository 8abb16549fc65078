"""Which rank holds what: pipeline stages x data-parallel replicas x parts of a window x slices of a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from strict_json import StrictModel


class TopologyError(ValueError):
    """The ranks cannot be arranged as asked."""


class ParallelSection(StrictModel):
    """How the work is split over devices."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """What ZeRO (arXiv 1910.02054) shards over the data-parallel ranks: 0 nothing, 1 optimizer states, 2 also gradients, 3
    also parameters. Home of DeepSpeed's zero_optimization.stage."""
    pipeline_stages: int = Field(default=1, ge=1)
    """Consecutive groups of layers, each on its own device; data parallelism takes the factor of the ranks that this and the
    next two leave."""
    tensor: int = Field(default=1, ge=1)
    """Devices that each hold a slice of every large matrix, its heads or columns (arXiv 1909.08053). They exchange activations
    twice a block and direction: keep them within a machine. Home of DeepSpeed's tensor_parallel.autotp_size."""
    sequence: int = Field(default=1, ge=1)
    """Devices that each hold a part of every window (arXiv 2309.14509): for windows too long for one. ZeRO shards over them,
    too. Home of DeepSpeed's sequence_parallel_size."""
    pipeline_partition: Literal["parameters", "uniform", "cost"] = "parameters"
    """What the stages have equally much of: parameters, blocks (uniform), or time of the forward and backward pass, head and
    loss included (cost: measured when the run starts, kept in its folder)."""


@dataclass(frozen=True)
class Topology:
    """Ranks as a grid, the last axis fastest: rank = ((stage x data + replica) x sequence + part) x tensor + slice.

    DeepSpeed's order for (pipe, data, model); ranks that talk most are neighbours.
    """

    pipeline_stages: int = 1
    data_parallel_size: int = 1
    sequence: int = 1
    tensor: int = 1

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return math.prod(self._sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(getattr(self, axis) for axis in AXES)

    @property
    def splits_replicas(self) -> bool:
        """Whether several ranks share the windows of a replica other than as pipeline stages."""
        return self.sequence * self.tensor > 1

    def place(self, rank: int) -> tuple[int, int, int, int]:
        """(stage, replica, part of the window, slice of the matrices) of a rank."""
        place = []
        for size in reversed(self._sizes):
            rank, index = divmod(rank, size)
            place.append(index)
        return tuple(reversed(place))

    def data_rank(self, rank: int) -> int:
        """Which replica a rank belongs to: ranks of the same replica read the same data."""
        return self.place(rank)[1]

    def pipe_stage(self, rank: int) -> int:
        """Which stage a rank holds."""
        return self.place(rank)[0]

    def model_part(self, rank: int) -> int:
        """Ranks with equal numbers hold the same parameters (before ZeRO shards them)."""
        stage, _, _, slice_ = self.place(rank)
        return stage * self.tensor + slice_

    def dropout_rank(self, rank: int) -> int:
        """Ranks with equal numbers draw equal dropout: the slices of one matrix act on the same activations."""
        return rank // self.tensor

    def groups(self, *axes: str) -> list[list[int]]:
        """The ranks in groups whose members differ on these axes alone, each ascending."""
        members: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.world_size):
            rest = tuple(index for axis, index in zip(AXES, self.place(rank), strict=True) if axis not in axes)
            members.setdefault(rest, []).append(rank)
        return list(members.values())

    def describe(self) -> str:
        """The product, for a person."""
        names = ("pipeline stages", "data parallel", "parts of a window", "slices of a matrix")
        parts = zip(AXES, self._sizes, names, strict=True)
        shown = [f"{size} {name}" for axis, size, name in parts if size > 1 or axis in AXES[:2]]
        return f"{self.world_size} = {' x '.join(shown)}"


AXES = ("pipeline_stages", "data_parallel_size", "sequence", "tensor")
"""The axes of the grid, outermost first."""


def from_world(section: ParallelSection, world_size: int, layers: int | None = None) -> Topology:
    """Arrange `world_size` ranks for a model of `layers` blocks (None: not known, or not of interest). Raises TopologyError
    with the arrangements that work."""
    _check_combination(section)
    if layers is not None and section.pipeline_stages > layers:
        raise TopologyError(
            f"parallel.pipeline_stages is {section.pipeline_stages}, the model has {layers} layers: a stage would be empty. On "
            f"{world_size} ranks, set pipeline_stages to {_divisors(world_size, layers)}."
        )
    stages, tensor, sequence = section.pipeline_stages, section.tensor, section.sequence
    unit = stages * tensor * sequence
    if world_size % unit:
        below, above = world_size // unit * unit, -(-world_size // unit) * unit
        ranks = " or ".join(str(count) for count in (below, above) if count)
        if tensor == sequence == 1:
            raise TopologyError(
                f"{world_size} ranks cannot form {stages} pipeline stages (parallel.pipeline_stages) of equal width. Start "
                f"{ranks} ranks, or set pipeline_stages to {_divisors(world_size, layers)}."
            )
        factors = {"pipeline_stages": stages, "tensor": tensor, "sequence": sequence}
        split = [f"parallel.{key} = {size}" for key, size in factors.items() if size > 1]
        product, lower = split[0], "set it to"
        if len(split) > 1:
            product, lower = f"{unit}, the product of {' and '.join(split)}", "lower these to a product that is"
        raise TopologyError(
            f"{world_size} ranks are not a multiple of {product}. Start {ranks} ranks, or {lower} {_divisors(world_size)}."
        )
    return Topology(stages, world_size // unit, sequence, tensor)


def _divisors(number: int, most: int | None = None) -> str:
    """ "one of" the divisors of a number, up to `most` where there is one."""
    found = [str(d) for d in range(1, min(number, most or number) + 1) if number % d == 0]
    return f"one of {', '.join(found)}" if len(found) > 1 else found[0]


def _check_combination(section: ParallelSection) -> None:
    """Raise TopologyError for what DeepSpeed cannot do together, with what to use instead."""
    stages, zero = section.pipeline_stages, section.zero_stage
    if stages > 1 and zero > 1:
        raise TopologyError(
            f"parallel.zero_stage {zero} with parallel.pipeline_stages {stages}: DeepSpeed's pipeline runs "
            f"with ZeRO 0 or 1 only. Set zero_stage to 1 to keep the pipeline, or pipeline_stages to 1 to keep ZeRO "
            f"{zero}."
        )
