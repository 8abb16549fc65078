"""Training with document masks, however the work is split, is training on each document alone."""

from __future__ import annotations

import json

import pytest

from tests import launch
from tests.corpora import write_shards
from tests.models import run_file


@pytest.mark.launcher
def test_every_way_gives_the_curve_of_documents_alone(tmp_path):
    table = tmp_path / "table.json"
    done = launch.run(2, "bench/document_mask.py", "--output", str(table), "--steps", "6")
    assert done.returncode == 0 and table.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads(table.read_text())
    assert len(rows) == 3 * 7
    assert [row for row in rows if not (row["loss"] < 1e-5 and row["grad_norm"] < 1e-4)] == []


@pytest.mark.launcher
def test_a_model_that_leaks_stops_before_its_first_step(tmp_path):
    """Attention that asks Hugging Face for no mask, found by the probe on the live engine, on both ranks."""
    spec = {"model_type": "openai-gpt", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": "auto", "vocab_size": "auto"}
    model = {"config": spec, "attention": "eager"}
    data = {"document_mask": True}
    config = run_file(tmp_path / "run", write_shards(tmp_path / "train"), model=model, data=data, parallel={"zero_stage": 3})
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config))
    done = launch.run(2, "trainer/train.py", "--config", str(file))
    assert done.returncode == 2 and '"openai-gpt" model with model.attention "eager" does not treat' in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
