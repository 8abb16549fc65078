"""Which rank holds what: pipeline stages times data-parallel replicas."""

from __future__ import annotations

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
    """Consecutive groups of layers, each on its own device; data parallelism takes the remaining factor of the ranks."""
    pipeline_partition: Literal["parameters", "uniform", "cost"] = "parameters"
    """What the stages have equally much of: parameters, blocks (uniform), or time of the forward and backward pass, head and
    loss included (cost: measured when the run starts, kept in its folder)."""


@dataclass(frozen=True)
class Topology:
    """Ranks in DeepSpeed's order for (pipe, data): consecutive ranks are replicas of one stage."""

    pipeline_stages: int
    data_parallel_size: int

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.pipeline_stages * self.data_parallel_size

    def data_rank(self, rank: int) -> int:
        """Which replica a rank belongs to: ranks of the same replica read the same data."""
        return rank % self.data_parallel_size

    def pipe_stage(self, rank: int) -> int:
        """Which stage a rank holds."""
        return rank // self.data_parallel_size

    def model_part(self, rank: int) -> int:
        """Ranks with equal numbers hold the same parameters (before ZeRO shards them)."""
        return self.pipe_stage(rank)


def from_world(section: ParallelSection, world_size: int) -> Topology:
    """Arrange `world_size` ranks. Raises TopologyError with the arrangements that work."""
    stages = section.pipeline_stages
    if stages > 1 and section.zero_stage > 1:
        raise TopologyError(
            f"parallel.zero_stage {section.zero_stage} with parallel.pipeline_stages {stages}: DeepSpeed's pipeline runs "
            f"with ZeRO 0 or 1 only. Set zero_stage to 1 to keep the pipeline, or pipeline_stages to 1 to keep ZeRO "
            f"{section.zero_stage}."
        )
    if world_size % stages:
        below, above = world_size // stages * stages, -(-world_size // stages) * stages
        ranks = " or ".join(str(count) for count in (below, above) if count)
        fitting = [str(p) for p in range(1, world_size + 1) if world_size % p == 0]
        raise TopologyError(
            f"{world_size} ranks cannot form {stages} pipeline stages (parallel.pipeline_stages) of equal width. Start "
            f"{ranks} ranks, or set pipeline_stages to one of {', '.join(fitting)}."
        )
    return Topology(pipeline_stages=stages, data_parallel_size=world_size // stages)
