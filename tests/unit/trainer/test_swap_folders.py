"""Folders on disks for what is taken out of memory: one's own, removed at the end; a killed process's, at the next start."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest

from trainer.hosts import agreement
from trainer.hosts.agreement import AgreementError, check_swap
from trainer.hosts.launch_env import Process
from trainer.hosts.swap_folders import SwapFolderError, clear_stale, own_folders, require_usable

HOLD = """
import sys
from pathlib import Path
from trainer.hosts.swap_folders import own_folder
with own_folder(Path(sys.argv[1])) as folder:
    (folder / "states.swp").write_bytes(bytes(4096))
    print(folder, flush=True)
    sys.stdin.read()
"""


def configuration(path, **more):
    return {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": str(path)}, **more}}


def test_each_rank_has_folders_of_its_own(tmp_path):
    config = configuration(tmp_path, offload_param={"device": "cpu"})
    with own_folders(config) as mine, own_folders(config) as other:
        names = [one["zero_optimization"]["offload_optimizer"]["nvme_path"] for one in (mine, other)]
        assert len(set(names)) == 2 and all(os.path.isdir(name) for name in names)
        assert mine["zero_optimization"]["offload_param"] == {"device": "cpu"}
        clear_stale(tmp_path)
        assert all(os.path.isdir(name) for name in names)  # at work
    assert list(tmp_path.iterdir()) == [] and config == configuration(tmp_path, offload_param={"device": "cpu"})
    with pytest.raises(RuntimeError, match="training failed"), own_folders(config):
        raise RuntimeError("training failed")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_rank_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "another").mkdir()
    ranks = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        dead, living = (rank.stdout.readline().strip() for rank in ranks)
        ranks[0].send_signal(signal.SIGKILL)
        ranks[0].wait()
        assert os.path.isfile(f"{dead}/states.swp")
        clear_stale(tmp_path)
        assert not os.path.exists(dead) and os.path.isfile(f"{living}/states.swp")
    finally:
        for rank in ranks:
            rank.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


def test_a_folder_that_cannot_be_used_is_refused(tmp_path, monkeypatch):
    require_usable(tmp_path, "the path")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SwapFolderError, match=r"the path .*/none: there is no such folder. .*\(mkdir -p .*/none\)"):
        require_usable(tmp_path / "none", "the path")

    real = os.open

    def without_direct_io(path, flags, *mode, **options):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", without_direct_io)
    with pytest.raises(SwapFolderError, match=r"cannot be used: its file system has no direct I/O"):
        require_usable(tmp_path, "the path")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_of_another_user_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SwapFolderError, match="Permission denied"):
        require_usable(tmp_path, "the path")


def test_room_for_all_ranks_of_the_host_is_required(tmp_path, monkeypatch):
    on_disk = {"device": "nvme", "nvme_path": str(tmp_path)}
    plan = SimpleNamespace(ds_config=configuration(tmp_path, offload_param=on_disk), precision="bf16")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(agreement, "parameters", lambda plan: 10**6)
    monkeypatch.setattr(agreement.shutil, "disk_usage", lambda path: usage(10**9, 0, 9 * 10**6))
    two_of_four = Process(rank=0, world_size=4, local_rank=0, local_world_size=2)
    check_swap(plan, two_of_four)  # (16 + 2) bytes for half of the parameters
    monkeypatch.setattr(agreement.shutil, "disk_usage", lambda path: usage(10**9, 0, 8_900_000))
    with pytest.raises(AgreementError, match=r"8.90 MB are free on its disk, 100 KB less than the 9.00 MB that 2 of 4 ranks"):
        check_swap(plan, two_of_four)
    check_swap(SimpleNamespace(ds_config={"zero_optimization": {"stage": 3}}), two_of_four)
