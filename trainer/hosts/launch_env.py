"""Which process this is, as its launcher told it, and where the first process can be reached.

`deepspeed`, `torchrun` and `accelerate` say both; Open MPI, MPICH and Slurm (`srun`) number the processes alone. Read before
torch is imported, so that user errors end a run in a second.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

_LAUNCHERS = {
    "deepspeed": ("RANK", "WORLD_SIZE", "LOCAL_RANK", ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")),
    "openmpi": (
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", ("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    "mpich": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", ("MPI_LOCALNRANKS",)),
}  # fmt: skip
"""Names of rank, world size, local rank and local world size, the launcher nearest to the process first: `deepspeed` may start
under mpirun, and mpirun under Slurm. The first that gives both rank and size is believed, and no name of another's is."""
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
_SLURM_PORTS = range(20000, 32000)
"""Below the range from which Linux takes ports for outgoing connections."""


class LaunchError(ValueError):
    """The launcher's variables do not say how the processes belong together."""


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


def places(ranks: list[int], hosts: list[str]) -> str:
    """Hosts with their ranks: "node0 (ranks 0-1) and node1 (rank 2)"."""
    by_host: dict[str, list[int]] = {}
    for rank in ranks:
        by_host.setdefault(hosts[rank], []).append(rank)
    return " and ".join(f"{host} ({named_ranks(numbers)})" for host, numbers in by_host.items())


def named_ranks(ranks: list[int]) -> str:
    """ "rank 3", or "ranks 0-2, 5"."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {text}"


def current_process(environment: Mapping[str, str] = os.environ) -> Process:
    """Read the launcher's variables. Raises LaunchError inside an interactive Slurm step of several tasks."""
    launcher = _launcher(environment)
    if launcher is None:
        return Process(0, 1, 0, 1)
    if launcher == "slurm":
        return Process(*(int(environment[name]) for name in _SLURM), _slurm_tasks_here(environment))
    rank, world_size, local_rank, local_sizes = _LAUNCHERS[launcher]
    local_size = next((name for name in local_sizes if environment.get(name)), None)
    process = Process(*(_number(environment, name, default) for name, default in (
        (rank, 0), (world_size, 1), (local_rank, 0), (local_size, 1)
    )))  # fmt: skip
    if not 0 <= process.rank < process.world_size:
        raise LaunchError(f"{rank} is {process.rank} and {world_size} {process.world_size}: ranks count from 0 to one less.")
    return process


def _number(environment: Mapping[str, str], name: str | None, default: int) -> int:
    value = environment.get(name) if name else None
    if value and not value.isdecimal():
        raise LaunchError(f"{name} is {value!r}, where a launcher sets a whole number.")
    return int(value) if value else default


def _launcher(environment: Mapping[str, str]) -> str | None:
    for name, (rank, world_size, local_rank, _) in _LAUNCHERS.items():
        if environment.get(rank) and environment.get(world_size):
            slurms = name == "mpich" and not environment.get(local_rank) and in_slurm_step(environment)  # srun --mpi=pmi2
            return "slurm" if slurms else name
    return "slurm" if in_slurm_step(environment) else None


def in_slurm_step(environment: Mapping[str, str]) -> bool:
    """Whether `srun` started this process as one of several.

    The number of tasks of the step counts, not of the allocation: the shells of `salloc` and `sbatch` have SLURM_NTASKS, too,
    and `sbatch` even SLURM_PROCID, but a script that they start directly is a process alone.
    """
    if not all(environment.get(name) for name in _SLURM) or int(environment["SLURM_STEP_NUM_TASKS"]) == 1:
        return False
    if environment.get("SLURM_PTY_PORT"):
        raise LaunchError(
            f"this is the shell of an interactive Slurm step (srun --pty) of {environment['SLURM_STEP_NUM_TASKS']} tasks; what "
            "is started in it runs once. For a job of several ranks: env -u SLURM_PTY_PORT srun -n RANKS python "
            "trainer/train.py ...; for one process: RANK=0 WORLD_SIZE=1 python trainer/train.py ..."
        )
    return True


def _slurm_tasks_here(environment: Mapping[str, str]) -> int:
    """Tasks on this node, from Slurm's list per node: "2(x3),1" is 2, 2, 2, 1."""
    counts: list[int] = []
    for part in (environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or "1").split(","):
        count, _, repeated = part.partition("(x")
        counts += [int(count)] * int(repeated.rstrip(")") or 1)
    node = int(environment.get("SLURM_NODEID") or 0)
    return counts[node] if node < len(counts) else counts[-1]


def _slurm_port(environment: Mapping[str, str]) -> str:
    """The same on every node, another one for each job and step."""
    number = int(environment.get("SLURM_JOB_ID") or 0) + int(environment.get("SLURM_STEP_ID") or 0)
    return str(_SLURM_PORTS[number % len(_SLURM_PORTS)])


def first_host(nodelist: str) -> str:
    """The first host of a Slurm node list: "gpu[007-9,12],login1" is gpu007."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodelist).group()
    return re.sub(r"\[([^,\-\]]*)[^\]]*\]", r"\1", first)


def find_first_process(process: Process) -> None:
    """Set MASTER_ADDR and MASTER_PORT where the launcher did not, and what DeepSpeed and torch read beside them.

    Raises LaunchError when nothing says where the first process is.
    """
    environment = os.environ
    if process.world_size == 1:
        found = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    elif environment.get("MASTER_ADDR"):
        found = {"MASTER_PORT": "29500"}
    elif _launcher(environment) == "slurm":
        nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        found = {"MASTER_ADDR": first_host(nodes), "MASTER_PORT": _slurm_port(environment)}
    else:
        found = _ask_over_mpi(process)
    found |= {"RANK": process.rank, "WORLD_SIZE": process.world_size, "LOCAL_RANK": process.local_rank}
    found |= {"LOCAL_SIZE": process.local_world_size}
    for name, value in found.items():
        if not environment.get(name):
            environment[name] = str(value)
    if not environment["MASTER_PORT"].isdecimal():
        raise LaunchError(
            f"MASTER_PORT is {environment['MASTER_PORT']!r}, not the number of a port. Set it to a free one of rank 0's host, "
            f"or leave it out."
        )


def _ask_over_mpi(process: Process) -> dict[str, str]:
    """The address of rank 0 that every rank can connect to, by asking over MPI, and a free port there.

    MPI is ended again before anything else happens: a process that fails later must not wait in MPI's own end for the others.
    """
    way_out = "or say where rank 0 is: mpirun -x MASTER_ADDR=ADDRESS -x MASTER_PORT=29500 (Open MPI), -genv (MPICH)."
    try:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise LaunchError(
            f"mpi4py cannot be used to find rank 0 ({error}): pip install -e '.[mpi]' on every host, {way_out}"
        ) from None
    MPI.Init()
    world = MPI.COMM_WORLD
    try:
        if world.Get_size() != process.world_size:
            raise LaunchError(
                f"mpirun started {process.world_size} processes, but mpi4py's MPI ({MPI.Get_library_version().split(',')[0]}) "
                f"sees {world.Get_size()}: it is not the MPI of this mpirun. Start with that one's mpirun, choose by "
                f"MPI4PY_MPIABI, {way_out}"
            )
        return _reachable_address(world)
    finally:
        MPI.Finalize()


def _reachable_address(world) -> dict[str, str]:
    """Rank 0 listens on all its addresses; the first that every rank has connected to is the one. Names of hosts need not be
    known, and an address that exists on every host (of a container bridge, say) is passed over."""
    with ExitStack() as stack:
        offer = None
        if world.Get_rank() == 0:
            listener = stack.enter_context(_listener(world.Get_size() * 4))
            offer = (own_addresses(), listener.getsockname()[1])
        addresses, port = world.bcast(offer, root=0)
        answers = world.allgather([connects(address, port) for address in addresses])
    reached = [address for address, *by_all in zip(addresses, *answers, strict=True) if all(by_all)]
    if not reached:
        raise LaunchError(f"rank 0's addresses {', '.join(addresses)} cannot be reached from every host: set MASTER_ADDR.")
    return {"MASTER_ADDR": reached[0], "MASTER_PORT": str(port)}


def _listener(backlog: int) -> socket.socket:
    """A socket that listens on every address of this host, of IPv6 too where there is that."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # the kernel knows IPv6, but this host or container has it off
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
    return socket.create_server(("", 0), backlog=backlog)


def own_addresses() -> list[str]:
    """Addresses of this host by which others may reach it: those of IPv4, those of IPv6, the loopback's last."""
    try:
        found = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    except OSError:  # a bare container has no such command
        found = []
    return [*sorted(found, key=lambda address: ":" in address), "127.0.0.1"]


def connects(address: str, port: int, seconds: float = 3) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((address, port), timeout=seconds).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    """A port for a job of one process, which nobody else needs to know."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
