"""Corpus building: python -m data_prep run | check | peek | pack | trace | takedown | verify | convert | schema."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep import peek

if TYPE_CHECKING:
    from data_prep.ranks import Ranks

TOKENIZER_HELP = "folder of the tokenizer that wrote it, where a Megatron corpus is named"
SET_ASIDE = 3
"""Exit code of a build that finished, but set some inputs aside."""


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command. Returns the exit code: 0 done, 2 a mistake to mend, 3 done with inputs set aside."""
    options = _parser().parse_args(arguments)
    return _exit_code(options.run_command, options)


def _exit_code(command: Callable[..., int], *arguments: Any) -> int:
    """What a command returns, or the code of its error, with the error for the user."""
    try:
        return command(*arguments)
    except ValueError as error:
        print(f"moenda: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # what reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"moenda: {error}. What is finished is kept: mend the cause and run again.", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_prep", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="build a corpus from a recipe, or go on with a build")
    run.add_argument("recipe", type=Path)
    run.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: all cores)")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. seed=7")
    run.add_argument("--rebuild", action="store_true", help="build anew what has other settings, the tokenizer too")
    run.add_argument("--allow-removed", action="store_true", help="take out what inputs held that are gone or changed")
    run.set_defaults(run_command=_run)

    peeked = commands.add_parser("peek", help="show documents that a build kept or dropped, or those of a folder of shards")
    peek.add_arguments(peeked, _folder)
    peeked.add_argument("--tokenizer", type=Path, help=TOKENIZER_HELP)
    peeked.set_defaults(run_command=peek.show)

    verify = commands.add_parser("verify", help="check every byte of a folder of shards, its plans and lists of documents")
    verify.add_argument("shards", type=_folder, help="their folder, or its URL")
    verify.add_argument("--tokenizer", type=Path, help=TOKENIZER_HELP)
    verify.set_defaults(run_command=_verify)

    pack = commands.add_parser("pack", help="write plans of documents in context windows, and say what each way costs")
    pack.add_argument("shards", type=_folder, help="their folder, or its URL")
    pack.add_argument("--length", type=int, nargs="+", required=True, help="tokens in a window (the run's sequence length)")
    ways = ("best_fit", "pad", "concatenate")
    pack.add_argument(
        "--way", nargs="+", choices=ways, default=["best_fit"], help="default: best_fit; concatenate needs no plan"
    )
    pack.add_argument("--max-documents", type=int, metavar="N", help="most documents in a window of best_fit")
    pack.add_argument("--dry-run", action="store_true", help="write nothing, say only what each way would cost")
    pack.add_argument("--tokenizer", type=Path, help=TOKENIZER_HELP)
    pack.set_defaults(run_command=_pack)

    trace = commands.add_parser("trace", help="list the documents of a context window, with source, licence and URL")
    trace.add_argument("shards", type=_folder, help="their folder, or its URL")
    trace.add_argument("--window", type=int, required=True, help="number of the window, from 0")
    trace.add_argument("--length", type=int, required=True, help="tokens in a window (data.sequence_length of the run)")
    trace.add_argument("--way", choices=ways, default="concatenate", help="the run's packing (default: concatenate)")
    trace.add_argument("--max-documents", type=int, metavar="N", help="the cap of the run's plan")
    trace.add_argument("--tokenizer", type=Path, help=TOKENIZER_HELP)
    trace.set_defaults(run_command=_trace)

    takedown = commands.add_parser("takedown", help="tombstone documents: training masks them, nothing else changes")
    takedown.add_argument("shards", type=_folder, help="their folder, or its URL")
    takedown.add_argument("ids", nargs="*", help="ids of documents")
    takedown.add_argument("--url", action="append", default=[], metavar="PATTERN", help="all with such a URL: https://x.org/*")
    takedown.add_argument("--reason", required=True, help="kept in the ledger, with the time")
    takedown.add_argument("--tokenizer", type=Path, help=TOKENIZER_HELP)
    takedown.set_defaults(run_command=_takedown)

    convert = commands.add_parser("convert", help="Megatron's .bin and .idx to token shards, or token shards to a pair of them")
    convert.add_argument("source", type=Path, help="a Megatron prefix or a folder of pairs; or a folder of shards")
    convert.add_argument("output", type=Path, help="the corpus folder, for shards and tokenizer; or the new pair's prefix")
    convert.add_argument("--to", choices=["moenda", "megatron"], help="which of the two is meant (default: the other form)")
    convert.add_argument("--tokenizer", type=Path, help=TOKENIZER_HELP)
    convert.add_argument("--eod-token", help="its end-of-document token, if it declares none")
    convert.add_argument("--split", choices=["train", "validation"], default="train", help="which shards of the corpus folder")
    convert.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: all cores)")
    convert.add_argument("--rebuild", action="store_true", help="replace shards that were made of another source")
    convert.set_defaults(run_command=_convert)

    checked = commands.add_parser("check", help="see in seconds whether a recipe can be built, and from how many files")
    checked.add_argument("recipe", type=Path)
    checked.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    checked.set_defaults(run_command=_check)

    schema = commands.add_parser("schema", help="write the JSON Schema of recipes")
    schema.add_argument("file", type=Path, nargs="?", default=Path("data_prep/recipes/recipe.schema.json"))
    schema.set_defaults(run_command=_schema)
    return parser


def _folder(text: str) -> str | Path:
    """A path, or any fsspec URL of a folder of shards."""
    return text if "://" in text else Path(text)


def _run(options: argparse.Namespace) -> int:
    from data_prep import ranks

    if options.workers < 1:
        raise ValueError(f"--workers {options.workers}: at least 1 is needed.")
    comm = ranks.communicator()
    if comm is None:
        return _build(options, None)
    if comm.rank:
        ranks.serve(comm)
        return 0
    with ranks.Ranks(comm) as others:
        return others.leave(_exit_code(_build, options, others))


def _build(options: argparse.Namespace, others: Ranks | None) -> int:
    from data_prep import corpus, recipe
    from data_prep.stage import Runner

    build = recipe.load(options.recipe, options.set)
    with Runner(options.workers, options.rebuild, others) as runner:
        summary = corpus.run(build, runner, options.allow_removed)
    print(corpus.describe(summary))
    return SET_ASIDE if summary["set_aside_count"] else 0


def _check(options: argparse.Namespace) -> int:
    from data_prep import check, recipe

    build = recipe.load(options.recipe, options.set)
    found = check.inputs(build)
    print(check.describe(found))
    for line in check.warnings(build, found):
        print(f"WARNING             {line}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from data_prep.shards import TokenShards, documents, open_shards
    from data_prep.shards.plan import PlanFile
    from data_prep.shards.storage import join, names_in

    shards = open_shards(options.shards, options.tokenizer)
    with tqdm(total=shards.tokens, unit="tok", unit_scale=True, desc="verify") as bar:
        shards.verify_all(lambda done, _: bar.update(done - bar.n))
    print(
        f"{options.shards}: {shards.tokens:,} tokens, {shards.documents:,} documents, fingerprint {shards.fingerprint}: whole"
    )
    if not isinstance(shards.folder, Path):
        print("documents-*.parquet are checked where they are files of this machine")
    elif isinstance(shards, TokenShards):
        tables = sum(1 for _ in documents.verify(shards))
        print(f"{tables:,} files documents-*.parquet: whole" if tables else "no documents-*.parquet: documents have no history")
    plans = join(shards.folder, "plans")
    for name in names_in(plans):
        if name.endswith(".plan") and not name.startswith("."):
            path = join(plans, name)
            PlanFile.open(path, shards.fingerprint).verify()
            print(f"{path}: whole")
    return 0


def _pack(options: argparse.Namespace) -> int:
    from data_prep import packing
    from data_prep.shards import open_shards

    cap, capped = options.max_documents, "best_fit" in options.way
    jobs = [(window, way, cap if way == "best_fit" or not capped else None) for window in options.length for way in options.way]
    for window, way, most in jobs:  # before the first plan, which may take a while
        packing.check(way, window, most)
    shards = open_shards(options.shards, options.tokenizer)
    print(f"{shards.documents:,} documents, {shards.tokens:,} tokens")
    if cap and len(set(options.way)) > 1:
        print(f"--max-documents {cap} holds for best_fit alone")
    line = "{:>8} {:<18}{:>13}{:>15}{:>9}{:>15}{:>22}{:>13}{:>9}  {}"
    print(line.format(*packing.COLUMNS, "seconds", "file"))
    for window, way, most in jobs:
        made = packing.make(shards, way, window, most, options.dry_run)
        if way == "concatenate":
            file = "none needed"
        elif options.dry_run:
            file = "not written"
        else:
            file = f"{made.path}{' (was there, whole: kept)' if made.kept else ''}"
        print(line.format(*packing.cells(made), f"{made.seconds:.2f}", file), flush=True)
    return 0


def _trace(options: argparse.Namespace) -> int:
    from data_prep import history
    from data_prep.shards import Windows, open_shards

    shards = open_shards(options.shards, options.tokenizer)
    windows = Windows(shards, options.length, options.way, max_documents=options.max_documents)
    for row in history.of_window(windows, options.window):
        gone = "   TAKEN DOWN" if shards.takedowns.count(row["start"], row["start"] + 1) else ""
        facts = (row["id"], row["source"], row["licence"] or "licence unknown", row["url"] or "no URL")
        print(f"{row['in_window']:>8} tokens   {'   '.join(facts)}{gone}")
    return 0


def _takedown(options: argparse.Namespace) -> int:
    from data_prep import history

    if not options.ids and not options.url:
        raise ValueError("name what is to be taken down: ids of documents, or --url PATTERN.")
    found = history.take_down(options.shards, options.ids, options.url, options.reason, options.tokenizer)
    for document in found:
        print(f"{document['tokens']:>8} tokens   {document['id']}   {document['url'] or ''}")
    print(f"{len(found)} documents taken down; runs mask them from their next start or resume on.")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from data_prep import convert
    from data_prep.stage import Runner

    ours = convert.is_ours(options.source)
    if options.to and (options.to == "megatron") != ours:
        raise ValueError(
            f"{options.source}: {'already' if ours else 'not'} a folder of token shards, so not to be made {options.to}."
        )
    if ours:
        summary = convert.to_megatron(options.source, options.output)
    else:
        with Runner(options.workers, options.rebuild) as runner:
            summary = convert.to_shards(
                options.source, options.output, options.tokenizer, options.eod_token, options.split, runner
            )
    print(convert.describe(summary))
    return 0


def _schema(options: argparse.Namespace) -> int:
    from data_prep.recipe import Recipe

    options.file.write_text(json.dumps(Recipe.model_json_schema(), indent=2) + "\n", encoding="utf-8")
    print(options.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
