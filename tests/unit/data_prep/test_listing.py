"""Finding files: ids that depend on nothing else, archives of every packing, endings in any case, names of any bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data_prep.document import Document, SetAside
from data_prep.sources import READERS
from data_prep.sources.files import find_files, passed_over
from tests.unit.data_prep.test_sources import settings

NAMES = ["h/2024/a.txt", "h/2024/b.txt", "h/2025/a.txt", "h/c.txt", "other/a.txt"]


def read(base: Path, **values) -> tuple[list[Document], list[SetAside]]:
    source = settings(**{"type": "plaintext", "paths": ["."]} | values)
    reader = READERS[source.type]
    items = [item for piece in reader.pieces(source, base) for item in reader.read(piece, source)]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, SetAside)]


def ids(base: Path, paths: list[str]) -> dict[str, str]:
    """Path of each file -> its name in ids."""
    return {piece.path: piece.name for piece in find_files(settings(type="plaintext", paths=paths), base)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("tree")
    for name in NAMES:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(name)
    return base


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(["h", "h/2024", "h/*", "h/2025/a.txt", "**/a.txt", "other", "."]), min_size=1))
def test_an_id_depends_on_the_file_s_path_alone(tree, paths):
    found = ids(tree, sorted(paths))
    assert found == {str(tree / name): name for name in NAMES if str(tree / name) in found}


def test_ids_of_files_elsewhere(tree, tmp_path):
    (tmp_path / "recipes").mkdir()
    up = os.path.relpath(tree, tmp_path / "recipes")
    assert set(ids(tmp_path / "recipes", [str(tree)]).values()) == {f"{up}/{name}" for name in NAMES}
    assert set(ids(Path("/proc/self"), [str(tree / "h/c.txt")]).values()) == {str(tree / "h/c.txt").lstrip("/")}


def packed(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("in/a.txt", "first")
            archive.writestr("in/b.txt", "second")
        return stream.getvalue()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in (("in/a.txt", b"first"), ("in/b.txt", b"second")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


ARCHIVES = {
    "a.tar": lambda raw: raw, "a.tgz": gzip.compress, "a.tar.gz": gzip.compress, "A.TAR.BZ2": bz2.compress,
    "a.tbz2": bz2.compress, "a.tar.xz": lzma.compress, "a.txz": lzma.compress,
    "a.Tar.Zst": zstandard.ZstdCompressor().compress,
}  # fmt: skip


@pytest.mark.parametrize("name", [*ARCHIVES, "a.zip", "A.ZIP"])
def test_archives(tmp_path, name):
    (tmp_path / name).write_bytes(packed("zip") if name.lower().endswith("zip") else ARCHIVES[name](packed("tar")))
    documents, aside = read(tmp_path)
    assert ([(d.id, d.text) for d in documents], aside) == (
        [(f"s/{name}/in/a.txt", "first"), (f"s/{name}/in/b.txt", "second")],
        [],
    )


def test_an_archive_within_another(tmp_path):
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("year/inner.tar.gz", gzip.compress(packed("tar")))
    documents, aside = read(tmp_path)
    assert [(d.id, d.text) for d in documents] == [
        ("s/outer.zip/year/inner.tar.gz/in/a.txt", "first"),
        ("s/outer.zip/year/inner.tar.gz/in/b.txt", "second"),
    ]
    assert aside == []


def test_a_damaged_archive_is_named_and_the_others_are_read(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(packed("tar"))[:-40])
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 nothing more")
    (tmp_path / "c.txt").write_text("third")
    found = [piece for piece in find_files(settings(type="plaintext", paths=["."]), tmp_path) if piece.problem]
    assert {Path(piece.path.split("::")[-1]).name for piece in found} >= {"b.zip"}
    good = [piece for piece in find_files(settings(type="plaintext", paths=["."]), tmp_path) if not piece.problem]
    assert any(piece.name == "c.txt" for piece in good)


def test_endings_in_any_case_and_what_they_leave_out(tmp_path):
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(b'{"text": "one"}'))
    (tmp_path / "B.Json").write_text('{"text": "two"}')
    for name in ("notes.TXT", "README", "c.txt", "x.pdf"):
        (tmp_path / name).write_text("x")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("e.pdf", "x")
        archive.writestr("f.jsonl", '{"text": "three"}')
    documents, _ = read(tmp_path, type="jsonl")
    assert {document.text for document in documents} == {"one", "two", "three"}
    assert passed_over(settings(type="jsonl", paths=["."]), tmp_path) == {".txt": 2, "(none)": 1, ".pdf": 2}


def test_names_that_are_no_utf_8(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"coffee")
    ((document,), aside) = read(tmp_path)
    assert (document.id, document.text, aside) == ("s/caf\\xe9.txt", "coffee", [])
    json.dumps(document.id).encode("utf-8")


LINES = [json.dumps({"text": f"Line {number}: {number * 7919 % 10007} sacks of grain."}) for number in range(4000)]
CONTENT = ("\n".join(LINES) + "\n").encode()
PACKINGS = {
    ".gz": (gzip.compress, lambda raw: zlib.decompressobj(31).decompress(raw)),
    ".bz2": (bz2.compress, lambda raw: bz2.BZ2Decompressor().decompress(raw)),
    ".xz": (lzma.compress, lambda raw: lzma.LZMADecompressor().decompress(raw)),
    ".zst": (zstandard.ZstdCompressor().compress, lambda raw: zstandard.ZstdDecompressor().decompressobj().decompress(raw)),
}


@pytest.mark.parametrize("ending", PACKINGS)
def test_a_file_that_was_cut_off_gives_all_before_the_cut(tmp_path, ending):
    pack, unpack = PACKINGS[ending]
    whole = pack(CONTENT)
    cut = whole[: len(whole) * 2 // 3]
    (tmp_path / f"a.jsonl{ending}").write_bytes(cut)
    expected = unpack(cut).decode().split("\n")[:-1]  # the last line has no end
    source = settings(type="jsonl", paths=["."])
    (piece,) = find_files(source, tmp_path)
    documents, said = [], ""
    try:
        for item in READERS["jsonl"].read(piece, source):
            documents.append(item)
    except ValueError as error:
        said = str(error)
    assert [item.text for item in documents if isinstance(item, Document)] == [json.loads(line)["text"] for line in expected]
    assert "cut off" in said


def test_bytes_behind_whole_data_cost_nothing(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(CONTENT) + gzip.compress(b'{"text": "more"}\n') + b"not gzip at all")
    source = settings(type="jsonl", paths=["."])
    (piece,) = find_files(source, tmp_path)
    documents, said = [], ""
    try:
        documents.extend(READERS["jsonl"].read(piece, source))
    except ValueError as error:
        said = str(error)
    texts = [item.text for item in documents if isinstance(item, Document)]
    assert (len(texts), texts[-1]) == (4001, "more") or said
    assert "bytes of another kind" in said + "".join(item.reason for item in documents if isinstance(item, SetAside))


def test_zstd_of_a_long_window_and_skippable_frames(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(
        window_log=28, hash_log=12, chain_log=12, strategy=1, write_content_size=False
    )
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    raw = frame.compress(CONTENT) + frame.flush()
    with pytest.raises(zstandard.ZstdError):
        zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"index"
    (tmp_path / "a.jsonl.zst").write_bytes(skippable + raw + skippable + raw)
    documents, aside = read(tmp_path, type="jsonl")
    assert ([document.text for document in documents], aside) == ([json.loads(line)["text"] for line in LINES] * 2, [])
