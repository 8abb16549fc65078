"""Files that are no plain text are named with what reads them; texts about such files are texts."""

from __future__ import annotations

import io
import zipfile

import pytest

from data_prep.sources.file_kinds import BINARY, other_kind


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "x")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"%PDF-1.7\n1 0 obj", "docling"),
        (zipped("[Content_Types].xml"), "pandoc"),
        (zipped("word/document.xml"), "pandoc"),
        (zipped("a.txt"), ".zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest", "before 2007"),
        (b"{\\rtf1\\ansi", "RTF"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE article SYSTEM "a.dtd">\n<article><body/></article>', "source jats"),
        (b'<?xml version="1.0"?><tmx version="1.4"/>', "source tmx"),
        (b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?>\n<posts>\n<row Id="1"/>', "source stack_exchange"),
        (b'<?xml version="1.0"?><!-- made by hand --><odd:thing xmlns:odd="x"/>', "<odd:thing>"),
        (b"<!DOCTYPE html>\n<html><body>x</body></html>", "source html"),
        (b"\n<html lang=en><head>", "source html"),
        (b'.\\" a comment\n.TH MILL 1\n.SH NAME\nmill \\- grinds\n.SH SYNOPSIS\n.B mill\n', "mandoc"),
        (b".Dd May 1, 2020\n.Dt MILL 1\n.Os\n.Sh NAME\n.Nm mill\n.Nd grinds\n", "mandoc"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "picture"),
        (b"\x7fELF\x02\x01\x01\0", BINARY),
        (bytes(range(256)) * 8, BINARY),
        (b"PAR1\x15\x04", "source parquet"),
    ],
)
def test_kinds(raw, word):
    assert word in (other_kind(raw) or "a text")


@pytest.mark.parametrize(
    "text",
    [
        "<p>A forum post that begins with a tag.</p> And goes on.",
        "<article> is the element of HTML 5 for this.",
        "In XML, <?xml version='1.0'?> comes first.",
        ".SH is a macro of man pages.\n" + "Prose about them.\n" * 20,
        "BM stands for bench mark.",
        "MZ was a maker of motorcycles.",
        "Rare birds",
        "...and so on",
        "",
    ],
)
def test_texts(text):
    assert other_kind(text.encode()) is None
    assert other_kind(text.encode("utf-16")) is None
