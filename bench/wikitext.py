"""Text of Wikipedia against what its readers see: characters lost, characters and numbers wrong, and what templates come to.

    python bench/wikitext.py [--old WORKTREE] FILE...

FILE is (a) HTML of Parsoid (the REST API's page/html; also within strings of a .json): it keeps the wikitext of every
template beside its rendering, so that paragraphs can be written back as wikitext and read by us; or (b) a dump (.xml,
.xml.bz2), of which no rendering is known: it gives the treatment of its templates, by frequency. WORKTREE is another checkout,
run on the same input.

A word of ours that the rendering does not have is wrong, a word of the rendering that we do not have is lost; both are counted
in characters. A number (digits with points and commas) that the rendering does not have is counted as a wrong number; commas
between thousands are not compared. Notes are no part of the rendering here; the converted half of {{convert}} is, and counts as
lost. Needs lxml (trafilatura of the extra "bench" brings it).
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from lxml import html

READ = """
import json, sys
from collections import Counter
from data_prep.sources import wikitext
unwanted = frozenset("file image category media ملف تصنيف datei kategorie fichier catégorie archivo categoría".split())
met = Counter()
for line in sys.stdin:
    language, title, markup = json.loads(line)
    try:
        from data_prep.sources.wikitext_tree import Wiki
        more = (Wiki(language, title), met)
    except ImportError:
        more = ()
    print(json.dumps(wikitext.clean(markup, unwanted, frozenset(), *more)))
print(json.dumps([[*key, count] for key, count in met.most_common()]))
"""
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
STYLE = "style", "link", "meta", "script"


def texts_of(worktree: Path, rows: list[tuple[str, str, str]]) -> tuple[list[str], list[list]]:
    """Texts of (language, title, markup) rows as a checkout reads them, and [how, template, count] where it tells them."""
    given = "".join(json.dumps(row) + "\n" for row in rows)
    environment = {**os.environ, "PYTHONPATH": str(worktree)}
    command = [sys.executable, "-c", READ]
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=worktree, env=environment, check=True)
    *texts, met = [json.loads(line) for line in done.stdout.splitlines()]
    return texts, met


def pages(path: Path) -> Iterator[html.HtmlElement]:
    """Parsoid pages in a file: itself, or the strings of a JSON file that look like some."""
    text = path.read_text(encoding="utf-8", errors="replace")
    found = [text]
    if path.suffix == ".json":
        found = [value for value in strings(json.loads(text)) if "data-mw" in value]
    for page in found:
        if page.strip():
            yield html.fromstring(page)


def strings(value: object) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def template_markup(element: html.HtmlElement) -> str | None:
    """Wikitext of the templates that made an element; None if they are not recorded."""
    parts = json.loads(element.get("data-mw") or "{}").get("parts")
    if parts is None:
        return None
    markup = ""
    for part in parts:
        if isinstance(part, str):
            markup += part
            continue
        template = part.get("template") or part.get("parserfunction")
        if template is None:
            return None
        values = [(key, value.get("wt", "")) for key, value in template["params"].items()]
        markup += "{{" + "|".join([template["target"].get("wt", ""), *(f"{key}={value}" for key, value in values)]) + "}}"
    return markup


def written_back(element: html.HtmlElement, done: set[str]) -> tuple[str, str]:
    """(wikitext, rendered text) of an element's content. `done`: transclusions whose further elements are only rendered."""
    markup, rendered = element.text or "", element.text or ""
    for child in element:
        kind = child.get("typeof") or "" if isinstance(child.tag, str) else ""
        about = child.get("about")
        if not isinstance(child.tag, str) or child.tag in STYLE or "mw:Extension/ref" in kind or "mw:File" in kind:
            pass
        elif about in done and about:
            rendered += seen_text(child)
        elif "mw:Transclusion" in kind and (source := template_markup(child)) is not None:
            done.add(about or "")
            markup, rendered = markup + source, rendered + seen_text(child)
        else:
            inner = written_back(child, done)
            rendered += inner[1]
            markup += wrapped(child, *inner)
        markup, rendered = markup + (child.tail or ""), rendered + (child.tail or "")
    return markup, rendered


def wrapped(child: html.HtmlElement, markup: str, rendered: str) -> str:
    """The markup of a link, of emphasis or of a raised text around what is in it."""
    if child.tag == "a" and "mw:WikiLink" in (child.get("rel") or ""):
        return f"[[{(child.get('title') or rendered)}|{markup}]]"
    if child.tag in ("sup", "sub", "br"):
        return f"<{child.tag}>{markup}</{child.tag}>" if child.tag != "br" else "<br>"
    return {"i": f"''{markup}''", "b": f"'''{markup}'''"}.get(child.tag, markup)


def seen_text(element: html.HtmlElement) -> str:
    """The text of an element as it is shown."""
    hidden = " or ".join(f"ancestor-or-self::{tag}" for tag in STYLE)
    shown = f".//text()[not({hidden}) and not(ancestor::sup[contains(@class, 'reference')])]"
    return "".join(element.xpath(shown)) if element.tag not in STYLE and "reference" not in (element.get("class") or "") else ""


def paragraphs(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """(language, title, wikitext, rendered text) of the paragraphs and list items of Parsoid pages."""
    for page in pages(path):
        base = page.xpath("string(//base/@href)")
        match = re.search(r"//(\w+)\.", base)
        language = match.group(1) if match else page.get("lang") or ""
        title = page.xpath("string(//title)")
        done: set[str] = set()
        for element in page.xpath(
            "//p[not(ancestor::table)] | //li[not(ancestor::table) and not(ancestor::ol[contains(@class, 'ref')])]"
        ):
            if element.xpath("ancestor-or-self::*[contains(@typeof, 'mw:Transclusion')]") or element.xpath(".//p|.//li"):
                continue
            markup, rendered = written_back(element, done)
            if len(rendered.split()) > 2 and markup.strip():
                yield language, title, markup, rendered


def words(text: str) -> Counter[str]:
    """Words and numbers of a text."""
    plain = re.sub(r"(?<=\d),(?=\d{3})|[\^_]", "", text)  # a power's caret is ours
    return Counter(re.findall(r"\w+(?:[.,]\d+)*|[^\w\s]", plain))


def compare(rows: list[tuple[str, str, str, str]], texts: list[str]) -> dict[str, list[int]]:
    """By language: characters rendered, lost, wrong; numbers rendered, lost, wrong; paragraphs."""
    result: dict[str, list[int]] = {}
    for (language, _, _, rendered), text in zip(rows, texts, strict=True):
        theirs, ours = words(rendered), words(text)
        lost, wrong = theirs - ours, ours - theirs
        counts = [sum(len(word) * count for word, count in bag.items()) for bag in (theirs, lost, wrong)]
        counts += [sum(count for word, count in bag.items() if NUMBER.fullmatch(word)) for bag in (theirs, lost, wrong)]
        result[language] = [a + b for a, b in zip(result.get(language, [0] * 7), [*counts, 1], strict=True)]
    return result


def dump_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """(language, title, markup) of a dump's articles."""
    raw = bz2.decompress(path.read_bytes()) if path.suffix == ".bz2" else path.read_bytes()
    language = re.search(rb'xml:lang="([\w-]+)"', raw[:5000])
    for page in re.findall(rb"<page>.*?</page>", raw, re.DOTALL):
        element = ElementTree.fromstring(page)
        if element.find("redirect") is None and element.findtext("ns") == "0":
            markup = element.findtext("revision/text") or ""
            yield language.group(1).decode() if language else "", element.findtext("title") or "", markup


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="another checkout to run on the same input")
    parser.add_argument("--most", type=int, default=25, help="templates listed of each treatment")
    parser.add_argument("--numbers", action="store_true", help="print each paragraph with a wrong number")
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    dumps = [path for path in options.files if ".xml" in path.suffixes]
    rows = [row for path in options.files if path not in dumps for row in paragraphs(path)]
    for name, worktree in [("old", options.old), ("new", here)]:
        if worktree is None:
            continue
        if rows:
            texts, _ = texts_of(worktree, [row[:3] for row in rows])
            print(f"{name}: language, paragraphs, characters, lost, wrong; numbers, lost, wrong")
            for language, (shown, lost, wrong, numbers, numbers_lost, numbers_wrong, count) in sorted(
                compare(rows, texts).items()
            ):
                shares = f"{lost / shown:7.2%} {wrong / shown:7.2%}"
                print(
                    f"  {language or '?':4} {count:6,} {shown:10,} {shares}  {numbers:6,} {numbers_lost:5,} {numbers_wrong:5,}"
                )
            if options.numbers and name == "new":
                for row, text in zip(rows, texts, strict=True):
                    if odd := [word for word in words(text) - words(row[3]) if NUMBER.fullmatch(word)]:
                        print("   ", odd, row[2][:300].replace("\n", " "))
        articles = [row for path in dumps for row in dump_rows(path)]
        if articles:
            texts, met = texts_of(worktree, articles)
            print(f"{name}: {len(articles):,} articles of dumps, {sum(map(len, texts)):,} characters")
            print_templates(met, options.most)


def print_templates(met: list[list], most: int) -> None:
    """Counts of each treatment, and the commonest templates of it."""
    total = sum(count for _, _, count in met)
    for how in sorted({how for how, _, _ in met}):
        names = [(count, name) for each, name, count in met if each == how]
        listed = ", ".join(f"{name} {count}" for count, name in names[:most])
        print(f"  {how}: {sum(count for count, _ in names):,} of {total:,} ({len(names):,} names): {listed}")


if __name__ == "__main__":
    main()
