"""The process groups of a topology, in the form in which DeepSpeed asks for them (its "mpu").

DeepSpeed averages gradients, and shards ZeRO's states, over replicas and parts of a window alike, and adds up the norms of the
slices of matrices. That windows are in parts it isn't told: it would then add gradients up over the parts, but in ZeRO-3 only
where reduce_scatter is off (0.19.8).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import distributed as dist

from trainer.parallel.topology import Topology


class ParallelGroups:
    """This rank's groups; to be made by all ranks at one time."""

    def __init__(self, topology: Topology):
        self.topology = topology
        self.data = self._group("data_parallel_size")
        """Ranks whose windows differ."""
        self.sequence = self._group("sequence")
        """Ranks that hold the parts of one window."""
        self.tensor = self._group("tensor")
        """Ranks that hold the slices of one matrix."""
        self.sharding = self._group("data_parallel_size", "sequence")
        """Ranks with the same parameters, over which ZeRO shards."""

    def _group(self, *axes: str) -> dist.ProcessGroup:
        return dist.new_subgroups_by_enumeration(self.topology.groups(*axes))[0]

    def get_data_parallel_world_size(self) -> int:
        """Factor between micro-batch and batch."""
        return self.topology.data_parallel_size

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """As DeepSpeed uses it: where parameters are the same."""
        return self.sharding

    def get_data_parallel_rank(self) -> int:
        """Within that group."""
        return dist.get_rank(self.sharding)

    get_sequence_data_parallel_group = get_data_parallel_group
    get_sequence_data_parallel_rank = get_data_parallel_rank

    def get_sequence_data_parallel_world_size(self) -> int:
        """Ranks over which ZeRO shards."""
        return dist.get_world_size(self.sharding)

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """The slices of a matrix."""
        return self.tensor

    def get_model_parallel_world_size(self) -> int:
        """Number of slices of a matrix."""
        return self.topology.tensor

    def get_model_parallel_rank(self) -> int:
        """Which slice this rank holds."""
        return dist.get_rank(self.tensor)

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_rank = get_model_parallel_rank


def add_up(values: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """`values`, summed in place over a group; None: all ranks."""
    dist.all_reduce(values, group=group)
    return values


def adding_up(values: torch.Tensor, group: dist.ProcessGroup | None) -> Callable[[], torch.Tensor]:
    """`add_up` beside what the caller goes on with; the sums are had, and waited for, by calling what this returns."""
    work = dist.all_reduce(values, group=group, async_op=True)

    def summed() -> torch.Tensor:
        if work is not None:  # None: a rank outside the group
            work.wait()
        return values

    return summed
