"""Documents of a build shown to a person: what was kept and what was dropped and why, by chance or from the start."""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.document import SUFFIX, read_records
from data_prep.long_text import LongText, pieces
from data_prep.sift import DROPPED
from data_prep.stage import order

STAGES = ("1-extract", "2-clean", "exact", "repeated_text", "near", "decontaminated")
"""Folders of a build's stages in the order in which they run: what the last of them kept is what the corpus holds."""


def add_arguments(parser: argparse.ArgumentParser, folder: Callable[[str], str | Path]) -> None:
    """Declare the command's arguments; `folder` makes a path or a URL of text."""
    parser.add_argument(
        "path", type=folder, help="a build's output, a stage's folder, a .jsonl.zst part, or a folder of shards"
    )
    parser.add_argument("--count", type=int, default=3, help="documents shown, of each kind (default: 3)")
    parser.add_argument("--kept", action="store_true", help="those kept (default: both kinds)")
    parser.add_argument("--dropped", action="store_true", help="those dropped")
    parser.add_argument("--source", metavar="NAME", help="of this source alone")
    parser.add_argument("--reason", metavar="TEXT", help='dropped for a "step: reason" that holds this, in any case')
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--random", action="store_true", help="chosen evenly among all (default for folders of parts)")
    order.add_argument("--first", action="store_true", help="the first ones (default for a part, for shards, and with --skip)")
    parser.add_argument("--seed", type=int, help="choose the same ones again")
    parser.add_argument("--skip", type=int, default=0, help="first ones that are passed over")
    parser.add_argument("--characters", type=int, default=500, help="of each text")


def show(options: argparse.Namespace) -> int:
    """Print the documents asked for. Returns 0; raises ValueError where there are none to choose from."""
    from data_prep.shards.megatron import is_megatron

    if min(options.count, options.skip, options.characters) < 0:
        raise ValueError("--count, --skip and --characters are 0 or more.")
    if options.random and options.skip:
        raise ValueError("--skip passes over the first documents: it does not go with --random.")
    path = options.path
    if isinstance(path, str) or (path / "manifest.json").is_file() or is_megatron(path):
        return _show_shards(options)
    kept, dropped = _parts(path)
    by_chance = options.random or (path.is_dir() and not options.first and not options.skip)
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    wanted = {"kept": options.kept, "dropped": options.dropped or bool(options.reason)}
    if options.kept and options.reason:
        raise ValueError("--reason is of what was dropped: it does not go with --kept.")
    for kind, files in (("kept", kept), ("dropped", dropped)):
        if (files or wanted[kind]) and (wanted[kind] or not any(wanted.values())):
            _show_kind(kind, files, options, seed if by_chance else None)
    return 0


def choose(records: Iterator[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` of the records, each set of them equally likely, in their order (reservoir sampling, Vitter's algorithm R)."""
    chance = random.Random(seed)
    chosen: list[tuple[int, dict[str, Any]]] = []
    for number, record in enumerate(records):
        place = number if number < count else chance.randrange(number + 1)
        if number < count:
            chosen.append((number, record))
        elif place < count:
            chosen[place] = (number, record)
    return [record for _, record in sorted(chosen, key=lambda pair: pair[0])]


def text_start(text: str | LongText, characters: int) -> str:
    """The first characters of a text, which may be a LongText."""
    start = ""
    for piece in pieces(text):
        start += piece[: characters - len(start)]
        if len(start) >= characters:
            break
    return start


def _parts(path: Path) -> tuple[list[Path], list[Path]]:
    """(parts of documents kept by the last stage here or below, parts of those dropped by any). Raises ValueError for none."""
    if path.is_dir():
        found = sorted(path.rglob(f"part-*{SUFFIX}"), key=_place)
    else:
        found = [path] if path.name.endswith(SUFFIX) and path.is_file() else []
    if not found:
        what = f"no {SUFFIX} parts here or below, and no shards" if path.is_dir() else f"neither a {SUFFIX} part nor a folder"
        raise ValueError(f"{path}: {what}. Name a build's output, a stage's folder, a part, or a folder of shards.")
    dropped = [part for part in found if part.name.endswith(DROPPED)]
    kept = [part for part in found if not part.name.endswith(DROPPED)]
    return [part for part in kept if part.parent == kept[-1].parent], dropped


def _place(part: Path) -> tuple[int, str, int, str]:
    """Where a part stands among all: its stage, and in that the order of the corpus."""
    stage = max((STAGES.index(name) for name in part.parts if name in STAGES), default=-1)
    names, name = _order(part.parent), part.name.split(".")[0]
    return stage, str(part.parent), names.index(name) if name in names else len(names), part.name


@cache
def _order(folder: Path) -> list[str]:
    return order(folder)


def _show_kind(kind: str, files: list[Path], options: argparse.Namespace, seed: int | None) -> None:
    sources: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    passed: Counter[str] = Counter()

    def matching() -> Iterator[dict[str, Any]]:
        for file in files:
            for record in read_records(file, long_texts=True):
                sources[record["source"]] += 1
                if options.source is not None and record["source"] != options.source:
                    continue
                why = f"{record.get('step', '')}: {record.get('reason', '')}"
                reasons[why] += 1
                if options.reason is None or options.reason.casefold() in why.casefold():
                    passed[kind] += 1
                    yield {**record, "text": text_start(record["text"], options.characters)}

    if seed is None:
        chosen = list(islice(matching(), options.skip, options.skip + options.count))
        how = "the first" if not options.skip else f"after the first {options.skip:,}"
    else:
        chosen = choose(matching(), options.count, seed)
        how = f"chosen among {passed[kind]:,} (--seed {seed})"
    print(f"== {kind}: {len(chosen):,} {how}")
    if not chosen and not passed:
        print(_nothing(options, sources, reasons))
    for record in chosen:
        print(_heading(kind, record), record["text"], sep="\n", end="\n\n")


def _heading(kind: str, record: dict[str, Any]) -> str:
    lines = [f"{record['id']}   source {record['source']}"]
    if kind == "dropped":
        detail = record.get("detail") or (f"repeats {record['kept_instead']}" if record.get("kept_instead") else "")
        lines.append(f"dropped by {record['step']}: {record['reason']}{f' ({detail})' if detail else ''}")
    return "\n".join([*lines, json.dumps(record.get("metadata", {}), ensure_ascii=False)])


def _nothing(options: argparse.Namespace, sources: Counter[str], reasons: Counter[str]) -> str:
    """Why no document matched, with what there is instead."""
    if options.source is not None and options.source not in sources:
        return f'none of source "{options.source}"; there are: {_frequent(sources)}'
    if options.reason is not None:
        return f'none for a reason with "{options.reason}"; there are: {_frequent(reasons)}'
    return "none"


def _frequent(counts: Counter[str]) -> str:
    shown = "; ".join(f"{name} ({count:,})" for name, count in counts.most_common(10)) or "none"
    return shown + (f"; and {len(counts) - 10:,} more" if len(counts) > 10 else "")


def _show_shards(options: argparse.Namespace) -> int:
    from tokenizers import Tokenizer

    from data_prep.shards import open_shards
    from data_prep.shards.storage import join, read_whole

    if options.kept or options.dropped or options.source or options.reason:
        raise ValueError("--kept, --dropped, --source and --reason are for a build's stages: shards hold tokens alone.")
    shards, path = open_shards(options.path, options.tokenizer), options.path
    corpus = path.rstrip("/").rsplit("/", 2)[0] if isinstance(path, str) else path.resolve().parent.parent
    content = read_whole(join(options.tokenizer or join(corpus, "tokenizer"), "tokenizer.json"))
    tokenizer = Tokenizer.from_buffer(content) if content else None
    starts = [*shards.document_starts().tolist(), shards.tokens]
    chosen: Any = range(options.skip, min(options.skip + options.count, shards.documents))
    if options.random:
        chosen = sorted(random.Random(options.seed).sample(range(shards.documents), min(options.count, shards.documents)))
    for index in chosen:
        ids = shards.read(starts[index], starts[index + 1])
        print(f"document {index}: tokens {starts[index]} to {starts[index + 1]}, first ids {ids[:12].tolist()}")
        text = tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False) if tokenizer else ""
        print(text[: options.characters], end="\n\n")
    return 0
