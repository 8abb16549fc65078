"""Builds over the ranks of a real MPI job, with processes killed in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data_prep import corpus, recipe
from data_prep.stage import Runner
from tests.launch import ROOT, environment
from tests.unit.data_prep.test_corpus import outputs, write_inputs

MPIRUN = Path(sys.executable).with_name("mpirun")
pytestmark = pytest.mark.skipif(not MPIRUN.exists(), reason="needs the mpi extra")


def start(file: Path, ranks: int, **more: str) -> subprocess.Popen:
    allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    line = [str(MPIRUN), "--oversubscribe", "-n", str(ranks), sys.executable, "-m", "data_prep", "run", str(file)]
    log = file.with_suffix(".log").open("w")
    return subprocess.Popen(line, cwd=ROOT, env=environment() | allow | more, stdout=log, stderr=log)


def finish(job: subprocess.Popen, file: Path) -> tuple[int, str]:
    """(exit code, what it wrote)."""
    code = job.wait(timeout=180)
    return code, file.with_suffix(".log").read_text()


def kill_one(job: subprocess.Popen, chosen, how: int = signal.SIGKILL) -> int:
    """Send a signal to the first process of the job's that `chosen` picks, as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and job.poll() is None:
        for process in psutil.Process(job.pid).children(recursive=True):
            try:
                if chosen(process):
                    process.send_signal(how)
                    return process.pid
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.01)
    raise AssertionError("no such process in the job")


def works_for_a_rank(process: psutil.Process) -> bool:
    return any("spawn_main" in part for part in process.cmdline())


def is_rank_one(process: psutil.Process) -> bool:
    return process.environ().get("OMPI_COMM_WORLD_RANK") == "1" and not works_for_a_rank(process)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What one process makes of the inputs."""
    file = write_inputs(tmp_path_factory.mktemp("alone"), files=6, documents=1600)
    with Runner(1) as runner:
        corpus.run(recipe.load(file, []), runner)
    return outputs(file.parent / "corpus")


@pytest.fixture
def inputs(tmp_path):
    return write_inputs(tmp_path, files=6, documents=1600)


def test_ranks_do_not_show_and_a_killed_process_costs_its_task(inputs, expected):
    job = start(inputs, 3)
    killed = kill_one(job, works_for_a_rank)
    code, said = finish(job, inputs)
    assert code == 0, said[-3000:]
    assert "was killed at work on" in said and not psutil.pid_exists(killed)
    assert outputs(inputs.parent / "corpus") == expected


def test_a_killed_rank_ends_the_job_and_the_next_goes_on(inputs, expected):
    job = start(inputs, 3)
    done = inputs.parent / "corpus" / "1-extract" / "done"
    while not (done.is_dir() and any(done.iterdir())):
        assert job.poll() is None, "the job ended before a rank was killed"
        time.sleep(0.005)
    kill_one(job, is_rank_one)
    code, said = finish(job, inputs)
    assert code != 0, said[-3000:]
    finished = {mark: os.stat(mark).st_mtime_ns for mark in done.iterdir()}
    code, said = finish(start(inputs, 2), inputs)
    assert code == 0, said[-3000:]
    assert {mark: os.stat(mark).st_mtime_ns for mark in finished} == finished
    assert outputs(inputs.parent / "corpus") == expected


def test_a_silent_rank_costs_its_task(inputs, expected):
    """As on a machine that has lost its network: stopped, neither rank nor connection tells that it is gone."""
    job = start(inputs, 3, MOENDA_RANK_SILENCE_S="3")
    done = inputs.parent / "corpus" / "1-extract" / "done"
    while not (done.is_dir() and any(done.iterdir())):
        assert job.poll() is None, "the job ended before a rank was stopped"
        time.sleep(0.005)
    kill_one(job, is_rank_one, signal.SIGSTOP)
    code, said = finish(job, inputs)
    assert "rank 1 has been silent for 3 s; another does its task" in said, said[-3000:]
    assert code == 0, said[-3000:]
    assert outputs(inputs.parent / "corpus") == expected
