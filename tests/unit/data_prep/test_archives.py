"""Archives of the web in every form that is met: WARC of all versions, ARC, packed in any way, damaged."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter
from pathlib import Path

import pytest
import xxhash
import zstandard

from data_prep.document import Document, PassedOver, SetAside
from data_prep.extract import _read
from data_prep.recipe import Recipe
from data_prep.sources import READERS


def read(base: Path, **values) -> tuple[list[Document], list[SetAside], Counter[str]]:
    recipe = {
        "output": "x",
        "tokenizer": {"vocab_size": 300},
        "sources": [{"name": "s", "type": "warc", "paths": ["."], **values}],
    }
    chosen = Recipe.model_validate_json(json.dumps(recipe)).sources[0]
    items = list(_read([(chosen, piece) for piece in READERS["warc"].pieces(chosen, base)]))
    passed = Counter(i.kind for i in items if isinstance(i, PassedOver))
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, SetAside)], passed


def http(body: bytes, kind: str = "text/html", more: str = "", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def record(
    number: int, block: bytes, kind: str = "response", length: int | None = None, version: str = "1.0", form: str = ""
) -> bytes:
    head = (
        f"WARC/{version}\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.org/{number}\r\nWARC-Date: 2009-05-18T01:58:10Z\r\n"
    )
    head += f"WARC-Record-ID: <urn:x:{number}>\r\nContent-Type: {form or 'application/http; msgtype=response'}\r\n"
    return f"{head}Content-Length: {len(block) if length is None else length}\r\n\r\n".encode() + block + b"\r\n\r\n"


def page(number: int, more: str = "") -> bytes:
    return (
        f"<html><body><p>Page {number}: the wheel turns and the stones grind, day after day.{more}</p></body></html>".encode()
    )


def pages(count: int = 3, **values) -> list[bytes]:
    return [record(number, http(page(number)), **values) for number in range(count)]


def begins(documents: list[Document]) -> list[str]:
    return [document.text[:7] for document in documents]


@pytest.mark.parametrize("version", ["0.17", "0.18", "1.0", "1.1"])
def test_versions_of_warc(tmp_path, version):
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, pages(version=version))))
    documents, aside, _ = read(tmp_path)
    assert begins(documents) == ["Page 0:", "Page 1:", "Page 2:"] and not aside


def zstd_with_dictionary(records: list[bytes], packed: bool) -> bytes:
    raw = b"".join(records)[:400]  # no trained one: any bytes serve as content
    dictionary = zstandard.ZstdCompressionDict(raw, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    content = zstandard.compress(raw) if packed else raw
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    return b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content + b"".join(map(compressor.compress, records))


def lz4(records: list[bytes]) -> bytes:
    """A frame a record, each of one block that is not compressed (LZ4 frame format 1.6)."""
    descriptor = b"\x60\x40"  # version 1, independent blocks of up to 64 kB
    start = b"\x04\x22\x4d\x18" + descriptor + bytes([xxhash.xxh32_intdigest(descriptor) >> 8 & 255])
    return b"".join(start + (len(raw) | 1 << 31).to_bytes(4, "little") + raw + bytes(4) for raw in records)


PACKED = {
    ".warc": b"".join,
    ".warc.gz": lambda records: b"".join(map(gzip.compress, records)),
    "-whole.warc.gz": lambda records: gzip.compress(b"".join(records)),
    ".warc.bz2": lambda records: bz2.compress(b"".join(records)),
    ".warc.xz": lambda records: lzma.compress(b"".join(records)),
    ".warc.zst": lambda records: b"".join(map(zstandard.compress, records)),
    "-dictionary.warc.zst": lambda records: zstd_with_dictionary(records, packed=False),
    "-packed-dictionary.warc.zst": lambda records: zstd_with_dictionary(records, packed=True),
    ".warc.lz4": lz4,
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_archives(tmp_path, name):
    (tmp_path / f"a{name}").write_bytes(PACKED[name](pages()))
    documents, aside, _ = read(tmp_path)
    assert begins(documents) == ["Page 0:", "Page 1:", "Page 2:"] and not aside


def test_a_damaged_zstd_frame_costs_one_record(tmp_path):
    frames = list(map(zstandard.compress, pages()))
    frames[1] = frames[1][:30] + bytes(20) + frames[1][50:]
    (tmp_path / "a.warc.zst").write_bytes(b"".join(frames))
    documents, aside, _ = read(tmp_path)
    assert begins(documents) == ["Page 0:", "Page 2:"] and "damaged" in aside[0].reason


@pytest.mark.parametrize("excess", [1, 1_000, 10**6, 10**12])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_record_that_claims_too_much_costs_itself(tmp_path, excess, place):
    """The good ones behind it are read, and it is named."""
    records = pages(4)
    block = http(page(place, " More." * 500))
    records[place] = record(place, block, length=len(block) + excess)
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    documents, aside, _ = read(tmp_path)
    right = [f"Page {number}:" for number in range(4) if number != place]
    if excess == 1:  # within the blank lines behind it: nothing is lost
        right = [f"Page {number}:" for number in range(4)]
    assert begins(documents) == right
    assert len(aside) == 4 - len(right)
    assert not aside or f"record {place + 1}" in aside[0].where


@pytest.mark.parametrize("last", [True, False])
def test_a_record_that_quotes_a_header_stays_whole(tmp_path, last):
    text = b"How archives look:\n\nWARC/1.0\r\nWARC-Type: response\r\nContent-Length: 5\r\n\r\nand so on."
    records = [record(0, http(text, "text/plain")), *([] if last else pages(1))]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    documents, aside, _ = read(tmp_path)
    assert documents[0].text == text.decode() and len(documents) == len(records) and not aside


def arc(version: int, urls: list[str]) -> list[bytes]:
    names = "URL IP-address Archive-date Content-type Archive-length"
    if version == 2:
        names = "URL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename Archive-length"
    about = f"{version} 0 us\n{names}\n\n".encode()
    records = [f"filedesc://a.arc 0.0.0.0 20080430204825 text/plain {len(about)}\n".encode() + about]
    for number, url in enumerate(urls):
        block = http(page(number))
        further = " 200 - - 0 a.arc" if version == 2 else ""
        records.append(f"{url} 1.2.3.4 20080430204826 text/html{further} {len(block)}\n".encode() + block + b"\n")
    return records


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["a.arc", "a.arc.gz"])
def test_arc_files(tmp_path, version, name):
    records = arc(version, ["http://a.org/0", "http://a.org/a b?c=d e", "dns:a.org", "http://a.org/3"])
    (tmp_path / name).write_bytes(b"".join(map(gzip.compress, records) if name.endswith("gz") else records))
    documents, aside, _ = read(tmp_path)
    assert begins(documents) == [f"Page {number}:" for number in range(4)] and not aside
    assert documents[1].metadata["url"] == "http://a.org/a b?c=d e" and documents[1].metadata["date"] == "2008-04-30T20:48:26Z"


def test_codings_of_contents(tmp_path):
    zstd = zstandard.ZstdCompressor(write_content_size=False).compress(page(2))
    bodies = [
        (gzip.compress(page(0)), "x-gzip"),
        (page(1), "utf-8"),
        (zstd, "zstd"),
        (page(3), "zstd"),
        (gzip.compress(page(4)), "ISO-8859-1, gzip"),
        (page(5), "none"),
        (b"\x28\xb5\x2f\xfdxyz", "zstd"),
        (b"\x1f\x9d\x90", "compress"),
    ]
    records = [record(n, http(body, more=f"Content-Encoding: {coding}\r\n")) for n, (body, coding) in enumerate(bodies)]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    documents, aside, _ = read(tmp_path)
    assert begins(documents) == [f"Page {number}:" for number in range(6)]
    assert ["zstd" in aside[0].reason, "compress" in aside[1].reason] == [True, True]


def test_what_is_no_document_is_counted(tmp_path):
    records = [
        record(0, page(0), kind="resource", form="text/html"),
        record(1, "Übermühle".encode(), kind="resource", form="text/plain; charset=utf-8"),
        record(2, b"\x89PNG", kind="resource", form="image/png"),
        record(3, http(page(3)), kind="revisit"),
        record(4, b"x: y", kind="metadata", form="application/warc-fields"),
        record(5, http(page(5), status="404 Not Found")),
        record(6, http(b"%PDF", "application/pdf")),
        record(7, http(page(7), "unknown/unknown")),
        record(9, b"wget -r", kind="resource", form="text/plain").replace(b"http://a.org/9", b"metadata://gnu.org/wget.log"),
        record(8, b"GET / HTTP/1.1\r\n\r\n", kind="request"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    documents, aside, passed = read(tmp_path)
    assert [document.text[:9] for document in documents] == ["Page 0: t", "Übermühle", "Page 7: t"] and not aside
    assert passed.pop("resource of the crawler") == 1
    assert passed == {"image/png": 1, "revisit record": 1, "metadata record": 1, "status 404": 1, "application/pdf": 1}


def test_odd_heads_of_responses(tmp_path):
    records = [
        record(0, http(page(0)).replace(b"HTTP/1.1 200 OK", b"HTTPX/1.1 200 OK")),
        record(1, http(page(1))).replace(b"\r\n", b"\r\r\n").replace(b"Content-Length: ", b"X-Length: "),
        record(2, http(page(2)).replace(b"200 OK", b"200")),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    documents, aside, _ = read(tmp_path)
    assert begins(documents) == ["Page 0:", "Page 1:", "Page 2:"] and not aside


def test_arc_with_bare_line_ends(tmp_path):
    (tmp_path / "a.arc").write_bytes(b"".join(arc(1, ["http://a.org/0", "http://a.org/1"])).replace(b"\r\n", b"\n"))
    documents, aside, _ = read(tmp_path)
    assert begins(documents) == ["Page 0:", "Page 1:"] and not aside
