"""A checkpoint whose files were damaged or lost is refused, with the way out."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import checkpoint_files
from trainer.checkpoint_files import CheckpointError
from trainer.config import OptimizerSection
from trainer.endings import DivergedError, require_progress
from trainer.run_folder import STATE_FILE, checkpoint_name
from trainer.state import TrainState


class Writer:
    """DeepSpeed's checkpoint engine, as far as it matters."""

    def save(self, state_dict, path: str):
        torch.save(state_dict, path)


def written_checkpoint(folder, step: int, names=("a.pt", "b.pt", "c.pt")):
    """A checkpoint folder of some files, its state.json with their checksums."""
    checkpoint = folder / checkpoint_name(step)
    checkpoint.mkdir()
    engine = SimpleNamespace(checkpoint_engine=Writer())
    with checkpoint_files.written(engine) as files:
        for number, name in enumerate(names):
            engine.checkpoint_engine.save({"weight": torch.full((100,), number)}, path=str(checkpoint / name))
    engine.checkpoint_engine.save({}, str(checkpoint / "later"))  # not within the block
    record = {
        "state": {"step": step, "tokens_seen": 0},
        "files": checkpoint_files.merged([checkpoint_files.checksums(files, checkpoint)], [0]),
    }
    (checkpoint / STATE_FILE).write_text(json.dumps(record))
    assert list(record["files"]) == list(names)
    return checkpoint


@pytest.mark.parametrize("size", [0, 1, checkpoint_files.PIECE_BYTES - 1, checkpoint_files.PIECE_BYTES + 1])
def test_the_checksum_is_xxh3_of_the_whole_file(tmp_path, size):
    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert checkpoint_files.checksum(tmp_path / "file") == xxhash.xxh3_128_hexdigest(content[:size])


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), number=st.integers(0, 2), shares=st.integers(1, 5))
def test_any_changed_bit_is_found_by_the_one_who_looks_there(tmp_path_factory, place, bit, number, shares):
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoint = written_checkpoint(folder, 8)
    for share in range(shares):
        checkpoint_files.check(checkpoint, share, shares)
    file = checkpoint / "abc"[number]
    file = file.with_suffix(".pt")
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 1 << bit
    file.write_bytes(content)
    for share in range(shares):
        if share == number % shares:
            with pytest.raises(CheckpointError, match=rf"{file.name} is damaged.*no older checkpoint"):
                checkpoint_files.check(checkpoint, share, shares)
        else:
            checkpoint_files.check(checkpoint, share, shares)


def test_the_way_out_names_the_older_checkpoint(tmp_path):
    older, checkpoint = written_checkpoint(tmp_path, 4), written_checkpoint(tmp_path, 8)
    (checkpoint / "b.pt").unlink()
    with pytest.raises(CheckpointError, match=r"b\.pt is missing.*goes on from step-00000004"):
        checkpoint_files.check(checkpoint)
    checkpoint_files.check(older)
    with open(older / "c.pt", "r+b") as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match=r"c\.pt is damaged.*no older checkpoint"):
        checkpoint_files.check(older)


def test_each_disks_copy_of_a_common_file_is_right():
    of_ranks = [{"model": "a", "zero 0": "x"}, {"zero 1": "y"}, {"model": "b", "zero 2": "z"}]
    assert checkpoint_files.merged(of_ranks, [0, 1]) == {"model": ["a", "b"], "zero 0": ["x"], "zero 1": ["y"]}
    assert checkpoint_files.merged(of_ranks, [2]) == {"model": ["a", "b"], "zero 2": ["z"]}


def test_checkpoints_without_checksums_pass(tmp_path):
    checkpoint = written_checkpoint(tmp_path, 4)
    record = json.loads((checkpoint / STATE_FILE).read_text())
    del record["files"]
    (checkpoint / STATE_FILE).write_text(json.dumps(record))
    (checkpoint / "a.pt").unlink()
    checkpoint_files.check(checkpoint)


@pytest.mark.parametrize(("precision", "given", "allowed"), [("bf16", None, 10), ("fp16", None, 30), ("fp32", 0, 0)])
def test_too_many_skipped_steps_end_a_run_and_name_the_newest_checkpoint(tmp_path, precision, given, allowed):
    section = OptimizerSection(learning_rate=1e-3, max_skipped_steps=given)
    plan = SimpleNamespace(folder=tmp_path, precision=precision, config=SimpleNamespace(optimizer=section))
    require_progress(plan, TrainState(40, 4000, allowed))
    with pytest.raises(DivergedError, match=rf"^{allowed + 1} steps in a row, to step 41, .*There is no checkpoint yet"):
        require_progress(plan, TrainState(41, 4100, allowed + 1))
    (tmp_path / "checkpoints").mkdir()
    saved = written_checkpoint(tmp_path / "checkpoints", 8)
    with pytest.raises(DivergedError, match=rf"The newest checkpoint, {saved}, .*--step 41"):
        require_progress(plan, TrainState(41, 4100, allowed + 1))
