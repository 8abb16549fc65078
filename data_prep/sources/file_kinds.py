"""Files that are no plain text, known by how they begin: what each is, and what reads it."""

from __future__ import annotations

import re

HEAD = 4096
"""Bytes of a file that are looked at."""
PDF = "PDF, which holds pages and no text flow: extract the text first, for instance with docling, marker or pdftotext"
OFFICE = (
    "an Office document: convert it to text first, for instance with pandoc, or with LibreOffice's `soffice --convert-to txt`"
)
BINARY = "binary data, not text"
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", PDF),
    (b"%!PS", "PostScript: extract the text first, for instance with ps2txt"),
    (b"{\\rtf", "RTF: convert it to text first, for instance with pandoc"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"{OFFICE} (of before 2007)"),
    (
        b"PK\x03\x04",
        "a zip file: archives are opened where their names end in .zip, books by the source epub",
    ),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it first"),
    (b"\x1f\x8b\x08", "gzip within a compressed file: unpack it once"),
    (b"SQLite format 3\0", "an SQLite database: export its table to csv or jsonl"),
    (b"PAR1", "a Parquet table: use the source parquet"),
    (b"ARROW1", "an Arrow table: use the source arrow"),
    (b"WARC/", "a WARC archive: use the source warc"),
    (b"\x7fELF", BINARY),
    (b"MZ\x90", BINARY),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"ID3", "sound"),
    (b"OggS", "sound"),
    (b"RIFF", "sound or a film"),
)
"""First bytes -> what it is."""
OFFICE_MEMBERS = (b"[Content_Types].xml", b"mimetypeapplication/vnd.oasis", b"word/", b"xl/", b"ppt/")
"""Names within zip files that make an Office document of them."""
ROOTS = {
    "html": "an HTML page: use the source html",
    "article": "JATS XML: use the source jats",
    "pmc-articleset": "JATS XML: use the source jats",
    "tei": "TEI XML: use the source tei",
    "posts": "Stack Exchange's posts: use the source stack_exchange",
    "tmx": "a translation memory: use the source tmx",
    "mediawiki": "a MediaWiki dump: use the source wikipedia",
}
"""Outermost element, in lower case -> which source reads such a file."""
_XML = re.compile(
    rb"\A(?:\xef\xbb\xbf)?\s*(<\?xml\b[^>]*\?>)?\s*(?:<!--.*?-->\s*|<\?(?!xml\b)[^>]*\?>\s*)*"
    rb"(<!doctype\s+[^>\[]*(?:\[.*?\]\s*)?>\s*)?(?:<!--.*?-->\s*)*<([A-Za-z][\w.:-]*)([\s/>])",
    re.IGNORECASE | re.DOTALL,
)
_ROFF = re.compile(rb"^\.(?:TH|SH|Dd|Dt|Sh|Nm)\b[^\n]*$", re.MULTILINE)
_ROFF_LINE = re.compile(rb"^[.'](?:\\\"|[A-Za-z]{1,2}\b)", re.MULTILINE)


def other_kind(raw: bytes) -> str | None:
    """What a file of other than plain text is, with what to do; None for text, in whatever encoding.

    A text about XML is a text: an XML file begins with a declaration, a document type or an element that formats have.
    """
    head = raw[:HEAD]
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return OFFICE if magic == b"PK\x03\x04" and any(name in raw[: 1 << 16] for name in OFFICE_MEMBERS) else kind
    if found := _XML.match(head):
        declared, doctype, root, _ = found.groups()
        name = root.decode().rpartition(":")[2].lower()
        if name in ROOTS and (declared or doctype or name == "html"):
            return ROOTS[name]
        if declared or doctype:
            return (
                f"XML of the kind <{root.decode()}>, whose markup is no text: convert it first, or use the source of its kind"
            )
    lines = head.count(b"\n") + 1
    if _ROFF.search(head) and 4 * len(_ROFF_LINE.findall(head)) >= lines:
        return "a manual page in roff, whose markup is no text: render it first, with `mandoc -T utf8 FILE | col -bx`"
    if b"\0" in head and not _is_wide(head):
        return BINARY
    return None


def _is_wide(head: bytes) -> bool:
    """Whether the zero bytes may be those of UTF-16 or UTF-32: by a mark, or as they stand at even or at odd places alone."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        return True
    even, odd = head[0::2].count(0), head[1::2].count(0)
    zeros, half = even + odd, len(head) / 2
    if zeros > 0.8 * len(head):  # UTF-32 of Latin letters has three of four
        return False
    return zeros > 0.2 * half and (min(even, odd) < 0.05 * half or (head.count(b"\0\0\0") > 0.2 * len(head) / 4))
