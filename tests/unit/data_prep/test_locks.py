"""Locks on file systems with and without flock, and what is said when a disk is full."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from data_prep import corpus, recipe
from data_prep.__main__ import main
from data_prep.shards import CacheSettings, locks
from data_prep.shards.cache import ChunkCache
from data_prep.shards.locks import HELD, InUse, hold
from data_prep.shards.takedown import ledger_lock
from data_prep.stage import Runner, StageError
from trainer import run_folder
from trainer.hosts.swap_folders import clear_stale, own_folder

ROOT = Path(__file__).resolve().parents[3]
ENTRIES = 200


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def without_flock(request, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_warned", set())


def held(path: Path) -> Path:
    return Path(f"{path}{HELD}")


def dead_process() -> int:
    gone = subprocess.Popen(["true"])
    gone.wait()
    return gone.pid


def left_by_a_dead_process(path: Path) -> None:
    gone = dead_process()
    held(path).write_text(f"process {gone} on here\n{gone} {locks._where()}")


def test_with_flock_no_other_file_is_made(tmp_path, capsys):
    with hold(tmp_path / "lock"), pytest.raises(InUse, match=rf"^process {os.getpid()} on \S+\. Wait for it$"):
        hold(tmp_path / "lock")
    hold(tmp_path / "lock").close()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"] and capsys.readouterr().err == ""


def test_without_flock_a_file_stands_for_the_lock(tmp_path, capsys, without_flock):
    path = tmp_path / "lock"
    with hold(path, "job 7"):
        with pytest.raises(InUse) as error:
            hold(path)
        assert f"process {os.getpid()} on " in str(error.value) and ", job 7. Wait for it" in str(error.value)
        assert str(error.value).endswith(f"when that process is gone, remove {held(path)}")
        assert held(path).exists()
    assert not held(path).exists()
    hold(path).close()
    said = capsys.readouterr().err
    assert said.count("has no flock") == 1  # for each file system, not for each lock
    assert str(path) in said and locks.file_system(path) in said and "-o flock" in said


def test_what_a_killed_process_of_this_host_left_is_taken_over(tmp_path, without_flock):
    path = tmp_path / "lock"
    left_by_a_dead_process(path)
    with hold(path):
        assert f"process {os.getpid()} on" in held(path).read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("content", ["process {gone} on other\n{gone} another-boot pid:[1]", "", "process {gone}"])
def test_what_another_host_holds_is_left_alone(tmp_path, without_flock, content):
    path = tmp_path / "lock"
    content = content.format(gone=dead_process())
    held(path).write_text(content)
    with pytest.raises(InUse, match=r"lock\.held$"):
        hold(path)
    assert held(path).read_text() == content


def test_a_lock_that_was_taken_anew_is_not_taken_away(tmp_path):
    path = held(tmp_path / "lock")
    path.write_text("a living process's")
    locks._take_away(path, "what the dead one had written")
    assert path.read_text() == "a living process's" and len(list(tmp_path.iterdir())) == 1


def _count(folder: Path) -> None:
    def refuse(descriptor, operation):
        raise OSError(errno.ENOSYS, "no locks")

    fcntl.flock = refuse
    for _ in range(ENTRIES):
        with hold(folder / "lock", wait=True):
            number = int((folder / "number").read_text())
            (folder / "number").write_text(str(number + 1))


def test_processes_wait_for_each_other_without_flock(tmp_path):
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == str(3 * ENTRIES)


def test_other_errors_of_locks_are_told_as_they_are(tmp_path, monkeypatch):
    def fail(descriptor, operation):
        raise OSError(errno.EIO, "a bad disk")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="a bad disk"):
        hold(tmp_path / "lock")


def write_recipe(folder: Path) -> Path:
    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"The river {n} runs to the sea. " * 4}) + "\n" for n in range(60))
    )
    values = {
        "output": "corpus",
        "sources": [{"type": "jsonl", "name": "a", "paths": ["a.jsonl"]}],
        "tokenizer": {"vocab_size": 280},
        "shards": {"validation_fraction": 0.1},
        "windows": [{"length": 64}],
    }
    (folder / "recipe.json").write_text(json.dumps(values))
    return folder / "recipe.json"


def test_everything_runs_without_flock(tmp_path, capsys, without_flock):
    """A build with a plan, the cache, the ledger of takedowns, a run folder and a swap folder."""
    build = recipe.load(write_recipe(tmp_path), [])
    assert corpus.run(build, Runner(1))["shards"]["train"]["documents"] > 0
    with hold(build.output / ".lock"), pytest.raises(StageError, match=r"is being built by process .* remove .*\.lock\.held"):
        corpus.run(build, Runner(1))

    cache = ChunkCache(CacheSettings(tmp_path / "cache", max_bytes=16 << 20))
    (cache.folder / ("0" * 32)).mkdir(parents=True)
    got = bytearray(3)
    cache.read_into(f"{cache.folder}/{'0' * 32}/0", 1, memoryview(got), lambda: b"chunk")
    assert bytes(got) == b"hun"

    with ledger_lock(tmp_path / "shards"):
        assert len(list((tmp_path / "shards").glob(f".*{HELD}"))) == 1

    record = {"identity": {"seed": 1}}
    lock = run_folder.take(tmp_path / "run", record, "token")
    assert run_folder.holder(tmp_path / "run") == "token"
    with pytest.raises(run_folder.RunFolderError, match=r"is in use by process .*, job token\. .*remove .*run\.lock\.held"):
        run_folder.take(tmp_path / "run", record)
    lock.close()
    run_folder.take(tmp_path / "run", record).close()

    (tmp_path / "swap").mkdir()
    with own_folder(tmp_path / "swap") as own:
        clear_stale(tmp_path / "swap")
        assert own.is_dir()  # nobody knows whether another's is at work
    assert not list((tmp_path / "swap").iterdir())
    assert not list(tmp_path.rglob(f"*{HELD}")) and capsys.readouterr().err.count("has no flock") == 1


def test_a_run_killed_without_flock_goes_on(tmp_path, without_flock):
    record = {"identity": {"seed": 1}}
    (tmp_path / "run").mkdir()
    left_by_a_dead_process(tmp_path / "run" / run_folder.LOCK_FILE)
    assert run_folder.check(tmp_path / "run", {"seed": 1}) is None
    run_folder.take(tmp_path / "run", record).close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_is_told_with_its_place(tmp_path, workers):
    """A limit of the size of files is the one kind of full disk that a test can make."""
    file = write_recipe(tmp_path)
    code = textwrap.dedent(
        """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
        from data_prep.__main__ import main
        sys.exit(main(["run", sys.argv[1], "--workers", sys.argv[2]]))
        """
    )
    done = subprocess.run([sys.executable, "-c", code, str(file), workers], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and f"File too large: '{tmp_path / 'corpus'}" in done.stderr and "Traceback" not in done.stderr
    assert main(["run", str(file), "--workers", "1"]) == 0  # with room again
