"""Scientific papers in Markdown or LaTeX -> text: sections and mathematics stay, the apparatus goes."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from data_prep.document import Document, SetAside
from data_prep.sources import signals
from data_prep.sources.files import (
    Piece,
    Unreadable,
    find_files,
    guarded,
    normalise_newlines,
    read_whole,
)
from data_prep.sources.latex import from_latex
from data_prep.sources.latex_files import decode_latex, is_latex, loader
from data_prep.sources.scripts import lowered, raised
from data_prep.sources.text_encoding import TextSettings, decode

LATEX = (".tex", ".ltx", ".latex")
SUFFIXES = (".md", ".markdown", *LATEX)


class PapersSource(TextSettings):
    """Markdown (.md, with YAML front matter as the Journal of Open Source Software) and LaTeX (.tex) with the files
    that it includes; one paper per file."""

    type: Literal["papers"]

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_SCALAR = re.compile(r"^(title|date|license|licence|lang|language|doi|abstract):[ \t]*(.+)$", re.MULTILINE | re.IGNORECASE)
_AUTHOR = re.compile(r"^[ \t]*-?[ \t]*name:[ \t]*(.+)$", re.MULTILINE)
_REFERENCES = re.compile(r"^(#{1,6})[ \t]*(?:references|bibliography)[ \t]*#*[ \t]*$", re.MULTILINE | re.IGNORECASE)
_NAMES = "equation|align|gather|multline|eqnarray|displaymath|math|flalign|alignat|cases|[a-z]*matrix"
_FIXED = re.compile(
    rf"^(?P<fence>```|~~~).*?^(?P=fence)[ \t]*$|(?P<tick>`+)(?!`).*?(?<!`)(?P=tick)(?!`)|\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)"
    rf"|\\begin\{{(?P<name>(?:{_NAMES})\*?)\}}.*?\\end\{{(?P=name)\}}|(?<![\\$\w])\$(?=[^\s$])(?:[^$\n]|\n(?!\s*\n))*?(?<=[^\s\\])\$(?!\d)",
    re.DOTALL | re.MULTILINE,
)
"""Code and mathematics, in which no sign is Markdown's."""
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_LABELS = re.compile(r"\s*\\label\{[^}\n]*\}")
_NESTED = r"(?:[^\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])"
_TARGET = r"\((?:[^()\n]|\([^()\n]*\))*\)"
_ATTRIBUTES = r"(?:\s+[\w:-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'>]+))*\s*/?"
_MARKDOWN = (
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(rf"!\[({_NESTED}{{0,4000}})\]{_TARGET}(?:\{{[^}}\n]*\}})?"), r"\1"),
    (re.compile(rf"(?<!!)\[({_NESTED}{{1,1000}})\]{_TARGET}"), r"\1"),
    (re.compile(r"[ \t]*\[(?:[^\]\n@]*-?@[\w:./+-]+[^\]\n]*)\]"), ""),
    (re.compile(r"\\(?:label|autoref)\{[^}\n]*\}"), ""),
    (re.compile(rf"<sup{_ATTRIBUTES}>([^<>\n]{{0,80}})</sup>", re.IGNORECASE), lambda match: raised(match.group(1))),
    (re.compile(rf"(.?)<sub{_ATTRIBUTES}>([^<>\n]{{0,80}})</sub>(?=(.?))", re.IGNORECASE), lambda match: _sub(*match.groups())),
    (re.compile(r"(?<=\w)\^([\w+−-]{1,12})\^(?!\^)"), lambda match: raised(match.group(1))),
    (re.compile(r"(\w)~([\w+−-]{1,12})~(?=([^~]?))"), lambda match: _sub(*match.groups())),
    (
        re.compile(rf"</?(?:div|span|p|br|img|sup|sub|a|center|i|b|em|strong|figure|figcaption){_ATTRIBUTES}>", re.IGNORECASE),
        "",
    ),
    (re.compile(r"^#{1,6}[ \t]*(.*?)[ \t]*#*[ \t]*(?:\{[^}\n]*\})?$", re.MULTILINE), r"\1"),
    (re.compile(r"(?<!\w)(\*\*|__)(?=\S)(.+?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"(?<=\w)(\*\*)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])[*_](?=\S)([^*_\n]+?)(?<=\S)[*_](?![\w*])"), r"\1"),
)
_INPUT = re.compile(rb"\\(?:input|include|subfile)\s*\{([^{}\n]+)\}")
_COMMENT = re.compile(rb"(?<!\\)%.*")
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def pieces(settings: PapersSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .md, .markdown or .tex."""
    return find_files(settings, base)


def read(piece: Piece, settings: PapersSource) -> Iterator[Document | SetAside]:
    """The paper in one file. A LaTeX file that another one of its folder includes is named as a part of that."""
    raw = read_whole(piece, settings)
    if piece.path.split("::")[0].lower().endswith(LATEX) or is_latex(raw):
        if not is_latex(raw) and (whole := _including(piece)):
            yield SetAside(piece.path, f"a part of {whole}, which has it in its place")
            return
        yield guarded(piece.path, _latex, piece, settings, raw)
        return
    yield guarded(piece.path, _markdown, piece, settings, raw)


def _latex(piece: Piece, settings: PapersSource, raw: bytes) -> Document:
    decoded = decode_latex(raw, settings.encoding)
    included = loader(partial(_beside, piece, settings), "", lambda part: decode_latex(part, settings.encoding).text)
    text, metadata = from_latex(decoded.text, included)
    return Document(f"{settings.name}/{piece.name}", text, settings.name, metadata | decoded.facts)


def _markdown(piece: Piece, settings: PapersSource, raw: bytes) -> Document:
    decoded = decode(raw, settings.encoding)
    body, metadata = from_markdown(normalise_newlines(decoded.text))
    return Document(f"{settings.name}/{piece.name}", body, settings.name, metadata | decoded.facts)


def _beside(piece: Piece, settings: PapersSource, name: str) -> bytes | None:
    """A file that stands with or below the piece, in its folder or archive."""
    inner, *chain = piece.path.split("::")
    path = "::".join([f"{inner.rpartition('/')[0]}/{name}" if "/" in inner else name, *chain])
    if "://" not in path and not (os.path.isfile(path) and Path(path).resolve().is_relative_to(Path(inner).resolve().parent)):
        return None
    try:
        return read_whole(replace(piece, path=path), settings)
    except (OSError, Unreadable):
        return None


def _including(piece: Piece) -> str | None:
    """The name of a paper that includes this file of a local folder, from the same folder or the one above."""
    if "://" in piece.path:
        return None
    path = Path(piece.path)
    for folder in (path.parent, path.parent.parent):
        for name, included in _mains(str(folder)):
            if path.relative_to(folder).with_suffix("").as_posix() in included:
                return name
    return None


@lru_cache(maxsize=64)
def _mains(folder: str) -> list[tuple[str, frozenset[str]]]:
    """(name, names that it includes, without ending) of each LaTeX document of a folder; a file that a part includes counts."""
    contents = {
        path.with_suffix("").name: path.read_bytes() for path in sorted(Path(folder).glob("*.tex"))[:200] if path.is_file()
    }
    found = []
    for stem, raw in contents.items():
        if is_latex(raw):
            seen: set[str] = set()
            left = [raw]
            while left:
                names = {
                    posixpath.normpath(name.decode("utf-8", "replace").strip().removesuffix(".tex"))
                    for name in _INPUT.findall(_COMMENT.sub(b"", left.pop()))
                }
                left += [contents[name] for name in names - seen if name in contents]
                seen |= names
            found.append((f"{stem}.tex", frozenset(seen - {stem})))
    return found


def from_markdown(text: str) -> tuple[str, dict[str, Any]]:
    """(text, metadata): figures by their captions, links by their labels, citation keys and the reference list left out."""
    metadata: dict[str, Any] = {}
    if front := _FRONT.match(text):
        text = text[front.end() :]
        for key, value in _SCALAR.findall(front.group(1)):
            metadata[{"license": "licence", "lang": "language"}.get(key.lower(), key.lower())] = value.strip().strip("'\"")
        if authors := [name.strip().strip("'\"") for name in _AUTHOR.findall(front.group(1))]:
            metadata["author"] = "; ".join(authors)
        if "licence" in metadata:
            metadata["licence"] = signals.spdx(metadata["licence"]) or metadata["licence"]
    if references := _REFERENCES.search(text):
        following = re.search(rf"^#{{1,{len(references.group(1))}}}[ \t]+\S", text[references.end() :], re.MULTILINE)
        text = text[: references.start()] + (text[references.end() + following.start() :] if following else "")
    fixed: list[str] = []
    text = _FIXED.sub(lambda match: _fix(match.group(), fixed), text.replace(_OPEN, "").replace(_CLOSE, ""))
    for pattern, replacement in _MARKDOWN:
        text = pattern.sub(replacement, text)
    body = re.sub(f"{_OPEN}(\\d+){_CLOSE}", lambda match: fixed[int(match.group(1))], text)
    title = metadata.get("title")
    return _tidy(f"{title}\n\n{body}" if title else body), metadata


def _fix(text: str, fixed: list[str]) -> str:
    fixed.append(text if text.startswith(("`", "~")) else _LABELS.sub("", text))
    return f"{_OPEN}{len(fixed) - 1}{_CLOSE}"


def _sub(before: str, text: str, after: str) -> str:
    return before + lowered(text, before, after)


def _tidy(text: str) -> str:
    return _BLANK.sub("\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()
