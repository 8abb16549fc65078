"""Main content of web pages: precision, recall and F1 of ours next to trafilatura and Resiliparse as they come, and ms a page.

    python bench/extraction.py FOLDER... [--type article] [--every 2 0] [--worst 10] [--wrong FILE] [--only ours]

A folder holds labelled pages in one of three forms:
- pages next to their texts, NAME.html[.gz|.zst] and NAME.txt (tests/unit/data_prep/pages);
- github.com/scrapinghub/article-extraction-benchmark: ground-truth.json and html/ID.html.gz (181 news pages, MIT);
- github.com/Murrough-Foley/web-content-extraction-benchmark: dev or test, with ground-truth/ID.json and html/ID.html.gz
  (1,497 and 511 pages of seven types, CC-BY-4.0); --type keeps those of one type.

Words are runs of letters and digits, in lower case. Precision and recall count them with their multiplicity (tokens), as WCXB
does, and in runs of four (shingles), as the article-extraction-benchmark does. All are means over the pages.
--every N K takes the pages K, K+N, ... of each folder: one part for tuning, the others for the report.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_prep.sources import page

WORD = re.compile(r"\w+")


def labelled(folder: Path, kind: str | None) -> Iterator[tuple[str, bytes, str]]:
    """(name, page, text that a reader came for) of a folder in any of the three forms."""
    if (folder / "ground-truth.json").is_file():
        for name, truth in sorted(json.loads((folder / "ground-truth.json").read_text("utf-8")).items()):
            yield name, gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()), truth["articleBody"]
    elif (folder / "ground-truth").is_dir():
        for file in sorted((folder / "ground-truth").glob("*.json")):
            truth = json.loads(file.read_text("utf-8"))
            html = folder / "html" / f"{file.stem}.html.gz"
            right = truth["ground_truth"].get("main_content")
            if right and html.is_file() and kind in (None, truth["_internal"]["page_type"]["primary"]):
                yield file.stem, gzip.decompress(html.read_bytes()), right
    else:
        for file in sorted(folder.glob("*.html*")):
            raw = file.read_bytes()
            text = folder / f"{file.name.partition('.')[0]}.txt"
            unpack = {".gz": gzip.decompress, ".zst": zstandard.decompress}.get(file.suffix, bytes)
            yield file.name, unpack(raw), text.read_text("utf-8")


def ours(raw: bytes) -> str:
    return page.text_of(page.parse(raw))


def resiliparse(raw: bytes) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    return extract_plain_text(bytes_to_str(raw, detect_encoding(raw)), main_content=True, alt_texts=False, links=False)


def trafilatura(raw: bytes) -> str:
    from trafilatura import extract

    return extract(raw, include_comments=False) or ""


EXTRACTORS: dict[str, Callable[[bytes], str]] = {"ours": ours, "trafilatura": trafilatura, "resiliparse": resiliparse}


def score(found: str, right: str, size: int) -> tuple[float, float, float]:
    """(precision, recall, F1) of runs of `size` words."""
    counts = []
    for text in (found, right):
        words = WORD.findall(text.lower())
        counts.append(Counter(zip(*(words[start:] for start in range(size)), strict=False)))
    common = sum((counts[0] & counts[1]).values())
    if not common:
        return (1.0, 1.0, 1.0) if not counts[0] and not counts[1] else (0.0, 0.0, 0.0)
    precision, recall = common / counts[0].total(), common / counts[1].total()
    return precision, recall, 2 * precision * recall / (precision + recall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--type", help="pages of this type, where the labels name types")
    parser.add_argument("--every", type=int, nargs=2, default=(1, 0), metavar=("N", "K"))
    parser.add_argument("--only", nargs="+", default=list(EXTRACTORS), choices=list(EXTRACTORS))
    parser.add_argument("--worst", type=int, default=0, help="name this many pages with the lowest F1 of each extractor")
    parser.add_argument("--wrong", type=Path, help="write the texts of pages with F1 < 0.9 of the first extractor here")
    options = parser.parse_args()
    step, first = options.every
    for folder in options.folders:
        pages = list(labelled(folder, options.type))[first::step]
        print(f"{folder.name}: {len(pages)} pages, {sum(len(raw) for _, raw, _ in pages) / len(pages) / 1e3:.0f} kB each")
        print(f"{'':<14}{'tokens: P':>10}{'R':>8}{'F1':>8}{'shingles: P':>14}{'R':>8}{'F1':>8}{'ms a page':>12}{'median':>8}")
        for name in options.only:
            times, texts = [], []
            for _, raw, _ in pages:
                start = time.perf_counter()
                try:
                    texts.append(EXTRACTORS[name](raw))
                except (ValueError, RuntimeError) as error:
                    print(f"   {name}: {type(error).__name__}: {error}")
                    texts.append("")
                times.append(time.perf_counter() - start)
            scores = [[score(text, right, size) for text, (_, _, right) in zip(texts, pages, strict=True)] for size in (1, 4)]
            means = [[statistics.mean(values) for values in zip(*found, strict=True)] for found in scores]
            shown = "".join(
                f"{value:{width}.3f}" for value, width in zip(means[0] + means[1], (10, 8, 8, 14, 8, 8), strict=True)
            )
            print(f"{name:<14}{shown}{1e3 * statistics.mean(times):12.1f}{1e3 * statistics.median(times):8.1f}")
            ranked = sorted(zip(scores[0], pages, texts, strict=True), key=lambda item: item[0][2])
            for (precision, recall, f1), (page_name, raw, _), _ in ranked[: options.worst]:
                print(f"   {page_name}: P {precision:.2f} R {recall:.2f} F1 {f1:.2f}, {len(raw):,} bytes")
            if options.wrong and name == options.only[0]:
                wrong = [f"##### {p[0]} {s}\n=== right\n{p[2]}\n=== {name}\n{t}\n" for s, p, t in ranked if s[2] < 0.9]
                options.wrong.write_text("\n".join(wrong), "utf-8")


if __name__ == "__main__":
    main()
