"""LaTeX papers -> text: what is kept and what is changed, beside pandoc and yesterday's build.

    python bench/papers.py FILE_OR_FOLDER... [--old WORKTREE] [--show]

Measured per paper, on its body as the source has it (comments and the list of references aside), and for all together:

- words kept: share of the words of prose (4 letters or more, outside of commands and mathematics) that the text has;
- formulas unchanged: share of the formulas without own macros that stand verbatim in the text, white space aside;
- numbers kept: the same of numbers outside of mathematics;
- markup left: commands and environments outside of mathematics.

The source's side is taken with regular expressions of this script's own, not with the code that is measured.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*\n?")
CUT = re.compile(
    r"\\begin\{(thebibliography|tikzpicture|comment|verbatim|lstlisting|minted|filecontents\*?)\}.*?\\end\{\1\}"
    r"|\\iffalse\b.*?\\fi\b|\\verb\*?([^\w\s]).*?\2",
    re.DOTALL,
)
NAMES = "equation|align|gather|multline|eqnarray|displaymath|math|flalign|alignat"
MATHS = re.compile(
    rf"\\begin\{{((?:{NAMES})\*?)\}}.*?\\end\{{\1\}}|(?<!\\)\$\$.+?(?<!\\)\$\$|(?<!\\)\$.+?(?<!\\)\$|\\\[.+?\\\]|\\\(.+?\\\)",
    re.DOTALL,
)
OWN = re.compile(r"\\(?:newcommand|renewcommand|providecommand|DeclareMathOperator|DeclareRobustCommand)\*?\s*\{?\\([A-Za-z]+)"
                 r"|\\(?:def|let|gdef)\s*\\([A-Za-z]+)")  # fmt: skip
COMMANDS = re.compile(
    r"\\(?:[a-zA-Z]*cite[a-zA-Z]*|[a-zA-Z]*ref|label|includegraphics|epsfig|psfig|plotone|plottwo|bibliography\w*|input|include|begin|end|usepackage|documentclass|"
    r"vspace|hspace|setlength|author|affiliation|affil|email|thanks|address|href|url|resizebox|graphicspath|cmidrule|cline|color|"
    r"multicolumn|institute|orcid|keywords|date|index|hypersetup|textcolor|input)\*?(?:\s*\[[^\]]*\])*(?:\s*\{[^{}]*\})*"
)
LEFT = re.compile(
    r"\\(?:begin|end|cite\w*|ref|label|emph|text\w\w|section|footnote|caption|item|[\"'`^~=.]\{?[a-zA-Z])|\(\s*\)|\[\s*\]"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--old", type=Path, help="worktree of an earlier commit, measured in the same run")
    parser.add_argument("--show", action="store_true", help="name lost formulas and numbers")
    arguments = parser.parse_args()
    files = [file for path in arguments.paths for file in (sorted(path.rglob("*.tex")) if path.is_dir() else [path])]
    readers = {"moenda": read_new, "pandoc": read_pandoc}
    if arguments.old:
        readers["old"] = lambda path: read_old(path, arguments.old)
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in readers}
    for file in files:
        source = file.read_text("utf-8", "replace")
        if "\\begin{document}" not in source:
            continue
        truth = Truth(source, "".join(near.read_text("utf-8", "replace") for near in file.parent.rglob("*.tex")))
        for name, reader in readers.items():
            start = time.perf_counter()
            try:
                text = reader(file)
            except (ValueError, OSError, subprocess.SubprocessError, RecursionError) as error:
                print(f"{name}: {file.name}: {type(error).__name__}: {str(error)[:100]}")
                text = ""
            rows[name].append((*truth.measure(text, arguments.show and name == "moenda"), time.perf_counter() - start))
            print(
                f"{file.parent.name[-24:]}/{file.name[-24:]:26} {name:7}", " ".join(f"{value:8.3f}" for value in rows[name][-1])
            )
    print(f"\n{len(rows['moenda'])} papers: words kept, formulas unchanged, numbers kept; markup left; seconds")
    for name, values in rows.items():
        columns = list(zip(*values, strict=True))
        means = [statistics.mean(column) for column in columns[:3]]
        print(
            f"{name:8}",
            " ".join(f"{value:.4f}" for value in means),
            f"{sum(columns[3]):.0f} {statistics.median(columns[4]):.2f}",
        )


class Truth:
    """What the source says that a text of it should hold."""

    def __init__(self, source: str, near: str):
        source = CUT.sub(" ", COMMENT.sub(r"\1", source))
        own = {first or second for first, second in OWN.findall(source + near)}
        body = source[source.find("\\begin{document}") + 16 : source.rfind("\\end{document}")]
        formulas = [match.group() for match in MATHS.finditer(body)]
        self.formulas = [squeezed(f) for f in formulas if not any(re.search(rf"\\{name}(?![A-Za-z])", f) for name in own)]
        prose = COMMANDS.sub(" ", MATHS.sub(" ", body))
        words = re.sub(r"\\[a-zA-Z@]+\*?(?:\[[^\]]*\])?|[{}]|\\.", " ", prose)
        self.words = re.findall(r"(?<![\w@])[A-Za-z]{4,}(?![\w@])", words)
        self.numbers = re.findall(r"(?<![\w.=])\d+(?:[.,]\d+)*(?![\w.]|\s*(?:pt|em|cm|mm|in)\b)", words)

    def measure(self, text: str, show: bool) -> tuple[float, float, float, float]:
        """(words kept, formulas unchanged, numbers kept, markup left) of a text."""
        flat = squeezed(text)
        outside = MATHS.sub("x", text)
        lost = [formula for formula in self.formulas if formula not in flat]
        missing = lost_of(self.numbers, re.findall(r"\d+(?:[.,]\d+)*", text))
        words = lost_of(self.words, re.findall(r"[A-Za-z]{4,}", text))
        if show:
            print(
                "  formulas lost:",
                [formula[:80] for formula in lost[:8]],
                "\n  numbers lost:",
                missing[:20],
                "\n  words lost:",
                words[:40],
            )
            print("  left:", LEFT.findall(outside)[:10])
        return (1 - len(words) / max(1, len(self.words)), 1 - len(lost) / max(1, len(self.formulas)),
                1 - len(missing) / max(1, len(self.numbers)), len(LEFT.findall(outside)))  # fmt: skip


def squeezed(text: str) -> str:
    """A text without white space and labels."""
    return re.sub(r"\s+", "", re.sub(r"\\label\s*\{[^{}]*\}", "", text))


def lost_of(wanted: list[str], there: list[str]) -> list[str]:
    """What is wanted more often than it is there."""
    counts: dict[str, int] = {}
    for item in there:
        counts[item] = counts.get(item, 0) + 1
    lost = []
    for item in wanted:
        counts[item] = counts.get(item, 0) - 1
        if counts[item] < 0:
            lost.append(item)
    return lost


def read_new(path: Path) -> str:
    """This tree's text of a paper."""
    from data_prep.document import Document
    from data_prep.sources import papers

    settings = papers.PapersSource(type="papers", name="papers", paths=[str(path)])
    (piece,) = papers.pieces(settings, Path("."))
    (read,) = papers.read(piece, settings)
    if not isinstance(read, Document):
        raise ValueError(read.reason)
    return f"{read.metadata.get('author', '')}\n{read.text}"


def read_old(path: Path, tree: Path) -> str:
    """An earlier tree's text."""
    code = "import sys; from data_prep.sources import papers; sys.stdout.write(papers.from_latex(sys.stdin.read())[0])"
    text = path.read_text("utf-8", "replace")
    return subprocess.run([sys.executable, "-c", code], input=text, cwd=tree, capture_output=True, text=True, check=True).stdout


def read_pandoc(path: Path) -> str:
    """pandoc's Markdown, in which mathematics is TeX."""
    command = ["pandoc", "-f", "latex", "-t", "markdown-raw_tex-raw_attribute-citations", "--wrap=none", path.name]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=True, timeout=120).stdout


if __name__ == "__main__":
    main()
