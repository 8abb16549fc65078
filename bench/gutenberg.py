"""Books of Project Gutenberg against other editions of the same book: words lost and wrong, paragraphs whole, verse kept.

    python bench/gutenberg.py [--old WORKTREE] BOOK.txt[=GOLD] ...

GOLD is the book as HTML (paragraphs are <p>, verse and tables <pre>) or AsciiDoc, without a licence around it. Of a book
without gold it gives the lines of the text before and after unwrapping. WORKTREE is another checkout, run on the same input. A
paragraph of the gold is whole when it is one line of ours; marks of quotation, blanks and hyphens at ends of lines are not
compared.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

READ = """
import json, sys
from data_prep.sources import gutenberg
for line in sys.stdin:
    raw = open(json.loads(line), "rb").read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "replace")
    body = gutenberg.strip_boilerplate(text.replace("\\r\\n", "\\n"))
    print(json.dumps([body, gutenberg.unwrap(body) if body else body]))
"""


def read_books(worktree: Path, books: list[Path]) -> list[tuple[str | None, str | None]]:
    """(body, unwrapped body) of each book as a checkout reads it; None without a start marker."""
    given = "".join(json.dumps(str(book.resolve())) + "\n" for book in books)
    environment = {**os.environ, "PYTHONPATH": str(worktree)}
    command = [sys.executable, "-c", READ]
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=worktree, env=environment, check=True)
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def plain(text: str) -> str:
    """A text without what editions write differently: quotation marks, emphasis (capitals too), dashes, blanks."""
    text = re.sub(r"[\"'‘’“”_`*+]|^-- ", "", text).replace("—", "--")
    return re.sub(r"(?<=[^\W\d_])- (?=[^\W\d_])", "-", " ".join(text.lower().split()))


def gold_paragraphs(path: Path) -> list[str]:
    """Paragraphs of prose of the gold edition."""
    text = path.read_bytes().decode("utf-8", "replace")
    if path.suffix == ".asciidoc":
        return [block for block in re.split(r"\n\s*\n", text) if not re.match(r"[=:\[_/.|]", block)]
    found = re.findall(r"<p\b[^>]*>(.*?)</p>", text, re.DOTALL | re.IGNORECASE)
    return [html.unescape(re.sub(r"<[^>]+>", "", block)) for block in found if "<br" not in block]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="another checkout to run on the same input")
    parser.add_argument("books", nargs="+", help="BOOK.txt or BOOK.txt=GOLD")
    options = parser.parse_args()
    pairs = [(Path(name), Path(gold) if gold else None) for name, _, gold in (entry.partition("=") for entry in options.books)]
    for name, worktree in [("old", options.old), ("new", Path(__file__).resolve().parent.parent)]:
        if worktree is None:
            continue
        print(f"{name}: book, lines before and after; words of the gold, lost, wrong; its paragraphs, whole")
        for (book, gold), (body, text) in zip(pairs, read_books(worktree, [book for book, _ in pairs]), strict=True):
            if body is None or text is None:
                print(f"  {book.name}: no start marker")
                continue
            told = f"  {book.name:24} {len(body):9,} characters, {body.count(chr(10)):6,} lines, {text.count(chr(10)):6,} after"
            if gold is not None:
                paragraphs = [plain(block) for block in gold_paragraphs(gold)]
                theirs, ours = Counter(" ".join(paragraphs).split()), Counter(plain(text).split())
                lines = {plain(line) for line in text.split("\n")}
                long = [block for block in paragraphs if len(block) > 80]
                whole = sum(block in lines for block in long)
                lost, wrong = sum((theirs - ours).values()), sum((ours - theirs).values())
                told += f"; {sum(theirs.values()):,} words, {lost:,} lost, {wrong:,} more; {whole:,} of {len(long):,} whole"
            print(told)


if __name__ == "__main__":
    main()
