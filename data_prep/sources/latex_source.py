"""LaTeX source made ready for a parser: files put in place, comments and dropped branches gone, own macros expanded.

pylatexenc gives the tree of a source, but neither follows \\input nor expands macros. What TeX does before it typesets is done
here, so far as text needs it: comments, but not in verbatim text; \\input, \\include, \\subfile and \\import;
\\iffalse and switches of \\newif; macros and environments of one's own by \\newcommand, \\def, \\let, \\DeclareMathOperator and
\\newenvironment, in the place where they hold. Not done: definitions with delimited arguments or TeX programming in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from data_prep.sources.latex_macros import Expander, group

MAX_DEPTH = 12
"""Files within files."""
OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Noncharacters around the number of a kept text, which no later step changes."""
LINE = "\ufdd3"
"""A line's end that stays one."""

_VERBATIM = {"verbatim", "Verbatim", "BVerbatim", "lstlisting", "minted", "alltt", "spverbatim", "pycode", "Sinput", "Soutput"}
_DROPPED = {"comment", "filecontents"}
_RAW = re.compile(
    r"\\(?P<name>[A-Za-z@]+\*?)|\\.|(?P<comment>%)|(?P<stray>[\ufdd0-\ufdef])|\\",
    re.DOTALL,
)
_BEGIN = re.compile(r"\s*\{([A-Za-z]+)\*?\}")
_COMMENT = re.compile(r"%[^\n]*(?:\n[ \t]*)?")
_OPTIONS = re.compile(r"\s*\[[^\]\n]*\]")
_FILE = re.compile(r"[ \t]*(?:\{([^{}\n]*)\}|([^\s{}\\%]+))")
_URLS = {"url", "path", "nolinkurl"}
_INLINE = {"verb", "verb*", "lstinline", "mintinline", "Verb"}
_INPUTS = {"input", "include", "subfile", "InputIfFileExists", "subfileinclude"}
_OWN_VERBATIM = re.compile(r"\\(?:DefineVerbatimEnvironment|lstnewenvironment|newminted)\s*(?:\[\w*\])?\{(\w+)\}")

Load = Callable[[str], "str | None"]
"""Gives the text of a file that \\input names, None when there is none."""


@dataclass
class Prepared:
    """A source without what needs TeX to be understood."""

    text: str
    kept: list[str] = field(default_factory=list)
    """Texts for which the source has OPEN, their number, CLOSE."""
    theorems: dict[str, str] = field(default_factory=dict)
    """Titles by environment, as \\newtheorem gives them."""
    missing: list[str] = field(default_factory=list)
    """Files that \\input names and that are not there."""


def prepare(text: str, load: Load | None = None) -> Prepared:
    """Read a source as TeX would before typesetting; `load` gives the files that it includes."""
    made = Prepared("")
    verbatim = _VERBATIM | set(_OWN_VERBATIM.findall(text))
    assembled = _assemble(text, load, made, verbatim, 0)
    expander = Expander(made.theorems)
    made.text = expander.run(assembled)
    return made


def keep(kept: list[str], text: str) -> str:
    """A mark in place of a text that is not to change."""
    kept.append(text)
    return f"{OPEN}{len(kept) - 1}{CLOSE}"


def _assemble(text: str, load: Load | None, made: Prepared, verbatim: set[str], depth: int) -> str:
    """One file without comments, with the files that it includes in place."""
    out: list[str] = []
    position = 0
    unclosed: set[str] = set()
    while match := _RAW.search(text, position):
        out.append(text[position : match.start()])
        position = match.end()
        name = match.group("name")
        if match.group("comment"):
            position = _COMMENT.match(text, match.start()).end()  # type: ignore[union-attr]
            if text[position : position + 1] == "\n":  # the line behind the comment is empty: a paragraph ends
                out.append("\n")
        elif match.group("stray"):
            continue
        elif name == "endinput":
            position = len(text)
        elif name == "begin" and (begin := _BEGIN.match(text, position)) and begin.group(1) in verbatim | _DROPPED - unclosed:
            kind, whole = begin.group(1), begin.group().strip()
            end = text.find(f"\\end{whole}", begin.end())
            if end < 0:
                unclosed.add(kind)
                out.append(match.group())
                continue
            if kind not in _DROPPED:
                shown = _OPTIONS.sub("", text[begin.end() : end], count=1) if kind != "verbatim" else text[begin.end() : end]
                shown = re.sub(r"\A\{\w+\}", "", shown) if kind == "minted" else shown
                out.append(f"\n{LINE}{keep(made.kept, shown.strip(chr(10)).rstrip())}{LINE}\n")
            position = end + len(f"\\end{whole}")
        elif name in _URLS or name == "href":
            if inner := group(
                text, len(text) - len(text[position:].lstrip()) if text[position : position + 1] == " " else position
            ):
                position = inner[1]
                mark = keep(made.kept, inner[0].replace("\\%", "%").replace("\\_", "_").replace("\\#", "#").strip())
                out.append(f"\\{name}{{{mark}}}")
            else:
                out.append(match.group())
        elif name in _INLINE:
            shown, position = _inline(text, position, name)
            out.append(keep(made.kept, shown) if shown is not None else match.group())
        elif name in _INPUTS and (file := _FILE.match(text, position)):
            position = file.end()
            out.append(_included((file.group(1) or file.group(2) or "").strip(), load, made, verbatim, depth))
        elif name in ("import", "subimport", "includefrom") and (
            pair := re.compile(r"\{([^{}]*)\}\{([^{}]*)\}").match(text, position)
        ):
            position = pair.end()
            out.append(_included(f"{pair.group(1).rstrip('/')}/{pair.group(2)}", load, made, verbatim, depth))
        else:
            out.append(match.group())
    out.append(text[position:])
    return "".join(out)


def _inline(text: str, position: int, name: str) -> tuple[str | None, int]:
    """(text of \\verb|text| and its like, place behind it)."""
    if options := _OPTIONS.match(text, position):
        position = options.end()
    if name == "mintinline" and (language := group(text, position)):
        position = language[1]
    mark = text[position : position + 1]
    if mark == "{" and name != "verb" and (inner := group(text, position)):
        return inner
    end = text.find(mark, position + 1, position + 2000) if mark and not mark.isalnum() and not mark.isspace() else -1
    return (text[position + 1 : end], end + 1) if end > 0 else (None, position)


def _included(name: str, load: Load | None, made: Prepared, verbatim: set[str], depth: int) -> str:
    loaded = load(name) if load and depth < MAX_DEPTH else None
    if loaded is None:
        made.missing.append(name)
        return " "
    begin, end = loaded.find("\\begin{document}"), loaded.rfind("\\end{document}")  # a subfile is a document of its own
    if begin >= 0:
        loaded = loaded[begin + len("\\begin{document}") : end if end > begin else None]
    return f"{_assemble(loaded, load, made, verbatim, depth + 1)}\n"
