"""Sources of arXiv papers: `<id>.gz` (a packed tar or a single packed file), `<id>.tar.gz`, folders, and tars of all these.

A submission is one document: its main file with what that includes, in place. The main file is the one that 00README.XXX or
00README.json names, else the one that begins a document and is included by no other (https://info.arxiv.org/help/00README.html).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from data_prep.document import Document, SetAside
from data_prep.sources import archives
from data_prep.sources.files import Piece, SourceSettings, Unreadable, find_files, guarded, open_raw, read_whole
from data_prep.sources.latex import from_latex
from data_prep.sources.latex_files import decode_latex, is_latex, loader

TEXTS = (".tex", ".ltx", ".latex")
SUFFIXES = (*TEXTS, ".gz", ".pdf")
MAX_FILES = 20_000
_NEW = re.compile(r"(?<!\d)(\d{4}\.\d{4,5})(?:v\d+)?(?!\d)")
_OLD = re.compile(r"(?<![a-z])([a-z]{2,8}(?:-[a-z]{2,4})?)(?:\.[A-Z]{2})?[./_]?(\d{7})(?:v\d+)?(?!\d)")
_FIGURES = re.compile(r"\.(?:epsi?|e?ps|pdf|png|jpe?g|gif|tiff?|svg|gz|zip|bib|bbl|bst|cls|csv)\Z", re.IGNORECASE)
_OTHER = {b"%PDF": "PDF", b"%!PS": "PostScript", b"PK\x03\x04": "a zip file (DOCX or HTML)", b"<htm": "HTML", b"<!DO": "HTML"}


class ArxivSource(SourceSettings):
    """Sources of arXiv papers, as arXiv gives them, one document per paper; papers that came as PDF alone are named."""

    type: Literal["arxiv"]

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


def pieces(settings: ArxivSource, base: Path) -> list[Piece]:
    """Submissions: packed files each, and unpacked ones by their folder or archive."""
    found = find_files(settings, base)
    papers: dict[str, Piece] = {}
    places = {os.path.dirname(piece.name) for piece in found if piece.name.lower().endswith(TEXTS)}
    for piece in found:
        name = piece.name
        if not name.lower().endswith(TEXTS):
            if name.lower().endswith(".gz") or arxiv_id(os.path.basename(name)):
                papers[piece.path] = piece
            continue
        folder = _folder_of(piece, places)
        path = _prefix(piece.path, name, folder)
        if path in papers:
            before = papers[path]
            changed = before.changed if piece.changed in before.changed.split() else f"{before.changed} {piece.changed}".strip()
            papers[path] = replace(before, size=before.size + piece.size, changed=changed)
        else:
            papers[path] = replace(piece, path=path, name=folder or os.path.basename(path.split("::")[-1]))
    return sorted(papers.values(), key=lambda piece: piece.path)


def _folder_of(piece: Piece, places: set[str]) -> str:
    """The folder, within the source's names, of the paper that a file belongs to: the one that is named by an id, else the
    outermost one that has LaTeX files itself."""
    parts = os.path.dirname(piece.name).split("/")
    for end in range(1, len(parts) + 1):
        if arxiv_id(parts[end - 1]):
            return "/".join(parts[:end])
    return next(("/".join(parts[:end]) for end in range(len(parts) + 1) if "/".join(parts[:end]) in places), "")


def _prefix(path: str, name: str, folder: str) -> str:
    """The path of the folder of a file's path, in an archive or not."""
    below = len(name.split("/")) - (len(folder.split("/")) if folder else 0)
    inner, *chain = path.split("::")
    protocol, slashes, inside = inner.rpartition("://")
    if not chain:
        return "/".join(path.split("/")[:-below]) if below else path
    inside_parts = inside.split("/")
    kept = inside_parts[: max(0, len(inside_parts) - below)]
    return "::".join([f"{protocol}{slashes}{'/'.join(kept)}", *chain])


def read(piece: Piece, settings: ArxivSource) -> Iterator[Document | SetAside]:
    """The paper of one submission, or why there is none."""
    yield guarded(piece.path, _paper, piece, settings)


def _paper(piece: Piece, settings: ArxivSource) -> Document:
    files = _files(piece, settings)
    main = main_file(files)
    decoded = decode_latex(files[main])
    included = loader(files.get, posixpath.dirname(main), lambda part: decode_latex(part).text)
    text, metadata = from_latex(decoded.text, included)
    metadata |= {"main_file": main} if len(files) > 1 else {}
    if identifier := arxiv_id(piece.name) or arxiv_id(piece.path.split("::")[-1].rsplit("/", 1)[-1]):
        metadata |= {"arxiv_id": identifier, "url": f"https://arxiv.org/abs/{identifier}", "original_id": identifier}
    return Document(f"{settings.name}/{piece.name}", text, settings.name, metadata)


def arxiv_id(name: str) -> str | None:
    """The id that a name holds: "1107.1727" or, of before 2007, "math/0303003"; the last one where there are more."""
    if found := _NEW.findall(name):
        return found[-1]
    found = _OLD.findall(name)
    return f"{found[-1][0]}/{found[-1][1]}" if found else None


def main_file(files: dict[str, bytes]) -> str:
    """The name of the file that a paper begins with. Raises Unreadable when none of them is LaTeX."""
    named = _readme(files)
    if named in files:
        return named
    texts = {name: raw for name, raw in files.items() if b"\0" not in raw[:4096]}
    mains = [name for name, raw in texts.items() if is_latex(raw)]
    if not mains:
        if any(b"\\input" in raw or b"\\bye" in raw or b"\\magnification" in raw for raw in texts.values()):
            raise Unreadable("in plain TeX or AMS-TeX, not in LaTeX: is not read")
        kinds = sorted({posixpath.splitext(name)[1] or name for name in files})
        raise Unreadable(f"no LaTeX file begins a document; there are {', '.join(kinds[:8])}")
    included = {name for name in mains for other in mains if other != name and _includes(texts[other], name)}
    free = [name for name in mains if name not in included] or mains
    return max(free, key=lambda name: (b"\\title" in files[name], name.count("/") == 0, len(files[name]), name))


def _includes(raw: bytes, name: str) -> bool:
    stem = posixpath.splitext(posixpath.basename(name))[0].encode()
    return re.search(rb"\\(?:input|include|subfile)\s*\{?[^}\s]*\b" + re.escape(stem) + rb"\b", raw) is not None


def _readme(files: dict[str, bytes]) -> str | None:
    """The file that 00README.json or 00README.XXX calls the top level one."""
    try:
        listed: Any = json.loads(files.get("00README.json", b"{}"))
        for entry in listed.get("sources", []) if isinstance(listed, dict) else []:
            if entry.get("usage") == "toplevel":
                return str(entry.get("filename"))
    except (ValueError, AttributeError):
        pass
    for line in files.get("00README.XXX", b"").decode("utf-8", "replace").splitlines():
        name, _, what = line.strip().partition(" ")
        if what.strip() == "toplevelfile":
            return name
    return None


def _files(piece: Piece, settings: ArxivSource) -> dict[str, bytes]:
    """Text files of a submission by their names; figures are left unread."""
    inner, *chain = piece.path.split("::")
    if piece.name.lower().endswith(".pdf"):
        raise Unreadable("submitted as PDF alone: arXiv has no source of it. Other papers of the source are read.")
    if not chain and os.path.isdir(piece.path):
        return _limited(_folder(piece.path), settings)
    if piece.path.lower().split("::")[0].endswith(".gz"):
        return unpack(read_whole(piece, settings), settings)
    if chain:
        protocol, _, inside = inner.rpartition("://")
        return _limited(_members(protocol, inside, "::".join(chain), settings), settings)
    return {posixpath.basename(piece.path): read_whole(piece, settings)}


def _members(kind: str, folder: str, archive: str, settings: ArxivSource) -> Iterator[tuple[str, bytes]]:
    """Text files below a folder of an archive, by their names there."""
    top = f"{folder}/" if folder else ""
    names = [member.name for member in archives.members(kind, archive, open_raw) if member.name.startswith(top)]
    for name in [name for name in names if name and _is_text(name)][:MAX_FILES]:
        with open_raw(f"{kind}://{name}::{archive}") as file:
            yield name.removeprefix(top), file.read(settings.max_document_bytes + 1)


def _folder(folder: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and _is_text(name) and path.resolve().is_relative_to(Path(folder).resolve()):
            yield name, path.read_bytes()


def unpack(raw: bytes, settings: SourceSettings) -> dict[str, bytes]:
    """Text files of an unpacked `<id>.gz`: of a tar, or the one file that it is. Raises Unreadable for other contents."""
    if raw[:3] == b"\x1f\x8b\x08":  # packed twice
        raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(settings.max_document_bytes)
    if kind := next((kind for head, kind in _OTHER.items() if raw[:4].lower().startswith(head.lower())), None):
        raise Unreadable(f"submitted as {kind} alone: arXiv has no LaTeX source of it")
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
            members = [member for member in archive if member.isfile() and _is_text(member.name)][:MAX_FILES]
            return _limited(
                ((posixpath.normpath(member.name), archive.extractfile(member).read()) for member in members),  # type: ignore[union-attr]
                settings,
            )
    except tarfile.TarError:
        if b"\\" not in raw[: 1 << 16] or b"\0" in raw[:4096]:
            raise Unreadable("neither a tar nor LaTeX: damaged, or of another kind") from None
        return {"main.tex": raw}


def _limited(files: Any, settings: SourceSettings) -> dict[str, bytes]:
    """Files by name, none outside the submission. Raises Unreadable when they are more than one document may be."""
    found: dict[str, bytes] = {}
    total = 0
    for name, raw in files:
        total += len(raw)
        if total > settings.max_document_bytes:
            raise Unreadable(f"its files are longer than max_document_megabytes ({settings.max_document_megabytes})")
        if not name.startswith(("../", "/")):
            found[name] = raw
    return found


def _is_text(name: str) -> bool:
    return _FIGURES.search(name) is None
