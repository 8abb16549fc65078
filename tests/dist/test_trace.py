"""From steps to documents and back, over a real build and a real run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data_prep import packing
from data_prep.__main__ import main as data_prep
from data_prep.shards import TokenShards
from tests import launch
from tests.corpora import build_corpus
from tests.models import run_file
from trainer import tracing
from trainer.__main__ import main as trainer
from trainer.ledger import LEDGER_FILE

LENGTH = 32


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    build_corpus(folder, "web", "CC-BY-4.0", 40, {"vocab_size": 300})
    books = build_corpus(folder, "books", "MIT", 12, {"path": "web/tokenizer"})
    packing.make(TokenShards.open(books), "best_fit", LENGTH)
    made = run_file(folder / "run", books, schedule={"total_tokens": 12 * 256, "warmup_tokens": 0})
    made["data"] = {
        "sources": {
            "a": {"shards": str(folder / "web" / "shards" / "train"), "weight": 1},
            "b": {"shards": str(books), "weight": 1, "packing": "best_fit"},
        },
        "curriculum": [{"from_tokens": 0, "sequence_length": 8}, {"from_tokens": 1000, "sequence_length": LENGTH}],
        "sequence_length": LENGTH,
    }
    made["batch"] = {"global_batch_tokens": 256, "ramp": {"start_tokens": 128, "over_tokens": 800}}
    (folder / "run.json").write_text(json.dumps(made))
    line = [sys.executable, "trainer/train.py", "--config", str(folder / "run.json")]
    done = subprocess.run(line, cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run"


def test_steps_and_documents_tell_the_same_story(run):
    opened = tracing.Run.open(run)
    steps = len(opened.entries)
    by_step: dict[str, Counter] = {}
    for step in range(1, steps + 1):
        rows = tracing.of_step(opened, step)
        consumed = opened.entries[step - 1].tokens - opened.tokens_before(step)
        padding = consumed - sum(row["tokens"] for row in rows)
        assert 0 <= padding <= 2 * LENGTH  # windows hold little else: the last of "a", those of "b" with room left
        for row in rows:
            assert row["licence"] == {"a": "CC-BY-4.0", "b": "MIT"}[row["source"]] and row["url"].startswith("https://")
            by_step.setdefault(row["id"], Counter())[step] += row["tokens"]
    assert len(by_step) > 30
    for document, counts in by_step.items():
        found = tracing.of_document(opened, document)
        assert {row["step"]: row["tokens"] for row in found} == counts
    assert max(len(counts) for counts in by_step.values()) > 2  # several epochs, and a document over several windows


def test_as_users_ask(run, capsys):
    assert trainer(["trace", str(run), "--step", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("step 1: tokens 0 to 128 of the run") and "windows of 8 tokens" in said
    assert "MIT" in said and "CC-BY-4.0" in said and "https://web.org/" in said
    assert trainer(["trace", str(run), "--step", "1", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert trainer(["trace", str(run), "--document", rows[0]["id"], "--json"]) == 0
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert seen[0] == {"step": 1, "source": rows[0]["source"], "tokens": rows[0]["tokens"], "masked": False}
    assert trainer(["trace", str(run), "--document", rows[0]["id"]]) == 0
    assert "steps done: trained on in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (["--step", "0"], "the ledger holds the steps 1 to"),
        (["--step", "99"], "the ledger holds the steps 1 to"),
        (["--document", "nobody"], "no document nobody in its sources"),
    ],
)
def test_what_a_run_does_not_know(run, question, said, capsys):
    assert trainer(["trace", str(run), *question]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_shards_that_were_replaced_are_noticed(run, tmp_path, capsys):
    folder = shutil.copytree(run.parent, tmp_path / "copy")
    shutil.rmtree(folder / "web")
    build_corpus(folder, "web", "CC-BY-4.0", 41, {"path": "books/tokenizer"})
    effective = folder / "run" / "effective_config.json"
    effective.write_text(effective.read_text().replace(str(run.parent), str(folder)))
    assert trainer(["trace", str(folder / "run"), "--step", "2"]) == 2
    assert "step 2 consumed other windows" in capsys.readouterr().err


def test_a_takedown_shows(run, tmp_path, capsys):
    folder = shutil.copytree(run.parent, tmp_path / "copy")
    effective = folder / "run" / "effective_config.json"
    effective.write_text(effective.read_text().replace(str(run.parent), str(folder)))
    (row, *_) = tracing.of_step(tracing.Run.open(folder / "run"), 3)
    shards = folder / {"a": "web", "b": "books"}[row["source"]] / "shards" / "train"
    assert data_prep(["takedown", str(shards), row["id"], "--reason", "asked"]) == 0
    capsys.readouterr()
    assert trainer(["trace", str(folder / "run"), "--step", "3"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if f"   {row['id']}   " in line)
    assert line.endswith("TAKEN DOWN, trained on in this step")
    row = tracing.of_step(tracing.Run.open(folder / "run"), 3)[0]
    assert row["taken_down"] and row["masked"] is False


def test_a_run_that_has_not_started(tmp_path, run, capsys):
    assert trainer(["trace", str(tmp_path), "--step", "1"]) == 2
    assert "not the folder of a run that has started" in capsys.readouterr().err
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / LEDGER_FILE).write_text("")
    assert trainer(["trace", str(tmp_path / "run"), "--step", "1"]) == 2
    assert "holds no step yet" in capsys.readouterr().err
