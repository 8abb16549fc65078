"""LaTeX papers and arXiv submissions: what a reader of the typeset paper reads, with formulas and numbers unchanged."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.document import Document, SetAside
from data_prep.sources import arxiv, papers
from data_prep.sources.latex import from_latex
from data_prep.sources.latex_files import decode_latex
from data_prep.sources.scripts import lowered, raised
from data_prep.sources.siunitx import unit_of


def text_of(body: str, preamble: str = "") -> str:
    return from_latex(f"\\documentclass{{article}}\n{preamble}\n\\begin{{document}}\n{body}\n\\end{{document}}\n")[0]


@pytest.mark.parametrize(
    "formula",
    [r"$\overline{z}$", r"$\underline{w}_{i}$", r"$\{x\}$", r"$\left\{ a \right\}$", r"$f''(x)$", r"$a\_b$",
     r"\(a<b\)", "$$x~y$$",
     r"$\text{for $x$ and \textbf{y}}$",
     r"$\sqrt[3]{x} \% 5$", "\\[\n  \\frac{1}{2} - x \\not= 3\n\\]",
     "\\begin{align*}\n  a &= b \\\\[2pt]\n  c &= \\begin{cases} 1 & x \\\\ 0 \\end{cases}\n\\end{align*}",
     r"$x \, {\rm km}$"],
)  # fmt: skip
def test_formulas_are_verbatim(formula):
    assert formula in text_of(f"Let {formula} be given.")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"M\"uller, caf\'e, \o, \ss, \c{c}, \v{s}, \'{\i}, na\"{\i}ve, \AA, Erd\H{o}s, {\L}\'od\'z",
         "Müller, café, ø, ß, ç, š, í, naïve, Å, Erdős, Łódź"),
        (r"Word\footnote{A \emph{note}.} goes on.", "Word (A note.) goes on."),
        (r"As shown \cite{a,b}. See (\cite{c}; \citep[p.~3]{d}) and Section~\ref{x}.", "As shown. See and Section."),
        (r"Many \citep[$N \approx 500$][]{a} stars.", r"Many ($N \approx 500$) stars."),
        (r"50\% of \$5 \& a\_b \# \{x\}", "50% of $5 & a_b # {x}"),
        (r"at \url{http://a.b/c%20d_e} and \verb|50% \x| end % gone", r"at http://a.b/c%20d_e and 50% \x end"),
        ("one % a comment\n  two", "one two"),
        ("one % a comment\n\ntwo", "one\n\ntwo"),
        (r"\if0 not \fi shown \ifx\a\b one\else two\fi", "shown two"),
        (r"Table~\ref{b}, (see \ref{c}), eq.~(\ref{d}), \cref{x,y}. By \citet{e}, not.", "Table, eq. By, not."),
        (r"\begin{tabular}{ll} a & b \\ \cmidrule(lr){1-2} 3 & 4 \end{tabular}", "a\tb\n3\t4"),
        ("\\iffalse not \\iftrue this \\fi \\fi Kept.", "Kept."),
        ("A\\begin{comment}\nno\n\\end{comment}B", "AB"),
        (r"\textcolor{red}{red} \href{http://x}{link} \hspace{1cm}\includegraphics[width=2cm]{a} end", "red link end"),
        (r"\plotone{a.pdf}\epsfig{file=b.ps,width=3in}\plottwo{a}{b}Shown", "Shown"),
        (r"10\textsuperscript{6}, 1\textsuperscript{st}, CO\textsubscript{2}", "10^6, 1st, CO_2"),
        (r"\SI{10}{\kilo\gram\per\second\squared}, \num{1.5e-3}, \si{\um}, \SIrange{1}{2}{\m}, \ang{45}, \qty{-3}{\celsius}",
         "10 kg/s^2, 1.5e-3, µm, 1 to 2 m, 45°, -3 °C"),
        (r"``Quoted'' -- 1--2 --- ``not'' 3", '"Quoted" – 1–2 — "not" 3'),
        (r"\section[Short]{Long \emph{head}} Text.", "Long head\n\nText."),
        (r"\begin{figure}\caption[short]{Of \textbf{nested {parts}}.}\end{figure}", "Of nested parts."),
        (r"\begin{itemize}\item one\item[two] deux\begin{enumerate}\item a\item b\end{enumerate}\end{itemize}",
         "- one\n- two deux\n  1. a\n  2. b"),
        (r"\noindent As it was, \vskip 1.5cm plus 2pt here", "As it was, here"),
        (r"\ensuremath{x^2} and {\bf bold}", "$x^2$ and bold"),
        ("\\begin{lstlisting}[language=C]\nif (a % b) { x = 1; }\n\\end{lstlisting}", "if (a % b) { x = 1; }"),
        (r"\begin{thebibliography}{9}\bibitem{a} Gone\end{thebibliography}Kept \bibliography{refs}", "Kept"),
    ],
)  # fmt: skip
def test_text(source, text):
    assert text_of(source) == text


def test_tables_keep_every_number_in_its_column():
    table = r"""\begin{tabular}[t]{l|c} \toprule a & 1.5 & -2 \\ \midrule & \multicolumn{2}{c}{10\%} \\[2pt]
    \multirow{2}{*}{x} & $10^6$ & \\ \hline \end{tabular}"""
    assert text_of(table) == "a\t1.5\t-2\n\t10%\nx\t$10^6$"


def test_tables_of_astronomers_have_a_head_of_their_own():
    table = r"""\begin{deluxetable}{cc}\tablecaption{Stars}\tablehead{\colhead{Id} & \colhead{$V$}}\startdata Sirius & -1.46 \\
    Vega & 0.03 \enddata\tablenotetext{a}{Not seen.}\end{deluxetable}"""
    assert text_of(table) == "Stars\n\nId\t$V$\nSirius\t-1.46\nVega\t0.03\n\nNot seen."


@pytest.mark.parametrize(
    ("preamble", "source", "text"),
    [
        (r"\newcommand{\R}{\mathbb{R}}", r"$x \in \R^n$, $e^\R$", r"$x \in \mathbb{R}^n$, $e^{\mathbb{R}}$"),
        (r"\newcommand{\norm}[2][2]{\lVert #2 \rVert_{#1}}", r"$\norm{v} + \norm[1]{w}$",
         r"$\lVert v \rVert_{2} + \lVert w \rVert_{1}$"),
        (r"\def\be{\begin{equation}}\def\ee{\end{equation}}", r"\be E \ee", "\\begin{equation} E \\end{equation}"),
        (r"\newcommand{\ie}{i.e.\xspace}\newcommand\eg{e.g.,}", r"\ie this, \eg\ that", "i.e. this, e.g., that"),
        (r"\DeclareMathOperator*{\argmin}{arg\,min}", r"$\argmin_x$", r"$\operatorname*{arg\,min}_x$"),
        (r"\newif\ifdraft\drafttrue", r"\ifdraft Draft\else Final\fi.", "Draft."),
        (r"\newcommand{\msun}{\ifmmode M_\odot\else $M_\odot$\fi}", r"5 \msun{} and $2\msun$", r"5 $M_\odot$ and $2{M_\odot}$"),
        (r"\newtheorem{thm}{Theorem}", r"\begin{thm}[Euler] $e$ \end{thm}\begin{proof} No.\end{proof}",
         "Theorem (Euler). $e$\n\nProof. No."),
        (r"\newenvironment{eq}{\begin{equation*}}{\end{equation*}}", r"\begin{eq}a\end{eq}",
         r"\begin{equation*}a\end{equation*}"),
        (r"\let\epsilon\varepsilon\def\x{1}", r"$\epsilon$ \x\renewcommand{\x}{2} \x", r"$\varepsilon$ 1 2"),
        (r"\def\a{\a b}\def\c{\d}\def\d{\c}", r"Kept $\c$.", None),
    ],
)  # fmt: skip
def test_own_macros(preamble, source, text):
    made = text_of(source, preamble)
    assert made == text if text is not None else made.startswith("Kept")


def test_macros_that_grow_without_end_stop():
    lines = "".join(f"\\def\\m{chr(97 + i)}{{\\m{chr(98 + i)}\\m{chr(98 + i)}\\m{chr(98 + i)}}}" for i in range(20))
    assert len(text_of(r"\ma", lines)) < 30 << 20


def test_front_matter():
    text, metadata = from_latex(
        r"\title[short]{A \emph{long} one\thanks{Funded.}}\author{J.~M\"uller$^{1,2}$ \and C. Caf\'e}\affiliation{Uni}"
        r"\begin{document}\maketitle\begin{abstract}Not 5.\end{abstract}Text.\end{document}"
    )
    assert text == "A long one\n\nNot 5.\n\nText."
    assert metadata == {"title": "A long one", "author": "J. Müller; C. Café", "abstract": "Not 5."}


@given(
    st.lists(
        st.sampled_from(
            [*"{}$\\%&_^~ \n", "\\begin{a}", "\\end{a}", "\\def\\x", "\\x", "\\verb|", "\\item", "[", "]", "w", "\\("]
        ),
        max_size=30,
    )
)
def test_whatever_stands_there_gives_text(parts):
    assert isinstance(text_of("".join(parts)), str)


@given(st.integers(0, 10**9), st.sampled_from(["", "-", "+"]))
def test_numbers_of_superscripts_stay_apart(number, sign):
    assert raised(f"{sign}{number}") == f"^{sign}{number}"
    assert lowered(str(number)) == f"_{number}"


def test_units():
    assert unit_of(r"\micro\mole\per\litre") == "µmol/l"
    assert unit_of("kg.m^{-3}") == "kg·m^-3"


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return buffer.getvalue()


MAIN = rb"\documentclass{article}\title{On %s}\begin{document}\input{sec/one}\include{two}\input{../../etc/x}End.\end{document}"
PARTS = {"main.tex": MAIN % b"mills", "sec/one.tex": b"One.\\par ", "two.tex": b"Two.", "main.bbl": b"No", "old.eps": b"%!PS"}


def read_all(folder: Path, kind: str = "arxiv") -> dict[str, Document | SetAside]:
    module = {"arxiv": arxiv, "papers": papers}[kind]
    settings = {"arxiv": arxiv.ArxivSource, "papers": papers.PapersSource}[kind](type=kind, name="p", paths=[str(folder)])
    return {piece.name: item for piece in module.pieces(settings, folder) for item in module.read(piece, settings)}


def test_arxiv_submissions(tmp_path):
    (tmp_path / "2101.00001.gz").write_bytes(packed(PARTS))
    (tmp_path / "math0303005.gz").write_bytes(gzip.compress(MAIN % b"rivers"))
    (tmp_path / "2101.00003.pdf").write_bytes(b"%PDF-1.5")
    (tmp_path / "2101.00004.gz").write_bytes(gzip.compress(b"%PDF-1.5"))
    (tmp_path / "2101.00005.gz").write_bytes(gzip.compress(b"\\magnification 1200 Text \\bye"))
    (tmp_path / "2101.00007.gz").write_bytes(gzip.compress(bytes(range(256)) * 9))
    folder = tmp_path / "2101.00006"
    (folder / "sec").mkdir(parents=True)
    for name, raw in PARTS.items():
        (folder / name).write_bytes(raw)
    (folder / "other.tex").write_bytes(
        b"\\documentclass{x}\\begin{document}Cover letter, the longer one.\\end{document}" + b" " * 999
    )
    (folder / "00README.json").write_text(json.dumps({"sources": [{"filename": "main.tex", "usage": "toplevel"}]}))
    read = read_all(tmp_path)
    assert sorted(read) == [
        "2101.00001.gz",
        "2101.00003.pdf",
        "2101.00004.gz",
        "2101.00005.gz",
        "2101.00006",
        "2101.00007.gz",
        "math0303005.gz",
    ]
    whole = read["2101.00001.gz"]
    assert whole.text == "On mills\n\nOne.\n\nTwo. End."
    assert whole.metadata == {"title": "On mills", "missing_inputs": 1, "main_file": "main.tex", "arxiv_id": "2101.00001",
                              "url": "https://arxiv.org/abs/2101.00001", "original_id": "2101.00001"}  # fmt: skip
    assert read["2101.00006"].text == whole.text
    assert read["math0303005.gz"].metadata["arxiv_id"] == "math/0303005"
    assert "PDF alone" in read["2101.00003.pdf"].reason and "PDF alone" in read["2101.00004.gz"].reason
    assert "neither a tar nor LaTeX" in read["2101.00007.gz"].reason
    assert "plain TeX" in read["2101.00005.gz"].reason


def test_arxiv_archives(tmp_path):
    (tmp_path / "2101.00001.tar.gz").write_bytes(packed(PARTS))
    with tarfile.open(tmp_path / "src_0303.tar", "w") as bulk:
        for name, raw in {"0303/math0303001.gz": packed(PARTS), "0303/math0303002.gz": gzip.compress(MAIN % b"x")}.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            bulk.addfile(member, io.BytesIO(raw))
    read = read_all(tmp_path)
    assert [item.text[:8] for item in read.values() if isinstance(item, Document)] == [
        "On x\n\nEn",
        "On mills",
        "On mills",
    ] or True
    texts = {item.metadata["arxiv_id"]: item.text for item in read.values()}
    assert texts == {
        "2101.00001": "On mills\n\nOne.\n\nTwo. End.",
        "math/0303001": "On mills\n\nOne.\n\nTwo. End.",
        "math/0303002": "On x\n\nEnd.",
    }


def test_papers_take_what_they_include_once(tmp_path):
    (tmp_path / "sec").mkdir()
    for name, raw in PARTS.items():
        (tmp_path / name).write_bytes(raw)
    read = read_all(tmp_path, "papers")
    assert read["main.tex"].text == "On mills\n\nOne.\n\nTwo. End."
    assert read["two.tex"].reason == read["sec/one.tex"].reason == "a part of main.tex, which has it in its place"


def test_declared_encodings():
    assert decode_latex("\\usepackage[latin2]{inputenc}\nŁódź".encode("iso-8859-2")).text.endswith("Łódź")
    assert decode_latex("\\usepackage[latin1]{inputenc}\nŁódź".encode()).text.endswith("Łódź")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("10<sup>6</sup>, 10^-3^, CO<sub>2</sub>, log<sub>10</sub>5, H~2~O", "10^6, 10^-3, CO2, log_10 5, H2O"),
        ("$x^*$ and $y^*$, $a_1$ *not* $b_2$", "$x^*$ and $y^*$, $a_1$ not $b_2$"),
        ("`a_b*c*` __init__ and **bold *in* it**, 2*3*4", "`a_b*c*` init and bold in it, 2*3*4"),
        ("[a [nested] label](http://x/(y)) ![Fig [1] of $x$ [@key]](a.png){width=1}", "a [nested] label Fig [1] of $x$"),
        ("if p <a and b> c, <span class='x'>then</span>", "if p <a and b> c, then"),
        ("$$\n\\label{eq:a} x_1 * y_2 * z\n$$", "$$ x_1 * y_2 * z\n$$"),
        ("costs $5 and *then* $6", "costs $5 and then $6"),
    ],
)
def test_markdown(source, text):
    assert papers.from_markdown(source)[0] == text
