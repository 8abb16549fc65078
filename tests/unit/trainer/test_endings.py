"""What a run says when it ends otherwise than by its last step."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
import torch

from trainer import endings
from trainer.hosts.launch_env import Process
from trainer.run_folder import CHECKPOINTS, STATE_FILE, checkpoint_name
from trainer.state import TrainState

FULL = "/dev/full"


def failure(write) -> Exception:
    with pytest.raises((OSError, RuntimeError)) as failed:
        write()
    return failed.value


@pytest.mark.parametrize("zipped", [True, False])
def test_a_full_disk_is_known_by_what_torch_says_of_it(zipped):
    error = failure(lambda: torch.save({"x": torch.zeros(1 << 18)}, FULL, _use_new_zipfile_serialization=zipped))
    assert endings.disk_failed(error)


def test_a_full_disk_is_known_in_text_files_and_behind_another_error():
    def behind():
        try:
            with open(FULL, "w") as file:
                file.write("x")
        except OSError as error:
            raise RuntimeError("could not save") from error

    assert endings.disk_failed(failure(behind)) and endings.disk_failed(OSError(errno.EDQUOT, "quota"))


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), FileNotFoundError(errno.ENOENT, "no such file")])
def test_other_failures_keep_their_traceback(error):
    assert not endings.disk_failed(error)


def test_a_full_disk_is_told_with_folder_room_and_way_out(tmp_path):
    plan, process = SimpleNamespace(folder=tmp_path), Process(1, 2, 1, 2)
    said = endings.disk_full(plan, process, ["node0", "node1"], RuntimeError("unexpected pos 5184 vs 5076"))
    for part in ("rank 1 on node1 could not write", str(tmp_path), "B are free (unexpected pos", "goes on from the first step"):
        assert part in said
    saved = tmp_path / CHECKPOINTS / checkpoint_name(4)
    saved.mkdir(parents=True)
    (saved / STATE_FILE).touch()
    assert f"goes on from {saved}." in endings.disk_full(plan, process, ["node0", "node1"], OSError(errno.ENOSPC, "full"))


def test_a_run_that_is_longer_than_asked_says_so():
    def ended(total_steps: int) -> str:
        return endings.complete(
            SimpleNamespace(start=TrainState(8, 8192), total_steps=total_steps, total_tokens=total_steps * 1024)
        )

    assert ended(8) == "This run is complete (8 steps). Raise schedule.total_tokens to train it further."
    said = ended(4)
    for part in ("has 8 steps (8,192 tokens), more than the 4", "schedule.total_tokens = 4,096", "raise", "above 8,192"):
        assert part in said
