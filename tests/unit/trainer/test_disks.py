"""Which checkpoint hosts have in common, and who keeps the run folder on which disk."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import run_folder
from trainer.hosts import disks
from trainer.hosts.disks import Disk, _keepers, _newest_in_common
from trainer.hosts.launch_env import Process
from trainer.hosts.meeting import Meeting
from trainer.run_folder import CHECKPOINTS, PARTIAL_PREFIX, STATE_FILE, checkpoint_name, steps_on_disk

RECORD = {"identity": {"seed": 1}}
HOSTS = ["node0", "node1"]


def found(named=(), whole=()):
    return {"named": list(named), "whole": list(whole)}


@pytest.mark.parametrize(
    ("disks_of_both", "step"),
    [
        ([found(), found()], None),
        ([found([10, 20]), found([10, 20])], 20),
        ([found([10, 20]), found([10], [20])], 20),  # killed between the two renames
        ([found([10], [20]), found([10], [20])], 10),  # before them: as if it had not been saved
        ([found([20]), found([], [20])], 20),
        ([found(), found([], [10])], None),
        ([found([10, 20]), found([10])], 10),
    ],
)
def test_the_newest_that_all_disks_hold_whole(disks_of_both, step, capsys):
    assert _newest_in_common(disks_of_both, HOSTS) == step
    assert _newest_in_common(disks_of_both[::-1], HOSTS) == step
    lost = disks_of_both == [found([10, 20]), found([10])]
    assert ("goes on from step 10: step 20 is missing on node1 (rank 1)" in capsys.readouterr().out) == lost


def test_a_disk_without_its_part_is_named():
    with pytest.raises(ValueError, match=r"steps 10, 20 on node0 \(rank 0\); no checkpoint on node1 \(rank 1\)"):
        _newest_in_common([found([10, 20]), found()], HOSTS)


@given(st.lists(st.tuples(st.sets(st.integers(1, 6)), st.sets(st.integers(1, 6))), min_size=1, max_size=4))
def test_what_is_chosen_is_everywhere(both):
    every = [found(sorted(named), sorted(whole - named)) for named, whole in both]
    try:
        step = _newest_in_common(every, [f"n{i}" for i in range(len(every))])
    except ValueError:
        assert any(named for named, _ in both)
        return
    if step is None:
        assert not any(named for named, _ in both)
    else:
        assert all(step in named | whole for named, whole in both) and any(step in named for named, _ in both)


def test_keepers_by_their_tokens():
    assert _keepers([["t0", "t0"], ["t1", "t0"], ["t2", "t2"], ["t3", "t2"]], ["a", "a", "b", "b"]) == [0, 0, 2, 2]
    with pytest.raises(ValueError, match=r"^b \(rank 1\) cannot read the run folder"):
        _keepers([["t0", "t0"], ["t1", None]], ["a", "b"])


def save(folder, step, partial=False):
    path = folder / CHECKPOINTS / ((PARTIAL_PREFIX if partial else "") + checkpoint_name(step))
    path.mkdir(parents=True)
    (path / STATE_FILE).write_text(json.dumps({"state": {"step": step, "tokens_seen": step}}))
    return path


def test_taking_a_folder_makes_the_step_in_common_its_newest(tmp_path):
    run_folder.take(tmp_path, RECORD).close()
    save(tmp_path, 10)
    save(tmp_path, 20, partial=True)
    save(tmp_path, 40)
    (tmp_path / CHECKPOINTS / f"{PARTIAL_PREFIX}step-00000030").mkdir()
    assert steps_on_disk(tmp_path) == {"named": [10, 40], "whole": [20]}
    run_folder.take(tmp_path, RECORD, "ab12").close()
    assert steps_on_disk(tmp_path) == {"named": [10, 40], "whole": [20]}
    run_folder.make_newest(tmp_path, 20)
    assert steps_on_disk(tmp_path) == {"named": [10, 20], "whole": []}
    assert (tmp_path / CHECKPOINTS / "incomplete-step-00000040" / STATE_FILE).is_file()
    assert run_folder.holder(tmp_path) == "ab12"


def test_one_process_has_one_disk(tmp_path):
    disk, lock = disks.take(Meeting(Process(0, 1, 0, 1)), tmp_path / "run", RECORD)
    assert disk == Disk(0, (0,), True) == Disk.of_all(1)
    with pytest.raises(run_folder.RunFolderError, match=r"in use by process \d+ on \S+, job \w+\."):
        run_folder.take(tmp_path / "run", RECORD)
    assert disk.describe() == [] and "ranks 0-1 alone see this run folder" in Disk(0, (0, 1), False).describe()[0]
    lock.close()
    assert run_folder.holder(tmp_path / "nowhere") is None
