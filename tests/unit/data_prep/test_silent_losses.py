"""Input that was passed over without a word: behind a damaged head in a tar, without a partner, in a store that refuses."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_prep.document import Document
from data_prep.extract import _read
from data_prep.sources import READERS
from strict_json import ConfigError
from tests.unit.data_prep.test_sources import settings

MEMBERS = [(f"{place}.txt", f"text {place}") for place in range(5)]
BLOCK = tarfile.BLOCKSIZE


def read(base, **values):
    """Documents and what was set aside, as a build has them: text by the end of its id, reason by path."""
    source = settings(**{"type": "plaintext", "paths": ["."]} | values)
    items = list(_read([(source, piece) for piece in READERS[source.type].pieces(source, base)]))
    documents = {item.id: item.text for item in items if isinstance(item, Document)}
    return documents, {item.where: item.reason for item in items if not isinstance(item, Document)}


def tar(members=MEMBERS) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in members:
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def damaged() -> bytes:
    """The third of five heads is damaged."""
    raw = tar()
    return raw[: 4 * BLOCK] + b"\xff" * BLOCK + raw[5 * BLOCK :]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "packed"])
@pytest.mark.parametrize(
    ("raw", "count", "said"),
    [
        (tar(), 5, None),
        (damaged(), 2, "damaged at byte 2,048"),
        (tar()[: 4 * BLOCK], 2, "without its last block of zeros"),
        (tar()[: 4 * BLOCK + 100], 2, "damaged at byte 2,048"),
    ],
    ids=["whole", "a damaged head", "cut between members", "cut within a head"],
)
def test_what_cannot_be_read_of_a_tar_is_told(tmp_path, pack, raw, count, said):
    name = "a.tar" if pack is bytes else "a.tar.gz"
    (tmp_path / name).write_bytes(pack(raw))
    documents, aside = read(tmp_path)
    assert documents == {f"s/{name}/{member}": text for member, text in MEMBERS[:count]}
    assert [*aside] == ([str(tmp_path / name)] if said else [])
    assert all(said in reason for reason in aside.values())


def test_a_damaged_webdataset_is_told(tmp_path):
    (tmp_path / "a.tar").write_bytes(damaged())
    documents, aside = read(tmp_path, type="webdataset")
    assert documents == {"s/a.tar#0": "text 0"} and "damaged at byte 2,048" in aside[str(tmp_path / "a.tar")]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.jsonl.xz", "a.jsonl.bz2"])
def test_a_text_that_was_unpacked_on_the_way_keeps_its_name(tmp_path, name):
    (tmp_path / name).write_text("".join(json.dumps({"text": f"süß {n}"}, ensure_ascii=False) + "\n" for n in range(99)))
    documents, aside = read(tmp_path, type="jsonl")
    assert [*documents.values()] == [f"süß {n}" for n in range(99)] and not aside


def test_so_does_a_tar(tmp_path):
    (tmp_path / "a.tgz").write_bytes(tar())
    assert [*read(tmp_path)[0].values()] == [text for _, text in MEMBERS]


def test_what_is_neither_is_still_damaged(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(b"\0\x8b\x08" + bytes(range(256)))
    documents, aside = read(tmp_path, type="jsonl")
    assert not documents and "damaged .gz data" in aside[str(tmp_path / "a.jsonl.gz")]


def test_files_without_their_partners_are_named(tmp_path):
    for name in ("a.en", "a.de", "b.en", "c.de", "d.EN", "notes.txt"):
        (tmp_path / name).write_text(f"line of {name}")
    documents, aside = read(tmp_path, type="parallel_text", languages=["en", "de"], pairs_per_document=1)
    assert [*documents] == ["s/a.en#0"]
    assert aside == {
        str(tmp_path / "b.en"): f"without its partner {tmp_path / 'b.de'}",
        str(tmp_path / "c.de"): "no file of en goes with it, by names as file_names has them",
        str(tmp_path / "d.EN"): "no file of en goes with it, by names as file_names has them",
    }


class Refusing(MemoryFileSystem):
    """refusing:// has no right to anything."""

    protocol = "refusing"

    def isdir(self, path):
        raise PermissionError("The provided token has expired.")


class Broken(Refusing):
    """broken:// fails in a way of its own."""

    protocol = "broken"

    def isdir(self, path):
        raise ZeroDivisionError("a fault of its own")


@pytest.mark.parametrize(
    ("kind", "said"), [(Refusing, r"credentials .*expired.*Set those of this store"), (Broken, "ZeroDivisionError: a fault")]
)
def test_a_store_that_cannot_be_listed_is_told_before_the_first_stage(tmp_path, kind, said):
    fsspec.register_implementation(kind.protocol, kind, clobber=True)
    with pytest.raises(ConfigError, match=rf"source path {kind.protocol}://bucket/x: .*{said}"):
        read(tmp_path, paths=[f"{kind.protocol}://bucket/x"])
