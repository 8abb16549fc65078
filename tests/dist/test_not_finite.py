"""A loss or a gradient that is no number reaches neither weights nor checkpoints, under any split and precision."""

from __future__ import annotations

import json
import os

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from tests import launch
from tests.corpora import write_shards
from tests.models import run_file
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.run_folder import read_state

BF16, FP16 = {"bf16": {"enabled": True}}, {"fp16": {"enabled": True, "initial_scale_power": 8}}
SPLITS = {
    "zero-0": {"zero_stage": 0},
    "zero-1": {"zero_stage": 1},
    "zero-2": {"zero_stage": 2},
    "zero-3": {"zero_stage": 3},
    "2 stages": {"zero_stage": 0, "pipeline_stages": 2},
    "2 stages, zero-1": {"zero_stage": 1, "pipeline_stages": 2},
    "2 slices": {"zero_stage": 0, "tensor": 2},
    "2 slices, zero-1": {"zero_stage": 1, "tensor": 2},
    "2 parts": {"zero_stage": 0, "sequence": 2},
}
PRECISIONS = {"fp32": {}, "bf16": BF16, "fp16": FP16}
# what the trainer refuses: fp16 without ZeRO, and bf16 without ZeRO in stages or slices
ALL = [
    (split, precision)
    for split, section in SPLITS.items()
    for precision in PRECISIONS
    if section["zero_stage"] or precision == "fp32" or (precision == "bf16" and split in ("zero-0", "2 parts"))
]
IN_CI = {("zero-0", "fp32"), ("2 stages", "fp32")}
CHOSEN = [one for one in ALL if one in IN_CI or os.environ.get("MOENDA_TEST_NOT_FINITE") == "1"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "train"
    write_shards(folder)
    return folder


def train(config, folder, where, steps):
    file = folder / "run.json"
    file.write_text(json.dumps(config))
    return launch.run(2, "tests/poisoned_train.py", "--where", where, "--steps", steps, "--config", str(file))


def tensors(value):
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors(inner)


@pytest.mark.launcher
@pytest.mark.parametrize(("split", "precision"), CHOSEN)
@pytest.mark.parametrize("where", ["loss", "gradient"] if os.environ.get("MOENDA_TEST_NOT_FINITE") == "1" else ["gradient"])
def test_a_step_that_is_not_finite_is_skipped_on_all_ranks_on_a_save_step_and_off_it(shards, tmp_path, split, precision, where):
    config = run_file(
        tmp_path / "run",
        shards,
        parallel=SPLITS[split],
        deepspeed=PRECISIONS[precision],
        schedule={"total_tokens": 6 * 512},
        checkpoint={"every_steps": 2, "keep": 1},
    )
    done = train(config, tmp_path, where, "3,4")  # 4 is a save step
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    rows = {row["step"]: row for row in read_metrics(tmp_path / "run" / METRICS_FILE)}
    before = rows[2]["skipped_steps"]
    assert [rows[step]["skipped_steps"] - before for step in (3, 4, 5, 6)] == [1, 2, 2, 2]
    assert rows[6]["loss"] is not None and rows[6]["grad_norm"] is not None
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert read_state(saved)["state"]["skipped_in_a_row"] == 0
    with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
        files = [torch.load(file, weights_only=True) for file in saved.glob("*.pt")]
    found = [tensor for tensor in tensors(files) if tensor.is_floating_point()]
    assert found and all(tensor.isfinite().all() for tensor in found)


@pytest.mark.launcher
def test_too_many_skipped_steps_end_the_run_and_its_count_outlives_a_resume(shards, tmp_path):
    config = run_file(
        tmp_path / "run", shards, optimizer={"max_skipped_steps": 3}, checkpoint={"every_steps": 4, "keep": 1}
    )
    done = train(config, tmp_path, "gradient", "6,7,8,9,10,11")
    assert done.returncode == 2
    said = "4 steps in a row, to step 9, changed no weight"
    assert said in done.stderr and "step-00000008, is whole and its weights are finite" in done.stderr
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert read_state(saved)["state"] == {"step": 8, "tokens_seen": 8 * 512, "skipped_in_a_row": 3}
    done = train(config, tmp_path, "gradient", "9,10,11")  # from step 8: the next bad step is one too many again
    assert done.returncode == 2 and said in done.stderr
    launch.train(config, tmp_path / "run.json")  # and what was bad for a while costs nothing more
