"""WARC -> clean documents: ours and datatrove's, the same filter rules on, documents/s, and what each keeps of the same pages.

    python bench/warc.py FILE.warc.gz... PAGE.html.gz... [--records 1000] [--rounds 5] [--workers 1 2] [--examples FILE]

The HTML pages of the files, at most --records of them, are written into four WARC files, each page once: a repeated one would
find caches warm. Take some hundred pages, or start-up is most of what is timed. Ours: the extract and clean stages of a build.
datatrove's: WarcReader, an extractor, GopherRepetitionFilter, GopherQualityFilter, C4QualityFilter, FineWebQualityFilter,
JsonlWriter, with drops kept as ours are. "Trafilatura" is its extractor with favour_precision, as its FineWeb example has it;
"Resiliparse" puts the faster library, which is ours too, into its place. Start-up of processes is included, rounds take turns.

Set alike: punctuation counts as words in Gopher's rule of alphabetic words, FineWeb's repeated characters 0.1, as the paper has
it (datatrove's default is 0.01), and without datatrove's own new_line_ratio. Left different: words (datatrove splits them with
spaCy, we with a regular expression), and Trafilatura's text. Language identification is off on both sides: datatrove downloads
its model.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastwarc.warc import ArchiveIterator, WarcRecordType

from data_prep import clean, extract
from data_prep.document import read_records
from data_prep.recipe import Build, Recipe
from data_prep.stage import Runner

FILES = 4
RULES = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
AS_DATATROVE = {"gopher_quality": {"punctuation_is_words": True}}


def pages_of(files: list[Path]) -> list[tuple[str, bytes]]:
    """(URL, HTTP response) of the HTML pages."""
    found = {}
    for file in files:
        if ".html" in file.name:
            raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
            found[f"https://{file.name.partition('.')[0]}.example/{file.name}"] = head + raw
            continue
        for record in ArchiveIterator(BytesIO(file.read_bytes()), record_types=WarcRecordType.response, parse_http=False):
            body = record.reader.read()
            if b"text/html" in body.partition(b"\r\n\r\n")[0].lower():
                found.setdefault(record.headers["WARC-Target-URI"].strip("<>"), body)
    return list(found.items())


def write_warcs(pages: list[tuple[str, bytes]], records: int, folder: Path) -> None:
    outputs = [(folder / f"{number:05d}.warc.gz").open("wb") for number in range(FILES)]
    for number in range(records):
        url, body = pages[number]
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
            f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        outputs[number % FILES].write(gzip.compress(head.encode() + body + b"\r\n\r\n"))
    for output in outputs:
        output.close()


def ours(work: Path, folder: Path, workers: int) -> None:
    recipe = {
        "output": str(folder),
        "sources": [{"type": "warc", "name": "crawl", "paths": [str(work / "warc" / "*.warc.gz")]}],
        "task_megabytes": 1,
        "clean": [{"type": rule, **AS_DATATROVE.get(rule, {})} for rule in RULES],
        "tokenizer": {"vocab_size": 300},
    }
    build = Build(recipe=Recipe.model_validate(recipe), base=work)
    with Runner(workers) as runner:
        parts = extract.run(build, runner, folder / "1-extract")
        clean.run(build, runner, folder / "2-clean", parts)


def our_outcome(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    kept, dropped = {}, {}
    for part in sorted((folder / "2-clean").rglob("*.kept.jsonl.zst")):
        kept |= {record["metadata"]["url"]: record["text"] for record in read_records(part)}
    for part in sorted((folder / "2-clean").rglob("*.dropped.jsonl.zst")):
        dropped |= {record["metadata"]["url"]: f"{record['step']}: {record['reason']}" for record in read_records(part)}
    return kept, dropped


def datatrove(extractor: str, work: Path, folder: Path, workers: int) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import filters
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.readers import WarcReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    def drops(name: str) -> JsonlWriter:
        return JsonlWriter(str(folder / "dropped" / name), compression="zstd")

    LocalPipelineExecutor(
        pipeline=[
            WarcReader(str(work / "warc"), compression="gzip"),
            Trafilatura(favour_precision=True) if extractor == "Trafilatura" else resiliparse_extractor(),
            filters.GopherRepetitionFilter(exclusion_writer=drops("gopher_repetition")),
            filters.GopherQualityFilter(exclusion_writer=drops("gopher_quality")),
            filters.C4QualityFilter(exclusion_writer=drops("c4")),
            filters.FineWebQualityFilter(char_duplicates_ratio=0.1, new_line_ratio=1e9, exclusion_writer=drops("fineweb")),
            JsonlWriter(str(folder / "kept"), compression="zstd"),
        ],
        tasks=FILES,
        workers=workers,
        logging_dir=str(folder / "logs"),
    ).run()


def resiliparse_extractor():
    from datatrove.pipeline.extractors.base import BaseExtractor
    from resiliparse.extract.html2text import extract_plain_text

    class Resiliparse(BaseExtractor):
        name = "Resiliparse"

        def __init__(self):
            super().__init__()

        def extract(self, text: str) -> str:
            return extract_plain_text(text, main_content=True, preserve_formatting=True, alt_texts=False, links=False)

    return Resiliparse()


def their_outcome(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    kept, dropped = {}, {}
    for file in sorted(folder.rglob("*.jsonl.zst")):
        for record in read_records(file):
            if file.is_relative_to(folder / "kept"):
                kept[record["metadata"]["url"]] = record["text"]
            else:
                dropped[record["metadata"]["url"]] = f"{file.parent.name}: {record['metadata']['filter_reason']}"
    return kept, dropped


WAYS = {
    "ours": (ours, our_outcome),
    "datatrove, Trafilatura": (partial(datatrove, "Trafilatura"), their_outcome),
    "datatrove, Resiliparse": (partial(datatrove, "Resiliparse"), their_outcome),
}


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the sets of word 5-grams."""
    sets = []
    for text in (one, other):
        words = re.findall(r"\w+", text.lower())
        sets.append(set(zip(*(words[start:] for start in range(5)), strict=False)))
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


def compare(urls: list[str], outcomes: dict[str, tuple[dict[str, str], dict[str, str]]], examples: Path | None) -> None:
    kept, dropped = outcomes["ours"]
    lines = []
    for name in list(outcomes)[1:]:
        theirs, their_drops = outcomes[name]
        both = [url for url in urls if url in kept and url in theirs]
        only_ours = [url for url in urls if url in kept and url not in theirs]
        only_theirs = [url for url in urls if url in theirs and url not in kept]
        neither = len(urls) - len(both) - len(only_ours) - len(only_theirs)
        print(
            f"\n{len(urls)} pages against {name}: {len(both)} kept by both, {len(only_ours)} by ours only, "
            f"{len(only_theirs)} by theirs only, {neither} by neither"
        )
        for title, pages, reasons in (("ours", only_ours, their_drops), ("theirs", only_theirs, dropped)):
            for reason, count in Counter(reasons.get(url, "no text") for url in pages).most_common():
                print(f"   kept by {title} only, {count}: the other says {reason}")
        alike = sorted(similarity(kept[url], theirs[url]) for url in both)
        if len(alike) > 1:
            low, middle, high = statistics.quantiles(alike, n=4)
            print(f"   similarity of the texts that both keep: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}")
        for url in urls:
            mine = kept.get(url, f"DROPPED {dropped.get(url, 'no text')}")
            lines += [
                f"##### {url}",
                "=== ours",
                mine,
                f"=== {name}",
                theirs.get(url, f"DROPPED {their_drops.get(url, 'no text')}"),
            ]
    if examples:
        examples.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--examples", type=Path, help="write both texts of every page here")
    parser.add_argument("--output", type=Path, help="write the seconds here, as JSON")
    options = parser.parse_args()
    pages = pages_of(options.files)[: options.records]
    records = len(pages)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        (work / "warc").mkdir()
        write_warcs(pages, records, work / "warc")
        outcomes = {}
        for _ in range(options.rounds):
            for workers in options.workers:
                for name, (way, outcome) in WAYS.items():
                    folder = work / "out"
                    shutil.rmtree(folder, ignore_errors=True)
                    start = time.perf_counter()
                    way(work, folder, workers)
                    times.setdefault(f"{name}, {workers} workers", []).append(time.perf_counter() - start)
                    if name not in outcomes:
                        outcomes[name] = outcome(folder)
    print(f"{records:,} records of {len(pages)} pages, {sum(len(body) for _, body in pages) / len(pages) / 1e3:.0f} kB each")
    for workers in options.workers:
        mine = statistics.median(times[f"ours, {workers} workers"])
        for name in WAYS:
            seconds = times[f"{name}, {workers} workers"]
            middle = statistics.median(seconds)
            print(
                f"{name:<24}{workers} workers{records / middle:9.0f} documents/s, median {middle:.2f} s "
                f"({min(seconds):.2f} to {max(seconds):.2f}); ours is {middle / mine:.1f} x as fast"
            )
    compare([url for url, _ in pages], outcomes, options.examples)
    if options.output:
        options.output.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
