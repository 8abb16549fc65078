"""Slices of matrices and parts of windows give the curve of one process; their runs resume, and export what they trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from data_prep.shards import TokenShards, Windows
from tests import launch
from tests.corpora import write_shards
from tests.models import run_file
from trainer.data.loader import read_windows
from trainer.export import export
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.model.loss import nll_sum


@pytest.mark.launcher
def test_one_curve_resumed_and_exported(tmp_path):
    rows = parity(tmp_path, 2, 10)
    ways = {row["way"].split(",")[0] for row in rows}
    assert ways >= {f"{axis} 2 x ZeRO-{stage}" for axis in ("tensor", "sequence") for stage in range(4)}
    assert any("sequence_length 32768" in row["way"] for row in rows)
    exported = [Path(row["run"]) for row in rows if row["resumes"] or "ZeRO-0" in row["way"] or "bf16" in row["way"]]
    assert len(exported) == 7
    for run in exported:
        check_export(run, tmp_path / "validation")


@pytest.mark.launcher
def test_stages_of_slices_and_of_parts(tmp_path):
    rows = parity(tmp_path, 4, 4)
    ways = {f"pipeline_stages 2 x {axis} 2 x ZeRO-{stage}" for axis in ("tensor", "sequence") for stage in (0, 1)}
    assert {row["way"].split(",")[0] for row in rows} == ways
    for row in rows:
        if "document_mask" in row["way"]:  # whose logged loss is not that of whole windows
            assert "matched within" in export(Path(row["run"]), Path(row["run"]) / "export")["probe"]
        else:
            check_export(Path(row["run"]), tmp_path / "validation")


def parity(folder: Path, ranks: int, steps: int) -> list[dict]:
    """The rows of the bench's telling cases; asserts that it was content with them."""
    table = folder / "table.json"
    options = ("--telling", "--steps", str(steps), "--folder", str(folder), "--output", str(table))
    done = launch.run(ranks, "bench/parity_tensor_sequence.py", *options)
    assert done.returncode == 0 and table.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads(table.read_text())
    assert [row for row in rows if not row["good"]] == []
    return rows


def check_export(run: Path, validation: Path) -> None:
    """The exported folder, loaded as any user would, has the validation loss that the run logged."""
    facts = export(run, run / "export")
    assert "matched within" in facts["probe"]
    model = AutoModelForCausalLM.from_pretrained(run / "export").eval()
    windows = Windows(TokenShards.open(validation), 32)
    batch = read_windows(windows, np.arange(len(windows)))
    with torch.no_grad():
        inputs, targets = batch.on("cpu")
        loss = nll_sum(model(input_ids=inputs).logits, targets).item() / (targets >= 0).sum().item()
    logged = [row["validation_loss"] for row in read_metrics(run / METRICS_FILE) if "validation_loss" in row][-1]
    assert loss == pytest.approx(logged, rel=1e-5 if model.dtype == torch.float32 else 1e-3)


@pytest.mark.launcher
def test_slices_that_train_another_model_stop_before_the_first_step(tmp_path):
    """CodeGen's queries, values and keys lie in one matrix; Hugging Face's plan cuts it like any other."""
    spec = {"model_type": "codegen", "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": "auto"}
    model = {"config": {**spec, "vocab_size": "auto"}, "attention": "eager"}
    config = run_file(tmp_path / "run", write_shards(tmp_path / "train"), model=model, parallel={"tensor": 2})
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config))
    done = launch.run(2, "tests/unproven_slices.py", "--config", str(file))
    assert done.returncode == 2 and 'a "codegen" model does not compute in slices what it does whole' in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
