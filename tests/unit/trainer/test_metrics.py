"""metrics.jsonl survives a kill without gap or repetition."""

from __future__ import annotations

import json

from trainer.metrics import METRICS_FILE, keep_until, read_metrics


def test_a_half_written_line_is_passed_over_and_rows_after_the_checkpoint_are_dropped(tmp_path):
    file = tmp_path / METRICS_FILE
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 8, "lo')
    assert read_metrics(file) == rows
    keep_until(file, 5)
    assert read_metrics(file) == rows[:5]
    with file.open("a") as appended:
        appended.write('{"step": 6}\n')
    assert [row["step"] for row in read_metrics(file)] == [1, 2, 3, 4, 5, 6]


def test_no_file_yet(tmp_path):
    keep_until(tmp_path / METRICS_FILE, 0)
    assert read_metrics(tmp_path / METRICS_FILE) == []
