"""Batches: the same windows in every step, however they are divided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shards import TokenShards, Windows
from tests.corpora import write_shards
from trainer.batch import BatchPlan
from trainer.data.loader import Loader, read_windows
from trainer.data.order import WindowOrder
from trainer.model.loss import IGNORED


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Windows:
    return Windows(TokenShards.open(write_shards(tmp_path_factory.mktemp("corpus") / "train", documents=20)), 32)


def loader(windows: Windows, micro: int, accumulation: int, ranks: int, rank: int) -> Loader:
    order = WindowOrder(len(windows), 1, windows.shards.fingerprint)
    return Loader(windows, order, BatchPlan(32, micro, accumulation, ranks), rank)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(1, 12, 1), (12, 1, 1), (3, 2, 2), (2, 3, 2), (1, 1, 12), (4, 1, 3)]), st.integers(0, 500))
def test_a_step_holds_the_same_windows_however_it_is_divided(windows, split, samples_seen):
    micro, accumulation, ranks = split
    steps = [loader(windows, micro, accumulation, ranks, rank).step(samples_seen) for rank in range(ranks)]
    got = np.concatenate([inputs.numpy() for step in steps for inputs, _ in step.micro_batches])
    (expected,) = loader(windows, 12, 1, 1, 0).step(samples_seen).micro_batches
    assert sorted(map(tuple, got.tolist())) == sorted(map(tuple, expected[0].tolist()))
    real = sum(int((targets != IGNORED).sum()) for step in steps for _, targets in step.micro_batches)
    assert {step.targets_in_step for step in steps} == {real}


def test_targets_are_the_next_tokens_and_padding_counts_for_nothing(windows):
    shards, last = windows.shards, len(windows) - 1
    inputs, targets = read_windows(windows, np.array([0, last, -1]))
    assert inputs[0].tolist() == shards.read(0, 32).tolist()
    assert targets[0].tolist() == shards.read(1, 33).tolist()
    tail = shards.read(last * 32, shards.tokens).tolist()
    assert 1 < len(tail) <= 33
    assert inputs[1][: len(tail[:-1])].tolist() == tail[:-1]
    assert targets[1].tolist() == tail[1:] + [IGNORED] * (33 - len(tail))
    assert set(targets[2].tolist()) == {IGNORED}
    assert windows.real_targets(np.array([0, last])).tolist() == [32, len(tail) - 1]


def test_going_on_is_the_same_as_never_having_stopped(windows):
    def first(samples_seen, count):
        steps = loader(windows, 2, 2, 2, 1).steps(samples_seen)
        return [[inputs.tolist() for inputs, _ in next(steps).micro_batches] for _ in range(count)]

    per_epoch = -(-len(windows) // 8)
    whole = first(0, per_epoch + 3)  # across the border of an epoch
    assert first(8 * per_epoch, 3) == whole[per_epoch:]
