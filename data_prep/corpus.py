"""A whole corpus build, as a list of stages. Each goes on where it was, and is passed over when it is done."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash
from tqdm import tqdm

from data_prep import (
    check,
    clean,
    extract,
    facts,
    history,
    holdout,
    losses,
    packing,
    report,
    stage,
    survey,
    tokenise,
    tokenizer,
)
from data_prep.dedup import decontaminate, exact, lines, minhash
from data_prep.document import read_documents
from data_prep.long_text import LongText
from data_prep.recipe import Build
from data_prep.shards import TokenShards, locks, remove_manifest, write_manifest
from data_prep.shards.format import VERSION as SHARD_VERSION
from data_prep.shards.plan import plan_name
from data_prep.shards.writer import naming
from data_prep.sift import SAMPLES
from data_prep.sources import files
from data_prep.stage import Parts, Runner, StageError, Task


class CorpusError(ValueError):
    """The corpus cannot be built as asked."""


def run(build: Build, runner: Runner, allow_removed: bool = False) -> dict[str, Any]:
    """Build the corpus, or let the one that is there grow, and return a summary: documents, tokens, set-aside inputs, folders.

    `allow_removed`: also take out what inputs held that are gone or changed, which is refused otherwise.

    Raises ValueError (ConfigError, StageError, CorpusError, TokenizerError) for what the user has to change.
    """
    out, recipe = build.output, build.recipe
    check.before_the_first_stage(build)
    with _only_one(out):
        extracted, growth = extract.run(build, runner, out / "1-extract", allow_removed)
        _require_documents(extracted)
        cleaned = clean.run(build, runner, out / "2-clean", extracted)
        _require_kept(cleaned.results, "the filters", out / "2-clean")
        for alarm in losses.alarms(stage.add_up(r["documents"] for r in extracted.results), losses.by_source(cleaned.results)):
            tqdm.write(f"moenda: {alarm}. Look at some: python -m data_prep peek {out / '2-clean'}", file=sys.stderr)
        unique, sifted = _deduplicate(build, runner, cleaned)
        _require_kept(unique.results, "deduplication", out / "3-dedup")
        trained = _tokenizer(build, runner, unique)
        shards = _shards(build, runner, unique)
        _plans(build, runner, shards)
        stage.write_json(out / "recipe.json", recipe.model_dump(mode="json", exclude={"schema_path"}))
        surveyed = survey.run(runner, out / "survey", unique)
        summary = _summary(build, extracted, [cleaned, *sifted], shards) | {"survey": surveyed}
        summary["tokenizer"] |= trained
        summary["growth"] = asdict(growth)
        report.write(out / "report.html", summary)
    return summary


def _deduplicate(build: Build, runner: Runner, parts: Parts) -> tuple[Parts, list[Parts]]:
    """(the unique documents, the parts after each step)."""
    folder, section = build.output / "3-dedup", build.recipe.dedup
    steps = []
    if section.exact:
        steps.append(parts := exact.run(runner, folder / "exact", parts))
    if section.repeated_text is not None:
        steps.append(parts := lines.run(runner, folder / "repeated_text", parts, section.repeated_text))
    if section.near is not None:
        steps.append(parts := minhash.run(runner, folder / "near", parts, section.near, build.recipe.seed))
    if section.decontaminate is not None:
        folder = folder / "decontaminated"
        steps.append(parts := decontaminate.run(runner, folder, parts, section.decontaminate, build.base))
    return parts, steps


def _require_kept(results: list[dict[str, Any]], what: str, folder: Path) -> None:
    if any(result["kept"] for result in results):
        return
    dropped = _by_reason(results)
    reasons = "".join(f"\n  {count:,} {reason}" for reason, count in sorted(dropped.items(), key=lambda item: -item[1])[:8])
    raise CorpusError(
        f"the corpus is empty: {what} dropped all {sum(dropped.values()):,} documents. Look at some with `python -m data_prep "
        f"peek {folder}`, then loosen the recipe.{reasons}"
    )


def _by_reason(results: list[dict[str, Any]]) -> dict[str, int]:
    dropped: dict[str, int] = {}
    for result in results:
        for reason, by_source in result["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + sum(by_source.values())
    return dropped


def _require_documents(extracted: list[dict[str, Any]]) -> None:
    if any(result["documents"] for result in extracted.results):
        return
    set_aside = [entry for result in extracted.results for entry in result["set_aside"]]
    empty = sum(_by_reason(extracted.results).values())
    first = "".join(f"\n  {entry['where']}: {entry['reason']}" for entry in set_aside[:5])
    count = sum(result["set_aside_count"] for result in extracted.results)
    raise CorpusError(
        f"the corpus is empty: no document with text in the sources ({empty} empty, "
        f"{count} set aside). Check the sources' paths and keys.{first}"
    )


def _tokenizer(build: Build, runner: Runner, unique: Parts) -> dict[str, Any]:
    """Train or adopt the tokenizer. Returns how many long words were cut for training, and the documents it was chosen for.

    A trained one stays as the corpus grows: with another, every token would change, and no run could go on. `--rebuild` trains
    it anew.
    """
    section, folder = build.recipe.tokenizer, build.output / "tokenizer"
    settings: dict[str, Any] = section.model_dump(mode="json", exclude={"path", "sample_megabytes"})
    inputs = ""
    if section.path:
        file = tokenizer.find((build.base / os.path.expanduser(section.path)).resolve())
        settings["file"] = xxhash.xxh3_128_hexdigest(file.read_bytes())
        argument: Any = (file, section.eod_token)
    else:
        total = sum(sum(result["kept_bytes"].values()) for result in unique.results)
        share = min(1.0, section.sample_megabytes * 2**20 / max(1, total))
        documents = sum(sum(result["kept"].values()) for result in unique.results)
        settings |= {"sample_megabytes": section.sample_megabytes, "seed": build.recipe.seed}
        argument = (unique.files, section.vocab_size, section.eod_token, share, build.recipe.seed, documents)
        before = stage.marks(folder / ".stage").get("tokenizer")
        inputs = before["inputs"] if before and not runner.rebuild else unique.fingerprint
    tasks = [Task("tokenizer", 1, argument, inputs)]
    (result,) = runner.run(folder / ".stage", "tokenizer", settings, tasks, _tokenizer_work)
    kept = {"of_these_documents": inputs == unique.fingerprint, "of_documents": result["documents"]} if not section.path else {}
    return {"cut_words": result["cut_words"], **kept}


def _tokenizer_work(task: Task, folder: Path) -> dict[str, Any]:
    # trained beside and then moved: a tokenizer folder with a half-written file would look finished
    scratch, cut_words, documents = folder / "scratch", 0, 0
    shutil.rmtree(scratch, ignore_errors=True)
    if len(task.arguments) == 2:
        tokenizer.adopt(*task.arguments, folder=scratch)
    else:
        parts, vocab_size, eod_token, share, seed, documents = task.arguments
        cut_words = tokenizer.train(_sample(parts, share, seed), vocab_size, eod_token, scratch)
    names = [path.name for path in sorted(scratch.iterdir())]
    for name in names:
        os.replace(scratch / name, folder.parent / name)
    scratch.rmdir()
    return {"outputs": [f"../{name}" for name in names], "cut_words": cut_words, "documents": documents}


def _sample(parts: list[Path], share: float, seed: int) -> Iterator[str | LongText]:
    for part in parts:
        for document in read_documents(part, long_texts=True):
            if share >= 1 or holdout.holdout_key(document.id, seed + 1) < share * 2**64:
                yield document.text


def _shards(build: Build, runner: Runner, unique: Parts) -> dict[str, dict[str, Any] | None]:
    """The manifest of each split; None for a validation split without documents."""
    out, section = build.output, build.recipe.shards
    folder = out / "tokenizer"
    held_out = holdout.run(runner, out / "3-dedup" / "holdout", unique, build.recipe.seed, section.validation_fraction)
    also = f"{held_out.below} {held_out.never}"
    tasks = unique.tasks(lambda part: (part, folder, section.tokens_per_shard, held_out), also)
    settings = {
        "format": SHARD_VERSION,
        "tokenizer": tokenizer.CorpusTokenizer(folder).fingerprint,
        "seed": build.recipe.seed,
        **section.model_dump(mode="json"),
    }
    results = runner.run(out / "shards", "shards", settings, tasks, tokenise.work, clear=False)
    manifests = {}
    for split in tokenise.SPLITS:
        names = [name for result in results for name in result["shards"][split]]
        manifests[split] = write_manifest(out / "shards" / split, names) if names else remove_manifest(out / "shards" / split)
        if manifests[split]:
            manifests[split]["taken_down_and_gone"] = history.carry_over(
                out / "shards" / split, names, manifests[split]["fingerprint"]
            )
            manifests[split]["sources"] = stage.add_up(result["sources"][split] for result in results)
    stage.remove_others(out / "shards", tasks)  # no manifest names them any longer
    return manifests


def _plans(build: Build, runner: Runner, manifests: dict[str, dict[str, Any] | None]) -> None:
    """Write the recipe's plans of packed windows beside the shards of both splits."""
    folder, tasks = build.output / "shards", {}
    for split in (split for split, manifest in manifests.items() if manifest):
        for section in build.recipe.windows:
            arguments = (folder / split, section.way, section.length, section.max_documents)
            name = f"{split}-{plan_name(*arguments[1:])}"
            tasks[name] = Task(name, 8 * manifests[split]["documents"], arguments, manifests[split]["fingerprint"])
    if tasks:  # plans that the recipe names no longer may serve a run
        runner.run(folder / ".plans", "plans", {}, list(tasks.values()), packing.work, clear=False)


def _summary(
    build: Build,
    extracted: Parts,
    sifted: list[Parts],
    shards: dict[str, dict[str, Any] | None],
) -> dict[str, Any]:
    dropped = _by_reason([result for parts in [extracted, *sifted] for result in parts.results])
    samples: dict[str, list[dict[str, str]]] = {}
    for parts in sifted:
        for result in parts.results:
            for reason, shown in result["samples"].items():
                samples[reason] = [*samples.get(reason, []), *shown][:SAMPLES]
    tokenizer_folder = build.output / "tokenizer"
    opened = tokenizer.CorpusTokenizer(tokenizer_folder)
    return {
        "output": str(build.output),
        "sources": [source.model_dump(mode="json") for source in build.recipe.sources],
        "extracted": sum(sum(result["documents"].values()) for result in extracted.results),
        "extracted_from": stage.add_up(result["documents"] for result in extracted.results),
        "dropped": dropped,
        "dropped_from": losses.by_source(result for parts in [extracted, *sifted] for result in parts.results),
        "drop_samples": samples,
        "set_aside": [entry for result in extracted.results for entry in result["set_aside"]],
        "set_aside_count": sum(result["set_aside_count"] for result in extracted.results),
        "facts": stage.add_up(result.get("facts", {}) for result in extracted.results),
        "passed_over": stage.add_up(result.get("passed_over", {}) for result in extracted.results),
        "left_out": {source.name: files.passed_over(source, build.base) for source in build.recipe.sources},
        "notes": [note for result in extracted.results for note in result.get("notes", [])],
        "clean": [{"type": step.type, "only_sources": step.only_sources} for step in build.recipe.clean],
        "tokenizer": {
            "vocab_size": opened.vocab_size,
            "eod_token": opened.eod_token,
            "eod_id": opened.eod_id,
            "fingerprint": opened.fingerprint,
            "slow_because": opened.slow_because,
            "trained": build.recipe.tokenizer.path is None,
        },
        "validation_fraction": build.recipe.shards.validation_fraction,
        "shards": shards,
        "plans": {
            split: [packing.cells(made) for made in packing.existing(TokenShards.open(build.output / "shards" / split))]
            for split, manifest in shards.items()
            if manifest
        },
    }


def _split(split: str, summary: dict[str, Any]) -> str:
    """What a split holds, or why it holds nothing."""
    manifests = [manifest for manifest in summary["shards"].values() if manifest]
    tokens, documents = (sum(manifest[key] for manifest in manifests) for key in ("tokens", "documents"))
    if manifest := summary["shards"][split]:
        totals = {"tokens": tokens, "documents": documents}
        shares = ", ".join(f"{manifest[key] / total:.1%} of the {key}" for key, total in totals.items())
        folder = f"{summary['output']}/shards/{split}"
        return f"{manifest['tokens']:,} tokens in {manifest['documents']:,} documents ({shares}): {folder}"
    if summary["validation_fraction"] == 0:
        return "none, as shards.validation_fraction is 0"
    return (
        f"EMPTY: whole documents are held out, and of {documents} documents none can be spared. Add documents, or divide "
        f"the text into more of them (plaintext: separator); without, set data.validation to null in the run file."
    )


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Hold the output folder; two builds in it would meet."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.hold(out / ".lock")
    except locks.InUse as error:
        raise StageError(f"{out} is being built by {error}.") from None
    with lock, naming(out):
        yield


def describe(summary: dict[str, Any]) -> str:
    """The summary for a person, with the next command."""
    out, lines = summary["output"], []
    growth = summary["growth"]
    if any(growth.values()):
        counts = ", ".join(f"{len(names):,} {what}" for what, names in growth.items() if names)
        lines.append(f"inputs      {counts} since the build that was there")
    lines.append(f"documents   {summary['extracted']:,} read, {sum(summary['dropped'].values()):,} dropped")
    lines += [f"            {count:,} {reason}" for reason, count in sorted(summary["dropped"].items())]
    read = summary["extracted_from"]
    for source, count in read.items():
        gone = sum(
            count for reason, count in summary["dropped_from"].get(source, {}).items() if not reason.startswith("extract:")
        )
        lines.append(f"source      {source}: {count:,} read, {gone:,} dropped ({gone / max(1, count):.1%})")
    lines += check.left_out_lines(summary["left_out"])
    lines += facts.lines(summary)
    lines += [f"TAKES MUCH  {alarm}" for alarm in losses.alarms(read, summary["dropped_from"])]
    lines += [f"{split:<12}{_split(split, summary)}" for split in summary["shards"]]
    for split, manifest in summary["shards"].items():
        if manifest and (gone := manifest["taken_down_and_gone"]):
            lines.append(f"TAKEN DOWN  {split}: {stage.listed(gone)}: no longer in the corpus; copies of them may be")
    for split, plans in summary["plans"].items():
        lines += [f"windows     {split}, {row[0]} tokens, {row[1]}: {row[2]} windows, {row[4]} padding" for row in plans]
    lines.append(f"tokenizer   {summary['tokenizer']['vocab_size']:,} ids: {out}/tokenizer")
    if not summary["tokenizer"].get("of_these_documents", True):
        before = summary["tokenizer"]["of_documents"]
        lines.append(f"            trained on an earlier corpus of {before:,} documents and kept, so that ids mean what they")
        lines.append("            meant; --rebuild trains it anew, and writes all shards anew")
    if cut := summary["tokenizer"]["cut_words"]:
        limit = tokenizer.MAX_WORD_BYTES
        lines.append(f"            {cut:,} words of more than {limit} bytes were cut to that for training alone")
    lines.append(f"report      {out}/report.html")
    if summary["set_aside_count"]:
        lines.append(f"SET ASIDE   {summary['set_aside_count']:,} inputs could not be read:")
        lines += [f"            {line}" for line in losses.set_aside_lines(summary["set_aside"], summary["set_aside_count"])]
    lines.append(
        f'next        set data.train to "{out}/shards/train" in a run file, then: deepspeed trainer/train.py --config FILE'
    )
    return "\n".join(lines)
