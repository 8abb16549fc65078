"""Commands and environments of LaTeX and its common packages: what of them is text."""

from __future__ import annotations

import re


def _words(text: str) -> list[str]:
    return text.split()


MATHS = _words(
    """equation align gather multline flalign alignat eqnarray math displaymath split cases dmath empheq subequations
    IEEEeqnarray aligned gathered array matrix pmatrix bmatrix vmatrix Vmatrix Bmatrix smallmatrix CD dcases xy
    prooftree mathpar tikzcd numcases rcases darray xalignat"""
)
DRAWINGS = _words("tikzpicture pspicture picture axis thebibliography CCSXML forest asy")
TABLES = _words(
    """tabular tabular* tabularx tabulary longtable longtable* deluxetable deluxetable* supertabular tabu longtabu tblr
    NiceTabular"""
)
LISTS = _words("itemize enumerate description compactitem compactenum inparaenum asparaenum tablenotes")
ENVIRONMENTS = {
    **dict.fromkeys(
        _words("tabular longtable longtable* deluxetable deluxetable* supertabular tblr NiceTabular array column"), "[{"
    ),
    **dict.fromkeys(_words("tabular* tabularx tabulary"), "{[{"),
    **dict.fromkeys(
        _words("tabu longtabu adjustbox multicols spacing thebibliography otherlanguage block alignat alignat*"), "{"
    ),
    **dict.fromkeys(
        _words(
            """figure table figure* table* sidewaystable sidewaysfigure itemize enumerate description proof frame algorithm
            algorithmic tikzpicture threeparttable mdframed tcolorbox tablenotes scope"""
        ),
        "[",
    ),
    **dict.fromkeys(_words("wrapfigure wraptable"), "[{[{"),
    **dict.fromkeys(_words("adjustwidth list"), "{{"),
    "minipage": "[[[{",
}
"""Environments by the form of their arguments."""
ONE = """
    emph textbf textit texttt textsc textsl textsf textrm textnormal textmd textup text mbox hbox fbox underline uline
    enquote MakeUppercase MakeLowercase uppercase lowercase gls Gls glspl Glspl ac acp acs acl acf Ac ce code pkg
    proglang CRANpkg sout term hl frametitle framesubtitle ensuremath mathrm mathbf mathit centerline keywords keyword
    abstract tablecaption tablecomments dedicatory uwave textquote blockquote st title author caption
"""
SECOND = "textcolor colorbox href scalebox rotatebox foreignlanguage hyperlink hypertarget raisebox"
CITATIONS = """
    cite citet citep citealt citealp citeauthor citeyear citeyearpar Cite Citet Citep parencite textcite autocite
    footcite supercite fullcite citenum onlinecite citen shortcite citeNP citeA Citealt cites citeN textcites parencites
    ref eqref pageref autoref cref Cref nameref vref vpageref subref
"""
NOTHING = """
    nocite label index glsadd bibliography bibliographystyle hspace vspace includegraphics includepdf usepackage
    RequirePackage documentclass documentstyle pagestyle thispagestyle pagenumbering hypersetup phantom hphantom vphantom
    geometry graphicspath addbibresource color pagecolor selectlanguage todo missingfigure bibitem affiliation affil
    address email institute institution thanks orcid ead homepage altaffiliation altaffilmark altaffiltext authorrunning
    titlerunning shorttitle shortauthors shortauthor urladdr curraddr subjclass pacs received accepted revised journal
    volume issue doi PACS corref corresp correspondingauthor cortext fntext tnotetext tnoteref fnref tablenotemark tnote
    cline cmidrule hyphenation pdfinfo includeonly linespread setmainfont setsansfont sisetup lstset captionsetup
    theoremstyle tikzset usetikzlibrary pgfplotsset setlist floatstyle ORCID ccsdesc setcopyright acmDOI acmISBN acmPrice
    acmYear acmConference acmBooktitle editor inst fontfamily fontseries fontshape tabletypesize tablewidth tablecolumns
    tablenum setstretch preprint reportnumber DOI shortcites usefonttheme usetheme bibliographyunit crefalias plotone
    epsfig psfig epsfbox epsffile includesvg includestandalone animategraphics
"""
_TWO_OF_NOTHING = """
    setlength addtolength setcounter addtocounter rule markboth newcolumntype fontsize specialrule crefname Crefname
    numberwithin plottwo psfrag DeclareUnicodeCharacter SetKwInOut SetKw setboolean
"""
ARGUMENTS: dict[str, tuple[str, int | None]] = {
    **dict.fromkeys(_words(ONE), ("*[{", 2)),
    **dict.fromkeys(_words(SECOND), ("[{[{", 3)),
    **dict.fromkeys(_words(CITATIONS), ("*[[{", None)),
    **dict.fromkeys(_words(NOTHING), ("*[[{", None)),
    **dict.fromkeys(_words(_TWO_OF_NOTHING), ("*[{{", None)),
    **dict.fromkeys(_words("footnote footnotetext endnote sidenote marginpar marginnote"), ("[{", 1)),
    **dict.fromkeys(_words("parbox makebox framebox savebox"), ("[[{{", 3)),
    **dict.fromkeys(_words("definecolor addcontentsline DeclareMathAlphabet"), ("{{{", None)),
    **dict.fromkeys(_words("newcommand renewcommand providecommand newenvironment"), ("*{[[{", None)),
    **dict.fromkeys(_words("num si unit ang numlist date subtitle hyperref"), ("[{", 1)),
    **dict.fromkeys(_words("SI qty"), ("[{[{", 3)),
    **dict.fromkeys(_words("SIrange qtyrange"), ("[{{[{", 4)),
    **dict.fromkeys(_words("numrange SIlist qtylist nicefrac sfrac"), ("[{{", 2)),
    **dict.fromkeys(_words("textsuperscript textsubscript url path nolinkurl tablehead colhead Sexpr"), ("{", 0)),
    **dict.fromkeys(_words("newcounter newlength"), ("{", None)),
    **dict.fromkeys(_words("printbibliography footnotemark lipsum allowdisplaybreaks"), ("[", None)),
    "tablenotetext": ("{{", 1),
    "tablerefs": ("{", 0),
    "multicolumn": ("{{{", 2),
    "multirow": ("[{[{[{", 5),
    "fcolorbox": ("{{{", 2),
    "resizebox": ("*{{{", 3),
    "captionof": ("*{[{", 3),
    "texorpdfstring": ("{{", 0),
    "textfrac": ("{{", 1),
    "item": ("[", 0),
    "\\": ("*[", None),
}
"""Commands: (form of the arguments, index of the one that is text; None: none is)."""
HEADINGS = ("part", "chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph")
CITES = set(_words(CITATIONS))
FOOTNOTES = {"footnote", "footnotetext", "tablenotetext", "endnote", "sidenote", "marginpar"}
PIECES = {"caption", "captionof", "caption*", "frametitle", "framesubtitle", "abstract", "tablecaption", "tablecomments",
          "keywords", "keyword", "dedicatory", "subtitle"}  # fmt: skip
"""Commands whose text is a paragraph of its own."""
ROW_ENDS = frozenset(_words("\\ tabularnewline cr endhead endfirsthead endfoot endlastfoot tablehead startdata enddata"))
SPACES = {
    " ",
    ",",
    ";",
    ":",
    "quad",
    "qquad",
    "thinspace",
    "enspace",
    "space",
    "~",
    "\n",
    "\t",
    "hfill",
    "hskip",
    "enskip",
    "nobreakspace",
}
CHARACTERS = {
    **{sign: sign for sign in "%&_#${}"}, "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "TeX": "TeX",
    "LaTeX": "LaTeX", "BibTeX": "BibTeX", "LaTeXe": "LaTeX2e", "S": "§", "P": "¶", "degree": "°", "textdegree": "°",
    "euro": "€",
    "texteuro": "€", "pounds": "£", "textregistered": "®", "copyright": "©", "dots": "…", "ldots": "…", "textellipsis": "…",
    "slash": "/", "textbar": "|", "textless": "<", "textgreater": ">", "textunderscore": "_", "lq": "‘", "rq": "’",
    "percent": "%",
    "textquotesingle": "'", "textquotedbl": '"', "textendash": "–", "textemdash": "—", "textnumero": "№", "textohm": "Ω",
    "textperthousand": "‰", "i": "ı", "j": "ȷ", "textbullet": "•", "textperiodcentered": "·", "textmu": "µ", "lbrace": "{",
    "rbrace": "}", "textbraceleft": "{", "textbraceright": "}", "celsius": "°C", "and": "; ", "times": "×", "pm": "±",
    "cdot": "·",
    "nodata": "…", "arcsec": "″", "arcmin": "′", "deg": "°", "textrightarrow": "→", "rightarrow": "→", "checkmark": "✓",
    "dag": "†",
    "ddag": "‡", "guillemotleft": "«", "guillemotright": "»", "og": "« ", "fg": " »", "glqq": "„", "grqq": "“",
    "textonehalf": "½",
    "DH": "Ð", "dh": "ð", "TH": "Þ", "th": "þ", "DJ": "Đ", "dj": "đ", "NG": "Ŋ", "ng": "ŋ", "textquotedblleft": "“",
    "textquotedblright": "”", "textquoteleft": "‘", "textquoteright": "’", "xspace": "", "geq": "≥", "leq": "≤",
    "approx": "≈", "textgreek": "", "R": "R",
}  # fmt: skip
SPECIALS = {
    "~": " ",
    "``": '"',
    "''": '"',
    "--": "–",
    "---": "—",
    "&": "&",
    "#": "#",
    "!`": "¡",
    "?`": "¿",
    "<<": "«",
    ">>": "»",
}
ACCENTS = {
    "'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307", "u": "\u0306",
    "v": "\u030c", "H": "\u030b", "c": "\u0327", "k": "\u0328", "r": "\u030a", "d": "\u0323", "b": "\u0331", "t": "\u0361",
}  # fmt: skip
STEPS = {
    "State", "STATE", "If", "IF", "ElsIf", "ELSIF", "Else", "ELSE", "EndIf", "ENDIF", "For", "FOR", "ForAll", "FORALL",
    "EndFor",
    "ENDFOR", "While", "WHILE", "EndWhile", "ENDWHILE", "Require", "REQUIRE", "Ensure", "ENSURE", "Return", "RETURN",
    "Repeat",
    "REPEAT", "Until", "UNTIL", "Function", "EndFunction", "Procedure", "EndProcedure", "KwIn", "KwOut", "KwResult",
    "KwData",
}  # fmt: skip
"""Commands of algorithms, each a line with its name."""
SILENT_STEPS = {"State", "STATE", "EndIf", "ENDIF", "EndFor", "ENDFOR", "EndWhile", "ENDWHILE", "EndFunction", "EndProcedure"}
LENGTHS = set(
    _words("""vskip hskip kern vglue hglue parindent parskip baselineskip hsize vsize textwidth textheight topmargin
    oddsidemargin evensidemargin tabcolsep arraycolsep leftskip rightskip columnsep hoffset voffset""")
)
"""Commands of TeX that a length follows."""
LENGTH = re.compile(
    r"\A\s*=?\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*(?:true\s*)?(?:pt|em|ex|cm|mm|in|pc|bp|sp|dd|cc)"
    r"(?:\s*(?:plus|minus)\s*[\d.]+\s*(?:fil*|pt|em|ex|cm|mm|in))*"
)
