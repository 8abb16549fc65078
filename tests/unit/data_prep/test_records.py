"""Sources of records: keys and paths, templates, conversations, values that JSON cannot hold, and damage that costs one row."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import datetime, timedelta
from decimal import Decimal

import datasets
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.document import Document
from data_prep.sources.fields import fields_of, lookup
from data_prep.sources.loose_json import loads
from strict_json import ConfigError
from tests.unit.data_prep.test_web_sources import read, source

TEXT = "The quick brown fox runs to the river."


def lines(folder, *records, name="a.jsonl"):
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def save(folder, kind, table):
    """A table as a file of a kind of source; the source's settings."""
    if kind == "parquet":
        pq.write_table(table, folder / "a.parquet", row_group_size=2)
    elif kind == "arrow":
        with pa.ipc.new_stream(str(folder / "a.arrow"), table.schema) as file:
            file.write(table)
    else:
        datasets.Dataset(table).save_to_disk(str(folder / "set"))
        return {"type": kind, "paths": ["set"]}
    return {"type": kind, "paths": ["."]}


TABLES = pytest.mark.parametrize("kind", ["parquet", "arrow", "hf_dataset"])


@TABLES
@pytest.mark.parametrize(
    ("column", "licence"),
    [
        (pa.array(["GPL-3.0-only"] * 3).dictionary_encode(), "GPL-3.0-only"),
        (pa.array([["MIT", "GPL-3.0-only"]] * 3), "GPL-3.0-only AND MIT"),
        (pa.array([{"name": "GNU GPL v3", "url": None}] * 3), "GPL-3.0-only"),
        (pa.array(['{"name": "GPL-3.0-only"}'] * 3), "GPL-3.0-only"),
        (pa.array([7] * 3), "7"),
        (pa.array([None] * 3, pa.string()), "CC0-1.0"),
    ],
)
def test_a_licence_of_any_type_of_column(tmp_path, kind, column, licence):
    for name, table in (("own", {"text": [TEXT] * 3, "license": column}), ("meta", {"text": [TEXT] * 3})):
        (tmp_path / name).mkdir()
        if name == "meta":
            table["meta"] = pa.StructArray.from_arrays([column], ["license"])
        documents, aside = read(tmp_path / name, licence="CC0-1.0", **save(tmp_path / name, kind, pa.table(table)))
        assert [d.metadata["licence"] for d in documents] == [licence] * 3 and not aside


def test_the_case_of_twelve_documents_under_the_gpl(tmp_path):
    frame = pd.DataFrame({"text": [f"{TEXT} {i}" for i in range(12)], "license": pd.Categorical(["GPL-3.0-only"] * 12)})
    frame.to_parquet(tmp_path / "gpl.parquet")
    documents, _ = read(tmp_path, type="parquet", paths=["gpl.parquet"], licence="CC0-1.0")
    assert [d.metadata["licence"] for d in documents] == ["GPL-3.0-only"] * 12


@pytest.mark.parametrize("kind", ["parquet", "hf_dataset"])
def test_the_names_of_classes(tmp_path, kind):
    features = datasets.Features({"text": datasets.Value("string"), "license": datasets.ClassLabel(names=["mit", "gpl-3.0"])})
    rows = datasets.Dataset.from_dict({"text": [TEXT, TEXT], "license": [0, 1]}, features=features)
    rows.to_parquet(str(tmp_path / "a.parquet")) if kind == "parquet" else rows.save_to_disk(str(tmp_path))
    documents, _ = read(tmp_path, type=kind, paths=["."])
    assert [d.metadata["licence"] for d in documents] == ["MIT", "GPL-3.0-only"]


@TABLES
def test_values_that_python_cannot_hold_cost_themselves_alone(tmp_path, kind):
    count = 2500
    late = pa.array([0] * count, pa.int64()).to_pylist()
    late[2000] = 253402300800
    columns = {
        "text": [f"{TEXT} {n}" for n in range(count)],
        "published": pa.array(late).cast(pa.timestamp("s")).cast(pa.timestamp("us")),
        "day": pa.array([0] * (count - 1) + [2_000_000_000], pa.int32()).cast(pa.date32()),
        "zoned": pa.array([0] * count).cast(pa.timestamp("us", tz="Mars/Olympus")),
        "nested": pa.StructArray.from_arrays([pa.array([2**62] * count).cast(pa.timestamp("us"))], ["x"]),
    }
    documents, aside = read(tmp_path, **save(tmp_path, kind, pa.table(columns)))
    assert len(documents) == count and not aside
    assert documents[0].metadata["published"] == "1970-01-01 00:00:00" and documents[0].metadata["day"] == "1970-01-01"
    assert documents[0].metadata["zoned"] == "1970-01-01 00:00:00.000000 UTC" and "nested" not in documents[0].metadata
    assert documents[2000].metadata["published"] in (None, "10000-01-01 00:00:00.000000")
    assert all(orjson.dumps(d.metadata) for d in documents)


@TABLES
def test_values_that_json_cannot_hold_are_text(tmp_path, kind):
    table = pa.table(
        {
            "text": [TEXT],
            "price": [Decimal("1.50")],
            "raw": [b"\xff\x00"],
            "took": [timedelta(seconds=90)],
            "at": [datetime(2024, 5, 1, 12)],
            "score": [float("nan")],
            "big": pa.array([2**64 - 1], pa.uint64()),
            "kept": [{"a": [Decimal("2.5"), None]}],
        }
    )
    asked = ["price", "raw", "took", "at", "score", "big", "kept", "kept.a"]
    (document,), _ = read(tmp_path, metadata_columns=asked, **save(tmp_path, kind, table))
    assert orjson.loads(orjson.dumps(document.metadata)) == {
        "price": "1.50",
        "raw": "/wA=",
        "took": "0:01:30",
        "at": "2024-05-01 12:00:00",
        "score": None,
        "big": 2**64 - 1,
        "kept": {"a": ["2.5", None]},
        "kept.a": ["2.5", None],
    }


@pytest.mark.parametrize("form", [None, "numpy", "pandas", "arrow", "torch"])
def test_datasets_saved_in_any_format(tmp_path, form):
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "n": [1, 2], "url": ["u", "v"]})
    rows.with_format(form).save_to_disk(str(tmp_path / "set"))
    documents, aside = read(tmp_path, type="hf_dataset", paths=["set"])
    found = [(d.text, d.metadata["n"], d.metadata["url"]) for d in documents]
    assert found == [("a", 1, "u"), ("b", 2, "v")] and not aside


def test_a_folder_of_the_datasets_cache(tmp_path):
    lines(tmp_path, {"text": "a"}, {"text": "b"})
    datasets.load_dataset("json", data_files={"train": str(tmp_path / "a.jsonl")}, cache_dir=str(tmp_path / "cache"))
    (info,) = (tmp_path / "cache").rglob("dataset_info.json")
    folder = str(info.parent.relative_to(tmp_path))
    documents, aside = read(tmp_path, type="hf_dataset", paths=[folder], split="train")
    assert [d.text for d in documents] == ["a", "b"] and not aside
    with pytest.raises(ConfigError, match=r'no \.arrow files of split "test"'):
        read(tmp_path, type="hf_dataset", paths=[folder], split="test")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "hf_dataset", "csv", "jsonl"])
@pytest.mark.parametrize(("chosen", "kept"), [(None, {"n", "url"}), ([], set()), (["n"], {"n"})])
def test_which_metadata_is_kept_means_the_same_everywhere(tmp_path, kind, chosen, kept):
    if kind == "csv":
        (tmp_path / "a.csv").write_text(f"text,n,url\n{TEXT},1,u\n")
        values = {"type": kind, "paths": ["."]}
    elif kind == "jsonl":
        lines(tmp_path, {"text": TEXT, "n": 1, "url": "u"})
        values = {"type": kind, "paths": ["."]}
    else:
        values = save(tmp_path, kind, pa.table({"text": [TEXT], "n": [1], "url": ["u"]}))
    key = "metadata_keys" if kind == "jsonl" else "metadata_columns"
    (document,), _ = read(tmp_path, **values, **{key: chosen})
    assert set(document.metadata) == kept


@pytest.mark.parametrize("kind", ["parquet", "arrow", "hf_dataset", "jsonl"])
def test_paths_into_nested_records(tmp_path, kind):
    row = {"body": {"text": TEXT, "by": "A"}, "ids": {"doi": "10.1/x"}, "a.b": "dotted"}
    if kind == "jsonl":
        lines(tmp_path, row)
        names = {"text_key": "body.text", "metadata_keys": ["body.by", "a.b"], "id_key": "ids.doi"}
        values = {"type": kind, "paths": ["."]}
    else:
        names = {"text_column": "body.text", "metadata_columns": ["body.by", "a.b"], "id_column": "ids.doi"}
        values = save(tmp_path, kind, pa.Table.from_pylist([row]))
    (document,), aside = read(tmp_path, **values, **names)
    assert document.text == TEXT and not aside
    assert document.metadata == {"body.by": "A", "a.b": "dotted", "original_id": "10.1/x"}


TALK = [
    {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "So."}]},
]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "hf_dataset", "jsonl"])
def test_conversations(tmp_path, kind):
    if kind == "jsonl":
        lines(tmp_path, {"messages": TALK}, {"messages": []}, {"messages": [{"from": "human", "value": "Hi"}]})
        documents, aside = read(tmp_path, type=kind, paths=["."], text_key="messages", message="<{role}>{content}")
        assert [d.text for d in documents] == ["<user>Why?\n\n<assistant>So.", "<user>Hi"] and len(aside) == 1
        (_, _, _), (first, *_) = read(tmp_path, type=kind, paths=["."])[1], read(tmp_path, type=kind, paths=["."])[1]
        assert "can be named as the text" in first.reason
    else:
        values = save(tmp_path, kind, pa.Table.from_pylist([{"messages": TALK}]))
        (document,), aside = read(tmp_path, text_column="messages", **values)
        assert document.text == "user: Why?\n\nassistant: So." and not aside


def test_a_template_leaves_out_lines_without_anything(tmp_path):
    template = "# {instruction}\n{context}\nTo {{all}}: {answer.text} {n}"
    full = {"instruction": "Do", "context": "This\nthat", "answer": {"text": "done"}, "n": 3, "topic": "work"}
    lines(tmp_path, full, {"instruction": "Do", "context": " ", "answer": None}, {"topic": "none"}, {"instruction": {"a": 1}})
    documents, aside = read(tmp_path, type="jsonl", paths=["."], text=template)
    assert [d.text for d in documents] == ["# Do\nThis\nthat\nTo {all}: done 3", "# Do"]
    assert documents[0].metadata == {"topic": "work"}
    assert [a.reason.split(":")[0] for a in aside] == [
        "no text under instruction, context, answer.text, n",
        'no text under "instruction"',
    ]
    (tmp_path / "a.csv").write_text('q,a,url\n"Why, then?",So.,u\n')
    (document,), _ = read(tmp_path, type="csv", paths=["a.csv"], text="Q: {q}\nA: {a}\n{more}")
    assert document.text == "Q: Why, then?\nA: So." and document.metadata == {"url": "u"}
    for wrong in ("no field", "{}", "{a", "{a!r}", "{a:>5}"):
        with pytest.raises(ValueError, match=r"brace|names no key"):
            source(type="jsonl", paths=["."], text=wrong)


@given(
    st.recursive(st.none() | st.text(max_size=3), lambda c: st.lists(c) | st.dictionaries(st.text("a.0", max_size=3), c)),
    st.text("a.0"),
)
def test_any_path_into_any_record(record, path):
    lookup(record, path)


@settings(max_examples=200)
@given(st.text("{}a.!: \n", max_size=12))
def test_any_template_is_read_or_refused(template):
    try:
        fields_of(template)
    except ValueError as error:
        assert "brace" in str(error) or "names no key" in str(error)


RECORDS = [
    ({"instruction": "Name one.", "input": "Mills", "output": "Windmill"}, "Mills\n\nQuestion: Name one.\nAnswer: Windmill"),
    ({"instruction": "Why?", "context": "", "response": "So.", "category": "open"}, "Question: Why?\nAnswer: So."),
    ({"instruction": "Why?", "context": "Once.", "response": "So."}, "Once.\n\nQuestion: Why?\nAnswer: So."),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, "Question: Hi\nAnswer: Ho"),
    ({"messages": [{"role": "system", "content": "Be brief."}, *TALK]}, "Be brief.\n\nQuestion: Why?\nAnswer: So."),
    ({"question": "{answer}", "answer": "{question}"}, "Question: {answer}\nAnswer: {question}"),
    ({"instruction": "Why?", "context": "Once.", "response": ""}, None),
    ({"messages": [{"role": "user", "content": [{"type": "image", "url": "u"}]}]}, None),
]


def test_instructions_and_conversations_as_questions(tmp_path):
    lines(tmp_path, *(record for record, _ in RECORDS))
    documents, aside = read(tmp_path, type="question_answer", paths=["."])
    assert [d.text for d in documents] == [text for _, text in RECORDS if text]
    assert len(aside) == 2 and "no question with an answer" in aside[0].reason and "image" in aside[1].reason
    assert documents[1].metadata["category"] == "open"


def test_a_stray_quotation_mark_costs_its_row(tmp_path):
    rows = [f"row {n},u{n}" for n in range(30)]
    rows[4], rows[9], rows[20] = '"row 4,u4', '"many\nlines, and ""marks""",u9', '"row 20,u20'
    (tmp_path / "a.csv").write_text("text,url\n" + "\n".join(rows) + "\n")
    documents, aside = read(tmp_path, type="csv", paths=["."])
    found = [d.text for d in documents]
    assert [f"row {n}" in found for n in range(30)] == [n not in (4, 9, 20) for n in range(30)]
    assert 'many\nlines, and "marks"' in found and len(found) == 28
    assert [(a.where.rpartition(":")[2], "not closed" in a.reason) for a in aside] == [("6", True), ("23", True)]


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "a.csv").write_text("text,n,n\na,1,2\n")
    (tmp_path / "b.csv").write_text("text,text\na,b\n")
    documents, aside = read(tmp_path, type="csv", paths=["."])
    assert (
        not documents
        and ['2 columns are named "n"' in aside[0].reason, '2 columns are named "text"' in aside[1].reason] == [True] * 2
    )
    (document,), _ = read(tmp_path, type="csv", paths=["a.csv"], metadata_columns=[])
    assert document.text == "a" and document.metadata == {}


def test_pages_of_parquet_are_checked(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{TEXT} {n}" for n in range(50)]})
    pq.write_table(table, path, compression="none", write_page_checksum=True, use_dictionary=False, row_group_size=10)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"river. 25")] ^= 1
    path.write_bytes(raw)
    documents, aside = read(tmp_path, type="parquet", paths=["."])
    assert [d.id for d in documents] == [f"s/a.parquet#{n}" for n in range(50) if n // 10 != 2]
    assert len(aside) == 1 and "rows 20 to 29" in aside[0].where and "CRC" in aside[0].reason


def test_integers_of_any_length_stay_as_they_are(tmp_path):
    digits = ["12345678901234567890123", "-9223372036854775809", "18446744073709551615", "9" * 400, "1" * 5000]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "x", "id": {number}}}\n' for number in digits))
    documents, aside = read(tmp_path, type="jsonl", paths=["."], id_key="id")
    assert [str(d.metadata["original_id"]) for d in documents] == digits and not aside
    assert documents[2].metadata["original_id"] == 2**64 - 1
    assert loads(b'{"a": 1e300, "b": 1e999, "c": 18446744073709551616}') == {"a": 1e300, "b": None, "c": "18446744073709551616"}


@settings(max_examples=200)
@given(
    st.recursive(
        st.integers(-(2**70), 2**70) | st.text(max_size=5) | st.booleans(),
        lambda c: st.lists(c) | st.dictionaries(st.text(max_size=3), c),
    )
)
def test_integers_within_64_bits_are_numbers_and_others_their_digits(value):
    def expected(entry):
        if isinstance(entry, dict):
            return {key: expected(child) for key, child in entry.items()}
        if isinstance(entry, list):
            return [expected(child) for child in entry]
        return str(entry) if isinstance(entry, int) and not -(2**63) <= entry < 2**64 else entry

    assert loads(json.dumps(value).encode()) == expected(value)


def test_samples_of_a_webdataset(tmp_path):
    members = {
        "a/1.jpg": b"\xff\xd8",
        "a/1.txt": b"A mill.",
        "a/1.json": b'{"license": "MIT", "size": [1]}',
        "a/1.cls": b"7",
        "a/2.left.txt": b"left",
        "a/2.json": b'{"caption": "A wheel."}',
        "b/3.txt": b"A stone.",
        "b/3.json": b"{cut",
        "b/4.txt": b"Flour.",
    }
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name, raw in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    documents, aside = read(tmp_path, type="webdataset", paths=["."])
    assert [(d.id, d.text) for d in documents] == [("s/a.tar.gz#a/1", "A mill."), ("s/a.tar.gz#b/4", "Flour.")]
    assert documents[0].metadata == {"cls": "7", "license": "MIT", "size": [1], "licence": "MIT"}
    assert ["members: left.txt, json" in aside[0].reason, "b/3.json is not JSON" in aside[1].reason] == [True, True]
    (document,), _ = read(tmp_path, type="webdataset", paths=["*.gz"], text_key="json.caption", metadata_keys=["left.txt"])
    assert (document.text, document.metadata) == ("A wheel.", {"left.txt": "left"})


def test_documents_are_documents(tmp_path):
    lines(tmp_path, {"text": TEXT, "licenses": ["MIT"]})
    (document,), _ = read(tmp_path, type="jsonl", paths=["."], licence="CC0-1.0")
    assert isinstance(document, Document) and document.metadata["licence"] == "MIT"


def test_a_number_beyond_all_bounds_costs_itself_alone():
    assert loads(b'{"id": 1e400, "text": "kept", "low": [-1e999, 2]}') == {"id": None, "text": "kept", "low": [None, 2]}
