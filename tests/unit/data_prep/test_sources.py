"""Each source gives its documents, and sets aside what it cannot read by name."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.document import Document, SetAside
from data_prep.recipe import Recipe
from data_prep.sources import READERS, gutenberg
from data_prep.sources.files import Unreadable, find_files
from strict_json import ConfigError
from tests.unit.data_prep.test_web_sources import read as read_all

SAMPLES = Path(__file__).resolve().parents[3] / "data_prep" / "samples"


def settings(**values):
    recipe = {"output": "x", "tokenizer": {"vocab_size": 300}, "sources": [{"name": "s", **values}]}
    return Recipe.model_validate_json(json.dumps(recipe)).sources[0]


def read(base: Path, **values) -> tuple[list[Document], list[SetAside]]:
    """(documents, set aside) of a source over the files in `base`."""
    source = settings(**values)
    reader = READERS[source.type]
    items = [item for piece in reader.pieces(source, base) for item in reader.read(piece, source)]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, SetAside)]


def texts(documents: list[Document]) -> list[str]:
    return [document.text for document in documents]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_plaintext_encodings(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("Größe “x”\r\nzwei\rdrei".encode(encoding))
    (document,), _ = read(tmp_path, type="plaintext", paths=["a.txt"])
    assert document.text == "Größe “x”\nzwei\ndrei"
    assert document.id == "s/a.txt"
    assert document.metadata == {"encoding": encoding.removesuffix("-sig")} | (
        {"encoding_assumed": True} if encoding == "cp1252" else {}
    )


def test_plaintext_separator_and_binary(tmp_path):
    (tmp_path / "a.txt").write_text("one\n---\ntwo\nlines\n ---\nthree")
    (tmp_path / "b.txt").write_bytes(b"\x89PNG\0\0\0")
    documents, aside = read(tmp_path, type="plaintext", paths=["*.txt"], separator="---")
    assert texts(documents) == ["one", "two\nlines", "three"]
    assert [document.id for document in documents] == ["s/a.txt#0", "s/a.txt#1", "s/a.txt#2"]
    assert aside == [SetAside(str(tmp_path / "b.txt"), "a picture")]


def test_finding_files(tmp_path):
    for name in ("b/2.txt", "a/1.txt", "a/.hidden.txt", ".git/3.txt", "a/4.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = find_files(settings(type="gutenberg", paths=["."]), tmp_path)
    assert [piece.name for piece in found] == ["a/1.txt", "b/2.txt"]
    twice = find_files(settings(type="gutenberg", paths=["a", "**/*.txt"]), tmp_path)
    assert [piece.name for piece in twice] == ["a/1.txt", "b/2.txt"]
    with pytest.raises(ConfigError, match=r"absent matches no file with \.txt"):
        find_files(settings(type="gutenberg", paths=["a", "absent"]), tmp_path)


MODERN = """The Project Gutenberg EBook of A Tale, by A. Writer

Title: A Tale
Author: A. Writer
Release Date: May 3, 2008 [EBook #123]
Language: English

*** START OF THIS PROJECT GUTENBERG EBOOK A TALE ***

Produced by Somebody and
others.

{body}

End of the Project Gutenberg EBook of A Tale

*** END OF THIS PROJECT GUTENBERG EBOOK A TALE ***
Licence text. You may copy it.
"""
OLD = """**The Project Gutenberg Etext of A Tale**
small print to read before anything else
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*

{body}

End of The Project Gutenberg Etext of A Tale
"""
PROSE = "It was a long and quiet evening in the village by the sea,\nand nobody spoke a word of it."
VERSE = "  Roses are red,\n    Violets blue."


@pytest.mark.parametrize("edition", [MODERN, OLD], ids=["modern", "1990s"])
def test_gutenberg_keeps_the_book_alone(tmp_path, edition):
    (tmp_path / "a.txt").write_text(edition.format(body=f"{PROSE}\n\n{VERSE}"))
    (document,), _ = read(tmp_path, type="gutenberg", paths=["."])
    assert document.text == f"{PROSE.replace(chr(10), ' ')}\n\n{VERSE}".strip()
    if edition is MODERN:
        kept = {key: document.metadata[key] for key in ("title", "author", "language", "ebook", "url", "date")}
        assert kept == {
            "title": "A Tale",
            "author": "A. Writer",
            "language": "en",
            "ebook": 123,
            "url": "https://www.gutenberg.org/ebooks/123",
            "date": "May 3, 2008",
        }


def test_gutenberg_without_markers(tmp_path):
    (tmp_path / "a.txt").write_text(PROSE)
    documents, aside = read(tmp_path, type="gutenberg", paths=["."])
    assert documents == [] and "no Project Gutenberg start marker" in aside[0].reason
    documents, aside = read(tmp_path, type="gutenberg", paths=["."], require_markers=False, unwrap=False)
    assert texts(documents) == [PROSE] and aside == []


def test_gutenberg_chapters_leave_the_contents_alone(tmp_path):
    chapters = [f"CHAPTER {number}\n\n{PROSE * 8}" for number in ("I", "II", "III")]
    contents = "CONTENTS\n\nCHAPTER I\nCHAPTER II\nCHAPTER III\n\n"
    body = contents + "\n\n".join(chapters)
    assert [part.strip() for part in gutenberg.split_chapters(body)] == [contents + chapters[0], *chapters[1:]]


@pytest.mark.parametrize(
    ("name", "begins", "ends"),
    [
        ("alice_in_wonderland_11.txt", "ALICE", "THE END"),
        ("devils_dictionary_972.txt", "THE DEVIL", "."),
        ("news_from_nowhere_3261.txt", "NEWS FROM NOWHERE", "."),
    ],
)
def test_real_books(name, begins, ends):
    (document,), _ = read(SAMPLES / "books", type="gutenberg", paths=[name])
    assert begins in document.text[:300].upper()
    assert document.text.rstrip().endswith(ends)
    for leftover in ("START OF THIS PROJECT", "END OF THIS PROJECT", "gutenberg.org", "Project Gutenberg"):
        assert leftover not in document.text
    assert document.metadata["ebook"] == int(name.rpartition("_")[2].removesuffix(".txt"))


ROWS = [{"text": f"row {i}", "meta": {"pile_set_name": "Books3", "n": i}} for i in range(4)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zst(data: bytes) -> bytes:
    """Two frames, as concatenated archives have."""
    middle = data.index(b"\n") + 5  # inside a line
    return b"".join(zstandard.compress(part) for part in (data[:middle], data[middle:]))


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zst)])
def test_jsonl_in_the_piles_schema(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(LINES))
    documents, aside = read(tmp_path, type="jsonl", paths=["."])
    assert texts(documents) == ["row 0", "row 1", "row 2", "row 3"]
    assert documents[3].id == f"s/{name}#4" and documents[3].metadata == {"pile_set_name": "Books3", "n": 3}
    assert aside == []


def test_jsonl_bad_lines_are_numbered(tmp_path):
    lines = [
        b'{"text": "one"}',
        b"",
        b'{"text": "cut',
        b'{"txt": "x"}',
        b'{"text": 5}',
        b"[1]",
        b'{"text": "two", "url": "u"}',
        b"\xff",
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents, aside = read(tmp_path, type="jsonl", paths=["."], meta_key=None)
    assert texts(documents) == ["one", "two"] and documents[1].metadata == {"url": "u"}
    assert [entry.where.rpartition(":")[2] for entry in aside] == ["3", "4", "5", "6", "8"]
    assert "it has txt" in aside[1].reason


def test_jsonl_other_keys(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"content": "x", "key": 9}))
    (document,), _ = read(tmp_path, type="jsonl", paths=["."], text_key="content", id_key="key")
    assert document.text == "x" and document.metadata == {"original_id": 9}


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zst)])
def test_a_truncated_archive_gives_what_it_holds_and_then_fails(tmp_path, name, pack):
    many = b"".join(json.dumps({"text": f"{i} " * 200}).encode() + b"\n" for i in range(5000))
    packed = pack(many)
    (tmp_path / name).write_bytes(packed[: len(packed) - 20])
    source = settings(type="jsonl", paths=["."])
    (piece,) = READERS["jsonl"].pieces(source, tmp_path)
    got = []
    with pytest.raises(Unreadable, match="cut off"):
        for item in READERS["jsonl"].read(piece, source):
            got.append(item)
    assert 0 < len(got) < 5000 and all(isinstance(item, Document) for item in got)


def test_parquet(tmp_path):
    table = pa.table({"text": ["a", None, "c"], "n": [1, 2, 3], "nested": [[1], [2], [3]], "url": ["u", "v", "w"]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    documents, aside = read(tmp_path, type="parquet", paths=["."])
    assert texts(documents) == ["a", "c"]
    assert documents[1].id == "s/a.parquet#2" and documents[1].metadata == {"n": 3, "url": "w"}
    assert aside == [SetAside(f"{tmp_path / 'a.parquet'}, row 1", 'no text in column "text"')]
    _, aside = read(tmp_path, type="parquet", paths=["."], text_column="content")
    assert aside[0].reason == 'no column "content", it has text, n, nested, url'
    documents, _ = read(tmp_path, type="parquet", paths=["."], metadata_columns=["url"])
    assert documents[0].metadata == {"url": "u"}


def test_datasets_on_disk(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["a", "b", None], "n": [1, 2, 3]})
    rows.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "divided")
    documents, aside = read(tmp_path, type="hf_dataset", paths=["plain"], metadata_columns=["n"])
    assert [(d.id, d.text, d.metadata) for d in documents] == [("s/plain#0", "a", {"n": 1}), ("s/plain#1", "b", {"n": 2})]
    assert aside[0].where.endswith("row 2")
    assert texts(read(tmp_path, type="hf_dataset", paths=["divided"])[0]) == ["a", "b", "b"]
    assert texts(read(tmp_path, type="hf_dataset", paths=["divided"], split="test")[0]) == ["b"]
    with pytest.raises(ConfigError, match='has no split "dev", it has train, test'):
        read(tmp_path, type="hf_dataset", paths=["divided"], split="dev")
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="not a dataset written by save_to_disk"):
        read(tmp_path, type="hf_dataset", paths=["other"])


def test_json_beyond_the_standard(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"text": "a mark"}\r',
        b'{"text": "not a number", "score": NaN}',
        b'{"text": "lone \\ud800 surrogate, whole \\ud83d\\ude00 pair"}',
        '{"text": "süß"}'.encode("cp1252"),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "array.json").write_text(json.dumps([{"text": "one"}, {"text": "two"}, 3], indent=1))
    (tmp_path / "object.json").write_text(json.dumps({"text": "three"}, indent=1))
    (tmp_path / "short.json").write_text('[{"text": "four"}]')
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(b'{"text": "five"}'))
    (tmp_path / "bad.jsonl").write_text('{"text": \n{"text": "six"}\n')
    documents, aside = read_all(tmp_path, type="jsonl", paths=["."])
    lines = ["a mark", "not a number", "lone \ufffd surrogate, whole \U0001f600 pair", "süß"]
    assert sorted(d.text for d in documents) == sorted([*lines, "one", "two", "three", "four", "five", "six"])
    assert [(Path(a.where.split(":")[0].split(",")[0]).name, a.reason.split(":")[0]) for a in aside] == [
        ("array.json", 'no string under "text"'),
        ("bad.jsonl", "not JSON"),
    ]


def test_csv_encodings_and_giant_lines(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,url\nsüß,u\nÄpfel,v\n".encode("cp1252"))
    (tmp_path / "b.csv").write_bytes("text;url\nsüß;u\n".encode("utf-16"))
    (tmp_path / "c.csv").write_bytes(b"text\nfirst\n" + b"x" * (2 << 20) + b"\nlast\n")
    (tmp_path / "d.tsv").write_text('text\turl\n"quoted\tu\nnext\tv\n')
    documents, (aside,) = read_all(tmp_path, type="csv", paths=["."], max_document_megabytes=1, quotes=False)
    assert [d.text for d in documents] == ["süß", "Äpfel", "süß", "first", "last", '"quoted', "next"]
    assert aside.where.endswith("c.csv:3") and "max_document_megabytes" in aside.reason


def test_links_that_lead_nowhere_or_back(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.txt").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.txt")
    documents, aside = read_all(tmp_path, type="plaintext", paths=["."])
    assert [d.text for d in documents] == ["text"]
    assert [Path(a.where).name for a in aside] == ["broken.txt", "pipe.txt"]
