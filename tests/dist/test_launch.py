"""How users start it, and how a mistake ends it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time

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


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(shards, tmp_path):
    config = run_file(tmp_path / "run", shards, checkpoint={"every_steps": 2})
    config["model"]["config"]["rope_theta"] = 1e-300  # 0 in float32
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config))
    line = [sys.executable, "trainer/train.py", "--config", str(file)]
    done = subprocess.run(line, cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "step 2: weights are finite, but the model's loss is nan. Nothing more is saved." in done.stderr
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


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


@pytest.mark.launcher
def test_a_rank_whose_neighbour_is_gone_says_so_and_what_to_do(tmp_path):
    """Two ranks without a launcher, which would end the other one itself."""
    config = run_file(tmp_path / "run", write_shards(tmp_path / "train", documents=2000), schedule={"total_tokens": 400 * 512})
    (tmp_path / "run.json").write_text(json.dumps(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    line = [sys.executable, "trainer/train.py", "--config", str(tmp_path / "run.json")]
    jobs, logs = [], [(tmp_path / f"rank{rank}").open("w+") for rank in range(2)]
    for rank, log in enumerate(logs):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment = {**launch.environment(), **address, **place}
        jobs.append(subprocess.Popen(line, cwd=launch.ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT))
    deadline = time.monotonic() + 300
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
        assert jobs[0].poll() is None and time.monotonic() < deadline, logs[0].seek(0) or logs[0].read()
        time.sleep(0.01)
    jobs[1].kill()
    assert jobs[0].wait(120) == 1
    said = (tmp_path / "rank0").read_text()
    assert "Traceback" not in said and re.search(r"moenda: rank 0 on \S+ has lost another rank", said), said[-3000:]
    assert re.search(r"The same command goes on from \S+/run/checkpoints/step-\d{8}\.$", said, re.MULTILINE)
    jobs[1].wait()
