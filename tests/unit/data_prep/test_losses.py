"""What a build lost is shown source by source, and in groups rather than row by row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep import facts, losses
from data_prep.__main__ import SET_ASIDE, main
from data_prep.stage import add_up

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


FACTS = [
    {"facts": {"books": {"licence": {"absent": 2}, "encoding": {"utf-8": 1, "assumed windows-1252": 1}}}},
    {"facts": {"books": {"licence": {"absent": 1}}, "web": {"licence": {"not understood": 4, "of the source": 1}}}},
    {},
]


def test_facts_are_added_up_and_what_is_in_doubt_is_said():
    known = add_up(result.get("facts", {}) for result in FACTS)
    assert known["books"] == {"licence": {"absent": 3}, "encoding": {"utf-8": 1, "assumed windows-1252": 1}}
    assert facts.doubts(known) == [
        "books: encoding of 2 documents: 1 assumed windows-1252",
        "web: licence of 5 documents: 4 not understood",
    ]
    notes = [{"where": f"{n}.warc", "note": "licence not understood, kept as its own text: Mine"} for n in range(7)]
    passed = {"web": {"image/png": 5, "status 404": 6}, "books": {"redirect": 1}}
    said = facts.lines({"facts": known, "passed_over": passed, "notes": notes})
    assert (
        said[said.index("facts       all sources") + 1] == "            licence:  4 not understood, 3 absent, 1 of the source"
    )
    assert "passed over web: 11 records that are no documents: 6 status 404, 5 image/png" in said
    assert "passed over all sources: 12 records that are no documents: 6 status 404, 5 image/png, 1 redirect" in said
    assert said[-2:] == [
        "            4.warc: licence not understood, kept as its own text: Mine",
        "            and 2 more files",
    ]


def test_languages_say_what_they_rest_on():
    summary = {"clean": [], "facts": {"a": {"language": {"absent": 3, "named by the document": 1}}}}
    assert "No language step ran" in facts.languages_are(summary) and "Of 4 documents read, 1 declare" in facts.languages_are(
        summary
    )
    summary["clean"] = [{"type": "language", "only_sources": ["a"]}]
    assert facts.languages_are(summary).startswith("Found in the texts of a by")
    summary["clean"] = [{"type": "language", "only_sources": None}]
    assert facts.languages_are(summary) == "Found in the texts by the recipe's language step."


def test_a_build_and_its_report_show_the_facts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [{"text": f"{word} is a word here.", "license": "Ask <Bob>"} for word in ("one", "two", "three")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {
        "output": "corpus",
        "sources": [{"type": "jsonl", "name": "talk", "paths": ["a.jsonl"]}],
        "tokenizer": {"vocab_size": 260},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    assert main(["run", str(tmp_path / "recipe.json"), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "LOOK AT     talk: licence of 3 documents: 3 not understood" in said and "kept as its own text: Ask <Bob>" in said
    page = (tmp_path / "corpus" / "report.html").read_text()
    assert "<b class=warn>3 not understood</b>" in page and "Ask &lt;Bob&gt;" in page and "No language step ran" in page
