"""Every way to split the work gives one loss curve: that of a plain PyTorch loop."""

from __future__ import annotations

import json

import pytest

from tests import launch
from tests.models import FAMILIES


@pytest.mark.launcher
def test_all_ways_agree_with_plain_pytorch(tmp_path):
    table = tmp_path / "table.json"
    done = launch.run(2, "bench/parity.py", "--output", str(table))
    assert table.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads(table.read_text())
    assert len(rows) == len(FAMILIES) * 2 * 6
    apart = [row for row in rows if not (row["loss"] < 1e-5 and row["grad_norm"] < 1e-4)]
    assert apart == []
    assert done.returncode == 0
