"""Which process this is, as the launcher told it: `deepspeed`, `torchrun` and `accelerate` set RANK and WORLD_SIZE,
Open MPI and MPICH their own variables. Read before torch is imported, so that user errors end a run in a second."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_WORLD_SIZE = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
_LOCAL_SIZE = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


@dataclass(frozen=True)
class Process:
    """One process of the job; a script started without a launcher is rank 0 of 1."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @property
    def is_first(self) -> bool:
        """True on the one process of the whole job that prints and writes."""
        return self.rank == 0


def current_process(environment: Mapping[str, str] = os.environ) -> Process:
    """Read the launcher's variables."""

    def first(names: tuple[str, ...], default: int) -> int:
        return next((int(environment[name]) for name in names if environment.get(name)), default)

    world_size = first(_WORLD_SIZE, 1)
    return Process(
        rank=first(_RANK, 0),
        world_size=world_size,
        local_rank=first(_LOCAL_RANK, 0),
        local_world_size=first(_LOCAL_SIZE, 1),
    )
