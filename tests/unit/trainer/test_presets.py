"""The presets beyond their sizes: GPT-3's training settings (arXiv 2005.14165, appendix B), equal across variants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer import config

FOLDER = Path(__file__).resolve().parents[3] / "ds_configs"
PRESETS = sorted(FOLDER.glob("gpt3_*.json"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_training_settings_of_the_paper(path):
    run = config.load(path, [])
    optimizer, schedule = run.optimizer, run.schedule
    assert (optimizer.betas, optimizer.eps, optimizer.weight_decay, optimizer.gradient_clipping) == ((0.9, 0.95), 1e-8, 0.1, 1)
    assert (schedule.type, schedule.min_lr_ratio) == ("cosine", 0.1)
    assert (schedule.total_tokens, schedule.warmup_tokens, schedule.decay_tokens) == (300e9, 375e6, 260e9)
    assert run.data.sequence_length == 2048
    assert run.run.folder == f"runs/{path.stem}"  # two presets must not share a run folder
    _, _, family, variant = path.stem.split("_")
    assert run.model.config["model_type"] == {"neox": "gpt_neox", "llama": "llama"}[family]
    assert run.model.config["vocab_size"] == "auto"
    kind, number = variant.rstrip("0123456789"), int(variant[len(variant.rstrip("0123456789")) :])
    stages, layers = run.parallel.pipeline_stages, run.model.config["num_hidden_layers"]
    if kind == "zero":
        assert (run.parallel.zero_stage, stages) == (number, 1)
    else:
        assert (kind, stages) == ("pipeline", number) and layers % stages == 0


@pytest.mark.parametrize("size", ["125m", "350m", "1.3b", "6.7b", "175b"])
def test_variants_of_a_size_differ_only_in_model_and_split(size):
    shared = [
        {key: value for key, value in json.loads(path.read_text()).items() if key in ("batch", "schedule", "optimizer", "data")}
        for path in PRESETS
        if path.stem.startswith(f"gpt3_{size}_")
    ]
    assert len(shared) >= 2 and all(one == shared[0] for one in shared)
