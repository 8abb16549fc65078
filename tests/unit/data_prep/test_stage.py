"""Stages with workers that are killed."""

from __future__ import annotations

import importlib

import pytest

from data_prep.stage import Runner, StageError, Task

FRAGILE = """
import os, signal

def work(task, folder):
    mark, times = task.arguments
    if task.name == "part-00001" and len(list(mark.iterdir())) < times:
        (mark / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{task.name}.txt").write_text(task.name)
    return {"outputs": [f"{task.name}.txt"]}
"""


@pytest.fixture
def fragile(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "fragile_work.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    (tmp_path / "marks").mkdir()
    return importlib.import_module("fragile_work").work


def run(tmp_path, work, times):
    tasks = [Task(f"part-{number:05d}", 1, (tmp_path / "marks", times)) for number in range(6)]
    with Runner(2) as runner:
        return runner.run(tmp_path / "stage", "fragile", {}, tasks, work)


def test_a_killed_worker_costs_its_task_only(tmp_path, fragile):
    results = run(tmp_path, fragile, 2)
    assert len(list((tmp_path / "marks").iterdir())) == 2
    assert [list(result["checksums"]) for result in results] == [[f"part-{number:05d}.txt"] for number in range(6)]
    assert (tmp_path / "stage" / "part-00001.txt").read_text() == "part-00001"


def test_a_task_that_always_kills_is_named_and_the_rest_kept(tmp_path, fragile):
    with pytest.raises(StageError, match=r"killed 4 times.*part-00001"):
        run(tmp_path, fragile, 100)
    assert len(list((tmp_path / "stage" / "done").glob("*.json"))) >= 1
    (tmp_path / "marks").rename(tmp_path / "old")
    (tmp_path / "marks").mkdir()
    assert len(run(tmp_path, fragile, 0)) == 6
