"""Precision and recall of the language filter beside an earlier build's, by kind and length of text.

    python bench/language.py [--before COMMIT] [--udhr UDHR.zip] [LANGUAGE:KIND=FILE_OR_FOLDER ...]

--udhr: a zip of the Universal Declaration of Human Rights, NAME.txt in UTF-8 named by ISO 639-3: judged whole, by paragraphs,
and cut to 100, 50 and 20 characters, with all languages of the model to keep. Other sets, such as
"en:man=texts/", are JSON Lines with "text", or text files, each a document in that language. Docstrings of the Python
installation (English) are added.

Recall: of the documents in a language, those that are kept as such. False: documents kept as another language than theirs,
those in languages that the model does not know behind the plus sign.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.filters import start
from data_prep.filters.language_codes import KNOWN, model_code

ALIKE = {"nn": "no"}
UNKNOWN = "?"
Sets = dict[str, list[tuple[str, str]]]
"""Name of a set -> (language, text) of its documents."""


def udhr(file: Path) -> Sets:
    """Return the declarations whole, 12 paragraphs of each, and pieces of those."""
    drawn = random.Random(1)
    sets: Sets = {"UDHR, whole": []}
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".txt"):
                continue
            text = archive.read(name).decode("utf-8", "replace")
            language = code_of(Path(name).stem)
            sets["UDHR, whole"].append((language, text))
            paragraphs = [line.strip() for line in text.split("\n") if len(line.strip()) >= 100]
            drawn.shuffle(paragraphs)
            for paragraph in paragraphs[:12]:
                sets.setdefault("UDHR, paragraphs", []).append((language, paragraph))
                for size in (100, 50, 20):
                    begin = drawn.randrange(max(1, len(paragraph) - size))
                    piece = paragraph[begin : begin + size]
                    sets.setdefault(f"UDHR, {size} characters", []).append((language, piece.partition(" ")[2] or piece))
    return sets


def code_of(stem: str) -> str:
    """Return the model's code for a file name, UNKNOWN for what the model does not know or another spelling."""
    code, *variant = stem.split("_")
    if variant and variant[0] not in ("1996", "2006", "hans", "latn", "simp", "monotonic"):
        return UNKNOWN
    try:
        return model_code({"als": "sq"}.get(code, code))
    except ValueError:
        return UNKNOWN


def docstrings(count: int) -> list[tuple[str, str]]:
    """Return docstrings of the installed packages, drawn by chance."""
    files = sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py"))
    random.Random(0).shuffle(files)
    found: list[tuple[str, str]] = []
    for file in files:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module))]
        found += [("en", text) for node in nodes if (text := ast.get_docstring(node)) and len(text) > 15]
        if len(found) >= 4 * count:
            break
    random.Random(0).shuffle(found)
    return found[:count]


def read_set(argument: str) -> tuple[str, list[tuple[str, str]]]:
    """Return (name, documents) of LANGUAGE:KIND=PATH."""
    name, _, place = argument.partition("=")
    language, _, kind = name.partition(":")
    path = Path(place)
    texts = []
    for file in sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]:
        content = file.read_text(encoding="utf-8", errors="replace")
        texts += [json.loads(line)["text"] for line in content.splitlines()] if file.suffix == ".jsonl" else [content]
    return f"{kind}, {language}", [(language, text) for text in texts]


def languages_kept(tree: Path, texts: list[str]) -> list[str | None]:
    """Return the language for which a build's filter would keep each text; None for none."""
    keep = [code if tree != ROOT else {"als": "gsw"}.get(code, code) for code in KNOWN]
    with tempfile.TemporaryDirectory() as folder:
        block = Path(folder) / "block.jsonl"
        lines = (json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts))
        block.write_text("\n".join(lines), encoding="utf-8")
        out, _ = start(tree, "language", json.dumps({"keep": keep})).communicate(f"{block}\n")
    verdicts = json.loads(out)["verdicts"]
    return [ALIKE.get(verdict["language"], verdict["language"]) if verdict["drop"] is None else None for verdict in verdicts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--udhr", type=Path)
    parser.add_argument("--before", default="0a2496e")
    options = parser.parse_args()
    sets: Sets = {"docstrings, en": docstrings(1500), **(udhr(options.udhr) if options.udhr else {})}
    sets |= dict(map(read_set, options.sets))
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", before, options.before], cwd=ROOT, check=True)
        try:
            for name, documents in sets.items():
                for build, tree in (("before", before), ("after", ROOT)):
                    print(
                        f"{name:<24} {build:<7}",
                        summary(documents, languages_kept(tree, [text for _, text in documents])),
                        flush=True,
                    )
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], cwd=ROOT, check=True)


def summary(documents: list[tuple[str, str]], kept: list[str | None]) -> str:
    """Return recall and false ones of a set, of all languages and of English."""
    pairs = [(language, found) for (language, _), found in zip(documents, kept, strict=True)]
    known = [(language, found) for language, found in pairs if language != UNKNOWN]
    recall = sum(language == found for language, found in known) / max(1, len(known))
    false = sum(found not in (None, language) for language, found in known)
    foreign = sum(found is not None for language, found in pairs if language == UNKNOWN)
    english = [(language, found) for language, found in known if language == "en"]
    false_english = sum(found == "en" for language, found in pairs if language != "en")
    return (
        f"n={len(pairs):<5} recall {recall:.3f} ({len(known)} documents), false {false}+{foreign}; English recall "
        f"{sum(found == 'en' for _, found in english)}/{len(english)}, false {false_english}"
    )


if __name__ == "__main__":
    main()
