"""Jobs over the ranks of an MPI job: rank 0 hands them out, the others work.

Point-to-point messages alone. mpi4py.futures would do, but joins its workers by an intercommunicator, and to make one hangs in
Open MPI 5 where several machines bear one name, as containers do.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
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
SILENCE = float(os.environ.get("MOENDA_RANK_SILENCE_S", "60"))
"""Seconds without a word from a rank at work after which it is given up, its machine or network being gone."""
HEARTBEAT = SILENCE / 12
ALIVE = "alive"


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
    """The other ranks, as rank 0 sees them. A rank that falls silent costs its job, which another does again."""

    def __init__(self, comm: Comm):
        self._comm = comm
        self._idle = list(range(comm.size - 1, 0, -1))
        self._busy: dict[int, int] = {}
        """The index of each rank's job."""
        self._heard: dict[int, float] = {}
        self._lost: set[int] = set()
        self._sent: dict[int, Any] = {}
        """Messages under way: MPI wants their requests kept."""

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:  # the others would wait for ever
            sys.excepthook(kind, error, traceback)
            self._abort(1)

    def leave(self, code: int) -> int:
        """Let the other ranks end, and return the exit code. With ranks lost, this process ends here with it: MPI's own end
        would wait for them."""
        while self._busy:
            self._next()
        for rank in self._idle:
            self._comm.send(None, rank)
        if self._lost:
            lost = ", ".join(map(str, sorted(self._lost)))
            print(
                f"moenda: ended without rank {lost}. mpirun may wait minutes for a machine that is gone: stop it then.",
                file=sys.stderr,
            )
            self._abort(code)
        return code

    def _abort(self, code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(code)

    def map(self, function: Function, jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(index, function(jobs[index])) as they are finished. Raises what one of them raises, and begins no other then."""
        while self._busy:  # left by a map that failed
            self._next()
        waiting = list(range(len(jobs) - 1, -1, -1))
        while waiting or self._busy:
            while waiting and self._idle:
                rank, index = self._idle.pop(), waiting.pop()
                self._sent[rank] = self._comm.isend((function, jobs[index]), rank)
                self._busy[rank], self._heard[rank] = index, time.monotonic()
            if not self._busy:
                raise ValueError(
                    f"all {len(self._lost)} other ranks have fallen silent, {len(waiting)} of {len(jobs)} tasks are left. What "
                    f"is done is kept: run again, without the machines that are gone."
                )
            index, answer = self._next()
            if answer is None:
                waiting.append(index)
                continue
            done, outcome = answer
            if not done:
                raise outcome
            yield index, outcome

    def _next(self) -> tuple[int, tuple[bool, Any] | None]:
        """(index, (whether it was done, its result or exception)) of a job that ended; (index, None) when its rank is lost."""
        while True:
            received = _receive(self._comm, seconds=HEARTBEAT)
            if received is None:
                silent = [rank for rank in self._busy if time.monotonic() - self._heard[rank] > SILENCE]
                if silent:
                    self._lost.add(silent[0])
                    print(
                        f"moenda: rank {silent[0]} has been silent for {SILENCE:.0f} s; another does its task.", file=sys.stderr
                    )
                    return self._busy.pop(silent[0]), None
                continue
            rank, message = received
            if rank in self._lost:
                continue
            self._heard[rank] = time.monotonic()
            if message != ALIVE:
                self._idle.append(rank)
                return self._busy.pop(rank), message


def serve(comm: Comm) -> None:
    """On the other ranks: do the jobs that rank 0 sends, until it sends none."""
    with Helper() as helper:
        while True:
            received = _receive(comm, seconds=math.inf)
            if received is None or received[1] is None:
                return
            function, job = received[1]
            try:
                outcome = (True, helper.run(function, job, lambda: comm.send(ALIVE, 0)))
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

    def run(self, function: Function, job: Any, alive: Callable[[], None]) -> Any:
        """function(job), calling `alive` every HEARTBEAT seconds. Raises ValueError when the job kills each process."""
        host = socket.gethostname()
        for _ in range(self.TRIES):
            self._pool = self._pool or new_pool(1)
            try:
                future = self._pool.submit(function, job)
                while not wait([future], timeout=HEARTBEAT).done:
                    alive()
                return future.result()
            except BrokenProcessPool:
                self._pool = None
                print(f"moenda: a process was killed at work on {host}; its task is done again.", file=sys.stderr, flush=True)
        raise ValueError(
            f"a task killed its process {self.TRIES} times on {host} (out of memory?). What is done is kept: run again, with "
            f"fewer ranks or a smaller task_megabytes if memory is short."
        )


def _receive(comm: Comm, seconds: float) -> tuple[int, Any] | None:
    """(rank, message), whoever sends first; None when nobody does within some time."""
    from mpi4py import MPI

    status, pause, end = MPI.Status(), 0.0001, time.monotonic() + seconds
    while not comm.iprobe(status=status):
        if time.monotonic() > end:
            return None
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_SLEEP)
    return status.source, comm.recv(source=status.source)
