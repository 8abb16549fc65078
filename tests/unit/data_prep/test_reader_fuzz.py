"""Every reader over damaged files: nothing escapes, nothing is lost in silence, time stays bounded.

MOENDA_FUZZ=2000 sets the number of damaged files per reader; the default keeps the suite short.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import datasets
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.document import Document, PassedOver, SetAside
from data_prep.extract import _read
from data_prep.sources import READERS
from tests.unit.data_prep.test_web_sources import dump, page, source, warc_record

EXAMPLES = int(os.environ.get("MOENDA_FUZZ", "25"))
ROWS = [{"text": f'Row {n}: grain, "flour" and bread — süß.', "url": f"https://a.org/{n}", "n": n} for n in range(12)]
BOOK = (
    "Title: The Mill\r\n\r\n*** START OF THE PROJECT GUTENBERG EBOOK THE MILL ***\r\n\r\nCHAPTER I\r\n\r\nThe wheel turned.\r\n"
    "\r\n*** END OF THE PROJECT GUTENBERG EBOOK THE MILL ***\r\nLicence.\r\n"
)
FAQ = "<html><body><h2>What is a mill?</h2><p>It grinds.</p><dl><dt>Why?</dt><dd>For bread.</dd></dl></body></html>"
SQUAD = {"data": [{"title": "Mills", "paragraphs": [{"context": "A mill grinds grain.", "qas": [
    {"id": "1", "question": "What does it grind?", "answers": [{"text": "grain", "answer_start": 14}]}]}]}]}  # fmt: skip
MARKDOWN = "---\ntitle: 'Mills'\nlicense: CC-BY-4.0\n---\n# Summary\nA mill [@key] grinds $x^2$.\n\n# References\n"
LATEX = "\\documentclass{article}\\title{Mills}\\begin{document}\\section{One}A mill \\cite{x}.\\end{document}"


JATS = """<!DOCTYPE article PUBLIC "x" "y.dtd"><article xml:lang="en"><front><article-meta>
<article-id pub-id-type="pmc">1</article-id>
<title-group><article-title>Mills</article-title></title-group></article-meta></front><body><sec><title>One</title><p>10<sup>6</sup>
<table-wrap><table><tr><td colspan="2">a</td></tr></table></table-wrap></p></sec></body></article>"""
TEI = "<TEI><teiHeader/><text><body><div><head>Mills</head><p>A mill <ref>[1]</ref>.</p></div></body></text></TEI>"
POSTS = """<posts><row Id="1" PostTypeId="1" Title="Mills" Body="&lt;p&gt;Why?&lt;/p&gt;" AcceptedAnswerId="2" />
<row Id="2" PostTypeId="2" ParentId="1" Score="3" Body="&lt;p&gt;For bread.&lt;/p&gt;" /></posts>"""
TMX = """<tmx><body><tu><tuv xml:lang="en"><seg>Hi <ph/>all</seg></tuv>
<tuv xml:lang="de"><seg>Hallo</seg></tuv></tu></body></tmx>"""


def book() -> bytes:
    container = '<container><rootfiles><rootfile full-path="a.opf"/></rootfiles></container>'
    package = """<package><manifest><item id="t" href="t.xhtml" media-type="application/xhtml+xml"/></manifest><spine>
    <itemref idref="t"/></spine></package>"""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in (
            ("META-INF/container.xml", container),
            ("a.opf", package),
            ("t.xhtml", "<body><p>A mill.</p></body>"),
        ):
            archive.writestr(name, content)
    return out.getvalue()


def jsonl() -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in ROWS)


def table(delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def parquet(compression: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out, row_group_size=5, compression=compression, write_page_checksum=True)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.jsonl", "b/c.jsonl", "d.jsonl.gz"):
            archive.writestr(name, gzip.compress(jsonl(), mtime=0) if name.endswith("gz") else jsonl())
    return out.getvalue()


def tarred(mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name in ("a.jsonl", "b/c.jsonl"):
            entry = tarfile.TarInfo(name)
            entry.size = len(jsonl())
            archive.addfile(entry, io.BytesIO(jsonl()))
    return out.getvalue()


PACKINGS = {
    ".gz": partial(gzip.compress, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
WARC = b"".join(warc_record(f"http://a.org/{n}", page(n)) for n in range(4))
WET = b"".join(warc_record(f"http://a.org/{n}", b"Grain and flour.", "conversion", None) for n in range(4))
TSV = "".join(f"The mill {n}\tDie Mühle {n}\n" for n in range(9)).encode()
FILES: dict[str, tuple[bytes, dict]] = {
    "a.txt": ("The mill — süß.\n\nTwo.".encode(), {"type": "plaintext"}),
    "u.txt": ("The mill — süß.".encode("utf-16"), {"type": "plaintext", "separator": "x"}),
    "book.txt": (BOOK.encode(), {"type": "gutenberg", "split": "chapters"}),
    "a.jsonl": (jsonl(), {"type": "jsonl"}),
    "a.csv": (table(), {"type": "csv"}),
    "a.tsv": (table("\t"), {"type": "csv"}),
    "plain.parquet": (parquet("none"), {"type": "parquet"}),
    "zstd.parquet": (parquet("zstd"), {"type": "parquet"}),
    "a.warc": (WARC, {"type": "warc"}),
    "a.warc.wet": (WET, {"type": "warc"}),
    "a.xml": (dump(), {"type": "wikipedia"}),
    "a.xml.bz2": (bz2.compress(dump()), {"type": "wikipedia"}),
    "squad.json": (orjson.dumps(SQUAD), {"type": "question_answer"}),
    "pairs.jsonl": (b'{"question": "Why?", "answer": "So."}\n' * 5, {"type": "question_answer"}),
    "faq.html": (FAQ.encode(), {"type": "faq", "split": "pairs"}),
    "a.en.tsv": (TSV, {"type": "parallel_text", "languages": ["en", "de"], "columns": [0, 1]}),
    "paper.md": (MARKDOWN.encode(), {"type": "papers"}),
    "paper.tex": (LATEX.encode(), {"type": "papers"}),
    "2101.00001.gz": (gzip.compress(LATEX.encode()), {"type": "arxiv"}),
    "a.nxml": (JATS.encode(), {"type": "jats"}),
    "a.tei.xml": (TEI.encode(), {"type": "tei"}),
    "Posts.xml": (POSTS.encode(), {"type": "stack_exchange"}),
    "a.epub": (book(), {"type": "epub"}),
    "a.tmx": (TMX.encode(), {"type": "tmx", "languages": ["en", "de"]}),
    "a.zip": (zipped(), {"type": "jsonl"}),
    "a.tar": (tarred("w"), {"type": "jsonl"}),
    "a.tar.gz": (tarred("w:gz"), {"type": "jsonl"}),
}
CHECKED = {f"packed.jsonl{ending}": (pack(jsonl()), {"type": "jsonl"}) for ending, pack in PACKINGS.items()}
"""Forms with a checksum over all text: damage there is never taken for text."""

edits = st.lists(
    st.tuples(
        st.sampled_from(("flip", "insert", "delete", "repeat", "zero", "cut")),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=4,
)


def damage(raw: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for how, where, junk in changes:
        place, size = int(where * len(raw)), len(junk)
        before, after = raw[:place], raw[place:]
        if how == "flip" and after:
            raw = before + bytes([after[0] ^ (1 << size % 8)]) + after[1:]
        elif how == "insert":
            raw = before + junk + after
        elif how == "delete":
            raw = before + after[size:]
        elif how == "repeat":
            raw = before + after[: 4 * size] * 3 + after[4 * size :]
        elif how == "zero":
            raw = before + bytes(min(size, len(after))) + after[size:]
        elif how == "cut":
            raw = before
    return raw


def read_all(folder: Path, values: dict) -> tuple[list[Document], list[SetAside]]:
    """What the extract stage gets of a folder; its documents fit the form on disk."""
    chosen = source(paths=["."], **values)
    items = list(_read([(chosen, piece) for piece in READERS[chosen.type].pieces(chosen, folder)]))
    documents = [item for item in items if isinstance(item, Document)]
    aside = [item for item in items if isinstance(item, SetAside)]
    assert all(isinstance(item, (Document, PassedOver, SetAside)) for item in items)
    for document in documents:
        assert isinstance(document.text, str)
        orjson.dumps({"id": document.id, "text": document.text, **document.metadata})
    assert all(str(folder) in item.where and item.reason for item in aside)
    return documents, aside


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


bounded = settings(max_examples=EXAMPLES, deadline=5000, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 100)


@pytest.mark.parametrize("name", FILES)
def test_no_damage_escapes_a_reader(place, name):
    raw, values = FILES[name]
    folder = place / name
    folder.mkdir()
    (folder / name).write_bytes(raw)
    documents, aside = read_all(folder, values)
    assert documents and not aside, aside

    @bounded
    @given(changes=edits)
    def check(changes):
        (folder / name).write_bytes(damage(raw, changes))
        read_all(folder, values)

    check()


@pytest.mark.parametrize("name", CHECKED)
def test_damage_under_a_checksum_is_never_text(place, name):
    raw, values = CHECKED[name]
    folder = place / name
    folder.mkdir()
    (folder / name).write_bytes(raw)
    whole, aside = read_all(folder, values)
    assert len(whole) == len(ROWS) and not aside

    @bounded
    @given(changes=edits)
    def check(changes):
        (folder / name).write_bytes(damage(raw, changes))
        documents, aside = read_all(folder, values)
        assert aside or [d.text for d in documents] in ([d.text for d in whole] * times for times in range(1, 200))

    check()


def test_no_damage_escapes_datasets_on_disk(place):
    folder = place / "dataset"
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder))
    values = {"type": "hf_dataset"}
    files = {file: file.read_bytes() for file in folder.iterdir()}
    assert len(read_all(folder, values)[0]) == len(ROWS)

    @bounded
    @given(which=st.integers(0, len(files) - 1), changes=edits)
    def check(which, changes):
        file = sorted(files)[which]
        file.write_bytes(damage(files[file], changes))
        try:
            read_all(folder, values)
        finally:
            file.write_bytes(files[file])

    check()


def test_aligned_files_that_vanish_or_differ(tmp_path):
    for code in ("en", "de"):
        (tmp_path / f"a.{code}").write_text("one\ntwo\n")
    values = {"type": "parallel_text", "languages": ["en", "de"]}
    assert len(read_all(tmp_path, values)[0]) == 1
    chosen = source(paths=["."], **values)
    pieces = READERS["parallel_text"].pieces(chosen, tmp_path)
    (tmp_path / "a.de").unlink()
    (item,) = _read([(chosen, piece) for piece in pieces])
    assert isinstance(item, SetAside) and item.try_again and "a.de" in item.reason


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.jsonl.zst", "bomb.jsonl.bz2", "bomb.jsonl.xz", "bomb.zip"])
def test_bombs_and_giant_lines_are_named(tmp_path, name, monkeypatch):
    monkeypatch.setattr("data_prep.sources.files.EXPANSION_FLOOR", 4 << 20)
    line = b'{"text": "' + bytes(64 << 20).replace(b"\0", b"a") + b'"}\n'
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb.jsonl", line)
    else:
        (tmp_path / name).write_bytes(PACKINGS[Path(name).suffix](line))
    (tmp_path / "good.jsonl").write_bytes(jsonl())
    documents, aside = read_all(tmp_path, {"type": "jsonl", "max_document_megabytes": 1})
    assert len(documents) == len(ROWS)
    assert len(aside) == 1 and "bomb" in aside[0].where


def test_json_that_nests_beyond_all_depth(tmp_path):
    (tmp_path / "deep.json").write_bytes(b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    for kind in ("jsonl", "question_answer"):
        documents, aside = read_all(tmp_path, {"type": kind})
        assert not documents and len(aside) == 1
    page_of = f'<script type="application/ld+json">{json.dumps({"@type": "Question"})}{"[" * 100_000}</script>'
    (tmp_path / "deep.html").write_text(page_of)
    assert len(read_all(tmp_path, {"type": "faq"})[1]) == 1
