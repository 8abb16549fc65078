"""A corpus that grows has the bytes of a fresh build of the whole, and what was built before is left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep import corpus, extract, recipe
from data_prep.__main__ import main
from data_prep.holdout import Holdout
from data_prep.recipe import Build, Recipe
from data_prep.shards import TokenShards
from data_prep.shards.documents import documents
from data_prep.sources.files import Piece
from data_prep.stage import Runner
from tests.unit.data_prep.test_corpus import outputs, prose

ROOT = Path(__file__).resolve().parents[3]
STEPS = {"exact": True, "repeated_text": {"max_documents": 2}, "near": {}}


def write(file: Path, seed: int, documents: int, megabytes: float = 0) -> None:
    """JSON lines of documents of their own, some of which other files repeat; filled with what is no text to a size."""
    rng = random.Random(seed)
    texts = [prose(1000 * seed + n, 60) for n in range(documents)]
    texts += [prose(5, 80), "A line that many of the documents repeat.\n" + prose(rng.randrange(10**9), 60)]
    lines = [json.dumps({"text": text}) for text in texts]
    lines.append(json.dumps({"text": "", "filling": "x" * int(megabytes * 2**20)}))
    file.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write(folder / "0.jsonl", 99, 50)
    values = {
        "output": "out",
        "sources": [{"type": "jsonl", "name": "a", "paths": ["0.jsonl"]}],
        "tokenizer": {"vocab_size": 300},
    }
    (folder / "recipe.json").write_text(json.dumps(values))
    corpus.run(recipe.load(folder / "recipe.json", []), Runner(1))
    return folder / "out" / "tokenizer"


def start(folder: Path, tokenizer: Path | None, names: str) -> Path:
    """A recipe over two sources of files of half a megabyte, each of which is a task, and small ones beside."""
    for name in names:
        add(folder, name)
    values = {
        "output": "corpus",
        "task_megabytes": 1,
        "sources": [
            {"type": "jsonl", "name": "first", "paths": ["first/*.jsonl"]},
            {"type": "jsonl", "name": "second", "paths": ["second/*.jsonl"]},
        ],
        "clean": [{"type": "encoding_repair"}],
        "dedup": STEPS,
        "tokenizer": {"path": str(tokenizer)} if tokenizer else {"vocab_size": 300},
        "shards": {"tokens_per_shard": 2000, "validation_fraction": 0.1},
        "windows": [{"length": 256}],
    }
    (folder / "recipe.json").write_text(json.dumps(values))
    return folder / "recipe.json"


def add(folder: Path, name: str) -> Path:
    source = folder / ("first" if name < "n" else "second")
    source.mkdir(exist_ok=True, parents=True)
    write(source / f"{name}.jsonl", ord(name), 20, megabytes=0 if name in "bo" else 0.6)
    return source / f"{name}.jsonl"


def times(folder: Path) -> dict[str, int]:
    """When each part of documents that the stages hold, and each shard, was written."""
    found = [*folder.glob("[12]-*/part-*.zst"), *folder.glob("shards/*/*.bin"), *folder.glob("3-dedup/*/signatures/*")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found if path.is_file()}


def fresh(file: Path) -> dict[str, bytes]:
    corpus.run(recipe.load(file, ["output=fresh"]), Runner(1))
    return outputs(file.parent / "fresh")


@pytest.mark.parametrize("added", ["a", "bdoz"])
def test_a_grown_corpus_is_a_fresh_build_of_the_whole(tmp_path, tokenizer, capsys, added):
    file = start(tmp_path, tokenizer, "cep")
    assert main(["run", str(file)]) == 0
    before, said = times(tmp_path / "corpus"), capsys.readouterr().out
    assert "since the build that was there" not in said
    for name in added:
        add(tmp_path, name)
    assert main(["run", str(file), "--workers", "2"]) == 0
    assert f"{len(added)} added since the build that was there" in capsys.readouterr().out
    assert outputs(tmp_path / "corpus") == fresh(file)
    extracted = {name for name in before if name.startswith(("1-", "2-"))}
    assert len(extracted) >= 6
    after = times(tmp_path / "corpus")
    assert {name: before[name] for name in extracted} == {name: after.get(name) for name in extracted}
    for split in ("train", "validation"):
        TokenShards.open(tmp_path / "corpus" / "shards" / split).verify_all()


def test_a_source_that_is_added_or_moved_is_built_and_put_in_its_place(tmp_path, tokenizer):
    file = start(tmp_path, tokenizer, "cep")
    assert main(["run", str(file)]) == 0
    before = times(tmp_path / "corpus")
    (tmp_path / "third").mkdir()
    write(tmp_path / "third" / "x.jsonl", 7, 30)
    values = json.loads(file.read_text())
    values["sources"] = [{"type": "jsonl", "name": "third", "paths": ["third"]}, *reversed(values["sources"])]
    file.write_text(json.dumps(values))
    assert main(["run", str(file)]) == 0
    assert outputs(tmp_path / "corpus") == fresh(file)
    after = times(tmp_path / "corpus")
    assert all(after[name] == when for name, when in before.items() if name.startswith(("1-", "2-")))


def test_inputs_that_are_gone_or_changed_are_refused_unless_asked(tmp_path, tokenizer, capsys):
    file = start(tmp_path, tokenizer, "cdep")
    assert main(["run", str(file)]) == 0
    before, when = outputs(tmp_path / "corpus"), times(tmp_path / "corpus")
    (tmp_path / "first" / "d.jsonl").unlink()
    write(tmp_path / "first" / "e.jsonl", 8, 3)
    assert main(["run", str(file)]) == 2
    said = capsys.readouterr().err
    assert "of the 4 inputs" in said and "1 are gone (first: " in said and "d.jsonl" in said
    assert "1 have changed (first: " in said and "e.jsonl" in said and "--allow-removed" in said
    assert (outputs(tmp_path / "corpus"), times(tmp_path / "corpus")) == (before, when)
    assert main(["run", str(file), "--allow-removed"]) == 0
    assert "1 changed, 1 removed since" in capsys.readouterr().out
    assert outputs(tmp_path / "corpus") == fresh(file)
    names = {str(path.relative_to(tmp_path / "corpus")) for path in (tmp_path / "corpus").rglob("part-*")}
    assert names == {str(path.relative_to(tmp_path / "fresh")) for path in (tmp_path / "fresh").rglob("part-*")}


def test_a_corpus_that_has_moved_with_its_inputs_is_passed_over_and_grows(tmp_path, tokenizer, capsys):
    file = start(tmp_path / "here", tokenizer, "cep")
    assert main(["run", str(file)]) == 0
    (tmp_path / "here").rename(tmp_path / "there")
    before, file = times(tmp_path / "there" / "corpus"), tmp_path / "there" / "recipe.json"
    assert main(["run", str(file)]) == 0
    assert times(tmp_path / "there" / "corpus") == before
    add(tmp_path / "there", "d")
    assert main(["run", str(file)]) == 0
    assert "1 added since" in capsys.readouterr().out
    assert outputs(tmp_path / "there" / "corpus") == fresh(file)


def test_a_source_that_is_read_in_another_way_is_refused(tmp_path, tokenizer, capsys):
    file = start(tmp_path, tokenizer, "cp")
    assert main(["run", str(file)]) == 0
    values = json.loads(file.read_text())
    values["sources"][0]["licence"] = "CC0-1.0"
    file.write_text(json.dumps(values))
    assert main(["run", str(file)]) == 2
    assert "first.licence was null, is " in capsys.readouterr().err
    assert main(["run", str(file), "--rebuild"]) == 0
    assert outputs(tmp_path / "corpus") == fresh(file)


def test_a_trained_tokenizer_stays_and_that_is_said(tmp_path, capsys):
    file = start(tmp_path, None, "cep")
    assert main(["run", str(file)]) == 0
    before = (tmp_path / "corpus" / "tokenizer" / "tokenizer.json").read_bytes()
    assert "earlier corpus" not in capsys.readouterr().out
    add(tmp_path, "z")
    assert main(["run", str(file)]) == 0
    assert "trained on an earlier corpus of 6" in capsys.readouterr().out
    assert (tmp_path / "corpus" / "tokenizer" / "tokenizer.json").read_bytes() == before
    # the grown corpus is the fresh build of the whole with that tokenizer
    kept = {name: data for name, data in outputs(tmp_path / "corpus").items() if name.startswith("shards")}
    corpus.run(recipe.load(file, ["output=same", f"tokenizer={json.dumps({'path': 'corpus/tokenizer'})}"]), Runner(1))
    assert kept == {name: data for name, data in outputs(tmp_path / "same").items() if name.startswith("shards")}
    assert main(["run", str(file), "--rebuild"]) == 0
    assert outputs(tmp_path / "corpus") == fresh(file)


@pytest.mark.parametrize("place", ["2-clean", "shards/train"])
def test_killed_while_it_grows_and_run_again(tmp_path, tokenizer, place):
    file = start(tmp_path, tokenizer, "cep")
    assert main(["run", str(file)]) == 0
    before = set((tmp_path / "corpus" / place).iterdir())
    for name in "adfz":
        add(tmp_path, name)
    line = [sys.executable, "-m", "data_prep", "run", str(file), "--workers", "2"]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(line, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
        while set((tmp_path / "corpus" / place).iterdir()) <= before and job.poll() is None:
            time.sleep(0.001)
        job.send_signal(signal.SIGKILL)
        job.wait()
    assert main(["run", str(file)]) == 0
    assert outputs(tmp_path / "corpus") == fresh(file)
    assert not list((tmp_path / "corpus").rglob("*.partial"))


def test_documents_that_were_taken_down_stay_so_in_their_new_places(tmp_path, tokenizer, capsys):
    file = start(tmp_path, tokenizer, "cep")
    assert main(["run", str(file)]) == 0
    train = tmp_path / "corpus" / "shards" / "train"
    texts = [row["id"] for row in documents(TokenShards.open(train))]
    gone = [texts[1], texts[len(texts) // 2], texts[-1]]
    assert main(["takedown", str(train), *gone, "--reason", "asked"]) == 0
    add(tmp_path, "a")
    assert main(["run", str(file)]) == 0
    assert "TAKEN DOWN" not in capsys.readouterr().out
    shards = TokenShards.open(train)
    rows = {row["id"]: row for row in documents(shards)}
    masked = {key for key, row in rows.items() if shards.takedowns.count(row["start"], row["start"] + row["tokens"])}
    assert masked == set(gone) and shards.takedowns.tokens == sum(rows[key]["tokens"] for key in gone)
    (tmp_path / "first" / "c.jsonl").rename(tmp_path / "c.jsonl")
    assert main(["run", str(file), "--allow-removed"]) == 0
    assert f"TAKEN DOWN  train: {gone[0]}: no longer in the corpus" in capsys.readouterr().out
    assert len(TokenShards.open(train).takedowns) == 2
    (tmp_path / "c.jsonl").rename(tmp_path / "first" / "c.jsonl")
    assert main(["run", str(file)]) == 0
    assert len(TokenShards.open(train).takedowns) == 3


def test_a_build_by_another_layout_is_refused_plainly(tmp_path, tokenizer, capsys):
    file = start(tmp_path, tokenizer, "cp")
    assert main(["run", str(file)]) == 0
    (tmp_path / "corpus" / "2-clean" / "stage.json").write_text('{"input": "0123", "filters": []}')
    assert main(["run", str(file)]) == 2
    said = capsys.readouterr().err
    assert "2-clean was built by another version of moenda" in said and "--rebuild" in said
    assert main(["run", str(file), "--rebuild"]) == 0
    assert outputs(tmp_path / "corpus") == fresh(file)


def test_groups_of_small_files_change_where_a_file_is_added_and_nowhere_else():
    rng = random.Random(1)
    values = {
        "output": "out",
        "task_megabytes": 1,
        "sources": [{"type": "plaintext", "name": "a", "paths": ["x"]}],
        "tokenizer": {"vocab_size": 300},
    }
    build = Build(recipe=Recipe.model_validate(values), base=Path("/nowhere"))
    (source,) = build.recipe.sources
    pieces = [(source, Piece(f"/x/{n:04}", f"x/{n:04}", rng.randrange(1, 50_000), "0")) for n in range(0, 2000, 2)]
    old = extract.tasks(build, pieces)
    assert 50 < len(old) < 100 and all(task.size <= 1 << 20 for task in old)
    assert [piece for task in old for _, piece in task.arguments] == [piece for _, piece in pieces]
    for place in (0, 123, 700, 1000):
        new = extract.tasks(build, [*pieces[:place], (source, Piece("/x/new", f"x/{place:04}+", 20_000, "0")), *pieces[place:]])
        assert len({task.name for task in new} - {task.name for task in old}) <= 3
        assert len({task.inputs for task in new} - {task.inputs for task in old}) <= 3


def test_what_is_held_out_depends_on_the_corpus_only_where_one_alone_can_be():
    assert Holdout.choose(0, 0.1, 5, 2**64 - 1) == Holdout.choose(0, 0.1, 9, 2**63) == Holdout(0, int(0.1 * 2**64), None)
    assert Holdout.choose(0, 0.1, 2**62, 2**63) == Holdout(0, 2**62 + 1, None)
    assert Holdout.choose(0, 0.5, 3, 2**62) == Holdout(0, 2**63, 2**62)
