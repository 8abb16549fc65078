"""LaTeX -> text: headings, paragraphs, lists, tables, captions and footnotes as text, mathematics as TeX.

pylatexenc parses (https://pylatexenc.readthedocs.io); `latex_source` has put files in place and expanded own macros before.

What is written how: a formula is what its source is, verbatim, without \\label; a footnote stands in parentheses in its place;
cells of a table are divided by tabs, one row per line; citations, references and their empty brackets go; authors go to the
metadata, affiliations and thanks are left out; drawings (TikZ) and the list of references too. An unknown command is left out
and its arguments in braces are kept.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pylatexenc import latex2text
from pylatexenc.latexwalker import (
    LatexCharsNode,
    LatexEnvironmentNode,
    LatexGroupNode,
    LatexMacroNode,
    LatexMathNode,
    LatexNode,
    LatexSpecialsNode,
    LatexWalker,
    get_default_latex_context_db,
)
from pylatexenc.macrospec import EnvironmentSpec, LatexContextDb, MacroSpec

from data_prep.sources.latex_commands import (
    ACCENTS,
    ARGUMENTS,
    CHARACTERS,
    CITES,
    DRAWINGS,
    ENVIRONMENTS,
    FOOTNOTES,
    HEADINGS,
    LENGTH,
    LENGTHS,
    LISTS,
    MATHS,
    PIECES,
    ROW_ENDS,
    SILENT_STEPS,
    SPACES,
    SPECIALS,
    STEPS,
    TABLES,
)
from data_prep.sources.latex_source import CLOSE, LINE, OPEN, Load, keep, prepare
from data_prep.sources.scripts import lowered, raised
from data_prep.sources.siunitx import UNITS, number_of, unit_of

PARAGRAPH, CELL, POINTER = "\ufdd4", "\ufdd5", "\ufdd6"
"""Marks of a paragraph's end, a cell's end, and a citation or reference left out."""


_MARKS = re.compile(r"\$\s*\{?\s*\}?\s*\^\s*(?:\{[^{}$]*\}|\S)\s*\$|\^\d+(?:,\d+)*")
"""Of an author's affiliations."""
_RULES = re.compile(r"\\cmidrule\s*(?:\[[^\]]*\])?\s*(?:\([^()]*\))?\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}")
"""Of tables; what stands in round brackets is no argument that a parser knows."""
_LABEL = re.compile(r"\s*\\label\s*\{[^{}]*\}")
_PLACE = re.compile(rf"{OPEN}(\d+){CLOSE}")


def from_latex(text: str, load: Load | None = None) -> tuple[str, dict[str, Any]]:
    """(text, metadata) of a paper: title, author and date, and `missing_inputs` when files that it includes are not there.

    `load` gives the text of a file that \\input and its like name, or None. Raises RecursionError for groups nested too deeply.
    """
    source = prepare(text, load)
    source.text = _RULES.sub(" ", source.text)
    begin, end = source.text.find("\\begin{document}"), source.text.rfind("\\end{document}")
    renderer = Renderer(source.kept, source.theorems)
    preamble = ""
    if begin >= 0:
        preamble = renderer.front(source.text[:begin])
    body = renderer.render_source(source.text[begin + 16 if begin >= 0 else 0 : end if end > begin else None])
    front = renderer.metadata
    title = front.get("title")
    parts = [title if title and title not in _tidied(body, renderer.kept)[:500] else "", preamble, body]
    if source.missing:
        front["missing_inputs"] = len(source.missing)
    return _tidied(PARAGRAPH.join(part for part in parts if part), renderer.kept), front


@lru_cache(maxsize=1)
def _context() -> LatexContextDb:
    """The commands that are known, with the form of their arguments."""
    context = get_default_latex_context_db()
    macros = [MacroSpec(name.removesuffix("*") if name[-1] == "*" and len(name) > 1 else name, args_parser=form)
              for name, (form, _) in ARGUMENTS.items()]  # fmt: skip
    known = {spec.macroname for spec in macros}
    macros += [MacroSpec(name, args_parser="*[{") for name in HEADINGS if name not in known]
    macros += [MacroSpec(name, args_parser="{") for name in ACCENTS if name not in known]
    macros += [
        MacroSpec(name, args_parser="") for name in ("State", "STATE", "i", "j", "o", "l", "L", "O", "ss", "verb", "begin")
    ]
    environments = [
        EnvironmentSpec(name, args_parser=form) for name, form in ENVIRONMENTS.items() if name.rstrip("*") not in MATHS
    ]
    for name in MATHS:
        for star in ("", "*"):
            form = ENVIRONMENTS.get(name, "")
            environments.append(EnvironmentSpec(name + star, args_parser=form, is_math_mode=True))
    context.add_context_category("papers", macros=macros, environments=environments, prepend=True)
    context.set_unknown_macro_spec(MacroSpec(""))
    context.set_unknown_environment_spec(EnvironmentSpec(""))
    return context


@lru_cache(maxsize=1)
def _symbols() -> Any:
    return latex2text.get_default_latex_context_db()


def _symbol(name: str) -> str | None:
    """The character that a command stands for, as pylatexenc has it."""
    spec = _symbols().get_macro_spec(name)
    shown = spec.simplify_repl if spec else None
    return shown if isinstance(shown, str) and "%" not in shown else None


@dataclass
class Renderer:
    """Writes the nodes of one paper."""

    kept: list[str]
    theorems: dict[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)
    _depth: int = 0

    def front(self, preamble: str) -> str:
        """Take title, author and date from what stands before \\begin{document}; returns its abstract."""
        nodes = _parsed(preamble)
        out = []
        for node in nodes:
            if isinstance(node, LatexMacroNode) and node.macroname in ("title", "author", "date"):
                self._macro(node)
            elif isinstance(node, LatexMacroNode) and node.macroname in ("abstract", "keywords"):
                out.append(self._macro(node))
            elif isinstance(node, LatexEnvironmentNode) and node.environmentname == "abstract":
                out.append(self._environment(node))
        return "".join(out)

    def render_source(self, text: str) -> str:
        """A piece of source as text with marks."""
        return self.render(_parsed(text))

    def render(self, nodes: Sequence[LatexNode | None]) -> str:
        """Nodes as text with marks."""
        out: list[str] = []
        length_follows = False
        for node in nodes:
            if isinstance(node, LatexCharsNode):
                out.append(LENGTH.sub("", node.chars, count=1) if length_follows else node.chars)
            elif isinstance(node, LatexGroupNode):
                left, right = node.delimiters if node.delimiters[0] == "[" else ("", "")
                out.append(left + self.render(node.nodelist) + right)
            elif isinstance(node, LatexMathNode):
                out.append(self._maths(node.latex_verbatim(), display=node.displaytype == "display"))
            elif isinstance(node, LatexMacroNode):
                out.append(self._macro(node))
            elif isinstance(node, LatexEnvironmentNode):
                out.append(self._environment(node))
            elif isinstance(node, LatexSpecialsNode):
                out.append(SPECIALS.get(node.specials_chars, node.specials_chars))
            length_follows = isinstance(node, LatexMacroNode) and node.macroname in LENGTHS
        return "".join(out)

    def _maths(self, source: str, display: bool) -> str:
        source = _LABEL.sub("", source).replace("\\ensuremath", "").replace("\\xspace", "").replace(LINE, "")
        mark = keep(self.kept, source)
        return f"{LINE}{mark}{LINE}" if display else mark

    def _macro(self, node: LatexMacroNode) -> str:
        name = node.macroname
        special = self._special(node, name)
        if special is not None:
            return special
        if name in ACCENTS and node.nodeargd and node.nodeargd.argnlist:
            return self._accent(node)
        if name in CHARACTERS:
            return CHARACTERS[name] + _space_after(node)
        if name in SPACES:
            return " "
        if name in ARGUMENTS:
            return self._argument(node, ARGUMENTS[name][1] if ARGUMENTS[name][1] is not None else None)
        if name in STEPS:
            word = "" if name in SILENT_STEPS else name.lower().removeprefix("kw")
            return f"{LINE}{word}{' ' if word else ''}"
        symbol = _symbol(name) if name.isalpha() and name != "today" else None
        if symbol is not None:
            return symbol + _space_after(node)
        given = [
            argument
            for argument in (node.nodeargd.argnlist or [] if node.nodeargd else [])
            if isinstance(argument, LatexGroupNode)
        ]
        shown = "".join(self.render(argument.nodelist) for argument in given if argument.delimiters[0] == "{")
        return shown or _space_after(node)

    def _special(self, node: LatexMacroNode, name: str) -> str | None:
        """Commands with a form of their own; None for the others."""
        if name in CITES:
            return self._citation(node)
        if name in HEADINGS:
            return f"{PARAGRAPH}{self._argument(node, 2)}{PARAGRAPH}"
        if name == "par":
            return PARAGRAPH
        if name in ("\\", "newline", "linebreak", "cr", "tabularnewline"):
            return LINE
        if name in FOOTNOTES:
            text = _one_line(self._argument(node, ARGUMENTS[name][1]))
            return f" ({text})" if text.strip(f"{POINTER} ") else ""
        if name in ("title", "author", "date"):
            return self._front(node, name)
        if name in PIECES:
            text = self._argument(node, ARGUMENTS[name][1])
            if name == "abstract" and text.strip():
                self.metadata.setdefault("abstract", _tidied(text, self.kept))
            return f"{PARAGRAPH}{text}{PARAGRAPH}"
        if name == "ensuremath":
            inner = _argument_of(node, 2)
            return self._maths(f"${_bare(inner)}$", display=False) if inner is not None else ""
        if name in ("textsuperscript", "textsubscript"):
            text = self._argument(node, 0)
            return raised(text) if name == "textsuperscript" else lowered(text)
        if name in ("nicefrac", "sfrac", "textfrac"):
            first, second = (self._argument(node, ARGUMENTS[name][1] - step) for step in (1, 0))  # type: ignore[operator]
            return f"{first}/{second}"
        if name in ("enquote", "textquote", "blockquote"):
            return f'"{self._argument(node, 2)}"'
        if (
            name in UNITS
            or name in ("num", "si", "SI", "qty", "unit", "ang", "numlist", "SIlist", "qtylist")
            or name.endswith("range")
        ):
            return self._quantity(node, name)
        return None

    def _citation(self, node: LatexMacroNode) -> str:
        """A mark for a citation, and its notes where they say something: a formula, or five words."""
        given = (node.nodeargd.argnlist or []) if node.nodeargd else []
        notes = [note for note in given if isinstance(note, LatexGroupNode) and note.delimiters[0] == "["]
        telling = [note for note in notes if "$" in (source := note.latex_verbatim()) or len(source.split()) > 4]
        return POINTER + "".join(f" ({_one_line(self.render(note.nodelist))})" for note in telling)

    def _front(self, node: LatexMacroNode, name: str) -> str:
        text = self._argument(node, ARGUMENTS[name][1])
        shown = " ".join(_tidied(text.replace(LINE, " " if name != "author" else "; "), self.kept).split())
        if name == "author":
            shown = _MARKS.sub("", shown)
            shown = "; ".join(part.strip(" ,;") for part in shown.split(";") if part.strip(" ,;"))
            shown = "; ".join(filter(None, (self.metadata.get("author"), shown)))
        if shown and (name == "author" or name not in self.metadata):
            self.metadata[name] = shown
        return f"{PARAGRAPH}{text}{PARAGRAPH}" if name == "title" else ""

    def _quantity(self, node: LatexMacroNode, name: str) -> str:
        """Numbers and units of siunitx."""
        given = [
            _bare(argument) for argument in (node.nodeargd.argnlist or []) if argument is not None and _is_braced(argument)
        ]
        if name in UNITS and name not in ("num", "ang"):
            return unit_of(f"\\{name}") if not given else ""
        if not given:
            return ""
        if name in ("si", "unit"):
            return unit_of(given[0])
        unit = unit_of(given[-1]) if name.startswith(("SI", "qty")) and len(given) > 1 else ""
        numbers = [number_of(part) for part in (given[:-1] if unit else given)]
        if name in ("numlist", "SIlist", "qtylist"):
            numbers = [number_of(part) for part in given[0].split(";")]
        shown = " to ".join(numbers) if name.endswith("range") else ", ".join(numbers)
        degree = "°" if name == "ang" else ""
        return f"{shown}{degree}{' ' if unit and unit != '°' else ''}{unit}"

    def _accent(self, node: LatexMacroNode) -> str:
        base = self.render(node.nodeargd.argnlist)
        letter = {"ı": "i", "ȷ": "j"}.get(base[:1], base[:1])
        if not letter.strip():
            return base
        return unicodedata.normalize("NFC", letter + ACCENTS[node.macroname]) + base[1:]

    def _argument(self, node: LatexMacroNode | LatexEnvironmentNode, index: int | None) -> str:
        """The text of one argument."""
        argument = _argument_of(node, index)
        if argument is None:
            return ""
        return self.render(argument.nodelist if isinstance(argument, LatexGroupNode) else [argument])

    def _environment(self, node: LatexEnvironmentNode) -> str:
        name = node.environmentname
        if name.rstrip("*") in MATHS:
            return self._maths(node.latex_verbatim(), display=True)
        if name in DRAWINGS:
            return ""
        if name in TABLES:
            return f"{PARAGRAPH}{self._table(node.nodelist)}{PARAGRAPH}"
        if name in LISTS:
            return self._list(node.nodelist, numbered="enum" in name)
        body = self.render(node.nodelist)
        if name in self.theorems or name == "proof":
            title = self.theorems.get(name, "Proof")
            called = re.match(r"\s*\[((?:[^\[\]]|\[[^\]]*\])*)\]", body) if name != "proof" else None
            label = called.group(1) if called else self._argument(node, 0)
            head = f"{title} ({_one_line(label)})." if label else f"{title}."
            return f"{PARAGRAPH}{head} {body[called.end() :] if called else body}{PARAGRAPH}"
        if name == "abstract" and "abstract" not in self.metadata:
            self.metadata["abstract"] = _tidied(body, self.kept)
        return f"{PARAGRAPH}{body}{PARAGRAPH}"

    def _list(self, nodes: Sequence[LatexNode], numbered: bool) -> str:
        """Items on lines of their own, those of inner lists further in."""
        self._depth += 1
        indent = "\u2007" * (2 * (self._depth - 1))  # a space that is no space to what tidies up
        out, place = [], 0
        for part in _parts(nodes, lambda node: isinstance(node, LatexMacroNode) and node.macroname in ("item", "task")):
            item = part[0] if part and isinstance(part[0], LatexMacroNode) and part[0].macroname in ("item", "task") else None
            text = self.render(part[1:] if item else part)
            if item is None:
                out.append(text)
                continue
            place += 1
            label = _one_line(self._argument(item, 0)) if item.nodeargd and item.nodeargd.argnlist else ""
            sign = f"{label} " if label else (f"{place}. " if numbered else "- ")
            out.append(f"{LINE}{indent}{'- ' if label else ''}{sign}{text.strip()}")
        self._depth -= 1
        edge = LINE if self._depth else PARAGRAPH
        return f"{edge}{''.join(out)}{edge}"

    def _table(self, nodes: Sequence[LatexNode]) -> str:
        """Rows on lines, cells divided by tabs; a cell over n columns is followed by n - 1 empty ones."""
        around: dict[bool, list[str]] = {True: [], False: []}
        inside: list[LatexNode] = []
        for node in nodes:
            name = node.macroname if isinstance(node, LatexMacroNode) else ""
            if name in ("caption", "tablecaption", "tablecomments", "tablenotetext", "tablerefs"):
                around["caption" in name].append(_one_line(self._argument(node, ARGUMENTS[name][1])))
            elif name == "tablehead" and isinstance(head := _argument_of(node, 0), LatexGroupNode):
                inside += [*head.nodelist, node]
            else:
                inside.append(node)
        rows = [self._row(row) for row in _parts(inside, _ends_row, drop=True)]
        shown = LINE.join(row for row in rows if row.strip(f"{CELL} "))
        return PARAGRAPH.join(part for part in (*around[True], shown, *around[False]) if part)

    def _row(self, nodes: Sequence[LatexNode]) -> str:
        cells = []
        for cell in _parts(nodes, lambda node: isinstance(node, LatexSpecialsNode) and node.specials_chars == "&", drop=True):
            wide = next((node for node in cell if isinstance(node, LatexMacroNode) and node.macroname == "multicolumn"), None)
            cells.append(_one_line(self.render(cell)))
            width = _bare(_argument_of(wide, 0)).strip() if wide else ""
            cells += [""] * (min(int(width), 100) - 1 if width.isdigit() else 0)
        return CELL.join(cells).rstrip(CELL)


def _ends_row(node: LatexNode) -> bool:
    return isinstance(node, LatexMacroNode) and node.macroname in ROW_ENDS


def _parsed(text: str) -> list[LatexNode]:
    return LatexWalker(text, latex_context=_context(), tolerant_parsing=True).get_latex_nodes()[0]


def _parts(nodes: Sequence[LatexNode], begins: Callable[[LatexNode], bool], drop: bool = False) -> list[list[LatexNode]]:
    """Nodes divided before each that `begins` a part, or, with `drop`, at it."""
    parts: list[list[LatexNode]] = [[]]
    for node in nodes:
        if begins(node):
            parts.append([] if drop else [node])
        else:
            parts[-1].append(node)
    return parts if drop else [part for part in parts if part]


def _argument_of(node: LatexNode, index: int | None) -> LatexNode | None:
    arguments = node.nodeargd.argnlist if node.nodeargd and node.nodeargd.argnlist else []
    return arguments[index] if index is not None and index < len(arguments) else None


def _is_braced(node: LatexNode) -> bool:
    return not isinstance(node, LatexGroupNode) or node.delimiters[0] == "{"


def _bare(node: LatexNode | None) -> str:
    """The source of an argument without its braces."""
    if node is None:
        return ""
    source = node.latex_verbatim()
    return source[1:-1] if isinstance(node, LatexGroupNode) else source


def _space_after(node: LatexMacroNode) -> str:
    """A space that the source has behind a command: TeX takes it for the command's end, authors often do not."""
    return " " if node.macro_post_space and "\n\n" not in node.macro_post_space and node.macroname in _WORDS else ""


_WORDS = {"TeX", "LaTeX", "BibTeX", "LaTeXe", "ldots", "dots", "S", "P"} - {"S", "P"}


def _one_line(text: str) -> str:
    return " ".join(re.sub(f"[{LINE}{PARAGRAPH}\\s]+", " ", text).split()).replace(CELL, " ")


_EMPTY = re.compile(
    rf"[ \t\n]*[(\[](?:[\s,;&–-]|and|see|see also|e\.g\.|i\.e\.|cf\.?|also|eqs?\.|figs?\.|secs?\.|§)*{POINTER}"
    rf"(?:[\s,;&–-]|and|see|also|e\.g\.|{POINTER})*[)\]]",
    re.IGNORECASE,
)
_CHAIN = re.compile(rf"{POINTER}(?:\s*[,;]?\s*(?:and\s+)?{POINTER})*")
_BEFORE_SIGN = re.compile(rf"[,;]?\s*{POINTER}(?=\s*[,;.:)])")
_AFTER_DOT = re.compile(rf"(?<=\.)[,;]?\s*{POINTER}\s*\.")
_ALONE = re.compile(rf"\s*{POINTER}")
_TIDY = (
    (_EMPTY, POINTER),
    (_CHAIN, POINTER),
    (_AFTER_DOT, ""),
    (_BEFORE_SIGN, ""),
    (_ALONE, ""),
    (re.compile(r"[ \t\n]*\n[ \t]*\n[ \t\n]*"), PARAGRAPH),
    (re.compile(r"[ \t\n\xa0\f\v]+"), " "),
    (re.compile(r"\([ ,;]*\)|\[[ ,;]*\]"), ""),
    (re.compile(rf" ?{CELL} ?"), "\t"),
    (re.compile(rf"[ {LINE}]*{PARAGRAPH}[ {LINE}{PARAGRAPH}]*"), "\n\n"),
    (re.compile(rf" *{LINE}[ {LINE}]*"), "\n"),
    (re.compile(r" +(?=[,.;:!?)](?:\s|$))"), ""),
    (re.compile(r"(?<=\() +"), ""),
)


def _tidied(text: str, kept: list[str]) -> str:
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    text = text.replace("\u2007", " ").strip(" \n")
    for _ in range(3):  # formulas may hold marks themselves
        if OPEN not in text:
            break
        text = _PLACE.sub(lambda match: kept[int(match.group(1))], text)
    return text
