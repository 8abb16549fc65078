"""Real text for benchmarks, none of it twice: a cache of words or of documents must not meet what it knows.

FILE: .txt, or .jsonl or .jsonl.zst with the text under "text". Debian's documentation packages hold some hundred megabytes:
anarchism, wordnet-base, linux-doc-6.1, python3.11-doc, manpages-*, libreoffice-help-*, debian-handbook, dict-gcide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import xxhash
import zstandard

BLOCK = 1000
MOST_REPEATED = 0.02


def read(files: list[Path]) -> Iterator[str]:
    """The texts of the files."""
    for file in files:
        if file.suffix == ".txt":
            yield file.read_text(encoding="utf-8", errors="replace")
            continue
        opened = zstandard.open(file, "rt", encoding="utf-8") if file.suffix == ".zst" else file.open(encoding="utf-8")
        with opened as lines:
            yield from (json.loads(line)["text"] for line in lines)


def take(files: list[Path], megabytes: float) -> list[str]:
    """Texts of the files up to a size in UTF-8. Ends the program when the files hold less, or repeat themselves."""
    texts, size = [], 0
    for text in read(files):
        texts.append(text)
        size += len(text.encode("utf-8", "replace"))
        if size >= megabytes * 1e6:
            break
    else:
        raise SystemExit(f"the files hold {size / 1e6:.0f} MB; {megabytes:g} MB of text that differs are wanted: name more")
    share = repeated(texts)
    if share > MOST_REPEATED:
        raise SystemExit(f"{share:.0%} of the text stands in it before: a cache would flatter the figures")
    return texts


def repeated(texts: list[str]) -> float:
    """Share of the blocks of about 1,000 characters, each from the beginning of a line, that are equal to one before, whatever
    the order of their words."""
    seen, blocks = set(), 0
    for text in texts:
        held: list[str] = []
        size = 0
        for line in text.split("\n"):
            held.append(line)
            size += len(line)
            if size >= BLOCK:
                seen.add(xxhash.xxh3_64_intdigest(" ".join(sorted(" ".join(held).split())).encode("utf-8", "replace")))
                blocks, held, size = blocks + 1, [], 0
    return 1 - len(seen) / blocks if blocks else 0.0
