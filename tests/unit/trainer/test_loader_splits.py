"""Which rank reads what, exactly; and that evaluation reads every window once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shards import TokenShards, Windows
from tests.corpora import write_shards
from trainer.batch import BatchPlan
from trainer.data.loader import Loader, read_windows
from trainer.data.order import WindowOrder
from trainer.evaluation import evaluate, evaluation_windows
from trainer.model.loss import IGNORED

LENGTH = 16
small = st.integers(1, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("corpus") / "train", documents=4)


@pytest.fixture(scope="module")
def windows(folder) -> Windows:
    return Windows(TokenShards.open(folder), LENGTH)


@settings(max_examples=40, deadline=None)
@given(micro=small, accumulation=small, ranks=small, samples_seen=st.integers(0, 300), seed=st.integers(0, 9))
def test_the_shares_of_all_ranks_are_the_order_itself(windows, micro, accumulation, ranks, samples_seen, seed):
    order = WindowOrder(len(windows), seed, windows.shards.fingerprint)
    plan = BatchPlan(LENGTH, micro, accumulation, ranks)
    steps = [Loader(windows, order, plan, rank).step(samples_seen) for rank in range(ranks)]
    # micro-batch by micro-batch over the ranks: what one rank would read in one go
    shares = [steps[rank].micro_batches[turn] for turn in range(accumulation) for rank in range(ranks)]
    indices = order.windows(samples_seen, micro * accumulation * ranks)
    inputs, targets = read_windows(windows, indices)
    assert np.array_equal(np.concatenate([share[0] for share in shares]), inputs)
    assert np.array_equal(np.concatenate([share[1] for share in shares]), targets)
    assert {step.targets_in_step for step in steps} == {int((targets != IGNORED).sum())}


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 80))
def test_every_token_but_the_first_is_a_target_once(folder, length):
    shards = TokenShards.open(folder)
    windows = Windows(shards, length)
    inputs, targets = read_windows(windows, np.arange(len(windows)))
    real = targets != IGNORED
    assert targets[real].tolist() == shards.read(1, shards.tokens).tolist()
    assert inputs[real].tolist() == shards.read(0, shards.tokens - 1).tolist()
    assert int(real.sum()) == int(windows.real_targets(np.arange(len(windows))).sum()) == shards.tokens - 1


@given(count=st.integers(1, 500), most=st.integers(1, 600) | st.none())
def test_evaluated_windows_are_distinct_and_evenly_spread(count, most):
    chosen = evaluation_windows(count, most)
    assert len(chosen) == min(count, most or count)
    assert chosen[0] == 0 and chosen[-1] < count and (np.diff(chosen) > 0).all()
    assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 1 else True


@settings(max_examples=25, deadline=None)
@given(micro=small, ranks=small, most=st.integers(1, 60) | st.none())
def test_evaluation_reads_each_window_once_over_all_ranks_and_fills_up_with_padding(windows, micro, ranks, most):
    plan = SimpleNamespace(
        validation=windows,
        batch=BatchPlan(LENGTH, micro, 1, ranks),
        config=SimpleNamespace(evaluation=SimpleNamespace(max_windows=most)),
    )
    read, batches, found = Counter(), set(), []

    class Worker:
        """Stands for the engine: takes the micro-batches of one rank, and calls each target one nat."""

        def eval_sum(self, micro_batches) -> float:
            mine = list(micro_batches)
            batches.add(tuple(inputs.shape for inputs, _ in mine))
            for _, targets in mine:
                read.update(tuple(row) for row in targets.tolist() if row[0] != IGNORED)
            return 1.0

    for rank in range(ranks):
        found.append(evaluate(Worker(), plan, rank))
    chosen = evaluation_windows(len(windows), most)
    expected = Counter(tuple(row) for row in read_windows(windows, chosen)[1].tolist())
    assert read == expected
    assert len(batches) == 1  # a collective waits for ranks that bring fewer
    assert {result.targets for result in found} == {int(windows.real_targets(chosen).sum())}
