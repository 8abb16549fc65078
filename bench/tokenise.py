"""Tokens per second from cleaned documents to shards on disk: ours, datatrove's and Megatron's ways, and the bare tokenizers.

    python bench/tokenise.py --tokenizer TOKENIZER.json FILE... [--megabytes 200] [--rounds 5] [--workers 1 2] [--ways moenda]

FILE: .txt or .jsonl(.zst); they must hold the size wanted without repetition (bench/unique_text.py), as the engine remembers
every word that it has met. The texts are cut into documents of about 4 kB and written once as ours (.jsonl.zst) and theirs
(.jsonl). In each round every way works through all of it in processes that have seen none of it, their start-up included but
for the bare tokenizers: of the bare engine the first tenth is the cold rate and the last the one of the long run. Megatron's
way is
that of its tools/preprocess_data.py: a pool encodes lines with Hugging Face's tokenizer, IndexedDatasetBuilder writes.
The ids of our shards are compared with Hugging Face's on every 50th document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from tokenizers import Tokenizer

from bench import unique_text
from data_prep import stage, tokenise, tokenizer
from data_prep.document import Document, write_documents
from data_prep.fast_tokenizer import FastEncoder
from data_prep.shards import TokenShards, write_manifest

DOCUMENT_CHARACTERS = 4000
PARTS = 4


def documents(files: list[Path], megabytes: int) -> list[str]:
    """Documents of about 4 kB of unique text."""
    texts = unique_text.take(files, megabytes)
    return [text[i : i + DOCUMENT_CHARACTERS] for text in texts for i in range(0, len(text), DOCUMENT_CHARACTERS)]


def bare_engine(folder: Path, texts: list[str]) -> list[float]:
    """Seconds of the bare engine for each tenth of the texts, in a process that has seen none of them."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_tenths, folder, [text.encode() for text in texts]).result()


def _tenths(folder: Path, raw: list[bytes]) -> list[float]:
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    fast = FastEncoder(definition, Tokenizer.from_file(str(folder / "tokenizer.json")))
    bounds = [len(raw) * tenth // 10 for tenth in range(11)]
    return [seconds(bare, fast.encode, raw[start:stop]) for start, stop in pairwise(bounds)]


def ours(work: Path, folder: Path, workers: int) -> None:
    holdout = tokenise.Holdout(0, 0, None)
    files = sorted((work / "ours").glob("*.jsonl.zst"))
    tasks = [stage.Task(f.name.split(".")[0], f.stat().st_size, (f, work / "tokenizer", 2**28, holdout)) for f in files]
    with stage.Runner(workers) as runner:
        results = runner.run(folder, "shards", {}, tasks, tokenise.work)
    write_manifest(folder / "train", [name for result in results for name in result["shards"]["train"]])


def datatrove(work: Path, folder: Path, workers: int) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(work / "theirs")),
            DocumentTokenizer(
                str(folder / "tokens"),
                tokenizer_name_or_path=str(work / "tokenizer" / "tokenizer.json"),
                shuffle_documents=False,
            ),
        ],
        tasks=PARTS,
        workers=workers,
        logging_dir=str(folder / "logs"),
    ).run()


_MEGATRON: dict[str, Tokenizer] = {}


def _megatron_start(file: str) -> None:
    _MEGATRON["tokenizer"] = Tokenizer.from_file(file)


def _megatron_encode(line: str) -> list[int]:
    return _MEGATRON["tokenizer"].encode(json.loads(line)["text"]).ids


def megatron(work: Path, folder: Path, workers: int) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    file = str(work / "tokenizer" / "tokenizer.json")
    eod = tokenizer.CorpusTokenizer(work / "tokenizer", fast=False).eod_id
    folder.mkdir(parents=True, exist_ok=True)
    dtype = DType.optimal_dtype(Tokenizer.from_file(file).get_vocab_size())
    builder = IndexedDatasetBuilder(str(folder / "a.bin"), dtype=dtype)
    with multiprocessing.Pool(workers, _megatron_start, (file,)) as pool:
        for path in sorted((work / "theirs").iterdir()):
            with path.open(encoding="utf-8") as lines:
                for ids in pool.imap(_megatron_encode, lines, 32):
                    builder.add_document(torch.tensor([*ids, eod]), [len(ids) + 1])
    builder.finalize(str(folder / "a.idx"))


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def bare(encode, texts: list[str]) -> None:
    size = 1000
    for start in range(0, len(texts), size):
        encode(texts[start : start + size])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()
    texts = documents(options.files, options.megabytes)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        tokenizer.adopt(options.tokenizer, None, work / "tokenizer")
        for name in ("ours", "theirs"):
            (work / name).mkdir()
        for part in range(PARTS):
            mine = texts[part::PARTS]
            write_documents(
                work / "ours" / f"part-{part:05d}.kept.jsonl.zst",
                (Document(f"bench/{part}#{i}", text, "bench") for i, text in enumerate(mine)),
            )
            lines = (json.dumps({"id": f"{part}#{i}", "text": text}) + "\n" for i, text in enumerate(mine))
            (work / "theirs" / f"{part:05d}.jsonl").write_text("".join(lines), encoding="utf-8")
        run(work, texts, options)


def run(work: Path, texts: list[str], options: argparse.Namespace) -> None:
    slow = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
    slow.encode_special_tokens = True
    out, times, tokens = work / "out", {}, 0
    tenth = texts[: len(texts) // 10]
    for _ in range(options.rounds):
        tenths = bare_engine(work / "tokenizer", texts)
        rows = [
            ("gigatoken, bare, 1 core", sum(tenths)),
            ("  its first tenth, cold", 10 * tenths[0]),
            ("  its last tenth", 10 * tenths[-1]),
            (
                "HF tokenizers, bare, 1 core",
                10 * seconds(bare, lambda t: slow.encode_batch_fast(t, add_special_tokens=False), tenth),
            ),
        ]
        for workers in options.workers:
            for name in options.ways:
                shutil.rmtree(out, ignore_errors=True)
                rows.append((f"{name}, {workers} workers", seconds(WAYS[name], work, out / name, workers)))
                if name == "moenda" and not tokens:
                    tokens = prove(TokenShards.open(out / name / "train"), slow, texts)
        for name, value in rows:
            times.setdefault(name, []).append(value)
    print(f"\n{len(texts):,} documents, {tokens:,} tokens, medians of {options.rounds}; one tenth of the text for HF, bare")
    for name, values in times.items():
        rates = tokens / np.array(values) / 1e6
        print(f"{name:<30}{np.median(rates):8.2f} M tokens/s   ({rates.min():.2f} to {rates.max():.2f})")
    for workers in options.workers:
        mine = np.median(times[f"moenda, {workers} workers"])
        ratios = {name: np.median(times[f"{name}, {workers} workers"]) / mine for name in options.ways if name != "moenda"}
        print(f"{workers} workers: " + ", ".join(f"{ratio:.1f} x {name}" for name, ratio in ratios.items()))
    share = np.median(times["gigatoken, bare, 1 core"]) / np.median(times[f"moenda, {options.workers[0]} workers"])
    print(f"{options.workers[0]} workers reach {share:.0%} of the bare fast tokenizer on one core")


WAYS = {"moenda": ours, "datatrove": datatrove, "Megatron": megatron}


def prove(shards: TokenShards, slow: Tokenizer, texts: list[str]) -> int:
    """Compare every 50th document of the shards with Hugging Face's ids; returns the number of tokens."""
    order = [text for part in range(PARTS) for text in texts[part::PARTS]]
    bounds = [*shards.document_starts().tolist(), shards.tokens]
    for index in range(0, len(order), 50):
        ids = shards.read(bounds[index], bounds[index + 1])[:-1].tolist()
        assert ids == slow.encode(order[index], add_special_tokens=False).ids, f"document {index}"
    print(f"ids equal Hugging Face's in {len(range(0, len(order), 50))} documents compared")
    return shards.tokens


if __name__ == "__main__":
    main()
