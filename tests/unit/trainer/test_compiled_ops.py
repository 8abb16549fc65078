"""Locks of builds: planted ones, one that a living process holds, and one that may be another machine's."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from trainer.hosts import compiled_ops
from trainer.hosts.compiled_ops import BuildLockError, CompiledOpError, check, locks, needed_ops

NVME = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/disk"}}}
CPU_ADAM = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    path = tmp_path / "py311_cpu" / "cpu_adam" / "lock"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_a_lock_that_this_run_would_wait_for_is_refused(lock):
    assert locks() == [lock]
    with pytest.raises(BuildLockError, match=f"(?s)No process holds it.*rm {lock}$"):
        check(CPU_ADAM)
    assert lock.exists()  # nothing is removed on anyone's behalf
    lock.unlink()
    check(CPU_ADAM)


def test_one_that_it_may_not_need_is_told(lock, capsys):
    check({"zero_optimization": {"stage": 1}})
    assert f"whatever needs cpu_adam waits for ever. Remove it: rm {lock}" in capsys.readouterr().out


def test_a_living_build_is_waited_for(lock, capsys):
    hold = "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    builder = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    builder.stdout.readline()
    try:
        check(CPU_ADAM)
        assert f"process {builder.pid} compiles DeepSpeed's cpu_adam" in capsys.readouterr().out
    finally:
        builder.communicate()
    with pytest.raises(BuildLockError):
        check(CPU_ADAM)


def test_on_a_shared_disk_a_young_lock_may_be_another_machines(lock, monkeypatch, capsys):
    monkeypatch.setattr(compiled_ops, "_on_shared_disk", lambda path: True)
    check(CPU_ADAM)
    assert "another machine seems to compile cpu_adam" in capsys.readouterr().out
    old = time.time() - compiled_ops.QUIET_S - 60
    os.utime(lock, (old, old))
    with pytest.raises(BuildLockError):
        check(CPU_ADAM)


def test_this_disk_is_known(tmp_path):
    assert compiled_ops._on_shared_disk(tmp_path) in (True, False)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, set()),
        ({"offload_optimizer": {"device": "none"}}, set()),
        ({"offload_optimizer": {"device": "cpu"}}, {"cpu_adam"}),
        ({"offload_param": {"device": "cpu"}}, set()),
    ],
)
def test_what_deepspeed_compiles(section, expected):
    assert set(needed_ops({"zero_optimization": section})) == expected


def test_disks_need_libaio(lock, monkeypatch):
    """And where it is not, or DeepSpeed's own code does not compile, the run does not start."""
    lock.unlink()
    assert list(needed_ops(NVME)) == ["cpu_adam", "pin_memory", "async_io"]
    monkeypatch.setattr(compiled_ops.AsyncIOBuilder, "is_compatible", lambda self, verbose: False)
    with pytest.raises(CompiledOpError, match=r"apt-get install g\+\+ libaio-dev .* Or set the device to"):
        check(NVME)
    check(CPU_ADAM)

    def fails(self, verbose):
        raise RuntimeError("Error building extension 'async_io'")

    monkeypatch.setattr(compiled_ops.AsyncIOBuilder, "is_compatible", lambda self, verbose: True)
    monkeypatch.setattr(compiled_ops.AsyncIOBuilder, "load", fails)
    with pytest.raises(CompiledOpError, match=r"cannot be compiled: Error building extension 'async_io'\. Mend that"):
        check(NVME)
