"""The run files that ship, and the references generated for them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from strict_json import ConfigError
from tests.corpora import write_shards
from tests.models import run_file
from trainer import batch, config, config_reference
from trainer.model import build
from trainer.parallel import topology
from trainer.preflight import prepare

FOLDER = Path(__file__).resolve().parents[3] / "ds_configs"
RUN_FILES = sorted(p for p in FOLDER.glob("*.json") if p.name != config_reference.SCHEMA_FILE)
# arXiv 2005.14165, table 2.1: parameters, layers, width, heads, tokens per step, learning rate (the 1.3B model with 16 heads
# where the paper prints 24, which do not divide its width)
GPT3 = {
    "125m": (125e6, 12, 768, 12, 0.5e6, 6.0e-4),
    "350m": (350e6, 24, 1024, 16, 0.5e6, 3.0e-4),
    "1.3b": (1.3e9, 24, 2048, 16, 1e6, 2.0e-4),
    "6.7b": (6.7e9, 32, 4096, 32, 2e6, 1.2e-4),
    "175b": (175e9, 96, 12288, 96, 3.2e6, 0.6e-4),
}
PRESETS = [path for path in RUN_FILES if path.name.startswith("gpt3_")]


def test_schema_and_key_reference_are_fresh(tmp_path):
    for path in config_reference.write(tmp_path):
        assert (FOLDER / path.name).read_text() == path.read_text(), "run: python -m trainer schema"


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_run_files_that_ship_fit_schema_and_code(path):
    schema = json.loads((FOLDER / config_reference.SCHEMA_FILE).read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(path.read_text()))
    config.load(path, [])


def test_every_size_has_both_families_and_a_pipeline_where_it_is_large():
    names = {path.stem for path in PRESETS}
    for size in GPT3:
        for family in ("neox", "llama"):
            variants = {name.rpartition("_")[2] for name in names if name.startswith(f"gpt3_{size}_{family}_")}
            assert any(variant.startswith("zero") for variant in variants)
            assert size in ("125m", "350m") or any(variant.startswith("pipeline") for variant in variants)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("corpus") / "train", documents=120, vocab_size=50257)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_gpt3s(path, shards, tmp_path):
    _, size, _, variant = path.stem.split("_")
    parameters, layers, width, heads, tokens, rate = GPT3[size]
    loaded = config.load(path, [])
    # at full size: the batch divides over a plausible cluster
    world = {"125m": 8, "350m": 8, "1.3b": 32, "6.7b": 64, "175b": 512}[size]
    layout = topology.from_world(loaded.parallel, world)
    plan = batch.solve(loaded.batch, loaded.data.sequence_length, layout.data_parallel_size, layout.pipeline_stages)
    assert plan.global_batch_tokens == loaded.batch.global_batch_tokens
    assert abs(plan.global_batch_tokens / tokens - 1) < 0.05
    if layout.pipeline_stages > 1:
        assert plan.gradient_accumulation_steps >= 2 * layout.pipeline_stages
    assert loaded.optimizer.learning_rate == rate
    # over a small corpus with GPT-2's vocabulary: the model is built, on the meta device
    stages = loaded.parallel.pipeline_stages
    changes = [f"data.train={shards}", "data.validation=null", "batch.global_batch_tokens=2048"]
    prepared = prepare(path, [*changes, f"run.folder={tmp_path / 'run'}"], stages)
    hf = prepared.hf_config
    assert (hf.num_hidden_layers, hf.hidden_size, hf.num_attention_heads, hf.vocab_size) == (layers, width, heads, 50304)
    count = sum(p.numel() for p in build.skeleton(hf).parameters())
    count -= 0 if hf.tie_word_embeddings else 50304 * width  # the paper's models share one table
    assert abs(count / parameters - 1) < 0.07, f"{count:,}"
    assert variant.startswith(("zero", "pipeline"))


def test_overrides_and_unknown_keys(tmp_path):
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run_file(tmp_path / "run", tmp_path / "train")))
    assert config.load(file, ["run.seed=7", "model.attention=eager"]).run.seed == 7
    with pytest.raises(ConfigError, match='Did you mean "sequence_length"'):
        config.load(file, ["data.seqence_length=64"])
    with pytest.raises(ConfigError, match=r"model\.config or model\.init_from"):
        config.load(file, ["model.config=null"])
