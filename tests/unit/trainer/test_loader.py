"""Batches: which rank reads what, exactly, and the same windows in every step however they are divided."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import packing
from data_prep.shards import TokenShards, Windows
from tests.corpora import write_shards
from trainer.batch import BatchPlan, BatchSection, RampSection
from trainer.batch_ramp import BatchSchedule, plan_batches
from trainer.config import DataSection
from trainer.data.corpus import Corpus, open_corpus
from trainer.data.loader import Loader, MicroBatch, read_windows
from trainer.evaluation import evaluate, evaluation_windows
from trainer.ledger import MASK, planned
from trainer.model.loss import IGNORED

LENGTH = 16
small = st.integers(1, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    for name, documents in (("a", 4), ("b", 10)):
        write_shards(root / name, documents=documents, seed=documents)
    return root


def corpus_of(folder: Path, **changes) -> Corpus:
    sources = {name: {"shards": str(folder / name), "weight": weight} for name, weight in (("a", 1), ("b", 3))}
    return open_corpus(DataSection(**{"sources": sources, "sequence_length": LENGTH, **changes}), seed=1)


@pytest.fixture(scope="module")
def corpus(folder) -> Corpus:
    return corpus_of(folder)


def rows_of(batches: list[MicroBatch]) -> list[tuple]:
    return [(*row, *target) for b in batches for row, target in zip(b.inputs.tolist(), b.targets.tolist(), strict=True)]


@settings(max_examples=40, deadline=None)
@given(micro=small, accumulation=small, ranks=small, windows_seen=st.integers(0, 300))
def test_the_shares_of_all_ranks_are_the_order_itself(corpus, micro, accumulation, ranks, windows_seen):
    schedule = BatchSchedule(BatchPlan(LENGTH, micro, accumulation, ranks))
    steps = [Loader(corpus, schedule, rank).step(windows_seen * LENGTH) for rank in range(ranks)]
    # micro-batch by micro-batch over the ranks: what one rank would read in one go
    shares = [steps[rank].micro_batches[turn] for turn in range(accumulation) for rank in range(ranks)]
    source, window = corpus.mixture.locate(windows_seen, micro * accumulation * ranks)
    alone = [read_windows(corpus.windows[s], np.array([w])) for s, w in zip(source.tolist(), window.tolist(), strict=True)]
    assert rows_of(shares) == rows_of(alone)
    assert sum(step.targets for step in steps) == sum(int((b.targets != IGNORED).sum()) for b in alone)
    assert sum(step.digest for step in steps) & MASK == planned(corpus, schedule, windows_seen * LENGTH)[2]


@settings(max_examples=10, deadline=None)
@given(micro=small, ranks=small, rungs=st.integers(2, 4), over=st.integers(1, 4000))
def test_a_ramp_changes_the_batches_and_not_the_order(corpus, micro, ranks, rungs, over):
    unit = LENGTH * micro * ranks
    section = BatchSection(
        global_batch_tokens=unit * rungs, micro_batch_size=micro, ramp=RampSection(start_tokens=unit, over_tokens=over)
    )
    schedule = plan_batches(section, LENGTH, ranks)
    loaders = [Loader(corpus, schedule, rank).steps(0, 3000) for rank in range(ranks)]
    seen, sizes = [], []
    for steps in zip(*loaders, strict=True):
        turns = range(steps[0].plan.gradient_accumulation_steps)
        seen += rows_of([steps[rank].micro_batches[turn] for turn in turns for rank in range(ranks)])
        sizes.append(steps[0].plan.global_batch_tokens)
    assert sum(sizes) == len(seen) * LENGTH >= 3000 and sum(sizes[:-1]) < 3000
    (whole,) = Loader(corpus, BatchSchedule(BatchPlan(LENGTH, len(seen), 1, 1)), 0).step(0).micro_batches
    assert seen == rows_of([whole])


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("way", ["concatenate", "best_fit"])
def test_shorter_windows_are_parts_of_the_same_windows(folder, way, document_mask):
    for name in "ab":
        packing.make(TokenShards.open(folder / name), way, LENGTH) if way != "concatenate" else None
    changes = {"packing": way, "document_mask": document_mask}
    schedule = BatchSchedule(BatchPlan(LENGTH, 3, 2, 1))
    stages = [{"from_tokens": 0, "sequence_length": 4}, {"from_tokens": 100, "sequence_length": 16}]
    whole = Loader(corpus_of(folder, **changes), schedule, 0)
    parts = Loader(corpus_of(folder, **changes, curriculum=stages), schedule, 0)
    assert [part.sequence_length for part in parts.steps(0, 4 * 96)] == [4, 4, 16, 16]
    for whole_step, part_step in zip(whole.steps(0, 4 * 96), parts.steps(0, 4 * 96), strict=True):
        for one, cut in zip(whole_step.micro_batches, part_step.micro_batches, strict=True):
            length = part_step.sequence_length
            assert torch.equal(cut.inputs, one.inputs.reshape(-1, length))
            assert torch.equal(cut.targets, one.targets.reshape(-1, length))
            assert (cut.positions is not None) == document_mask
            if document_mask:
                check_positions(cut.positions, one.positions.reshape(-1, length))


def check_positions(cut: torch.Tensor, whole: torch.Tensor) -> None:
    """Positions of a part count from its own start, until a document starts in it."""
    for part, row in zip(cut.tolist(), whole.tolist(), strict=True):
        expected, place = [], 0
        for value in row:
            place = 0 if value == 0 else place
            expected.append(place)
            place += 1
        assert part == expected


def test_going_on_is_the_same_as_never_having_stopped(corpus):
    schedule = BatchSchedule(BatchPlan(LENGTH, 2, 2, 2))
    whole = list(Loader(corpus, schedule, 1).steps(0, 40 * 128))
    for stop in (1, 17, 39):
        rest = list(Loader(corpus, schedule, 1).steps(stop * 128, 40 * 128))
        assert [rows_of(step.micro_batches) for step in rest] == [rows_of(step.micro_batches) for step in whole[stop:]]
        assert [step.digest for step in rest] == [step.digest for step in whole[stop:]]


def test_steps_end_with_the_first_that_reaches_the_total(corpus):
    schedule = BatchSchedule(BatchPlan(LENGTH, 2, 1, 1))
    assert [len(list(Loader(corpus, schedule, 0).steps(0, total))) for total in (1, 32, 33, 64)] == [1, 1, 2, 2]


def test_targets_are_the_next_tokens_and_padding_counts_for_nothing(folder):
    shards = TokenShards.open(folder / "a")
    windows = Windows(shards, 32)
    last = len(windows) - 1
    batch = read_windows(windows, np.array([0, last, -1]))
    assert batch.inputs[0].tolist() == shards.read(0, 32).tolist()
    assert batch.targets[0].tolist() == shards.read(1, 33).tolist()
    tail = shards.read(last * 32, shards.tokens).tolist()
    assert 1 < len(tail) <= 33
    assert batch.inputs[1][: len(tail[:-1])].tolist() == tail[:-1]
    assert batch.targets[1].tolist() == tail[1:] + [IGNORED] * (33 - len(tail))
    assert set(batch.targets[2].tolist()) == {IGNORED}


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 80))
def test_every_token_but_the_first_is_a_target_once(folder, length):
    shards = TokenShards.open(folder / "b")
    windows = Windows(shards, length)
    batch = read_windows(windows, np.arange(len(windows)))
    real = batch.targets != IGNORED
    assert batch.targets[real].tolist() == shards.read(1, shards.tokens).tolist()
    assert batch.inputs[real].tolist() == shards.read(0, shards.tokens - 1).tolist()


@given(count=st.integers(1, 500), most=st.integers(1, 600) | st.none())
def test_evaluated_windows_are_distinct_and_evenly_spread(count, most):
    chosen = evaluation_windows(count, most)
    assert len(chosen) == min(count, most or count)
    assert chosen[0] == 0 and chosen[-1] < count and (np.diff(chosen) > 0).all()
    assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 1 else True


@settings(max_examples=25, deadline=None)
@given(micro=small, ranks=small, most=st.integers(1, 60) | st.none())
def test_evaluation_reads_each_window_once_over_all_ranks_and_fills_up_with_padding(folder, micro, ranks, most):
    windows = Windows(TokenShards.open(folder / "a"), LENGTH)
    plan = SimpleNamespace(
        validation=windows,
        batch=BatchPlan(LENGTH, micro, 1, ranks),
        config=SimpleNamespace(evaluation=SimpleNamespace(max_windows=most)),
    )
    read, batches = Counter(), set()

    class Worker:
        """Stands for the engine: takes the micro-batches of one rank."""

        def eval_sum(self, micro_batches) -> tuple[float, int]:
            mine = list(micro_batches)
            batches.add(tuple(batch.inputs.shape for batch in mine))
            for batch in mine:
                read.update(tuple(row) for row in batch.targets.tolist() if row[0] != IGNORED)
            return 3.0, 2

    for rank in range(ranks):
        assert evaluate(Worker(), plan, rank).loss == 1.5
    expected = read_windows(windows, evaluation_windows(len(windows), most)).targets.tolist()
    assert read == Counter(map(tuple, expected))
    assert len(batches) == 1  # a collective waits for ranks that bring fewer


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32])
def test_no_token_of_an_unsigned_type_is_taken_for_one_to_ignore(dtype):
    tokens = torch.tensor([[2 ** (8 * dtype.itemsize) + IGNORED, 1, 2]], dtype=torch.int64).to(dtype)
    assert MicroBatch(tokens, tokens).real_targets == 3
    assert MicroBatch(tokens, torch.tensor([[5, IGNORED, IGNORED]], dtype=torch.int32)).real_targets == 1
