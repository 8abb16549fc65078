"""How users start it, and how a mistake ends it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import launch
from tests.corpora import write_shards
from tests.models import run_file
from trainer.metrics import METRICS_FILE, read_metrics


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("corpus") / "train")


def losses(folder):
    return [row["loss"] for row in read_metrics(folder / METRICS_FILE)]


@pytest.mark.launcher
def test_as_a_module_with_accelerate_and_without_a_launcher(shards, tmp_path):
    short = {"total_tokens": 3 * 512}
    config = run_file(tmp_path / "module", shards, schedule=short, monitor={"tensorboard": True})
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config))
    done = launch.run(2, "trainer.train", "--config", str(file), "--set", "run.seed=3", module=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "module" / "tensorboard").iterdir())
    line = [sys.executable, "trainer/train.py", "--config", str(file)]
    overrides = ["--set", "run.seed=3", "--set", f"run.folder={tmp_path / 'bare'}"]
    done = subprocess.run([*line, *overrides], cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "bare") == pytest.approx(losses(tmp_path / "module"), rel=1e-6)
    accelerate = [str(launch.LAUNCHER.with_name("accelerate")), "launch", "--multi_gpu", "--num_processes", "2"]
    overrides[-1] = f"run.folder={tmp_path / 'accelerate'}"
    line = [*accelerate, "--main_process_port", "0", *line[1:], *overrides]
    done = subprocess.run(line, cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "accelerate") == losses(tmp_path / "module")


@pytest.mark.launcher
def test_a_mistake_ends_the_job_before_it_starts(shards, tmp_path):
    config = run_file(tmp_path / "run", shards, batch={"global_batch_tokens": 500})
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config))
    done = launch.run(2, "trainer/train.py", "--config", str(file))
    assert done.returncode != 0
    assert done.stderr.count("batch.global_batch_tokens = 500 is not a multiple of 128") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.launcher
def test_damage_inside_a_shard_ends_the_job_when_it_is_read(tmp_path):
    shards = write_shards(tmp_path / "train")
    file = shards / "shard-00000.tokens"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    config = run_file(tmp_path / "run", shards)
    (tmp_path / "run.json").write_text(json.dumps(config))
    done = launch.run(2, "trainer/train.py", "--config", str(tmp_path / "run.json"))
    assert done.returncode != 0
    assert "shard-00000.tokens: block 0" in done.stderr and "data_prep run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.launcher
def test_two_jobs_cannot_share_a_run_folder(shards, tmp_path):
    from trainer import run_folder
    from trainer.preflight import prepare

    config = run_file(tmp_path / "run", shards)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config))
    plan = prepare(file, [], 2)
    with run_folder.take(plan.folder, plan.record):
        done = launch.run(2, "trainer/train.py", "--config", str(file))
    assert done.returncode != 0
    assert "is in use by process" in done.stderr
