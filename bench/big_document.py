"""Peak memory of each stage of a corpus build on one document within the default limit of 256 MB.

    python bench/big_document.py FILE... [--megabytes 197] [--kinds ascii mixed] [--stages ...] [--package FOLDER] [--cap 16]

FILE: .txt, or .jsonl or .jsonl.zst with the text under "text"; they must hold the size without repetition. The document
"ascii" has its other characters replaced by spaces; "mixed" is the text as it is, with an emoji in every line, so that a str of
it takes four bytes a character. Each stage runs in a process of its own, limited to `--cap` GB of address space; its peak is
VmHWM. --package: the folders of moendas to measure, such as a worktree of yesterday's commit.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = ["read", "write", "exact", "lines", "minhash", "decontaminate", "holdout", "train", "shards", "shards, slow"]
GPT2_LIKE = 8192


def run_stage(stage: str, part: Path, work: Path) -> None:
    """One stage alone, in this process."""
    from data_prep import holdout, tokenise, tokenizer
    from data_prep.corpus import _sample
    from data_prep.dedup import decontaminate, exact, lines, minhash
    from data_prep.document import read_documents, write_documents
    from data_prep.stage import Parts, Runner, Task

    parts = Parts.of_files([part])
    with Runner(1) as runner:
        if stage == "read":
            for document in read_documents(part):
                assert document.text
        elif stage == "write":
            write_documents(work / "again.jsonl.zst", read_documents(part))
        elif stage == "exact":
            exact.run(runner, work / "exact", parts)
        elif stage == "lines":
            lines.run(runner, work / "lines", parts, lines.RepeatedTextSettings())
        elif stage == "minhash":
            minhash.run(runner, work / "minhash", parts, minhash.MinHashSettings(), 0)
        elif stage == "decontaminate":
            settings = decontaminate.DecontaminationSettings(paths=["sets.txt"])
            decontaminate.run(runner, work / "decontaminate", parts, settings, part.parent)
        elif stage == "holdout":
            (work / "holdout").mkdir()
            holdout.bounds_work(Task("part-00000", 1, (part, 0)), work / "holdout")
        elif stage == "train":
            tokenizer.train(_sample([part], 1.0, 0), GPT2_LIKE, None, work / "trained")
        else:
            folder = part.parent / ("tokenizer" if stage == "shards" else "slow")
            tokenise.work(Task("part-00000", 1, (part, folder, 2**28, holdout.Holdout(0, 0, None))), work)


def measure(stage: str, part: Path, package: Path, cap: float) -> str:
    """Seconds and peak of a stage in a process of its own."""
    code = f"import runpy, sys; sys.path.insert(0, {str(package)!r}); runpy.run_path({__file__!r}, run_name='stage')"
    with tempfile.TemporaryDirectory(dir=part.parent) as work:
        start = time.perf_counter()
        limit = int(cap * 1e9)
        done = subprocess.run(
            [sys.executable, "-c", code, stage, str(part), work],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )
        seconds = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:60]
        return f"failed under {cap:g} GB after {seconds:.0f} s: {last}"
    return f"{int(done.stdout.split()[-1]) / 1e6:8.2f} GB  {seconds:6.1f} s"


def make_document(files: list[Path], size: int, kind: str) -> str:
    """A text of `size` bytes of UTF-8."""
    from bench import unique_text

    held, total = [], 0
    for text in unique_text.read(files):
        text = re.sub(r"[^\x00-\x7f]+", " ", text) if kind == "ascii" else text.replace("\n", " \U0001f33e\n")
        held.append(text)
        total += len(text.encode("utf-8", "replace"))
        if total >= size:
            return "\n".join(held).encode("utf-8", "replace")[:size].decode("utf-8", "ignore")
    raise SystemExit(f"the files hold {total / 1e6:.0f} MB of the {size / 1e6:.0f} MB wanted")


def prepare(files: list[Path], size: int, kind: str, folder: Path) -> Path:
    """Write the part, the tokenizers and an evaluation set."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from data_prep import tokenizer
    from data_prep.document import Document, write_documents

    text = make_document(files, size, kind)
    sample = [text[i : i + 100_000] for i in range(0, min(len(text), 5_000_000), 100_000)]
    if not (folder / "tokenizer").exists():
        tokenizer.train(sample, GPT2_LIKE, None, folder / "tokenizer")
        unigram = Tokenizer(models.Unigram())
        unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=8000, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
        unigram.train_from_iterator(sample, trainer)
        unigram.save(str(folder / "unigram.json"))
        tokenizer.adopt(folder / "unigram.json", "</s>", folder / "slow")
    words = text[len(text) // 2 :][:4000].split()
    (folder / "sets.txt").write_text(" ".join(words[50:80]), encoding="utf-8")
    part = folder / f"{kind}-00000.kept.jsonl.zst"
    write_documents(part, [Document("bench/0", text, "bench", {"licence": "CC0-1.0"})])
    return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=float, default=197.4, help="MiB of text; 197.4 are 207 MB")
    parser.add_argument("--kinds", nargs="+", default=["ascii", "mixed"], choices=["ascii", "mixed"])
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--package", nargs="+", type=Path, default=[ROOT])
    parser.add_argument("--cap", type=float, default=16, help="GB of address space for each stage")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))  # the stages that are measured get the path of their own package
    with tempfile.TemporaryDirectory() as place:
        for kind in options.kinds:
            part = prepare(options.files, int(options.megabytes * 2**20), kind, Path(place))
            for stage in options.stages:
                for package in options.package:
                    found = measure(stage, part, package.resolve(), options.cap)
                    print(f"{kind:<8}{stage:<16}{package.resolve().name:<12}{found}", flush=True)


if __name__ == "stage":
    run_stage(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    with open("/proc/self/status", encoding="utf-8") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
elif __name__ == "__main__":
    main()
