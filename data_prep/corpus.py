"""A whole corpus build, as a list of stages. Each goes on where it was, and is passed over when it is done."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from data_prep import extract, report, stage, tokenise, tokenizer
from data_prep.dedup import exact
from data_prep.document import SUFFIX, read_documents
from data_prep.recipe import Build
from data_prep.shards import write_manifest
from data_prep.stage import StageError, Task


class CorpusError(ValueError):
    """The corpus cannot be built as asked."""


def run(build: Build, workers: int, rebuild: bool = False) -> dict[str, Any]:
    """Build the corpus and return a summary: documents, tokens, set-aside inputs, folders.

    Raises ValueError (ConfigError, StageError, CorpusError, TokenizerError) for what the user has to change.
    """
    out = build.output
    with _only_one(out):
        extracted = stage.run(
            out / "1-extract", "extract", extract.settings(build), extract.tasks(build), extract.work, workers, rebuild
        )
        _require_documents(extracted)
        kept, found = _deduplicate(build, extracted, workers, rebuild)
        _tokenizer(build, kept, rebuild)
        shards = _shards(build, kept, found, workers, rebuild)
        stage.write_json(out / "recipe.json", build.recipe.model_dump(mode="json", exclude={"schema_path"}))
        summary = _summary(build, extracted, kept, shards)
        report.write(out / "report.html", summary)
    return summary


def _require_documents(extracted: list[dict[str, Any]]) -> None:
    if any(result["documents"] for result in extracted):
        return
    set_aside = [entry for result in extracted for entry in result["set_aside"]]
    empty = sum(result["dropped"].get("empty text", 0) for result in extracted)
    first = "".join(f"\n  {entry['where']}: {entry['reason']}" for entry in set_aside[:5])
    raise CorpusError(
        f"the corpus is empty: no document with text in the sources ({empty} empty, "
        f"{sum(result['set_aside_count'] for result in extracted)} set aside). Check the sources' paths and keys.{first}"
    )


def _deduplicate(
    build: Build, extracted: list[dict[str, Any]], workers: int, rebuild: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(results per part, what the search for repeats found)."""
    out, recipe = build.output, build.recipe
    parts = [out / "1-extract" / f"part-{index:05d}{SUFFIX}" for index in range(len(extracted))]
    names = [part.name.removesuffix(SUFFIX) for part in parts]
    sizes = [part.stat().st_size for part in parts]
    source = stage.fingerprint(extracted)

    hashes = out / "2-dedup" / "hashes"
    tasks = [Task(name, size, (part, recipe.seed)) for name, size, part in zip(names, sizes, parts, strict=True)]
    hashed = stage.run(hashes, "hash", {"input": source, "seed": recipe.seed}, tasks, exact.hash_work, workers, rebuild)
    decisions = out / "2-dedup" / "decisions"
    search = Task("duplicates", sum(sizes), (hashes, names, recipe.dedup.exact))
    settings = {"input": stage.fingerprint(hashed), "exact": recipe.dedup.exact}
    (found,) = stage.run(decisions, "duplicates", settings, [search], exact.find_work, 1, rebuild)

    arguments = (decisions, hashes, names, found["part_sizes"])
    tasks = [Task(name, size, (part, *arguments)) for name, size, part in zip(names, sizes, parts, strict=True)]
    settings = {"input": stage.fingerprint([*extracted, found])}
    kept = stage.run(out / "2-dedup" / "documents", "filter", settings, tasks, exact.filter_work, workers, rebuild)
    return kept, found


def _kept_parts(build: Build, kept: list[dict[str, Any]]) -> list[Path]:
    folder = build.output / "2-dedup" / "documents"
    return [folder / f"part-{index:05d}{exact.KEPT}" for index in range(len(kept))]


def _tokenizer(build: Build, kept: list[dict[str, Any]], rebuild: bool) -> None:
    section, folder = build.recipe.tokenizer, build.output / "tokenizer"
    settings: dict[str, Any] = section.model_dump(mode="json", exclude={"path", "sample_megabytes"})
    if section.path:
        file = tokenizer.find((build.base / os.path.expanduser(section.path)).resolve())
        settings["file"] = xxhash.xxh3_128_hexdigest(file.read_bytes())
        argument: Any = (file, section.eod_token)
    else:
        total = sum(result["kept_bytes"] for result in kept)
        share = min(1.0, section.sample_megabytes * 2**20 / max(1, total))
        settings |= {"input": stage.fingerprint(kept), "share": share, "seed": build.recipe.seed}
        argument = (_kept_parts(build, kept), section.vocab_size, section.eod_token, share, build.recipe.seed)
    stage.run(folder / ".stage", "tokenizer", settings, [Task("tokenizer", 1, argument)], _tokenizer_work, 1, rebuild)


def _tokenizer_work(task: Task, folder: Path) -> dict[str, Any]:
    # trained beside and then moved: a tokenizer folder with a half-written file would look finished
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    if len(task.arguments) == 2:
        tokenizer.adopt(*task.arguments, folder=scratch)
    else:
        parts, vocab_size, eod_token, share, seed = task.arguments
        tokenizer.train(_sample(parts, share, seed), vocab_size, eod_token, scratch)
    names = [path.name for path in sorted(scratch.iterdir())]
    for name in names:
        os.replace(scratch / name, folder.parent / name)
    scratch.rmdir()
    return {"outputs": [f"../{name}" for name in names]}


def _sample(parts: list[Path], share: float, seed: int) -> Iterator[str]:
    for part in parts:
        for document in read_documents(part):
            if share >= 1 or exact.holdout_key(document.id, seed + 1) < share * 2**64:
                yield document.text


def _shards(
    build: Build, kept: list[dict[str, Any]], found: dict[str, Any], workers: int, rebuild: bool
) -> dict[str, dict[str, Any] | None]:
    """The manifest of each split; None for a validation split without documents."""
    out, section = build.output, build.recipe.shards
    folder = out / "tokenizer"
    holdout = tokenise.Holdout.choose(
        build.recipe.seed, section.validation_fraction, found["smallest_key"], found["largest_key"]
    )
    parts = _kept_parts(build, kept)
    arguments = (folder, section.tokens_per_shard, holdout)
    tasks = [Task(part.name.removesuffix(exact.KEPT), part.stat().st_size, (part, *arguments)) for part in parts]
    settings = {
        "input": stage.fingerprint(kept),
        "tokenizer": tokenizer.CorpusTokenizer(folder).fingerprint,
        "seed": build.recipe.seed,
        **section.model_dump(mode="json"),
    }
    results = stage.run(out / "shards", "shards", settings, tasks, tokenise.work, workers, rebuild)
    manifests = {}
    for split in tokenise.SPLITS:
        names = [name for result in results for name in result["shards"][split]]
        manifests[split] = write_manifest(out / "shards" / split, names) if names else None
        if manifests[split]:
            manifests[split]["sources"] = _add_up(result["sources"][split] for result in results)
    return manifests


def _add_up(tables: Iterator[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for table in tables:
        for source, counts in table.items():
            row = total.setdefault(source, dict.fromkeys(counts, 0))
            for key, value in counts.items():
                row[key] += value
    return total


def _summary(
    build: Build,
    extracted: list[dict[str, Any]],
    kept: list[dict[str, Any]],
    shards: dict[str, dict[str, Any] | None],
) -> dict[str, Any]:
    dropped: dict[str, int] = {}
    for result in [*extracted, *kept]:
        for reason, count in result["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count
    tokenizer_folder = build.output / "tokenizer"
    opened = tokenizer.CorpusTokenizer(tokenizer_folder)
    return {
        "output": str(build.output),
        "sources": [source.model_dump(mode="json") for source in build.recipe.sources],
        "extracted": sum(sum(result["documents"].values()) for result in extracted),
        "dropped": dropped,
        "drop_samples": [sample for result in kept for sample in result["samples"]][:20],
        "set_aside": [entry for result in extracted for entry in result["set_aside"]],
        "set_aside_count": sum(result["set_aside_count"] for result in extracted),
        "tokenizer": {
            "vocab_size": opened.vocab_size,
            "eod_token": opened.eod_token,
            "eod_id": opened.eod_id,
            "fingerprint": opened.fingerprint,
            "trained": build.recipe.tokenizer.path is None,
        },
        "shards": shards,
    }


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Hold the output folder; two builds in it would meet."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StageError(f"{out} is being built by {lock.read() or 'another process'}. Wait for it.") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def describe(summary: dict[str, Any]) -> str:
    """The summary for a person, with the next command."""
    out, lines = summary["output"], []
    lines.append(f"documents   {summary['extracted']:,} read, {sum(summary['dropped'].values()):,} dropped")
    lines += [f"            {count:,} {reason}" for reason, count in sorted(summary["dropped"].items())]
    for split, manifest in summary["shards"].items():
        if manifest:
            lines.append(
                f"{split:<12}{manifest['tokens']:,} tokens in {manifest['documents']:,} documents: {out}/shards/{split}"
            )
    lines.append(f"tokenizer   {summary['tokenizer']['vocab_size']:,} ids: {out}/tokenizer")
    lines.append(f"report      {out}/report.html")
    if summary["set_aside_count"]:
        lines.append(f"SET ASIDE   {summary['set_aside_count']:,} inputs could not be read:")
        lines += [f"            {entry['where']}: {entry['reason']}" for entry in summary["set_aside"][:10]]
    lines.append(
        f'next        set data.train to "{out}/shards/train" in a run file, then: deepspeed trainer/train.py --config FILE'
    )
    return "\n".join(lines)
