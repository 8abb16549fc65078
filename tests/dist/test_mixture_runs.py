"""Mixtures, ramps and curricula in real jobs: one ledger and one curve, whatever the split, through kills and additions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import launch
from tests.corpora import write_shards
from tests.models import run_file
from trainer.ledger import LEDGER_FILE
from trainer.metrics import METRICS_FILE, read_metrics

CURVE = ("step", "tokens", "loss", "learning_rate", "grad_norm", "validation_loss", "batch_tokens", "sequence_length")
WAYS = {
    "zero-3": {"zero_stage": 3},
    "pipeline": {"zero_stage": 0, "pipeline_stages": 2},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    for name, documents in (("books", 40), ("web", 60), ("papers", 20)):
        write_shards(folder / name, documents=documents, seed=documents)
    write_shards(folder / "validation", documents=6, shards=1, seed=5)
    return folder


def config(folder: Path, shards: Path, parallel: dict[str, int]) -> dict[str, Any]:
    """28 steps: two sources whose weights change, windows of 8, 16, 32 tokens, a batch of 128 to 512, one source used up."""
    made = run_file(folder, shards, shards / "validation", parallel=parallel)
    made["data"] = {
        "sources": {
            "books": {"shards": str(shards / "books"), "weight": 1, "max_epochs": 0.5},
            "web": {"shards": str(shards / "web"), "weight": 2},
        },
        "curriculum": [
            {"from_tokens": 0, "sequence_length": 8},
            {"from_tokens": 2000, "sequence_length": 16, "weights": {"books": 4}},
            {"from_tokens": 4000, "sequence_length": 32},
        ],
        "validation": str(shards / "validation"),
        "sequence_length": 32,
    }
    made["batch"] = {"global_batch_tokens": 512, "micro_batch_size": 2, "ramp": {"start_tokens": 128, "over_tokens": 3000}}
    return made


def curve(folder: Path) -> list[tuple]:
    return [tuple(row.get(key) for key in CURVE) for row in read_metrics(folder / METRICS_FILE)]


def ledger(folder: Path) -> list[str]:
    return (folder / LEDGER_FILE).read_text().splitlines()


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory) -> Path:
    """The run by one process."""
    folder = tmp_path_factory.mktemp("alone")
    launch.train(config(folder / "run", shards, {"zero_stage": 0}), folder / "run.json", ranks=1)
    return folder / "run"


@pytest.mark.launcher
@pytest.mark.parametrize("way", WAYS)
def test_killed_resumed_and_divided_it_is_the_run_of_one_process(way, shards, alone, tmp_path):
    folder = tmp_path / "run"
    made = config(folder, shards, WAYS[way])
    made["checkpoint"] = {"every_steps": 7}
    # while the batch grows and the windows are short; the last checkpoint before is of step 7 or 14
    launch.train_and_kill(made, tmp_path / "run.json", lambda: len(read_metrics(folder / METRICS_FILE)) >= 12)
    launch.train(made, tmp_path / "run.json")
    assert ledger(folder) == ledger(alone)
    ours, theirs = curve(folder), curve(alone)
    exact = [CURVE.index(key) for key in ("step", "tokens", "learning_rate", "batch_tokens", "sequence_length")]
    assert [[row[at] for at in exact] for row in ours] == [[row[at] for at in exact] for row in theirs]
    for at in (CURVE.index(key) for key in ("loss", "grad_norm", "validation_loss")):
        pairs = [(one[at], other[at]) for one, other in zip(ours, theirs, strict=True) if one[at] is not None]
        assert len(pairs) > 2 and all(one == pytest.approx(other, rel=1e-5) for one, other in pairs)
    assert [row[-2] for row in ours if row[-2]] == [128] * 8 + [256] * 4 + [384] * 3 + [512] * 14
    assert {row[-1] for row in ours if row[-1]} == {8, 16, 32}


@pytest.mark.launcher
def test_a_source_is_added_to_a_run_and_changes_only_what_follows(shards, alone, tmp_path):
    folder = tmp_path / "run"
    made = config(folder, shards, {"zero_stage": 1})
    made["schedule"]["type"] = "constant"  # a schedule over total_tokens would change with them
    short = {**made, "schedule": {**made["schedule"], "total_tokens": 5760}}
    launch.train(short, tmp_path / "short.json")
    assert ledger(folder) == ledger(alone)[:20]

    made["data"]["sources"]["papers"] = {"shards": str(shards / "papers"), "weight": 0}
    made["data"]["curriculum"].append({"from_tokens": 5000, "weights": {"papers": 1}})
    (tmp_path / "late.json").write_text(json.dumps(made))
    done = launch.run(2, "trainer/train.py", "--config", str(tmp_path / "late.json"))
    assert done.returncode != 0 and "has consumed 5,760 tokens in another order" in done.stderr
    assert "Traceback" not in done.stderr and ledger(folder) == ledger(alone)[:20]

    made["data"]["curriculum"][-1]["from_tokens"] = 5760
    launch.train(made, tmp_path / "run.json")
    assert ledger(folder)[:20] == ledger(alone)[:20]
    after, before = ([json.loads(line)["digest"] for line in ledger(run)[20:]] for run in (folder, alone))
    assert len(after) == len(before) == 9 and not set(after) & set(before)
