"""Who a process is, by the variables of every launcher, and where Slurm's first host is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.hosts import launch_env
from trainer.hosts.launch_env import LaunchError, Process, current_process, first_host, in_slurm_step

SLURM = {  # srun -N 2 -n 3: two tasks on the first node
    "SLURM_JOB_ID": "4242",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_NODELIST": "gpu[07-09]",
}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}
DEEPSPEED = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_SIZE": "4",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "1",
}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Process(0, 1, 0, 1)),
        (DEEPSPEED, Process(5, 8, 1, 4)),
        (TORCHRUN, Process(1, 2, 1, 2)),
        (OPENMPI, Process(3, 4, 1, 2)),
        (MPICH, Process(1, 2, 0, 1)),
        (SLURM, Process(2, 3, 0, 1)),
        ({**SLURM, "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}, Process(1, 3, 1, 2)),
        ({**SLURM, **OPENMPI}, Process(3, 4, 1, 2)),  # mpirun in an allocation
        ({**SLURM, **MPICH}, Process(1, 2, 0, 1)),
        ({**SLURM, "PMI_RANK": "2", "PMI_SIZE": "3"}, Process(2, 3, 0, 1)),  # srun --mpi=pmi2 says nothing of places
        (
            {
                **SLURM,
                "PMI_RANK": "1",
                "PMI_SIZE": "3",
                **{f"SLURM_{n}": "1" for n in ("PROCID", "LOCALID")},
                "SLURM_NODEID": "0",
            },
            Process(1, 3, 1, 2),
        ),
        ({**SLURM, **OPENMPI, **DEEPSPEED}, Process(5, 8, 1, 4)),
        ({**MPICH, "WORLD_SIZE": "2"}, Process(1, 2, 0, 1)),  # deepspeed --launcher mpich exports the size alone
        ({**MPICH, **TORCHRUN, "RANK": ""}, Process(1, 2, 0, 1)),
    ],
)
def test_every_launcher_is_understood_and_none_mixed_with_another(environment, expected):
    assert current_process(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n[1-2]"},  # salloc's shell
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # sbatch's script
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_PTY_PORT": "9"},  # srun --pty bash
    ],
)
def test_a_shell_of_slurms_starts_one_process(environment):
    assert current_process(environment) == Process(0, 1, 0, 1)


def test_an_interactive_step_of_several_tasks_is_refused():
    with pytest.raises(LaunchError, match=r"srun --pty\) of 3 tasks.*env -u SLURM_PTY_PORT srun"):
        in_slurm_step({**SLURM, "SLURM_PTY_PORT": "9"})


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[007-009,12],login1", "gpu007"),
        ("gpu[3]", "gpu3"),
        ("rack[2-3]node[04,06-07]", "rack2node04"),
        ("a-b.example.org", "a-b.example.org"),
    ],
)
def test_first_host_of_a_node_list(nodes, expected):
    assert first_host(nodes) == expected


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 5)), min_size=1, max_size=5), st.data())
def test_tasks_per_node(groups, data):
    counts = [count for count, repeated in groups for _ in range(repeated)]
    node = data.draw(st.integers(0, len(counts) - 1))
    text = ",".join(f"{count}(x{repeated})" if repeated > 1 else str(count) for count, repeated in groups)
    environment = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": str(node)}
    assert current_process(environment).local_world_size == counts[node]


def test_a_port_that_is_no_number_is_refused_and_an_empty_one_filled_in(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "x")
    with pytest.raises(LaunchError, match="MASTER_PORT is 'x', not the number of a port"):
        launch_env.find_first_process(Process(0, 2, 0, 2))
    monkeypatch.setenv("MASTER_PORT", "")
    launch_env.find_first_process(Process(0, 2, 0, 2))
    assert os.environ["MASTER_PORT"] == "29500"


def test_slurms_first_host_and_a_port_of_the_jobs_own(monkeypatch):
    environment = dict(SLURM)
    monkeypatch.setattr(launch_env.os, "environ", environment)
    launch_env.find_first_process(current_process(environment))
    assert environment["MASTER_ADDR"] == "gpu07" and 20000 <= int(environment["MASTER_PORT"]) < 32000
    assert (environment["RANK"], environment["WORLD_SIZE"], environment["LOCAL_RANK"]) == ("2", "3", "0")
    other = {**SLURM, "SLURM_JOB_ID": "4243"}
    monkeypatch.setattr(launch_env.os, "environ", other)
    launch_env.find_first_process(current_process(other))
    assert other["MASTER_PORT"] != environment["MASTER_PORT"]


def test_what_the_launcher_says_stays(monkeypatch):
    environment = dict(DEEPSPEED)
    monkeypatch.setattr(launch_env.os, "environ", environment)
    launch_env.find_first_process(current_process(environment))
    assert environment == DEEPSPEED


def test_own_addresses_end_with_the_loopback():
    assert launch_env.own_addresses()[-1] == "127.0.0.1"


def test_a_container_without_the_hostname_command(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert launch_env.own_addresses() == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RANK": "8"}, "RANK is 8 and WORLD_SIZE 8"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE is 'x'"),
        ({"RANK": "-1"}, "RANK is '-1'"),
    ],
)
def test_numbers_that_no_launcher_sets_are_named(changes, said):
    with pytest.raises(LaunchError, match=said):
        current_process(DEEPSPEED | changes)


class Alone:
    """mpi4py's world of one rank."""

    Get_rank, Get_size = (lambda self: 0), (lambda self: 1)

    def bcast(self, value, root):
        return value

    def allgather(self, value):
        return [value]


@pytest.mark.parametrize(
    ("addresses", "found"),
    [(["192.0.2.1", "::1", "127.0.0.1"], "::1"), (["127.0.0.1", "::1"], "127.0.0.1")],
)
def test_rank_0_is_found_by_either_kind_of_address(monkeypatch, addresses, found):
    if not Path("/proc/net/if_inet6").is_file():
        pytest.skip("this host has no IPv6")
    reach = launch_env.connects
    monkeypatch.setattr(launch_env, "connects", lambda address, port: not address.startswith("192.") and reach(address, port))
    monkeypatch.setattr(launch_env, "own_addresses", lambda: addresses)
    assert launch_env._reachable_address(Alone())["MASTER_ADDR"] == found


def test_own_addresses_are_of_both_kinds(monkeypatch):
    listed = subprocess.CompletedProcess([], 0, stdout="fd00::2 10.0.0.2 172.17.0.1 \n")
    monkeypatch.setattr(launch_env.subprocess, "run", lambda *_, **__: listed)
    assert launch_env.own_addresses() == ["10.0.0.2", "172.17.0.1", "fd00::2", "127.0.0.1"]
