"""Decontamination: what is found, against plain Python; what is cut; the forms of evaluation sets."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import re
import tempfile
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup import decontaminate, evaluation_sets, external_sort
from data_prep.dedup.decontaminate import DecontaminationSettings
from data_prep.dedup.evaluation_sets import EvaluationSetError
from data_prep.document import Document, read_documents, read_records, write_documents
from data_prep.stage import Parts, Runner


def run(folder: Path, texts: list[str], sets: list[str], cuts: list[int] = [], **changes) -> tuple[dict[str, str], Parts]:  # noqa: B006
    bounds, files = [0, *sorted(cuts), len(texts)], []
    for index, (start, stop) in enumerate(pairwise(bounds)):
        files.append(folder / f"part-{index:05d}.jsonl.zst")
        write_documents(files[-1], [Document(f"d{n}", texts[n], "s", {}) for n in range(start, stop)])
    (folder / "sets").mkdir()
    (folder / "sets" / "set.json").write_text(json.dumps([{"question": text} for text in sets]))
    choice = DecontaminationSettings(paths=["sets"], **changes)
    parts = decontaminate.run(Runner(1), folder / "out", Parts.of_files(files), choice, folder)
    return {document.id: document.text for file in parts.files for document in read_documents(file)}, parts


def words_of(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choice("abcdefghij") for _ in range(5)) for _ in range(count)]


TEXT = st.lists(st.sampled_from("abc"), max_size=14)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(TEXT, max_size=6),
    st.lists(TEXT, min_size=1, max_size=3),
    st.one_of(st.none(), st.integers(1, 3)),
    st.lists(st.integers(0, 6), max_size=2),
)
def test_dropped_documents_against_plain_python(texts, sets, limit, cuts):
    sets = [*sets, list("ccccc")]
    grams = {tuple(text[i : i + min(5, len(text))]) for text in sets if len(text) >= 3 for i in range(max(1, len(text) - 4))}

    def hits(text: list[str]) -> set[tuple[str, ...]]:
        return grams & {tuple(text[i : i + n]) for n in (3, 4, 5) for i in range(len(text) - n + 1)}

    common = {gram for gram in grams if limit is not None and sum(gram in hits(text) for text in texts) > limit}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "RANGE_PAIRS", 4)
        patch.setattr(DecontaminationSettings, "memory_bytes", 400)
        kept, _ = run(
            Path(folder),
            [" ".join(text) for text in texts],
            [" ".join(text) for text in sets],
            [min(cut, len(texts)) for cut in cuts],
            ngram=5,
            min_words=3,
            action="drop",
            max_documents=limit,
        )
    assert list(kept) == [f"d{n}" for n, text in enumerate(texts) if not hits(text) - common]


def test_hits_are_cut_out_with_a_margin(tmp_path):
    secret, filler = words_of(1, 20), words_of(2, 400)
    question = f"{' '.join(secret).upper()}?"
    texts = [
        " ".join(filler[:200] + secret + filler[200:]),
        " ".join(filler[:200] + secret[:12] + filler[200:]),  # twelve words are no hit
        " ".join(secret[3:17] + filler[:100] + secret[:13] + filler[100:300]),
        f"short, {', '.join(secret)}",
    ]
    kept, parts = run(tmp_path, texts, [question, "too short to search"], margin_characters=32, min_piece_characters=60)
    # five letters and a space per word: the margin ends within the sixth word, which goes with it
    assert kept == {
        "d0~1": " ".join(filler[:194]),
        "d0~2": " ".join(filler[206:]),
        "d1": texts[1],
        "d2~1": " ".join(filler[6:94]),
        "d2~2": " ".join(filler[106:300]),
    }
    (dropped,) = read_records(tmp_path / "out" / "documents" / "part-00000.dropped.jsonl.zst")
    assert dropped["id"] == "d3" and dropped["reason"] == "holds evaluation text"
    assert dropped["detail"] == "8 n-grams of 1 evaluation texts, most of set.json: 0.question"
    (result,) = parts.results
    assert result["hit_texts"] == {"set.json: 0.question": 3} and result["cut_documents"] == 2


def test_documents_in_too_many_pieces_are_dropped(tmp_path):
    secret, filler = words_of(1, 13), words_of(2, 400)
    text = " ".join(" ".join(filler[start : start + 100] + secret) for start in range(0, 400, 100))
    options = {"margin_characters": 0, "min_piece_characters": 10}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    kept, _ = run(tmp_path / "a", [text], [" ".join(secret)], max_pieces=4, **options)
    assert list(kept.values()) == [" ".join(filler[start : start + 100]) for start in range(0, 400, 100)]
    assert run(tmp_path / "b", [text], [" ".join(secret)], max_pieces=3, **options)[0] == {}


@given(st.integers(0, 10**6), st.integers(0, 60))
@settings(deadline=None, max_examples=25)
def test_no_hit_is_left_in_any_script(seed, margin):
    rng = random.Random(seed)
    alphabet = ["ß", "İ", "é", "e\u0301", "漢", "ท", "б", "한", "a", "b", ". ", " ", "\n", "😀"]
    text = "".join(rng.choice(alphabet) for _ in range(300))
    place = rng.randrange(200)
    with tempfile.TemporaryDirectory() as folder:
        options = {"margin_characters": margin, "min_piece_characters": 1, "max_pieces": 99, "ngram": 9, "max_documents": None}
        kept, _ = run(Path(folder), [text], [text[place : place + 90]], **options)
        (Path(folder) / "again").mkdir()
        again, _ = run(Path(folder) / "again", list(kept.values()), [text[place : place + 90]], **options)
    assert list(again.values()) == list(kept.values())
    assert "d0" not in kept or len(kept["d0"]) < len(text)


def test_forms_of_evaluation_sets(tmp_path):
    squad = {"data": [{"paragraphs": [{"context": "C", "qas": [{"id": "1", "answers": [{"text": "A", "start": 3}]}]}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    (tmp_path / "lines.json").write_text('{"q": "one"}\n\n{"q": ["in", "tokens"], "o": ["an option", "b"]}\n')
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"text": "zipped"}\n'))
    (tmp_path / "t.tsv.bz2").write_bytes(bz2.compress(b'id\t"cell\n2"\n'))
    (tmp_path / "plain.txt.zst").write_bytes(zstandard.compress(b"first\nparagraph\n\n\nsecond\n"))
    pq.write_table(pa.table({"q": ["in parquet"], "n": [1]}), tmp_path / "t.parquet")
    found = dict(pair for file in evaluation_sets.find(["."], tmp_path) for pair in evaluation_sets.read(file))
    assert found == {
        "squad.json: data.0.paragraphs.0.context": "C",
        "squad.json: data.0.paragraphs.0.qas.0.id": "1",
        "squad.json: data.0.paragraphs.0.qas.0.answers.0.text": "A",
        "lines.json: line 1.q": "one",
        "lines.json: line 3.q": "in tokens",
        "lines.json: line 3.o.0": "an option",
        "lines.json: line 3.o.1": "b",
        "t.jsonl.gz: line 1.text": "zipped",
        "t.tsv.bz2: row 1, column 1": "id",
        "t.tsv.bz2: row 1, column 2": "cell\n2",
        "plain.txt.zst: line 1": "first\nparagraph\n",
        "plain.txt.zst: line 5": "second\n",
        "t.parquet: row 0.q": "in parquet",
    }


@pytest.mark.parametrize("name, content", [("a.json", b"{"), ("a.txt.gz", b"no gzip"), ("a.parquet", b"x"), ("a.txt", b"\xff")])
def test_a_set_that_cannot_be_read_ends_the_build(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EvaluationSetError, match=re.escape(name)):
        list(evaluation_sets.read(tmp_path / name))


def test_mistakes_in_the_settings_are_named(tmp_path):
    with pytest.raises(EvaluationSetError, match="no such file"):
        evaluation_sets.find(["missing.json"], tmp_path)
    with pytest.raises(EvaluationSetError, match="has 8 words"):
        run(tmp_path, ["text"], ["short"])
    with pytest.raises(ValueError, match="must not be above ngram"):
        DecontaminationSettings(paths=["x"], ngram=5)
