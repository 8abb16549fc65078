"""Speed and verdicts of the filters beside an earlier build's, on the same documents in the same run.

    python bench/filters.py [--before COMMIT] [--filters spam,language] [--megabytes N] FILES

FILES: JSON Lines with "text", plain text, or folders of them; real and varied text, as repeated text flatters whatever
remembers. The earlier build is checked out from this repository's history into a temporary folder. Documents go in blocks
to one process per build, in turn, so that both see the same load of the machine; processor seconds are counted.

Prints for each filter: MB/s of a core before and after over all blocks, their ratio and the median ratio of the blocks, and
how many verdicts, texts and scores differ, with the first ones. `--memory` judges one document of N megabytes instead
(default 207) with each filter, and prints the peak memory of its process and the seconds it took.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILTERS = ("spam", "personal_data", "language", "toxicity", "gopher_repetition", "gopher_quality", "c4", "fineweb", "content")
FILTERS += ("encoding_repair",)
SETTINGS = {"language": '{"keep": ["en"]}'}
BLOCK = 2_000_000
"""Bytes of documents per block."""


def read_documents(paths: list[Path], limit: int) -> Iterator[dict[str, Any]]:
    """Yield records of `text` and `id` until `limit` bytes of text."""
    size = 0
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()]
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as lines:
            records = map(json.loads, lines) if file.suffix == ".jsonl" else [{"text": lines.read()}]
            for number, record in enumerate(records):
                yield {"id": record.get("id", f"{file.name}/{number}"), "text": record["text"]}
                size += len(record["text"].encode("utf-8", "surrogatepass"))
                if size >= limit:
                    return


def start(tree: Path, filter_type: str, settings: str = "{}") -> subprocess.Popen[str]:
    """Start a worker of the build in `tree`."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "bench" / "filter_worker.py"), filter_type, settings]
    return subprocess.Popen(command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(worker: subprocess.Popen[str], block: Path) -> tuple[float, list[dict[str, Any]]]:
    """Return (processor seconds, verdicts) for a file of documents."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{block}\n")
    worker.stdin.flush()
    answer = json.loads(worker.stdout.readline())
    return answer["seconds"], answer["verdicts"]


def measure(filter_type: str, before: Path, blocks: list[tuple[Path, int, list[str]]]) -> None:
    """Print the row of one filter."""
    settings = SETTINGS.get(filter_type, "{}")
    workers = [start(before, filter_type, settings), start(ROOT, filter_type, settings)]
    seconds, ratios, differences, scores = [0.0, 0.0], [], [], 0
    for number, (block, _, names) in enumerate(blocks):
        answers: list[Any] = [None, None]
        for index in (0, 1) if number % 2 else (1, 0):
            answers[index] = ask(workers[index], block)
        (old_seconds, old), (new_seconds, new) = answers
        seconds = [seconds[0] + old_seconds, seconds[1] + new_seconds]
        ratios.append(old_seconds / new_seconds)
        for name, a, b in zip(names, old, new, strict=True):
            scores += a["scores"] != b["scores"]
            if (a["drop"], a["text"]) != (b["drop"], b["text"]):
                differences.append((name, a["drop"], b["drop"], a["detail"], b["detail"]))
    for worker in workers:
        worker.communicate()
    size = sum(block_size for _, block_size, _ in blocks) / 1e6
    print(
        f"{filter_type:<18} {size / seconds[0]:8.2f} {size / seconds[1]:8.2f} MB/s   x {seconds[0] / seconds[1]:5.2f} "
        f"(median {statistics.median(ratios):5.2f})   verdicts or texts that differ: {len(differences)}, scores: {scores}",
        flush=True,
    )
    for difference in differences[:10]:
        print("    ", *difference)


def measure_memory(size: int, texts: list[str]) -> None:
    """Print peak memory and time of each filter on one document."""
    whole = "\n\n".join(filter(str.isascii, texts))  # a byte a character: the text itself shall not hide the filter's part
    whole = (whole * (size // len(whole) + 1))[:size] if len(whole) < size else whole[:size]
    with tempfile.TemporaryDirectory() as folder:
        block = Path(folder) / "one.jsonl"
        block.write_text(json.dumps({"id": "one", "text": whole}) + "\n", encoding="utf-8")
        for filter_type in FILTERS:
            worker = start(ROOT, filter_type)
            out, _ = worker.communicate(f"{block}\n")
            answer = json.loads(out.splitlines()[0])
            peak, loaded = answer["peak_bytes"] / 1e9, answer["loaded_bytes"] / 1e9
            print(
                f"{filter_type:<18} {peak:.2f} GB ({loaded:.2f} once the text is read), "
                f"{answer['seconds']:.1f} s, "
                f"{answer['verdicts'][0]['drop']}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--before", default="0a2496e", help="commit of the earlier build")
    parser.add_argument("--filters", default=",".join(FILTERS))
    parser.add_argument("--megabytes", type=int, default=207)
    parser.add_argument("--memory", action="store_true", help="one document of that size instead")
    options = parser.parse_args()
    records = read_documents(options.files, options.megabytes * 1_000_000)
    if options.memory:
        measure_memory(options.megabytes * 1_000_000, [record["text"] for record in records])
        return
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", before, options.before], cwd=ROOT, check=True)
        try:
            blocks = write_blocks(records, Path(folder))
            for filter_type in options.filters.split(","):
                measure(filter_type, before, blocks)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], cwd=ROOT, check=True)


def write_blocks(records: Iterator[dict[str, Any]], folder: Path) -> list[tuple[Path, int, list[str]]]:
    """Write files of about BLOCK bytes; returns (file, bytes of text, ids) of each."""
    blocks: list[tuple[Path, int, list[str]]] = []
    lines: list[str] = []
    names: list[str] = []
    size = 0
    for record in [*records, None]:
        if record is not None:
            lines.append(json.dumps(record, ensure_ascii=False))
            names.append(record["id"])
            size += len(record["text"].encode("utf-8", "surrogatepass"))
        if lines and (record is None or size >= BLOCK):
            path = folder / f"{len(blocks)}.jsonl"
            path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
            blocks.append((path, size, names))
            lines, names, size = [], [], 0
    return blocks


if __name__ == "__main__":
    main()
