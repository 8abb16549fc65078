"""Ranks that differ are named with their hosts, values and the way out; links and clocks in lines for a person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpora import write_shards
from tests.models import run_file
from trainer.hosts import agreement
from trainer.hosts.agreement import (
    AgreementError,
    check_space,
    checkpoint_bytes,
    compare,
    describe_clocks,
    describe_links,
    facts,
)
from trainer.hosts.disks import Disk
from trainer.preflight import prepare

HOSTS = ["node0", "node0", "node1"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    write_shards(folder / "train")
    write_shards(folder / "validation", seed=3)
    (folder / "run").mkdir()
    (folder / "run.json").write_text(json.dumps(run_file(folder / "run", folder / "train", folder / "validation")))
    return prepare(folder / "run.json", [], 2)


@pytest.fixture(scope="module")
def same(plan) -> dict[str, str]:
    return facts(plan, "cpu")


def test_the_facts_cover_what_decides_a_run(same, plan):
    names = " ".join(same)
    for name in (
        "run file batch.global_batch_tokens",
        "run file optimizer.learning_rate",
        "code trainer/train.py",
        "code trainer/model/loss.py",
        "code data_prep/shards/windows.py",
        "code strict_json.py",
        "data train, takedowns",
        "data validation, tokenizer",
        "version torch",
        "version transformers",
        "version python",
        "device",
    ):
        assert name in names
    assert same["data train"] == str(plan.corpus.windows[0].fingerprint) != same["data validation"]
    assert all(isinstance(value, str) for value in same.values())


def test_ranks_that_are_the_same_agree(same):
    assert compare([same, dict(same), dict(same)], HOSTS) == HOSTS


@pytest.mark.parametrize(
    ("name", "value", "way_out"),
    [
        ("code trainer/model/loss.py", "0" * 12, "same moenda"),
        ("version deepspeed", "0.18.0", "pip install"),
        ("data train", "1", "copy the same shards"),
        ("data validation, tokenizer", "cd" * 8, "copy the same shards"),
        ("data train, takedowns", "1" * 12, "takedown.json"),
        ("run file run.seed", "9", "same run file"),
        ("device", "cuda", "same kind of device"),
    ],
)
def test_what_differs_is_named_with_host_value_and_way_out(same, name, value, way_out):
    with pytest.raises(AgreementError) as refusal:
        compare([same, same, {**same, name: value}], HOSTS)
    assert f"  {name}: {same[name]} on node0 (ranks 0-1); {value} on node1 (rank 2)\n" in str(refusal.value)
    assert way_out in str(refusal.value) and str(refusal.value).count("\n") == 2


def test_a_file_that_one_host_lacks(same):
    other = {key: value for key, value in same.items() if key != "code trainer/hosts/disks.py"}
    with pytest.raises(AgreementError, match=r"trainer/hosts/disks.py: \w+ on node0 \(rank 0\); absent on node1"):
        compare([same, other], ["node0", "node1"])


def test_of_many_differences_the_rest_is_counted(same):
    other = {key: value + "x" for key, value in same.items()}
    with pytest.raises(AgreementError, match=f"and {len(same) - agreement.SHOWN} more"):
        compare([same, other], ["node0", "node1"])


def test_a_full_disk_is_refused(plan, monkeypatch):
    usage = agreement.shutil.disk_usage(plan.folder)
    needed = checkpoint_bytes(plan, Disk.of_all(2))
    monkeypatch.setattr(agreement.shutil, "disk_usage", lambda folder: usage._replace(free=needed))
    check_space(plan, Disk.of_all(2))
    monkeypatch.setattr(agreement.shutil, "disk_usage", lambda folder: usage._replace(free=needed - 1))
    with pytest.raises(AgreementError, match=r"[1-9][0-9.]* [KM]B are free on its disk, 1 bytes less than the"):
        check_space(plan, Disk.of_all(2))


@given(st.integers(0, 10**15))
def test_a_size_is_readable_and_true_to_three_digits(count):
    number, unit = agreement.size_text(count).split()
    value = float(number) * {"bytes": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert value == pytest.approx(count, rel=0.006)
    assert len(number) <= 5 and (float(number) >= 1 or count == 0)


def test_bytes_of_a_checkpoint(plan):
    """The estimate of a plain fp32 model: parameters and Adam's two moments are what must fit at least."""
    assert plan.config.parallel.zero_stage == 0
    parameters = 300 * 64  # the embedding alone
    assert checkpoint_bytes(plan, Disk.of_all(2)) > parameters * 12
    assert checkpoint_bytes(plan, Disk(1, (1,), False)) == checkpoint_bytes(plan, Disk.of_all(2))  # nothing is sharded


def test_links_are_told_by_hosts_the_slowest_first():
    lines = list(describe_links(["a", "a", "b", "b"], [1e-3, 1e-5, 2e-3, 2e-5], [5e7, 9e9, 2e8, 8e9]))
    assert lines == [
        "b to a: 50.0 MB/s, 1000 us (the slowest link between hosts)",
        "a to b: 0.20 GB/s, 2000 us",
        "within b: 8.00 GB/s, 20 us",
        "within a: 9.00 GB/s, 10 us",
    ]
    assert list(describe_links(["a", "a"], [1e-5, 1e-5], [1e9, 1e9])) == ["within a: 1.00 GB/s, 10 us"]


@given(st.lists(st.floats(1e6, 1e10), min_size=12, max_size=40, unique=True))
def test_of_many_links_the_slowest_are_named(rates):
    hosts = [f"n{number}" for number in range(len(rates))]
    lines = list(describe_links(hosts, [1e-4] * len(rates), rates))
    slowest = min(range(len(rates)), key=rates.__getitem__)
    assert len(lines) == 3 and lines[0].startswith(f"{hosts[slowest - 1]} to {hosts[slowest]}: ")


def test_clocks():
    assert list(describe_clocks(["a", "b"], [1000.0, 1004.0])) == []
    (line,) = describe_clocks(["a", "b", "c"], [1000.0, 1120.0, 1001.0])
    assert line.startswith("warning: the clock of b is 120 s ahead of that of a")


def test_the_code_that_is_compared_is_the_code_that_runs():
    assert Path(agreement.__file__).is_relative_to(agreement.ROOT / "trainer")
