"""Files of a LaTeX source: their encoding, and finding what one includes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import replace

from data_prep.sources.files import normalise_newlines
from data_prep.sources.text_encoding import AUTO, Decoded, decode

_BEGIN = re.compile(rb"^[^%\n]*\\(?:documentclass|documentstyle|begin\s*\{document\})", re.MULTILINE)
_DECLARED = re.compile(rb"^[^%\n]*\\usepackage\s*\[\s*([\w-]+)\s*\]\s*\{inputenc\}", re.MULTILINE)
_ENCODINGS = {
    "latin1": "cp1252", "latin2": "iso-8859-2", "latin3": "iso-8859-3", "latin4": "iso-8859-4", "latin5": "iso-8859-9",
    "latin9": "iso-8859-15", "latin10": "iso-8859-16", "ansinew": "cp1252", "applemac": "mac-roman", "cp1250": "cp1250",
    "cp1251": "cp1251", "cp1252": "cp1252", "cp437": "cp437", "cp850": "cp850", "cp852": "cp852", "cp866": "cp866",
    "koi8-r": "koi8-r", "koi8-u": "koi8-u",
}  # fmt: skip
"""Python's names of the encodings of the package inputenc."""
_UNWANTED = (".bbl", ".bib", ".sty", ".cls", ".pdf", ".png", ".pgf", ".aux", ".pdf_tex", ".eps_tex")


def is_latex(raw: bytes) -> bool:
    """Whether a file begins a document."""
    return _BEGIN.search(raw) is not None


def declared_encoding(raw: bytes) -> str | None:
    """The encoding that the package inputenc is told."""
    found = _DECLARED.search(raw[: 1 << 16])
    return _ENCODINGS.get(found.group(1).decode().lower()) if found else None


def decode_latex(raw: bytes, encoding: str = AUTO) -> Decoded:
    """The text of a file: UTF-8 when it is that, else what it declares, else what it looks like."""
    decoded = decode(raw, encoding, declared_encoding(raw))
    return replace(decoded, text=normalise_newlines(decoded.text))


def loader(get: Callable[[str], bytes | None], folder: str, decoded: Callable[[bytes], str]) -> Callable[[str], str | None]:
    """What gives an included file: from `folder`, in which the main file stands, or from the top, never from above it."""

    def load(name: str) -> str | None:
        if name.lower().endswith(_UNWANTED):
            return ""
        for place in dict.fromkeys((folder, "")):
            path = posixpath.normpath(posixpath.join(place, name))
            if path.startswith(("../", "/")):
                continue
            for candidate in (path, f"{path}.tex"):
                if (raw := get(candidate)) is not None:
                    return decoded(raw)
        return None

    return load
