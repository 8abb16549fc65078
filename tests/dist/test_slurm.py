"""Slurm as far as it goes without Slurm: the command line that DeepSpeed's launcher gives to srun, and a job of processes that
have srun's variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests import launch
from tests.corpora import write_shards
from tests.models import run_file
from trainer.metrics import METRICS_FILE, read_metrics

SRUN = """#!{python}
import json, os, sys
with open(os.environ["RECORD"], "w") as file:
    json.dump(sys.argv[1:], file)
"""


def test_what_deepspeeds_launcher_gives_to_srun(tmp_path, monkeypatch):
    from deepspeed.launcher import runner

    for name in ("srun", "sinfo"):
        (tmp_path / name).write_text(SRUN.format(python=sys.executable))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "hostfile").write_text("gpu1 slots=4\ngpu2 slots=4\ngpu3 slots=4\n")
    (tmp_path / ".deepspeed_env").write_text("NCCL_SOCKET_IFNAME=ib0\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record.json"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "DEEPSPEED_ENVIRONMENT_PATHS", ["."])
    options = ["--hostfile", "hostfile", "--launcher", "slurm", "--no_ssh_check", "--master_addr", "gpu1", "--exclude", "gpu3"]
    runner.main([*options, "--launcher_args=--gpus-per-node=4", "trainer/train.py", "--config", "x.json"])
    words = json.loads((tmp_path / "record.json").read_text())
    (exports,) = [word for word in words if word.startswith("--export=")]
    assert exports.startswith("--export=ALL,") and "NCCL_SOCKET_IFNAME=ib0" in exports.split(",")
    words.remove(exports)
    command = [sys.executable, "-u", "trainer/train.py", "--config", "x.json"]
    assert words == ["-n", "8", "--gpus-per-node=4", "--nodelist", "gpu1,gpu2", "--nodes", "2", *command]


@pytest.mark.launcher
def test_processes_of_a_step_find_each_other(tmp_path):
    shards = write_shards(tmp_path / "train")
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run_file(tmp_path / "run", shards, schedule={"total_tokens": 3 * 512})))
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0"}
    step["SLURM_STEP_NODELIST"] = "localhost"
    jobs = [
        subprocess.Popen(
            [sys.executable, "trainer/train.py", "--config", str(file)],
            cwd=launch.ROOT,
            env=launch.environment() | step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(said)[-4000:]
    assert "ranks       2 = " in said[0] and "ranks       2 = " not in said[1]
    assert len(read_metrics(tmp_path / "run" / METRICS_FILE)) == 3
