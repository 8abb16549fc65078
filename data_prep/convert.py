"""Token shards out of Megatron's .bin and .idx, and back.

To ours: documents stay what they are, in their order; each gets its end-of-document token if it lacks it; empty ones, which
hold no token, and those taken down are left out. A stage of tasks (stage.py): killed anywhere, it goes on; the manifest comes
last.
To Megatron's: one pair, one sequence per document, byte for byte what megatron-core's builder writes; documents taken down are
left out.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep import tokenizer as tokenizers
from data_prep.shards import MegatronWriter, TokenShards, megatron_dtype, tokenizer_fingerprint, write_manifest
from data_prep.shards.format import MANIFEST, corpus_fingerprint
from data_prep.shards.megatron import megatron_prefixes
from data_prep.shards.megatron_format import MegatronPair, prefix_of
from data_prep.shards.takedown import read_takedowns
from data_prep.shards.writer import naming
from data_prep.stage import STAGE_FILE, Runner, Task
from data_prep.tokenise import ShardSequence
from data_prep.tokenizer import CorpusTokenizer

TOKENS_PER_SHARD = 2**28
BATCH_DOCUMENTS, BATCH_TOKENS = 1 << 14, 1 << 20
"""Documents and tokens that are converted together; one document may be longer."""
PROBES, PROBE_TOKENS = 64, 1 << 14
"""Sequences, of at most so many tokens, that are decoded and encoded again to tell whether the tokenizer is theirs."""


class ConvertError(ValueError):
    """The conversion cannot be done as asked; the message says what to do."""


def to_shards(
    source: Path, output: Path, tokenizer: Path | None, eod_token: str | None, split: str, runner: Runner
) -> dict[str, Any]:
    """Convert a Megatron corpus to `output`/shards/`split`, its tokenizer to `output`/tokenizer; returns a summary.

    Raises ValueError (ShardError, TokenizerError, StageError, ConvertError) for what the user has to change.
    """
    if (output / "shards" / STAGE_FILE).exists():
        raise ConvertError(f"{output} holds a corpus that a recipe builds. Choose another output folder.")
    ledger, prefixes = megatron_prefixes(source)
    pairs = [MegatronPair(prefix) for prefix in prefixes]
    megatron = corpus_fingerprint([pair.fingerprint for pair in pairs])
    gone = {d["id"] for entry in read_takedowns(ledger, megatron).entries for d in entry["documents"]}
    new = _place_tokenizer(output / "tokenizer", tokenizer, eod_token)
    opened = CorpusTokenizer(output / "tokenizer", fast=False)
    same, probed = _probe(pairs, opened)
    if probed >= 8 and not same:
        if new:
            shutil.rmtree(output / "tokenizer")
        raise ConvertError(
            f"{tokenizer or output / 'tokenizer'}: not the tokenizer of {source}: of {probed} sequences decoded and encoded "
            f"again, none gave the ids that are there. Name the right one with --tokenizer."
        )
    tasks = [Task(f"part-{n:05d}", size, job) for n, (size, job) in enumerate(_jobs(pairs, output / "tokenizer", gone))]
    settings = {
        "megatron": megatron,
        "names": [pair.prefix.name for pair in pairs],
        "tokenizer": opened.fingerprint,
        "eod_id": opened.eod_id,
        "tokens_per_shard": TOKENS_PER_SHARD,
    }
    if gone:
        settings["taken_down"] = sorted(gone)
    folder = output / "shards" / split
    results = runner.run(folder, "convert", settings, tasks, _convert)
    manifest = write_manifest(folder, [name for result in results for name in result["shards"]])
    counts = {key: sum(result.get(key, 0) for result in results) for key in ("ends_added", "empty", "taken_down")}
    return {**manifest, **counts, "folder": str(folder), "same": same, "probed": probed}


def _place_tokenizer(folder: Path, tokenizer: Path | None, eod_token: str | None) -> bool:
    """Copy the tokenizer to where runs look for it, or make sure that it is the one that is there; whether it was copied."""
    there = folder / "tokenizer.json"
    if there.is_file():
        if tokenizer and tokenizer_fingerprint(tokenizers.find(tokenizer)) != tokenizer_fingerprint(there):
            raise ConvertError(f"{folder} is another tokenizer than {tokenizer}: all splits of a corpus share one.")
        return False
    if tokenizer is None:
        raise ConvertError("a Megatron corpus does not say which tokenizer wrote it: name its folder with --tokenizer.")
    partial = folder.with_name(".tokenizer.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizers.adopt(tokenizer, eod_token, partial)
    os.replace(partial, folder)
    return True


def _probe(pairs: list[MegatronPair], tokenizer: CorpusTokenizer) -> tuple[int, int]:
    """(sequences that came out the same, sequences decoded and encoded again); what was split was encoded split."""
    same = probed = 0
    for pair in pairs:
        each = -(-PROBES // len(pairs))
        for index in sorted({pair.header.sequences * probe // each for probe in range(each)} if pair.header.sequences else ()):
            ids = pair.sequence(index).astype(np.int64)
            ids = ids[: len(ids) - (len(ids) > 0 and ids[-1] == tokenizer.eod_id)]
            if not 0 < len(ids) <= PROBE_TOKENS or ids.min() < 0 or ids.max() >= tokenizer.vocab_size:
                continue
            probed += 1
            same += np.array_equal(tokenizer.encode([tokenizer.decode(ids.tolist())])[0], ids)
    return same, probed


def _jobs(pairs: list[MegatronPair], tokenizer: Path, gone: set[str]) -> Iterator[tuple[int, Any]]:
    """(bytes, arguments) of tasks of about a shard, by numbers of documents: their lengths need not be read."""
    for pair in pairs:
        ids = (document.rpartition("#") for document in gone)
        numbers = np.array(sorted(int(number) for name, _, number in ids if name == pair.prefix.name), np.int64)
        documents = pair.header.entries - 1
        count = max(1, min(documents, -(-pair.bin_bytes // pair.header.dtype.itemsize // TOKENS_PER_SHARD)))
        for index in range(count if documents else 0):
            first, last = documents * index // count, documents * (index + 1) // count
            yield pair.bin_bytes // count, (pair.prefix, first, last, tokenizer, numbers[(numbers >= first) & (numbers < last)])


def _convert(task: Task, folder: Path) -> dict[str, Any]:
    """Convert the documents [first, last) of a pair, but those of the numbers in `gone`."""
    prefix, first, last, tokenizer_folder, gone = task.arguments
    pair, tokenizer = MegatronPair(prefix), CorpusTokenizer(tokenizer_folder, fast=False)
    counts = {"ends_added": 0, "empty": 0, "taken_down": 0}
    with ShardSequence(folder, task.name, tokenizer, TOKENS_PER_SHARD) as output:
        for number, ids, lengths in _batches(pair, first, last):
            out = np.isin(np.arange(number, number + len(lengths)), gone)
            ids, lengths = ids[np.repeat(~out, lengths)], np.where(out, 0, lengths)
            ends = np.cumsum(lengths)
            ended = lengths > 0
            ended[ended] = ids[ends[ended] - 1] == tokenizer.eod_id
            kept = np.ones(len(ids), bool)
            kept[ends[ended] - 1] = False  # the writer adds it
            filled = np.flatnonzero(lengths)
            sizes = (lengths - ended)[filled]
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            ids = ids[kept]
            if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size:
                raise ConvertError(
                    f"{pair.bin}: documents {number:,} to {number + len(lengths):,} hold ids {ids.min()} to {ids.max()}, "
                    f"outside the tokenizer's vocabulary of {tokenizer.vocab_size:,}: another one wrote them. Name it."
                )
            records = [
                {"id": f"{prefix.name}#{index}", "source": prefix.name, "metadata": {}} for index in (number + filled).tolist()
            ]
            output.add(records, tokenizer.text_bytes(ids, offsets).tolist(), ids, offsets)
            counts["ends_added"] += len(filled) - int(ended.sum())
            counts["empty"] += len(lengths) - len(filled) - int(out.sum())
            counts["taken_down"] += int(out.sum())
    return {"outputs": [Path(name).name for name in output.files], "shards": output.shards, **counts}


def _batches(pair: MegatronPair, first: int, last: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(number of the first document, tokens of all, int64 length of each) of the documents [first, last), empty ones too."""
    while first < last:
        sequences = pair.document_sequences(first, min(first + BATCH_DOCUMENTS, last))
        low = int(sequences[0])
        tokens = np.concatenate([[0], np.cumsum(pair.lengths[low : int(sequences[-1])], dtype=np.int64)])[sequences - low]
        count = min(len(tokens) - 1, max(1, int(np.searchsorted(tokens, BATCH_TOKENS))))
        stop = int(sequences[count])
        pair.check_modes(low, stop)
        yield first, pair.sequences(low, stop), np.diff(tokens[: count + 1])
        first += count


def to_megatron(source: Path, prefix: Path) -> dict[str, Any]:
    """Convert a folder of token shards to prefix.bin and prefix.idx (either of which may be named), of megatron-core's own type
    for the vocabulary; returns a summary.

    Raises ShardError for damaged shards, ConvertError when there is a file of that name."""
    shards, prefix = TokenShards.open(source), prefix_of(prefix)
    for suffix in (".bin", ".idx"):
        if prefix.with_name(prefix.name + suffix).exists():
            raise ConvertError(f"{prefix}{suffix} is there already. Remove it, or choose another name.")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    dtype, gone, start = megatron_dtype(shards.vocab_size), 0, 0
    with (
        naming(prefix),
        MegatronWriter(prefix, dtype, shards.documents - len(shards.takedowns)) as writer,
        tqdm(total=shards.tokens, unit="tok", unit_scale=True, desc="convert", mininterval=0.5, file=sys.stderr) as bar,
    ):
        for lengths in _runs(shards):
            stops = start + np.cumsum(lengths)
            kept = shards.takedowns.count(stops - lengths, stops) == 0
            tokens = shards.read(start, int(stops[-1]))
            writer.add_many(tokens if kept.all() else tokens[np.repeat(kept, lengths)], lengths[kept])
            gone += int((~kept).sum())
            bar.update(len(tokens))
            start = int(stops[-1])
    return {"documents": shards.documents - gone, "taken_down": gone, "dtype": str(dtype), "prefix": str(prefix)}


def _runs(shards: TokenShards) -> Iterator[np.ndarray]:
    """int64 lengths of neighbouring documents of about BATCH_TOKENS together."""
    for lengths in shards.document_lengths(BATCH_DOCUMENTS):
        yield from np.split(lengths, np.flatnonzero(np.diff(np.cumsum(lengths) // BATCH_TOKENS)) + 1)


def is_ours(source: Path) -> bool:
    """Whether a path is a folder of token shards."""
    return (source / MANIFEST).is_file()


def describe(summary: dict[str, Any]) -> str:
    """A summary for a person, with the next command."""
    if "prefix" in summary:
        taken = f", {summary['taken_down']:,} that were taken down left out" if summary["taken_down"] else ""
        return f"{summary['prefix']}.bin, .idx: {summary['documents']:,} documents in {summary['dtype']}{taken}"
    lines = [
        f"{summary['folder']}: {summary['tokens']:,} tokens in {summary['documents']:,} documents, "
        f"{summary['text_bytes']:,} bytes of text"
    ]
    if summary["ends_added"]:
        lines.append(f"{summary['ends_added']:,} documents had no end-of-document token and got one")
    if summary["taken_down"]:
        lines.append(f"{summary['taken_down']:,} documents that were taken down are left out")
    if summary["empty"]:
        lines.append(f"{summary['empty']:,} documents were empty and are left out")
    lines.append(f"{summary['same']} of {summary['probed']} sequences, decoded and encoded again, gave the same ids")
    return "\n".join(lines)
