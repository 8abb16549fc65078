"""A bad step, also one whose loss alone is infinite, changes nothing on any rank, and the steps after it are taken again."""

from __future__ import annotations

import json

import pytest

from tests import launch
from tests.dist.non_finite_runs import BAD, STEPS

WAYS = ("ZeRO-1 fp32", "ZeRO-2 optimizer cpu bf16", "2 stages, ZeRO-0 fp32")


@pytest.mark.launcher
def test_bad_steps_change_nothing_on_any_rank_and_a_resume_is_bitwise(tmp_path):
    table = tmp_path / "table.json"
    done = launch.run(2, "tests/dist/non_finite_runs.py", "--table", str(table), "--only", *WAYS)
    assert done.returncode == 0 and table.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    rows = {row["way"]: row for row in json.loads(table.read_text())}
    assert set(rows) == set(WAYS)
    for way, row in rows.items():
        assert row["changed"] == [[], []], way
        skipped = {str(step): sum(bad <= step for bad in BAD) for step in range(1, STEPS + 1)}
        assert row["skipped_after"] == skipped, way
        assert row["rates"] == [5e-4] + [1e-3] * (STEPS - 1), way  # two steps of warmup, whether skipped or not
        assert row["resumed"], way
