"""What is known before the first stage is said before it; a filter that fails over a document costs that document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import strict_json
from data_prep import clean
from data_prep.__main__ import main
from data_prep.document import Document, Drop
from data_prep.filters import FILTERS
from data_prep.recipe import Recipe


def write_recipe(folder: Path, **changes: Any) -> Path:
    (folder / "a.txt").write_text("Bread and grain.")
    (folder / "b.txt").write_text("Water.")
    values = {
        "output": "corpus",
        "sources": [{"type": "plaintext", "name": "books", "paths": ["*.txt"]}],
        "tokenizer": {"vocab_size": 300},
    }
    (folder / "recipe.json").write_text(json.dumps(values | changes))
    return folder / "recipe.json"


def test_check_counts_the_inputs_and_builds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check", str(write_recipe(tmp_path))]) == 0
    assert capsys.readouterr().out.split() == ["books", "2", "files", "22", "bytes"]
    assert not (tmp_path / "corpus").exists()


def test_files_of_kinds_that_nothing_reads_are_counted_by_check_and_by_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jsonl", "b.jsonl", "c.pdf", "d.PDF", "e.docx", "notes"):
        (tmp_path / "in" / name).write_text(json.dumps({"text": f"{name} of the mill, and of the river by which it stands."}))
    sources = [{"type": "jsonl", "name": "lines", "paths": ["in"]}, {"type": "jsonl", "name": "one", "paths": ["in/a.jsonl"]}]
    file = write_recipe(tmp_path, sources=sources)
    said = "not read    lines: 2 .pdf, 1 (none), 1 .docx: files of other kinds than lines reads"
    for command in ("check", "run"):
        assert main([command, str(file)]) == 0
        assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("not read")] == [said]


@pytest.mark.parametrize("command", ["run", "check"])
def test_every_mistake_that_a_later_stage_would_find_is_said_first(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    changes = {
        "clean": [{"type": "gopher_quality", "only_sources": ["boks"]}],
        "tokenizer": {"path": "nowhere"},
        "dedup": {"decontaminate": {"paths": ["absent.jsonl"]}},
    }
    assert main([command, str(write_recipe(tmp_path, **changes))]) == 2
    said = capsys.readouterr().err
    assert 'clean.0 (gopher_quality).only_sources: no source is named "boks". Did you mean "books"?' in said
    assert "tokenizer.path: no" in said and "absent.jsonl: no such file" in said
    assert not (tmp_path / "corpus").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "corpus").write_text("")
    assert main(["check", str(write_recipe(tmp_path))]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err


def test_a_filter_that_fails_costs_the_document_it_failed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(document: Document, step: Any) -> Document:
        if document.id == "bad":
            raise KeyError("odd")
        return document

    monkeypatch.setitem(FILTERS, "gopher_quality", fragile)
    steps = strict_json.validate(
        Recipe, json.loads(write_recipe(tmp_path, clean=[{"type": "gopher_quality"}]).read_text()), "r"
    )
    good, bad = (Document(id=name, text="Bread.", source="books", metadata={}) for name in ("good", "bad"))
    assert clean.judge(good, steps.clean) == ("", good, None)
    step, document, drop = clean.judge(bad, steps.clean)
    assert (step, document) == ("gopher_quality", bad)
    assert isinstance(drop, Drop) and drop.reason == "failed" and drop.detail.startswith("KeyError: 'odd'")


def test_a_missing_package_is_no_fault_of_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(document: Document, step: Any) -> Document:
        raise ImportError("no package")

    monkeypatch.setitem(FILTERS, "gopher_quality", absent)
    steps = strict_json.validate(
        Recipe, json.loads(write_recipe(tmp_path, clean=[{"type": "gopher_quality"}]).read_text()), "r"
    )
    with pytest.raises(ImportError):
        clean.judge(Document(id="x", text="Bread.", source="books", metadata={}), steps.clean)


@pytest.mark.parametrize(
    ("text", "said", "line", "column"),
    [
        ('{\n "a": 1,\n}', "a comma ", ' "a": 1,', None),
        ('{\n "a": 1 // one\n}', "a comment", ' "a": 1 // one', 9),
        ('{\n # one\n "a": 1}', "a comment", " # one", 2),
        ("{\n 'a': 1}", "single quotes", " 'a': 1}", 2),
        ("{\n \"a\": 'x'}", "single quotes", " \"a\": 'x'}", 7),
        ('{"a": 1\n "b": 2}', "a comma is missing", ' "b": 2}', 2),
    ],
)
def test_a_mistake_of_json_is_named_and_shown(tmp_path: Path, text: str, said: str, line: str, column: int | None) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(strict_json.ConfigError) as caught:
        strict_json.read(tmp_path / "r.json")
    first, shown, caret = str(caught.value).split("\n")
    assert f"not valid JSON: {said}" in first
    if column is not None:
        assert (shown, caret) == (f"  {line}", "  " + " " * (column - 1) + "^")


def test_a_wrong_type_has_the_nearest_right_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check", str(write_recipe(tmp_path, clean=[{"type": "langauge"}]))]) == 2
    assert 'clean.0.type: there is no type "langauge". Did you mean "language"?' in capsys.readouterr().err


def test_licences_that_match_no_id_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    allow = ["MIT", "CC-BY-[0-9]*", "CC BY 4.0", "LicenseRef-CC-BY", "cc-by-*", "Mine alone"]
    assert main(["check", str(write_recipe(tmp_path, clean=[{"type": "licence", "allow": allow}]))]) == 0
    warned = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert [line.split('"')[1] for line in warned if '"' in line] == ["cc-by-*", "Mine alone"]
