"""What a build lost is shown source by source, and in groups rather than row by row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep import losses
from data_prep.__main__ import SET_ASIDE, main

RESULTS = [
    {"dropped": {"language: not kept": {"books": 3, "web": 1}, "spam: links": {"web": 1}}},
    {"dropped": {"language: not kept": {"books": 1}, "language: unsure": {"books": 2}}},
]


def test_drops_are_added_up_by_source():
    assert losses.by_source(RESULTS) == {
        "books": {"language: not kept": 4, "language: unsure": 2},
        "web": {"language: not kept": 1, "spam: links": 1},
    }


def test_a_step_that_takes_more_than_half_of_a_source_is_named_with_its_reasons():
    dropped = losses.by_source(RESULTS)
    said = losses.alarms({"books": 10, "web": 2}, dropped)
    assert said == ["language dropped 60% of the 10 documents of books: 4 not kept; 2 unsure"]
    assert losses.alarms({"books": 12, "web": 2}, dropped) == []


def test_reasons_that_differ_in_numbers_alone_are_one_group():
    entries = [{"where": f"{n}.jsonl", "reason": f"line {n}: no text"} for n in range(5)] + [{"where": "x", "reason": "empty"}]
    assert losses.set_aside_lines(entries, 8) == [
        "5 x line 0: no text", "    0.jsonl", "    1.jsonl", "    2.jsonl", "    and 2 more", "x: empty",
        "2 more inputs were counted but not listed",
    ]  # fmt: skip


def test_a_build_says_what_each_source_lost(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines = [
        json.dumps({"text": f"{word} stands here, a line of its own."})
        for word in ("one", "two", "three", "four", "five", "six")
    ]
    twice = [json.dumps({"text": "said again and again"})] * 20
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, *twice, "{", "{"]))
    values = {
        "output": "corpus",
        "sources": [{"type": "jsonl", "name": "talk", "paths": ["a.jsonl"]}],
        "tokenizer": {"vocab_size": 260},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    assert main(["run", str(tmp_path / "recipe.json"), "--workers", "1"]) == SET_ASIDE
    said = capsys.readouterr().out
    assert "talk: 26 read, 19 dropped (73.1%)" in said
    assert "TAKES MUCH  exact_dedup dropped 73% of the 26 documents of talk: 19 " in said
    page = (tmp_path / "corpus" / "report.html").read_text()
    assert "<th>reason</th><th class=n>inputs</th>" in page and "73.1%" in page
    assert page.index("<h2>Sources") < page.index("<h2>Set aside")
