"""Training from shards on a remote file system: the curve, the ledger and the export of local shards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import packing
from data_prep.shards import TokenShards
from tests import launch
from tests.corpora import build_corpus
from tests.models import run_file
from trainer.ledger import LEDGER_FILE
from trainer.metrics import METRICS_FILE, read_metrics


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    packing.make(TokenShards.open(build_corpus(folder, "web", "CC0-1.0", 60, {"vocab_size": 300})), "best_fit", 32)
    return folder / "web"


def curve(folder: Path) -> list[tuple]:
    return [tuple(row.get(key) for key in ("step", "loss", "grad_norm")) for row in read_metrics(folder / METRICS_FILE)]


@pytest.mark.launcher
def test_each_node_needs_the_url_and_nothing_else(corpus, tmp_path):
    changes = {"schedule": {"total_tokens": 8 * 512}, "parallel": {"zero_stage": 1}}
    local = run_file(tmp_path / "local", corpus / "shards" / "train", **changes)
    local["data"] |= {"packing": "best_fit", "document_mask": True}
    launch.train(local, tmp_path / "local.json")
    assert (corpus / "tokenizer" / "tokenizer.json").is_file()

    store = shutil.move(corpus, tmp_path / "store")
    url = f"file://{store}/shards/train"
    remote = run_file(tmp_path / "run", url, **changes)
    cache = {"folder": str(tmp_path / "cache"), "gigabytes": 0.002, "chunk_kib": 64}
    remote["data"] |= {"packing": "best_fit", "document_mask": True, "cache": cache}
    launch.train(remote, tmp_path / "run.json")
    assert curve(tmp_path / "run") == curve(tmp_path / "local") and len(curve(tmp_path / "run")) == 8
    assert (tmp_path / "run" / LEDGER_FILE).read_bytes() == (tmp_path / "local" / LEDGER_FILE).read_bytes()
    assert 0 < sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if file.is_file()) < 2_000_000

    line = [sys.executable, "-m", "trainer", "export", str(tmp_path / "run")]
    done = subprocess.run(line, cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    exported = tmp_path / "run" / "export" / "tokenizer.json"
    assert exported.read_bytes() == (store / "tokenizer" / "tokenizer.json").read_bytes()
    line = [sys.executable, "-m", "trainer", "trace", str(tmp_path / "run"), "--step", "3"]
    done = subprocess.run(line, cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "CC0-1.0" in done.stdout, done.stderr[-2000:]
