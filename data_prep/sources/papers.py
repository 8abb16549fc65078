"""Scientific papers in Markdown or LaTeX -> text: sections and mathematics stay, the apparatus goes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from data_prep.document import Document, SetAside
from data_prep.sources import signals
from data_prep.sources.files import Piece, SourceSettings, decode, find_files, normalise_newlines, read_whole

SUFFIXES = (".md", ".markdown", ".tex")


class PapersSource(SourceSettings):
    """Markdown (.md, with YAML front matter as the Journal of Open Source Software) and LaTeX (.tex); one paper per file."""

    type: Literal["papers"]

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return SUFFIXES


_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_SCALAR = re.compile(r"^(title|date|license|licence|lang|language|doi|abstract):[ \t]*(.+)$", re.MULTILINE | re.IGNORECASE)
_AUTHOR = re.compile(r"^[ \t]*-?[ \t]*name:[ \t]*(.+)$", re.MULTILINE)
_REFERENCES = re.compile(r"^(#{1,6})[ \t]*(?:references|bibliography)[ \t]*#*[ \t]*$", re.MULTILINE | re.IGNORECASE)
_MARKDOWN = (
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"!\[([^\]\n]*)\]\([^)\n]*\)(?:\{[^}\n]*\})?"), r"\1"),
    (re.compile(r"(?<!!)\[([^\]\n]+)\]\((?:[^()\n]|\([^()\n]*\))*\)"), r"\1"),
    (re.compile(r"[ \t]*\[(?:[^\]\n@]*-?@[\w:./+-]+[^\]\n]*)\]"), ""),
    (re.compile(r"\\(?:label|autoref)\{[^}\n]*\}"), ""),
    (re.compile(r"</?(?:div|span|p|br|img|sup|sub|a|center)\b[^>\n]*>", re.IGNORECASE), ""),
    (re.compile(r"^#{1,6}[ \t]*(.*?)[ \t]*#*[ \t]*(?:\{[^}\n]*\})?$", re.MULTILINE), r"\1"),
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])[*_](?=\S)([^*_\n]+?)(?<=\S)[*_](?![\w*])"), r"\1"),
)
_GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
_OPTIONS = r"\*?(?:\[[^\]]*\])*"
_MATHS = r"equation|align|gather|multline|eqnarray|math|displaymath|split|cases|[a-z]*matrix|array"
_POINTERS = r"[cC]ite\w*|ref|eqref|autoref|[cC]ref|label|pageref|footnotemark|index|bibliography\w*"
_LAYOUT = r"includegraphics|vspace|hspace|input|include|usepackage|documentclass|thispagestyle|pagestyle"
_SWITCHES = r"centering|maketitle|noindent|newpage|clearpage|tableofcontents|[a-z]*(?:line|rule)|small|footnotesize|large"
_STYLES = r"emph|textbf|textit|texttt|textsc|text|underline|url|caption|footnote|mbox|title|author|thanks"
_ENDMATTER = r"thebibliography|filecontents"
_LATEX = (
    (re.compile(r"(?<!\\)%.*$", re.MULTILINE), ""),
    (re.compile(rf"\\begin\{{(?:{_ENDMATTER})\*?\}}.*?\\end\{{(?:{_ENDMATTER})\*?\}}", re.DOTALL), ""),
    (re.compile(rf"\\(?:sub)*(?:section|paragraph|chapter|part){_OPTIONS}{_GROUP}"), r"\n\n\1\n\n"),
    (re.compile(rf"~?\\(?:{_POINTERS}){_OPTIONS}\{{[^{{}}]*\}}"), ""),
    (re.compile(rf"\\(?:{_LAYOUT}){_OPTIONS}\{{[^{{}}]*\}}"), ""),
    (re.compile(rf"\\(?:begin|end)\{{(?!{_MATHS})\w+\*?\}}(?:\[[^\]\n]*\])?"), "\n"),
    (re.compile(rf"\\(?:{_SWITCHES})\b"), ""),
    (re.compile(r"\\item\b(?:\[([^\]]*)\])?[ \t]*"), r"- \1"),
    (re.compile(r"\\href\{[^{}]*\}\{([^{}]*)\}"), r"\1"),
    (re.compile(rf"\\(?:{_STYLES}){_GROUP}"), r"\1"),
    (re.compile(r"(?<!\\)~"), " "),
    (re.compile(r"``|''"), '"'),
    (re.compile(r"\\([&%#_{}])"), r"\1"),
)
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def pieces(settings: PapersSource, base: Path) -> list[Piece]:
    """Input files; from folders those ending in .md, .markdown or .tex."""
    return find_files(settings, base)


def read(piece: Piece, settings: PapersSource) -> Iterator[Document | SetAside]:
    """The paper in one file. Not followed: \\input, macros of one's own."""
    text, _ = decode(read_whole(piece, settings))
    text = normalise_newlines(text)
    latex = piece.path.split("::")[0].endswith(".tex") or "\\begin{document}" in text
    body, metadata = from_latex(text) if latex else from_markdown(text)
    yield Document(f"{settings.name}/{piece.name}", body, settings.name, metadata)


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
    code = re.split(r"(^```.*?^```[ \t]*$)", text, flags=re.MULTILINE | re.DOTALL)  # code stays as it is
    for index in range(0, len(code), 2):
        for pattern, replacement in _MARKDOWN:
            code[index] = pattern.sub(replacement, code[index])
    body = "".join(code)
    title = metadata.get("title")
    return _tidy(f"{title}\n\n{body}" if title else body), metadata


def from_latex(text: str) -> tuple[str, dict[str, Any]]:
    """(text, metadata): the document's body with headings, captions and mathematics; commands of layout left out."""
    metadata: dict[str, Any] = {}
    if title := re.search(r"\\title\*?(?:\[[^\]]*\])?\{((?:[^{}]|\{[^{}]*\})*)\}", text):
        metadata["title"] = " ".join(re.sub(r"\\\\|\\\w+|[{}]", " ", title.group(1)).split())
    begin, end = text.find("\\begin{document}"), text.rfind("\\end{document}")
    if begin >= 0:
        text = text[begin + len("\\begin{document}") : end if end > begin else None]
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    shown = metadata.get("title")
    return _tidy(f"{shown}\n\n{text}" if shown and shown not in text[:500] else text), metadata


def _tidy(text: str) -> str:
    return _BLANK.sub("\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()
