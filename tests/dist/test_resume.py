"""A run that is killed and started again continues bit for bit, and what it exports is what it trained."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from data_prep.shards import TokenShards, Windows
from tests import launch
from tests.corpora import write_shards
from tests.models import FAMILIES, run_file
from trainer.checkpoint_files import CheckpointError
from trainer.data.loader import read_windows
from trainer.export import export
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.model.loss import nll_sum

DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
BF16 = {"bf16": {"enabled": True}}
MODELS = {
    "gpt2": {**FAMILIES["gpt2"], **DROPOUT, "vocab_size": "auto", "tie_word_embeddings": True},
    "llama": {**FAMILIES["llama"], "vocab_size": "auto", "tie_word_embeddings": True},
}
WAYS = {
    "zero-3 bf16 with dropout": ("gpt2", {"zero_stage": 3}, BF16),
    "pipeline zero-1 bf16": ("llama", {"zero_stage": 1, "pipeline_stages": 2}, BF16),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_shards(folder / "train")
    write_shards(folder / "validation", documents=6, shards=1, seed=5)
    return folder


def curve(folder: Path) -> list[tuple]:
    """Everything in the metrics that must not change, as exact values."""
    kept = ("step", "tokens", "loss", "learning_rate", "grad_norm", "validation_loss")
    return [tuple(row.get(key) for key in kept) for row in read_metrics(folder / METRICS_FILE)]


def last_step(folder: Path) -> int:
    rows = read_metrics(folder / METRICS_FILE)
    return rows[-1]["step"] if rows else 0


@pytest.mark.launcher
@pytest.mark.parametrize("way", WAYS)
def test_killed_and_resumed_run_is_bitwise_the_uninterrupted_one(way, shards, tmp_path):
    family, parallel, deepspeed = WAYS[way]
    changes = {"model": {"config": MODELS[family]}, "parallel": parallel, "deepspeed": deepspeed}
    changes["checkpoint"] = {"every_steps": 6}
    whole = run_file(tmp_path / "whole", shards / "train", shards / "validation", **changes)
    launch.train(whole, tmp_path / "whole.json")

    killed = run_file(tmp_path / "killed", shards / "train", shards / "validation", **changes)
    checkpoints = tmp_path / "killed" / "checkpoints"
    # once in the middle between two checkpoints, once while a checkpoint is being written
    launch.train_and_kill(killed, tmp_path / "killed.json", lambda: last_step(tmp_path / "killed") >= 9)
    assert (checkpoints / "step-00000006").is_dir()
    launch.train_and_kill(killed, tmp_path / "killed.json", lambda: (checkpoints / ".partial-step-00000012").is_dir())
    launch.train(killed, tmp_path / "killed.json")
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "whole")) == 22  # 20 steps, 2 evaluations
    assert not list(checkpoints.glob(".partial*"))
    check_export(tmp_path / "killed", shards / "validation", bf16=bool(deepspeed))
    if parallel.get("pipeline_stages"):  # the same for all, and two more jobs
        check_complete(killed, tmp_path)


def check_export(run: Path, validation: Path, bf16: bool) -> None:
    """The exported folder, loaded as any user would, has the validation loss that the run logged."""
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "export", str(run)],
        cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "matched within" in done.stdout
    model = AutoModelForCausalLM.from_pretrained(run / "export").eval()
    assert model.dtype == (torch.bfloat16 if bf16 else torch.float32)
    windows = Windows(TokenShards.open(validation), 32)
    batch = read_windows(windows, np.arange(len(windows)))
    with torch.no_grad():
        inputs, targets = batch.on("cpu")
        loss = nll_sum(model(input_ids=inputs).logits, targets).item() / (targets >= 0).sum().item()
    logged = [row["validation_loss"] for row in read_metrics(run / METRICS_FILE) if "validation_loss" in row][-1]
    assert loss == pytest.approx(logged, rel=1e-3 if bf16 else 1e-5)
    again = subprocess.run(
        [sys.executable, "-m", "trainer", "export", str(run)],
        cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert again.returncode == 2 and "exists. Nothing was written" in again.stderr


@contextmanager
def damaged(file: Path) -> Iterator[Path]:
    """The file with a bit of its middle turned, inside the block."""

    def turn() -> None:
        with open(file, "r+b") as stream:
            stream.seek(file.stat().st_size // 2)
            byte = stream.read(1)[0]
            stream.seek(-1, 1)
            stream.write(bytes([byte ^ 16]))

    turn()
    yield file
    turn()


def check_complete(config: dict, tmp_path: Path) -> None:
    """Started again, a complete run says so; asked for more tokens, it goes on."""
    done = launch.train(config, tmp_path / "killed.json")
    assert "This run is complete (20 steps)" in done.stdout
    longer = {**config, "schedule": {**config["schedule"], "total_tokens": 22 * 512}}
    (tmp_path / "longer.json").write_text(json.dumps(longer))
    with damaged(next((tmp_path / "killed" / "checkpoints" / "step-00000020").glob("layer_02*"))) as file:
        refused = launch.run(2, "trainer/train.py", "--config", str(tmp_path / "longer.json"))
        assert refused.returncode == 2 and f"{file.name} is damaged" in refused.stderr
        with pytest.raises(CheckpointError, match=f"{file.name} is damaged"):
            export(tmp_path / "killed", tmp_path / "damaged")
    launch.train(longer, tmp_path / "longer.json")
    rows = read_metrics(Path(config["run"]["folder"]) / METRICS_FILE)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 23))
    json.dumps(rows, allow_nan=False)
