"""Options that must not change the curve: offload to memory and disks, torch.compile, fp16 whose loss scale is sought."""

from __future__ import annotations

import json
import os

import pytest

from tests import launch

DISKS = "MOENDA_TEST_NVME"
"""Set it to test offload to disks, too: DeepSpeed compiles its reader for that, two to three minutes on two cores."""
WAYS = ("ZeRO-2 optimizer cpu", "ZeRO-3 both cpu", "ZeRO-3 both nvme, tied", "ZeRO-3 compile", "ZeRO-1 fp16, steps skipped")


@pytest.mark.launcher
def test_options_leave_the_curve_and_resume_bitwise(tmp_path):
    table = tmp_path / "table.json"
    ways = [way for way in WAYS if DISKS in os.environ or "nvme" not in way]
    done = launch.run(2, "bench/options.py", "--output", str(table), "--ways", *ways)
    assert done.returncode == 0 and table.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    rows = {row["way"]: row for row in json.loads(table.read_text())}
    assert list(rows) == ways and all(row["resumed"] for row in rows.values())
    assert 0 < rows[ways[-1]]["skipped_steps"] < 8
    assert all(row["loss"] < 1e-5 and row["skipped_steps"] == 0 for row in list(rows.values())[:-1])
