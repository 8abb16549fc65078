"""peek shows what a build kept and dropped, by chance over all parts, and names what there is where nothing matches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.document import SUFFIX, Document, Drop, write_documents
from data_prep.peek import choose, text_start
from data_prep.sift import sift


def document(number: int, source: str = "books") -> Document:
    return Document(f"{source}/{number}", f"text {number} " + "x" * 600, source, {"licence": "CC0-1.0"})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two parts read, of which the filters and both steps of deduplication dropped some."""
    for folder in ("1-extract", "2-clean", "3-dedup/exact/documents", "3-dedup/near"):
        (tmp_path / folder).mkdir(parents=True)
    for part in range(2):
        name, numbers = f"part-{part:05d}", range(10 * part, 10 * part + 10)
        documents = [document(n, "books" if n % 2 else "web") for n in numbers]
        write_documents(tmp_path / "1-extract" / f"{name}{SUFFIX}", documents)
        few = [("spam", d, Drop("Too many links", f"{i} links") if i < 2 else None) for i, d in enumerate(documents)]
        sift(name, tmp_path / "2-clean", few)
        twice = [("exact", d, Drop("duplicate", kept_instead="a") if i == 0 else None) for i, d in enumerate(documents[2:])]
        sift(name, tmp_path / "3-dedup/exact/documents", twice)
        sift(name, tmp_path / "3-dedup/near", [("near", d, None) for d in documents[3:]])
    return tmp_path


def shown(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[list[str], str]:
    assert main(["peek", *arguments]) == 0
    said = capsys.readouterr().out
    return [line.split("   ")[0] for line in said.splitlines() if "   source " in line], said


def test_an_output_folder_shows_what_the_corpus_holds_and_all_that_was_dropped(output, capsys):
    kept, _ = shown(capsys, str(output), "--kept", "--count", "99")
    assert sorted(int(name.split("/")[1]) for name in kept) == [*range(3, 10), *range(13, 20)]
    dropped, said = shown(capsys, str(output), "--dropped", "--count", "99")
    assert [int(name.split("/")[1]) for name in dropped] == [0, 1, 10, 11, 2, 12]
    assert "dropped by spam: Too many links (1 links)" in said and "dropped by exact: duplicate (repeats a)" in said
    assert '{"licence": "CC0-1.0"}' in said and "text 12 xxx" in said and "x" * 500 not in said
    both, said = shown(capsys, str(output), "--count", "2")
    assert len(both) == 4 and "== kept: 2 chosen among 14 (--seed" in said and "== dropped: 2 chosen among 6" in said


def test_source_and_reason_choose(output, capsys):
    names, _ = shown(capsys, str(output), "--dropped", "--source", "web", "--reason", "LINKS", "--count", "9")
    assert names == ["web/0", "web/10"]
    names, said = shown(capsys, str(output), "--reason", "language")
    assert names == []
    assert 'none for a reason with "language"; there are: spam: Too many links (4); exact: duplicate (2)' in said
    _, said = shown(capsys, str(output), "--kept", "--source", "wbe")
    assert 'none of source "wbe"; there are: books (8); web (6)' in said


def test_chance_is_repeatable_and_crosses_parts_and_first_is_first(output, capsys):
    folder = str(output / "1-extract")
    runs = [shown(capsys, folder, "--count", "4", "--seed", str(seed))[0] for seed in (1, 1, 2, 3)]
    assert runs[0] == runs[1] and len({tuple(run) for run in runs}) > 1
    assert {int(name.split("/")[1]) // 10 for run in runs for name in run} == {0, 1}
    assert shown(capsys, folder, "--first", "--count", "2")[0] == ["web/0", "books/1"]
    assert shown(capsys, folder, "--skip", "9", "--count", "2")[0] == ["books/9", "web/10"]
    part = str(output / "1-extract" / f"part-00001{SUFFIX}")
    assert shown(capsys, part, "--count", "1")[0] == ["web/10"]


def test_every_record_is_chosen_as_often():
    counts = Counter(r["id"] for seed in range(3000) for r in choose(iter([{"id": n} for n in range(10)]), 3, seed))
    assert set(counts) == set(range(10))
    assert all(abs(count - 900) < 130 for count in counts.values())  # five standard deviations
    assert choose(iter([{"id": 1}]), 3, 0) == [{"id": 1}] and choose(iter([{"id": 1}]), 0, 0) == []


def test_what_does_not_go_together_is_refused(output, tmp_path_factory, capsys):
    empty = tmp_path_factory.mktemp("empty")
    for arguments, said in (
        ([str(empty)], "no .jsonl.zst parts here or below"),
        ([str(empty / "absent")], "neither a .jsonl.zst part nor a folder"),
        ([str(output), "--kept", "--reason", "x"], "does not go with --kept"),
        ([str(output), "--random", "--skip", "1"], "does not go with --random"),
        ([str(output), "--count", "-1"], "0 or more"),
    ):
        assert main(["peek", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_the_start_of_a_text_is_cut_to_its_characters():
    assert text_start("abc", 2) == "ab" and text_start("abc", 9) == "abc" and text_start("abc", 0) == ""
