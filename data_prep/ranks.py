"""Jobs over the ranks of an MPI job: rank 0 hands them out, the others work.

Point-to-point messages alone. mpi4py.futures would do, but joins its workers by an intercommunicator, and to make one hangs in
Open MPI 5 where several machines bear one name, as containers do.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from data_prep.processes import new_pool

if TYPE_CHECKING:
    from mpi4py.MPI import Comm

Function = Callable[[Any], Any]
LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
"""Where MPI's launchers tell a process the number of ranks."""
LONGEST_SLEEP = 0.05
"""Seconds between looks for a message; MPI's own waiting would keep a core busy."""


def communicator() -> Comm | None:
    """That of all ranks of this MPI job; None without one. Raises ValueError when mpi4py is not installed."""
    if not any(int(os.environ.get(name, 1)) > 1 for name in LAUNCHERS):
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: it found no MPI library
        raise ValueError(f"started under mpirun, but mpi4py cannot be used ({error}): pip install -e '.[mpi]'") from None
    return MPI.COMM_WORLD


class Ranks:
    """The other ranks, as rank 0 sees them. Leaving the context lets them end."""

    def __init__(self, comm: Comm):
        self._comm = comm
        self._idle = list(range(comm.size - 1, 0, -1))
        self._busy: dict[int, int] = {}

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        while self._busy:
            self._receive()
        for rank in self._idle:
            self._comm.send(None, rank)

    def map(self, function: Function, jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(index, function(jobs[index])) as they are finished. Raises what one of them raises, and begins no other then."""
        waiting = list(range(len(jobs) - 1, -1, -1))
        while self._busy:  # left by a map that failed
            self._receive()
        while waiting or self._busy:
            while waiting and self._idle:
                rank, index = self._idle.pop(), waiting.pop()
                self._comm.send((function, jobs[index]), rank)
                self._busy[rank] = index
            index, done, outcome = self._receive()
            if not done:
                raise outcome
            yield index, outcome

    def _receive(self) -> tuple[int, bool, Any]:
        """(index, whether it was done, its result or exception) of a job that has ended."""
        rank, (done, outcome) = _receive(self._comm)
        self._idle.append(rank)
        return self._busy.pop(rank), done, outcome


def serve(comm: Comm) -> None:
    """On the other ranks: do the jobs that rank 0 sends, until it sends none."""
    with Helper() as helper:
        while (message := _receive(comm)[1]) is not None:
            function, job = message
            try:
                outcome = (True, helper.run(function, job))
            except Exception as error:
                outcome = (False, error)
            comm.send(outcome, 0)


class Helper:
    """A process beside a rank that works for it. MPI ends all ranks when one is killed, for lack of memory, say; like this the
    killed process costs its job, which is done again."""

    TRIES = 4

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, function: Function, job: Any) -> Any:
        """function(job). Raises ValueError when that killed the process each time."""
        host = socket.gethostname()
        for _ in range(self.TRIES):
            self._pool = self._pool or new_pool(1)
            try:
                return self._pool.submit(function, job).result()
            except BrokenProcessPool:
                self._pool = None
                print(f"moenda: a process was killed at work on {host}; its task is done again.", file=sys.stderr, flush=True)
        raise ValueError(
            f"a task killed its process {self.TRIES} times on {host} (out of memory?). What is done is kept: run again, with "
            f"fewer ranks or a smaller task_megabytes if memory is short."
        )


def _receive(comm: Comm) -> tuple[int, Any]:
    """(rank, message), whoever sends first."""
    from mpi4py import MPI

    status, seconds = MPI.Status(), 0.0001
    while not comm.iprobe(status=status):
        time.sleep(seconds)
        seconds = min(2 * seconds, LONGEST_SLEEP)
    return status.source, comm.recv(source=status.source)
