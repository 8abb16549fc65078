"""The ways from a corpus to batches that bench/loader.py compares: each format's own writer, each library's own loader."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

LENGTH, BATCH, ACCUMULATION, SEED = 2048, 16, 16, 1234
VOCABULARY, EOD = 50_257, 0
WEIGHTS = (0.7, 0.3)
SHARD_TOKENS = 2**28


# the corpora


def pieces(tokens: int, seed: int, vocabulary: int = VOCABULARY) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(uint16 ids, each document's end-of-document id included; int64 ends of the documents), about 16 M tokens at a time."""
    rng = np.random.default_rng(seed)
    while tokens > 0:
        sizes = np.maximum(2, rng.lognormal(6.0, 1.27, min(16_384, tokens // 900 + 1)).astype(np.int64))
        ends = np.cumsum(sizes)
        ends = ends[: max(1, int(np.searchsorted(ends, tokens, "right")))]
        ids = rng.integers(1, vocabulary, ends[-1], dtype=np.uint16)
        ids[ends - 1] = EOD
        yield ids, ends
        tokens -= len(ids)


def documents(tokens: int, seed: int) -> Iterator[np.ndarray]:
    for ids, ends in pieces(tokens, seed):
        yield from np.split(ids, ends[:-1])


def write_moenda(folder: Path, tokens: int, seed: int, vocabulary: int = VOCABULARY) -> None:
    from data_prep.shards import ShardWriter, write_manifest

    folder.mkdir(parents=True)
    names, some = [], itertools.chain(pieces(tokens, seed, vocabulary))
    for first in some:
        names.append(f"shard-{len(names):05d}.tokens")
        with ShardWriter(folder / names[-1], vocabulary, EOD, "00" * 32) as writer:
            for ids, ends in itertools.chain([first], some):
                kept = np.ones(len(ids), bool)
                kept[ends - 1] = False  # the writer adds the end-of-document ids
                offsets = np.concatenate([[0], ends - np.arange(1, len(ends) + 1)])
                writer.add_many(ids[kept], offsets, 4 * len(ids))
                if writer.tokens >= SHARD_TOKENS:
                    break
    write_manifest(folder, names)


def write_numpy(folder: Path, tokens: int, seed: int) -> None:
    folder.mkdir(parents=True)
    with (folder / "tokens.bin").open("wb") as file:
        for ids, _ in pieces(tokens, seed):
            ids.tofile(file)


def write_megatron(folder: Path, tokens: int, seed: int) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    folder.mkdir(parents=True)
    builder = IndexedDatasetBuilder(str(folder / "corpus.bin"), dtype=np.uint16)
    for document in documents(tokens, seed):
        builder.add_document(torch.from_numpy(document), [len(document)])
    builder.finalize(str(folder / "corpus.idx"))


def _litdata_documents(task: tuple[int, int]) -> Iterator:
    import torch

    yield from map(torch.from_numpy, documents(*task))


def write_litdata(folder: Path, tokens: int, seed: int) -> None:
    from litdata import TokensLoader, optimize

    # chunks of a multiple of the window's tokens, so that few are lost at their ends
    optimize(
        _litdata_documents,
        [(tokens, seed)],
        str(folder),
        chunk_size=(LENGTH + 1) * 16_384,
        item_loader=TokensLoader(),
        num_workers=1,
        verbose=False,
    )


def leave_out_pictures() -> None:
    """mosaicml-streaming imports torchvision for its picture datasets, whose CUDA build does not load beside a CPU torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        sys.modules["streaming.vision"] = ModuleType("streaming.vision")


def write_mosaic(folder: Path, tokens: int, seed: int) -> None:
    leave_out_pictures()
    from streaming import MDSWriter

    rest = np.empty(0, np.uint16)
    with MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint16:{LENGTH + 1}"}) as writer:
        for ids, _ in pieces(tokens, seed):
            ids = np.concatenate([rest, ids])
            whole = len(ids) // (LENGTH + 1) * (LENGTH + 1)
            for window in ids[:whole].reshape(-1, LENGTH + 1):
                writer.write({"tokens": window})
            rest = ids[whole:]


WRITERS = {
    "numpy": write_numpy,
    "moenda": write_moenda,
    "Megatron": write_megatron,
    "litdata": write_litdata,
    "mosaic": write_mosaic,
}


# the ways: each imports what it needs, then returns a function that opens the corpus and yields batches without end


def moenda(work: Path, blended: bool) -> Callable:
    from trainer.batch import BatchPlan
    from trainer.batch_ramp import BatchSchedule
    from trainer.config import DataSection
    from trainer.data.corpus import open_corpus
    from trainer.data.loader import Loader

    sources = {
        name: {"shards": str(work / f"moenda-{name}"), "weight": weight} for name, weight in zip("ab", WEIGHTS, strict=True)
    }
    settings = {"sources": sources} if blended else {"train": str(work / "moenda-a")}
    plan = BatchPlan(LENGTH, BATCH, ACCUMULATION, data_parallel_size=1)

    def batches() -> Iterator:
        corpus = open_corpus(DataSection(sequence_length=LENGTH, **settings), SEED)
        batches.epoch = lambda: sum(map(len, corpus.windows))
        batches.verify = lambda: [windows.shards.verify_all() for windows in corpus.windows]
        # the first step is of one batch, as a ramp's may be: what the others read for theirs
        first = replace(plan, gradient_accumulation_steps=1)
        (batch,) = Loader(corpus, BatchSchedule(first), data_rank=0).step(0).micro_batches
        yield batch.inputs, batch.targets
        loader = Loader(corpus, BatchSchedule(plan), data_rank=0)
        for step in itertools.count():
            for batch in loader.step(first.global_batch_tokens + step * plan.global_batch_tokens).micro_batches:
                yield batch.inputs, batch.targets

    return batches


class _Tokenizer:
    """What GPTDataset wants of one."""

    vocab_size, eod, pad = VOCABULARY, EOD, -1

    def __init__(self) -> None:
        self.unique_identifiers = {"class": "bench"}


def megatron(work: Path, blended: bool, build: bool, workers: int) -> Callable:
    import torch
    from megatron.core.datasets import helpers  # noqa: F401  (compiled)
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    # BlendedDataset asks torch.distributed which rank it is
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    prefixes = [str(work / f"Megatron-{name}" / "corpus") for name in "ab"]
    cache = work / f"Megatron-cache-{'blended' if blended else 'one'}"
    tokens = (work / "Megatron-a" / "corpus.bin").stat().st_size // 2
    fast = {} if build else {"fast_cache_load": True, "defer_npy_index_mmap": True}
    if build:
        shutil.rmtree(cache, ignore_errors=True)

    def batches() -> Iterator:
        blend = (prefixes, list(WEIGHTS)) if blended else (prefixes[:1], None)
        config = GPTDatasetConfig(
            random_seed=SEED,
            sequence_length=LENGTH,
            blend_per_split=[blend, None, None],
            path_to_cache=str(cache),
            tokenizer=_Tokenizer(),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            **fast,
        )
        sizes = [tokens // LENGTH - 1, None, None]
        dataset = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()[0]
        # the dataset is shuffled by its index: Megatron's sampler takes it in order
        loader = torch.utils.data.DataLoader(
            dataset, BATCH, shuffle=False, num_workers=workers, drop_last=True, persistent_workers=workers > 0
        )
        while True:
            for batch in loader:
                yield batch["tokens"], batch["labels"]

    return batches


def litdata(work: Path, blended: bool, workers: int) -> Callable:
    from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset, TokensLoader

    def batches() -> Iterator:
        sources = [
            StreamingDataset(
                str(work / f"litdata-{name}"), item_loader=TokensLoader(LENGTH + 1), shuffle=True, drop_last=True, seed=SEED
            )
            for name in ("ab" if blended else "a")
        ]
        dataset = sources[0]
        if blended:
            dataset = CombinedStreamingDataset(sources, seed=SEED, weights=list(WEIGHTS), iterate_over_all=False)
        loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)
        while True:
            for batch in loader:
                batch = batch.long()
                yield batch[:, :-1], batch[:, 1:]

    return batches


def mosaic(work: Path, blended: bool, workers: int) -> Callable:
    import torch

    leave_out_pictures()
    from streaming import Stream, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()

    def batches() -> Iterator:
        if blended:
            streams = [
                Stream(local=str(work / f"mosaic-{name}"), proportion=weight)
                for name, weight in zip("ab", WEIGHTS, strict=True)
            ]
            source = {"streams": streams}
        else:
            source = {"local": str(work / "mosaic-a")}
        dataset = StreamingDataset(**source, shuffle=True, batch_size=BATCH, shuffle_seed=SEED)
        loader = torch.utils.data.DataLoader(
            dataset, BATCH, num_workers=workers, drop_last=True, persistent_workers=workers > 0
        )
        while True:
            for batch in loader:
                tokens = batch["tokens"].long()
                yield tokens[:, :-1], tokens[:, 1:]

    return batches


def memmap(work: Path) -> Callable:
    def batches() -> Iterator:
        tokens = np.memmap(work / "numpy-a" / "tokens.bin", np.uint16, "r")
        out = np.empty((BATCH, LENGTH + 1), np.int64)
        starts = np.random.default_rng(SEED).permutation((len(tokens) - 1) // LENGTH) * LENGTH
        while True:
            for first in range(0, len(starts) - BATCH + 1, BATCH):
                for row, start in enumerate(starts[first : first + BATCH].tolist()):
                    out[row] = tokens[start : start + LENGTH + 1]
                yield out[:, :-1], out[:, 1:]

    return batches


# name: (format, what makes the function)
WAYS: dict[str, tuple[str, Callable]] = {
    "numpy.memmap": ("numpy", memmap),
    "moenda": ("moenda", lambda work: moenda(work, False)),
    "moenda, whole epoch": ("moenda", lambda work: moenda(work, False)),
    "moenda, verified before": ("moenda", lambda work: moenda(work, False)),
    "moenda, 70/30": ("moenda", lambda work: moenda(work, True)),
    "Megatron, building its index": ("Megatron", lambda work: megatron(work, False, True, 0)),
    "Megatron": ("Megatron", lambda work: megatron(work, False, False, 0)),
    "Megatron, 70/30, building": ("Megatron", lambda work: megatron(work, True, True, 0)),
    "Megatron, 70/30": ("Megatron", lambda work: megatron(work, True, False, 0)),
    "litdata": ("litdata", lambda work: litdata(work, False, 0)),
    "litdata, 70/30": ("litdata", lambda work: litdata(work, True, 0)),
    "mosaic": ("mosaic", lambda work: mosaic(work, False, 0)),
    "mosaic, 70/30": ("mosaic", lambda work: mosaic(work, True, 0)),
}
WITH_WORKERS: dict[str, tuple[str, Callable]] = {
    "Megatron, 2 workers": ("Megatron", lambda work: megatron(work, False, False, 2)),
    "litdata, 2 workers": ("litdata", lambda work: litdata(work, False, 2)),
    "mosaic, 2 workers": ("mosaic", lambda work: mosaic(work, False, 2)),
}
