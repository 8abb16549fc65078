"""Whole builds: what goes in comes out, whatever kills them and however many work at them."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest

from data_prep import corpus, extract, recipe, stage
from data_prep.__main__ import main
from data_prep.document import read_records
from data_prep.recipe import Recipe
from data_prep.shards import TokenShards, Windows
from data_prep.sift import DROPPED, KEPT
from data_prep.stage import Runner
from data_prep.tokenizer import CorpusTokenizer

ROOT = Path(__file__).resolve().parents[3]
RECIPES = ROOT / "data_prep" / "recipes"
WORDS = ["stone", "river", "mill", "grain", "water", "wheel", "turn", "morning", "bread", "flour", "village", "song"]


def prose(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + rng.choice(["", "s", ",", "."]) for _ in range(words))


def write_inputs(folder: Path, files: int = 3, documents: int = 40, words: int = 100) -> Path:
    """Text files and JSON lines with repeated, empty and broken entries, and a recipe over them."""
    (folder / "text").mkdir(parents=True)
    for index in range(files):
        lines = [json.dumps({"text": prose(1000 * index + n, words), "meta": {"n": n}}) for n in range(documents)]
        lines += [json.dumps({"text": prose(10**7, words) + " "}), json.dumps({"text": " \n"})]
        (folder / f"{index}.jsonl").write_text("\n".join(lines))
        (folder / "text" / f"{index}.txt").write_text(prose(index + 10**6, words * 3))
    values = {
        "output": "corpus",
        "sources": [
            {"type": "jsonl", "name": "lines", "paths": ["*.jsonl"], "licence": "CC0-1.0"},
            {"type": "plaintext", "name": "files", "paths": ["text"]},
        ],
        "task_megabytes": 1,
        "tokenizer": {"vocab_size": 300},
        "shards": {"tokens_per_shard": 2000, "validation_fraction": 0.1},
        "windows": [{"length": 256, "max_documents": 4}],
    }
    (folder / "recipe.json").write_text(json.dumps(values))
    return folder / "recipe.json"


def change(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def parts(folder: Path, ending: str) -> list[Path]:
    """A stage's parts in the order of the corpus."""
    return [folder / f"{name}{ending}" for name in stage.order(folder)]


def outputs(folder: Path) -> dict[str, bytes]:
    """Every byte that the trainer will read, and the tokenizer."""
    files = [p for part in ("shards", "tokenizer") for p in (folder / part).rglob("*") if p.is_file()]
    visible = [p for p in files if not any(piece in (".stage", "done") for piece in p.parts)]
    return {str(p.relative_to(folder)): p.read_bytes() for p in visible if p.name != "stage.json"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A finished build: (recipe file, corpus folder, summary)."""
    file = write_inputs(tmp_path_factory.mktemp("inputs"))
    return file, file.parent / "corpus", corpus.run(recipe.load(file, []), Runner(1))


def test_shards_hold_the_documents_and_nothing_else(built):
    _, out, summary = built
    kept = [record for part in parts(out / "3-dedup" / "exact" / "documents", KEPT) for record in read_records(part)]
    assert len(kept) == 3 * 40 + 1 + 3
    assert summary["dropped"] == {"extract: empty text": 3, "exact_dedup: exact duplicate": 2}
    tokenizer = CorpusTokenizer(out / "tokenizer")
    by_id = {record["id"]: record for record in kept}
    seen = []
    for split in ("train", "validation"):
        shards = TokenShards.open(out / "shards" / split)
        shards.verify_all()
        tokens = shards.read(0, shards.tokens).tolist()
        position = 0
        names = [name for name, *_ in shards.shard_spans()]
        for history in [out / "shards" / split / f"documents-{name[6:-7]}.parquet" for name in names]:
            start_of_shard = position
            for row in pq.read_table(history).to_pylist():
                record = by_id[row["id"]]
                expected = [*tokenizer.encode([record["text"]])[0].tolist(), tokenizer.eod_id]
                assert tokens[position : position + row["tokens"]] == expected
                assert row["start"] == position - start_of_shard
                assert row["text_bytes"] == len(record["text"].encode())
                assert row["licence"] == ("CC0-1.0" if record["source"] == "lines" else None)
                position += row["tokens"]
                seen.append(row["id"])
        assert position == shards.tokens
        assert shards.text_bytes == sum(len(by_id[i]["text"].encode()) for i in seen[-shards.documents :])
    assert sorted(seen) == sorted(by_id)


def test_a_dropped_document_names_the_one_that_stays(built):
    folder = built[1] / "3-dedup" / "exact" / "documents"
    dropped = [record for part in parts(folder, DROPPED) for record in read_records(part)]
    assert [(r["id"], r["reason"], r["kept_instead"]) for r in dropped] == [
        ("lines/1.jsonl#41", "exact duplicate", "lines/0.jsonl#41"),
        ("lines/2.jsonl#41", "exact duplicate", "lines/0.jsonl#41"),
    ]


def test_a_finished_build_is_passed_over(built):
    file, out, summary = built
    before = {p: p.stat().st_mtime_ns for p in (out / "shards").rglob("shard-*")}
    assert corpus.run(recipe.load(file, []), Runner(1))["shards"] == summary["shards"]
    assert {p: p.stat().st_mtime_ns for p in (out / "shards").rglob("shard-*")} == before


def test_damage_is_mended(built):
    file, out, _ = built
    before = outputs(out)
    shard = next((out / "shards" / "train").glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    plan = out / "shards" / "train" / "plans" / "best_fit-256-max4.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    (out / "tokenizer" / "tokenizer.json").unlink()
    next((out / "1-extract").glob("part-*")).write_bytes(b"?")
    corpus.run(recipe.load(file, []), Runner(1))
    assert outputs(out) == before


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """(recipe file, outputs of an undisturbed build by one worker) of several tasks."""
    file = write_inputs(tmp_path_factory.mktemp("large"), files=4, documents=200, words=700)
    corpus.run(recipe.load(file, ["output=whole"]), Runner(1))
    assert len(list((file.parent / "whole" / "1-extract").glob("part-*"))) >= 4
    return file, outputs(file.parent / "whole")


def test_workers_do_not_show(large):
    file, expected = large
    corpus.run(recipe.load(file, ["output=three"]), Runner(3))
    assert outputs(file.parent / "three") == expected


@pytest.mark.parametrize(
    "place",
    ["1-extract/done/part-*.json", "3-dedup/exact/documents/done", "tokenizer/.stage", "shards/train", "shards/.plans"],
)
def test_killed_anywhere_and_run_again(large, place):
    file, expected = large
    out = file.parent / f"killed-{place.replace('/', '-').replace('*', 'x')}"
    line = [sys.executable, "-m", "data_prep", "run", str(file), "--workers", "2", "--set", f"output={out.name}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (file.parent / "log").open("w") as log:
        job = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=log)
        while not list(out.glob(place)):
            assert job.poll() is None, (file.parent / "log").read_text()
            time.sleep(0.001)
        job.send_signal(signal.SIGKILL)
        job.wait()
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert outputs(out) == expected
    assert not list(out.rglob("*.partial"))


def test_other_settings_are_refused_or_rebuilt(tmp_path, capsys):
    file = write_inputs(tmp_path)
    assert main(["run", str(file)]) == 0
    before = outputs(tmp_path / "corpus")
    change(file, shards={"tokens_per_shard": 500})
    assert main(["run", str(file)]) == 2
    said = capsys.readouterr().err
    assert "tokens_per_shard was 2000, is 500" in said and "--rebuild" in said
    assert outputs(tmp_path / "corpus") == before
    assert main(["run", str(file), "--rebuild"]) == 0
    rebuilt = outputs(tmp_path / "corpus")
    corpus.run(recipe.load(file, ["output=fresh"]), Runner(1))
    assert rebuilt == outputs(tmp_path / "fresh") != before


def test_a_further_plan_needs_nothing_built_anew(tmp_path, capsys):
    file = write_inputs(tmp_path)
    assert main(["run", str(file)]) == 0
    assert "Packing" in (tmp_path / "corpus" / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus" / "shards").rglob("plans/*")}
    assert len(before) == 2
    change(file, windows=[{"length": 256, "max_documents": 4}, {"length": 128, "way": "pad"}])
    assert main(["run", str(file)]) == 0
    assert "train, 128 tokens, pad: " in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus" / "shards").rglob("plans/*")}
    assert len(after) == 4 and before.items() <= after.items()
    for split in ("train", "validation"):
        shards = TokenShards.open(tmp_path / "corpus" / "shards" / split)
        assert Windows(shards, 256, "best_fit", max_documents=4).tokens == Windows(shards, 128, "pad").tokens == shards.tokens


def test_a_changed_input_is_noticed(tmp_path, capsys):
    file = write_inputs(tmp_path)
    assert main(["run", str(file)]) == 0
    with (tmp_path / "0.jsonl").open("a") as appended:
        appended.write("\n" + json.dumps({"text": "one more"}))
    assert main(["run", str(file)]) == 2
    said = capsys.readouterr().err
    assert "1 have changed (lines: " in said and "0.jsonl" in said and "--allow-removed" in said
    assert main(["run", str(file), "--rebuild"]) == 0


def test_unreadable_input_is_set_aside_and_the_exit_code_says_so(tmp_path, capsys):
    file = write_inputs(tmp_path)
    (tmp_path / "3.jsonl").write_text('{"text": "good"}\n{"text": "cut\n')
    (tmp_path / "text" / "9.txt").write_bytes(b"\0\0\0")
    assert main(["run", str(file)]) == 3
    said = capsys.readouterr().out
    assert "2 inputs could not be read" in said and "3.jsonl:2: not JSON" in said and "9.txt: binary data" in said


def test_what_the_system_would_not_give_is_tried_again(tmp_path, capsys):
    file = write_inputs(tmp_path)
    (tmp_path / "text" / "loop.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "secret.txt").write_text(prose(5, 50))
    build = recipe.load(file, [])
    listed = extract.tasks(build, extract.inputs(build))
    (tmp_path / "secret.txt").unlink()  # after it was listed, as on a disk that fails
    with Runner(1) as runner:
        result = runner.run(tmp_path / "stage", "extract", {}, listed, extract.work)
        assert [(r["set_aside_count"], r["try_again"]) for r in result] == [(0, False), (1, True)]
        (tmp_path / "secret.txt").write_text(prose(5, 50))
        result = runner.run(tmp_path / "stage", "extract", {}, listed, extract.work)
    assert [r["set_aside_count"] for r in result] == [0, 0]


LIMITED = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
LIMITED += "sys.argv[1:2] = []; from data_prep.__main__ import main; sys.exit(main())"


@pytest.mark.parametrize("kilobytes", [20, 60, 180])
def test_a_full_disk_leaves_nothing_that_looks_finished(large, kilobytes):
    file, expected = large
    out = file.parent / f"full-{kilobytes}"
    arguments = ["run", str(file), "--workers", "2", "--set", f"output={out.name}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", LIMITED, str(kilobytes << 10), *arguments]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "mend the cause and run again" in done.stderr and "Traceback" not in done.stderr
    assert not (out / "report.html").exists()
    done = subprocess.run(
        [sys.executable, "-m", "data_prep", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert outputs(out) == expected
    assert not list(out.rglob("*.partial"))


def test_empty_corpora(tmp_path, capsys):
    file = write_inputs(tmp_path, files=1, documents=0)
    (tmp_path / "0.jsonl").write_text('{"text": ""}\n{"txt": "x"}')
    (tmp_path / "text" / "0.txt").write_text(" \n ")
    assert main(["run", str(file)]) == 2
    said = capsys.readouterr().err
    assert "the corpus is empty" in said and "2 empty, 1 set aside" in said and "0.jsonl:2" in said
    assert not (tmp_path / "corpus" / "shards").exists()


def test_one_document_is_trained_on_and_nothing_held_out(tmp_path):
    file = write_inputs(tmp_path, files=1, documents=0)
    (tmp_path / "0.jsonl").write_text('{"text": " "}')
    summary = corpus.run(recipe.load(file, []), Runner(1))
    assert summary["shards"]["train"]["documents"] == 1 and summary["shards"]["validation"] is None
    said = corpus.describe(summary)
    assert "EMPTY: whole documents are held out, and of 1 documents none can be spared" in said
    assert "(100.0% of the tokens, 100.0% of the documents)" in said
    assert "none, as shards.validation_fraction is 0" in corpus.describe(summary | {"validation_fraction": 0})


def test_two_builds_cannot_meet(tmp_path, capsys):
    file = write_inputs(tmp_path)
    (tmp_path / "corpus").mkdir()
    with (tmp_path / "corpus" / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["run", str(file)]) == 2
    assert "is being built by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": [{"type": "pdf", "name": "x", "paths": ["."]}]}, "pdf"),
        ({"sources": [{"type": "jsonl", "name": "x", "paths": ["."], "text_kye": "t"}]}, 'Did you mean "text_key"?'),
        ({"sources": [{"type": "jsonl", "name": "x", "paths": ["absent.jsonl"]}]}, "absent.jsonl matches no file"),
        ({"tokenizer": {}}, "give either path"),
        ({"tokenizer": {"path": "absent"}}, "tokenizer.path"),
        ({"tokenizer": {"vocab_size": 100}}, "greater than or equal to 257"),
        ({"windows": [{"length": 8, "way": "pad", "max_documents": 2}]}, 'goes with packing "best_fit"'),
        ({"windows": [{"length": 8, "way": "concatenate"}]}, "'best_fit' or 'pad'"),
    ],
)
def test_mistakes_in_a_recipe(tmp_path, capsys, changes, said):
    file = write_inputs(tmp_path)
    change(file, **changes)
    assert main(["run", str(file), "--workers", "1"]) == 2
    assert said in capsys.readouterr().err


def test_peek_and_verify(built, capsys):
    _, out, _ = built
    part = parts(out / "3-dedup" / "exact" / "documents", KEPT)[0]
    assert main(["peek", str(part), "--count", "1"]) == 0
    assert prose(0, 100)[:200] in capsys.readouterr().out
    assert main(["peek", str(out / "shards" / "train"), "--count", "2"]) == 0
    assert capsys.readouterr().out.count("first ids") == 2
    assert main(["peek", str(out / "shards" / "train"), "--skip", "1", "--count", "1"]) == 0
    shown = capsys.readouterr().out
    assert main(["peek", (out / "shards" / "train").as_uri(), "--skip", "1", "--count", "1"]) == 0
    assert capsys.readouterr().out == shown and len(shown.splitlines()) > 1  # with its text
    assert main(["peek", f"{out.as_uri()}/nothing"]) == 2
    assert f"{out.as_uri()}/nothing" in capsys.readouterr().err
    assert main(["verify", str(out / "shards" / "train")]) == 0
    assert main(["verify", str(out)]) == 2


def test_the_schema_is_fresh_and_the_recipes_fit_it(tmp_path):
    assert main(["schema", str(tmp_path / "schema.json")]) == 0
    text = (RECIPES / "recipe.schema.json").read_text()
    assert (tmp_path / "schema.json").read_text() == text, "run: python -m data_prep schema"
    validator = jsonschema.Draft202012Validator(json.loads(text))
    recipes = [path for path in RECIPES.glob("*.json") if path.name != "recipe.schema.json"]
    assert len(recipes) >= 4
    for path in recipes:
        validator.validate(json.loads(path.read_text()))
        Recipe.model_validate_json(path.read_text())
