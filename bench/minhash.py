"""Near-duplicate removal: ours and datatrove's four MinHash stages on the same documents; time, recall and precision.

    python bench/minhash.py FILE... [--megabytes 40] [--documents 8000] [--rounds 5] [--workers 1 2] [--output table.json]

FILE: .txt or .jsonl(.zst), without repetition (bench/unique_text.py). The texts are cut into documents of 30 to 3000 words.
Half of the documents of the corpus are originals; the others are copies of an original with words replaced, sentences removed,
or sentences of another text put in, so that similarities spread over 0.5 to 1. All ways read the same four parts and write kept
and dropped documents; start-up of their processes is included. Rounds take turns.

The truth is brute force: the Jaccard similarity of the sets of word 5-grams (lower case, runs of letters and digits) of all
pairs. Recall: of the pairs with similarity of 0.8 or more, those that end in one cluster. Precision: of the pairs that a way
linked, those with 0.8 or more. Removed wrongly: removed documents without any other document that similar. With 95% Wilson
intervals.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy.sparse import csr_matrix

from bench import unique_text
from data_prep.dedup import minhash
from data_prep.dedup.external_sort import Run, read_sorted
from data_prep.document import Document, read_records, write_documents
from data_prep.stage import Parts, Runner

PARTS, THRESHOLD = 4, 0.8
Links = set[tuple[int, int]]


def cut(files: list[Path], megabytes: float, rng: random.Random) -> list[str]:
    """Documents of 30 to 3000 words (even in the logarithm), as they stand in the texts."""
    found = []
    for text in unique_text.take(files, megabytes):
        words, place = re.findall(r"\S+\s*", text), 0
        while len(words) - place >= 30:
            size = round(math.exp(rng.uniform(math.log(30), math.log(3000))))
            found.append("".join(words[place : place + size]))
            place += size
    return found


def edit(text: str, similarity: float, foreign: str, rng: random.Random) -> str:
    """A copy with about the similarity wanted, made in one of three ways."""
    way = rng.randrange(3)
    if way == 0:
        words = text.split()
        for place in rng.sample(range(len(words)), round(len(words) * (1 - similarity) / (1 + similarity) / 5)):
            words[place] = rng.choice(("changed", "other", "new", "21")) + str(rng.randrange(99))
        return " ".join(words)
    sentences = re.split(r"(?<=[.!?])\s+", text)
    if way == 1:
        wanted, keep = len(text) * similarity, list(sentences)
        while len(keep) > 1 and sum(map(len, keep)) > wanted:
            del keep[rng.randrange(len(keep))]
        return " ".join(keep)
    more = foreign[: round(len(text) * (1 / similarity - 1))]
    sentences.insert(rng.randrange(len(sentences) + 1), more)
    return " ".join(sentences)


def make_corpus(files: list[Path], megabytes: float, count: int, seed: int) -> list[str]:
    """`count` documents, half of them edited copies of others."""
    rng = random.Random(seed)
    originals = cut(files, megabytes, rng)
    if len(originals) < count // 2:
        raise SystemExit(
            f"{len(originals):,} documents in the files, {count // 2:,} are wanted: name more, or more --megabytes"
        )
    texts = rng.sample(originals, count // 2)
    texts += [edit(rng.choice(texts), rng.uniform(0.5, 1), rng.choice(originals), rng) for _ in range(count - len(texts))]
    texts = [text if text.strip() else "nothing" for text in texts]  # datatrove skips empty ones, which would shift its numbers
    rng.shuffle(texts)
    return texts


def similar_pairs(texts: list[str]) -> dict[tuple[int, int], float]:
    """Jaccard similarities of all pairs that share an n-gram; computed, not estimated."""
    known: dict[str, int] = {}
    rows, columns = [], []
    for number, text in enumerate(texts):
        words = re.findall(r"[^\W_]+", text.lower())
        grams = {" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))}
        rows += [number] * len(grams)
        columns += [known.setdefault(gram, len(known)) for gram in grams]
    matrix = csr_matrix((np.ones(len(rows), np.int32), (rows, columns)))
    sizes = np.asarray(matrix.sum(axis=1)).ravel()
    common = (matrix @ matrix.T).tocoo()
    above = common.row < common.col
    a, b, shared = common.row[above], common.col[above], common.data[above]
    values = shared / (sizes[a] + sizes[b] - shared)
    return {(int(i), int(j)): float(value) for i, j, value in zip(a, b, values, strict=True)}


def ours(work: Path, folder: Path, workers: int) -> None:
    files = sorted((work / "ours").glob("*.jsonl.zst"))
    with Runner(workers) as runner:
        minhash.run(runner, folder, Parts.of_files(files), minhash.MinHashSettings(), 0)


def our_links(folder: Path, starts: list[int]) -> tuple[Links, set[int]]:
    runs = [Run(path) for path in sorted((folder / "links").glob("*.run"))]
    dropped = [record["id"] for path in sorted((folder / "documents").glob("*.dropped.*")) for record in read_records(path)]
    return {tuple(pair) for piece in read_sorted(runs, 2**26) for pair in piece.tolist()}, {int(name) for name in dropped}


def datatrove(bands: int, rows: int, work: Path, folder: Path, workers: int) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    config = MinhashConfig(n_grams=5, num_buckets=bands, hashes_per_bucket=rows)
    signatures, buckets, removed = str(folder / "signatures"), str(folder / "buckets"), str(folder / "removed")
    dropped = JsonlWriter(str(folder / "dropped"), compression="zstd")
    stages = [
        ([JsonlReader(str(work / "theirs")), MinhashDedupSignature(signatures, config)], PARTS),
        ([MinhashDedupBuckets(signatures, buckets, config=config)], bands),
        ([MinhashDedupCluster(buckets, removed, config)], 1),
        (
            [
                JsonlReader(str(work / "theirs")),
                MinhashDedupFilter(removed, dropped),
                JsonlWriter(str(folder / "kept"), compression="zstd"),
            ],
            PARTS,
        ),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        logs = str(folder / f"logs-{number}")
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=logs).run()


def their_links(folder: Path, starts: list[int]) -> tuple[Links, set[int]]:
    links, dropped = set(), set()
    for path in sorted((folder / "buckets").glob("*.dups")):
        for part, place, other, there in struct.iter_unpack("<4I", path.read_bytes()):
            links.add(tuple(sorted((starts[part] + place, starts[other] + there))))
    for path in sorted((folder / "removed").glob("*.remove")):
        dropped |= {starts[int(path.stem)] + place for (place,) in struct.iter_unpack("<I", path.read_bytes())}
    return links, dropped


WAYS: dict[str, tuple[Callable, Callable]] = {
    "ours 20 x 6, verified": (ours, our_links),
    "datatrove 14 x 8 (its default)": (partial(datatrove, 14, 8), their_links),
    "datatrove 20 x 6": (partial(datatrove, 20, 6), their_links),
}


def wilson(hits: int, total: int) -> str:
    """A share with its 95% Wilson interval."""
    if not total:
        return "-"
    z, share = 1.96, hits / total
    center, half = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (
        f"{share:.4f} [{(center - half) / (1 + z * z / total):.4f}, {(center + half) / (1 + z * z / total):.4f}] of {total:,}"
    )


def quality(links: Links, dropped: set[int], truth: dict[tuple[int, int], float], count: int) -> dict[str, str]:
    root = list(range(count))

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for a, b in links:
        root[find(a)] = find(b)
    wanted = [pair for pair, value in truth.items() if value >= THRESHOLD]
    near = {document for pair in wanted for document in pair}
    return {
        "recall": wilson(sum(find(a) == find(b) for a, b in wanted), len(wanted)),
        "precision": wilson(sum(truth.get(pair, 0) >= THRESHOLD for pair in links), len(links)),
        "removed wrongly": wilson(len(dropped - near), len(dropped)),
    }


def prepare(texts: list[str], work: Path) -> list[int]:
    """Write the same four parts in both forms; returns the number of the first document of each."""
    bounds = [len(texts) * part // PARTS for part in range(PARTS + 1)]
    for form in ("ours", "theirs"):
        (work / form).mkdir()
    for part, (start, stop) in enumerate(pairwise(bounds)):
        documents = [Document(str(n), texts[n], "bench", {}) for n in range(start, stop)]
        write_documents(work / "ours" / f"part-{part:05d}.jsonl.zst", documents)
        with (work / "theirs" / f"{part:05d}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"id": document.id, "text": document.text}) + "\n" for document in documents)
    return bounds


def rounds_of(work: Path, workers: int, rounds: int) -> Iterator[tuple[str, float, Path]]:
    for _ in range(rounds):
        for name, (way, _) in WAYS.items():
            folder = work / "out" / name.replace(" ", "-")
            shutil.rmtree(folder, ignore_errors=True)
            start = time.perf_counter()
            way(work, folder, workers)
            yield name, time.perf_counter() - start, folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=float, default=40, help="of unique text from which originals are drawn")
    parser.add_argument("--documents", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    texts = make_corpus(arguments.files, arguments.megabytes, arguments.documents, arguments.seed)
    truth = similar_pairs(texts)
    table: dict = {"documents": len(texts), "megabytes": sum(len(text.encode()) for text in texts) / 1e6}
    print(f"{len(texts):,} documents, {table['megabytes']:.1f} MB", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        starts = prepare(texts, work)
        for workers in arguments.workers:
            times: dict[str, list[float]] = {name: [] for name in WAYS}
            for name, taken, folder in rounds_of(work, workers, arguments.rounds):
                times[name].append(taken)
                if name not in table:
                    table[name] = quality(*WAYS[name][1](folder, starts), truth, len(texts))
            best = statistics.median(times[next(iter(WAYS))])
            for name, taken in times.items():
                median = statistics.median(taken)
                table[name][f"{workers} workers"] = (
                    f"{len(texts) / median:,.0f} documents/s, {median:.2f} s ({median / best:.1f}x ours)"
                )
    print(json.dumps(table, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
