"""What goes over the network is what the formulas say, counted at the interfaces of two hosts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import launch

WAYS = ("ZeRO-1",)  # the others: bench/traffic.py


@pytest.mark.launcher
def test_bytes_on_the_wire(tmp_path):
    if os.geteuid() or shutil.which("ip") is None or subprocess.run(["ip", "netns", "add", "moenda-try"]).returncode:
        pytest.skip("network namespaces need root and iproute2")
    subprocess.run(["ip", "netns", "delete", "moenda-try"], check=True)
    table = tmp_path / "table.json"
    line = [sys.executable, "bench/traffic.py", "--output", str(table), "--ways", *WAYS]
    done = subprocess.run(line, cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True)
    assert done.returncode == 0 and table.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads(table.read_text())
    assert len(rows) == 2 * len(WAYS)
    assert [row for row in rows if not 0.95 < row["measured"] / row["formula"] < 1.05] == []
