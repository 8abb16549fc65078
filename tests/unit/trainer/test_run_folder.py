"""The run folder through kills: the lock, half-made checkpoints, identities, torn records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import run_folder
from trainer.metrics import METRICS_FILE, keep_until, read_metrics
from trainer.run_folder import CHECKPOINTS, LOCK_FILE, PARTIAL_PREFIX, RUN_FILE, STATE_FILE, RunFolderError, checkpoint_name
from trainer.state import differences

RECORD = {"identity": {"seed": 1, "model": {"layers": 4}}, "train_folder": "x", "tokenizer_folder": None}
HOLD = "import fcntl, sys, time; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(60)"
identities = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, min_size=1, max_size=3),
    max_leaves=6,
).filter(lambda value: isinstance(value, dict))


def checkpoint(folder: Path, step: int, state: dict | None) -> Path:
    path = folder / CHECKPOINTS / checkpoint_name(step)
    path.mkdir(parents=True)
    if state is not None:
        (path / STATE_FILE).write_text(json.dumps(state))
    return path


def begun(folder: Path) -> Path:
    run_folder.take(folder, RECORD).close()
    return folder


def test_a_new_folder_gets_its_record_once(tmp_path):
    folder = begun(tmp_path / "deep" / "run")
    assert sorted(path.name for path in folder.iterdir()) == sorted([LOCK_FILE, RUN_FILE, CHECKPOINTS])
    run_folder.take(folder, {**RECORD, "train_folder": "moved"}).close()
    assert run_folder.read_record(folder) == RECORD
    with pytest.raises(run_folder.RunFolderError, match="holds another run"):  # prepared before the first one took it
        run_folder.take(folder, {"identity": {"seed": 2}})
    run_folder.take(folder, RECORD).close()


@pytest.mark.parametrize("prepared", ["absent", "empty", "lock only", "killed while being taken"])
def test_an_unused_folder_starts_a_run_and_looking_writes_nothing(tmp_path, prepared):
    folder = tmp_path / "run"
    if prepared != "absent":
        folder.mkdir()
    if prepared in ("lock only", "killed while being taken"):
        (folder / LOCK_FILE).touch()
    if prepared == "killed while being taken":
        (folder / f"{RUN_FILE}.partial").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    assert run_folder.check(folder, RECORD["identity"]) is None
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path):
    folder = begun(tmp_path / "run")
    checkpoint(folder, 5, state=None)
    assert run_folder.check(folder, RECORD["identity"]) is None


def test_the_newest_whole_checkpoint_counts(tmp_path):
    folder = begun(tmp_path / "run")
    saved = [checkpoint(folder, step, {"state": {"step": step}}) for step in (99_999_999, 100, 20)]
    checkpoint(folder, 100_000, state=None)
    (folder / CHECKPOINTS / f"{PARTIAL_PREFIX}step-99999999").mkdir()
    (folder / CHECKPOINTS / "step-notes.txt").touch()
    assert run_folder.checkpoints_in(folder / CHECKPOINTS) == saved[::-1]
    assert run_folder.check(folder, RECORD["identity"]) == saved[0]


def test_another_run_is_told_key_by_key_and_left_alone(tmp_path):
    folder = begun(tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError) as refused:
        run_folder.check(folder, {"seed": 2, "model": {"layers": 4, "width": 8}})
    said = str(refused.value)
    assert "seed: 1 in the run folder, 2 in this run file" in said
    assert "model.width: absent in the run folder, 8 in this run file" in said
    assert "model.layers" not in said and "Choose another run.folder" in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": null}', '{"state": {"steps": 1}}', '{"probe": 1}', None])
def test_what_is_no_checkpoint_is_named(tmp_path, text):
    folder = checkpoint(tmp_path, 3, state=None)
    if text is not None:
        (folder / STATE_FILE).write_text(text)
    with pytest.raises(RunFolderError, match="step-00000003: not a readable checkpoint"):
        run_folder.read_state(folder)


@pytest.mark.parametrize("text", ["", '{"identity": {"se'])
def test_a_damaged_record_is_named(tmp_path, text):
    folder = begun(tmp_path / "run")
    (folder / RUN_FILE).write_text(text)
    with pytest.raises(RunFolderError, match="not a run folder of moenda"):
        run_folder.check(folder, RECORD["identity"])


def test_a_folder_below_a_file_is_refused_before_and_when_it_is_taken(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "deep" / "run"
    with pytest.raises(RunFolderError, match=r"file, in which it would be made, is a file\. Choose another"):
        run_folder.check(folder, RECORD["identity"])
    for write in (lambda: run_folder.take(folder, RECORD), lambda: run_folder.make(folder)):
        with pytest.raises(RunFolderError, match=r"cannot be written \(Not a directory: .*\)\. Choose another run\.folder"):
            write()


@pytest.mark.parametrize("below", [".", "new/run"])
def test_what_may_not_be_written_is_refused_without_trying(tmp_path, monkeypatch, below):
    folder = tmp_path / below
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(RunFolderError, match=r"may not be read and written by this user\. Change its permissions"):
        run_folder.check(folder, RECORD["identity"])
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(RunFolderError, match="mounted read-only"):
        run_folder.check(folder, RECORD["identity"])
    assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_with_its_process_even_when_that_is_killed(tmp_path):
    folder = begun(tmp_path / "run")
    partial = folder / CHECKPOINTS / f"{PARTIAL_PREFIX}step-00000001"
    partial.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, folder / LOCK_FILE], stdout=subprocess.PIPE) as holder:
        try:
            holder.stdout.readline()
            with pytest.raises(RunFolderError, match=r"is in use by .*Wait for it, or choose another run\.folder"):
                run_folder.take(folder, RECORD)
            assert partial.exists()  # the holder may be writing it
        finally:
            holder.kill()
    with run_folder.take(folder, RECORD):
        run_folder.make_newest(folder, None)
        assert not partial.exists()


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "x.json"
    run_folder.write_json(file, {"a": 1})
    circle: list = []
    circle.append(circle)
    with pytest.raises(ValueError):
        run_folder.write_json(file, circle)
    assert json.loads(file.read_text()) == {"a": 1}


@settings(max_examples=50)
@given(identities, identities)
def test_differences_name_each_leaf_that_changed_and_no_other(one, other):
    def leaves(value, prefix=()):
        if not isinstance(value, dict):
            return {prefix: value}
        return {key: leaf for name, inner in value.items() for key, leaf in leaves(inner, (*prefix, name)).items()}

    before, now = leaves(one), leaves(other)
    changed = sorted(".".join(key) for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    assert [line.split(":")[0] for line in differences(one, other)] == changed
    assert list(differences(one, one)) == []


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 8), saved=st.integers(0, 8), data=st.data())
def test_metrics_torn_at_any_byte_go_on_without_gap_or_repetition(count, saved, data):
    rows = [{"step": step, "loss": step / 3, "note": "é"} for step in range(1, count + 1)]
    whole = "".join(json.dumps(row) + "\n" for row in rows).encode()
    cut = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / METRICS_FILE
        file.write_bytes(whole[:cut])
        left = read_metrics(file)
        assert left == rows[: len(left)] and len(left) >= whole[:cut].count(b"\n")
        keep_until(file, saved)
        with file.open("a") as appended:
            appended.writelines(json.dumps(row) + "\n" for row in rows[saved:])
        assert read_metrics(file) == left[:saved] + rows[saved:]
