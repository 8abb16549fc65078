"""Packing: every token once, nothing cut that fits, against a plain best fit."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import packing
from data_prep.__main__ import main
from data_prep.shards import ShardWriter, write_manifest

LENGTHS = st.lists(st.integers(1, 60) | st.sampled_from([1, 7, 16]), max_size=120).map(
    lambda values: np.array(values, np.int64)
)


def windows(plan):
    return [[stop - start for start, stop in plan[index]] for index in range(len(plan))]


def test_two_documents_and_their_separators_in_a_window():
    plan = packing.best_fit(np.array([1500 + 1, 300 + 1]), 2048)
    assert windows(plan) == [[1501, 301]] and plan.padding == 2048 - 1802


def test_three_documents_fill_a_window():
    assert windows(packing.best_fit(np.array([800, 200, 24]), 1024)) == [[800, 200, 24]]
    assert packing.best_fit(np.array([800, 200, 24]), 1024).padding == 0


def test_equal_documents_and_padding():
    plan = packing.best_fit(np.array([300, 300, 300]), 1024)
    assert windows(plan) == [[300, 300, 300]] and plan.padding == 124
    assert windows(packing.pad(np.array([300, 300, 300]), 1024)) == [[300]] * 3


def test_concatenate_cuts():
    plan = packing.concatenate(np.array([5, 3, 9, 1]), 6)
    assert [plan[index] for index in range(len(plan))] == [[(0, 5), (5, 6)], [(6, 8), (8, 12)], [(12, 17), (17, 18)]]
    assert (plan.documents_cut, plan.documents_split, plan.padding) == (1, 1, 0)


@pytest.mark.parametrize("method", packing.METHODS)
@given(lengths=LENGTHS, window=st.integers(1, 40))
def test_every_token_once(method, lengths, window):
    plan = packing.METHODS[method](lengths, window)
    assert all(sum(sizes) <= window for sizes in windows(plan)) and all(windows(plan))
    spans = sorted(span for index in range(len(plan)) for span in plan[index])
    assert [token for start, stop in spans for token in range(start, stop)] == list(range(int(lengths.sum())))
    assert plan.tokens == lengths.sum() and plan.documents_split == (lengths > window).sum()
    ends = np.cumsum(lengths)
    assert not any(start < end < stop for end in ends for start, stop in spans)  # no piece spans two documents


@given(lengths=LENGTHS, window=st.integers(1, 40), most=st.integers(1, 5) | st.just(1 << 30))
def test_best_fit_is_best_fit_decreasing(lengths, window, most):
    plan = packing.best_fit(lengths, window, most)
    assert all(len(sizes) <= most for sizes in windows(plan))
    if most == 1 << 30:
        plain = plain_best_fit(lengths.tolist(), window)  # which of equally full windows is taken is free
        assert sorted(map(sum, windows(plan))) == sorted(map(sum, plain))
    firsts = [plan[index][0] for index in range(len(plan))]
    assert firsts == sorted(firsts) and all(plan[index] == sorted(plan[index]) for index in range(len(plan)))
    for begin, size in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        if size <= window:
            assert any((begin, begin + size) in plan[index] for index in range(len(plan)))


def plain_best_fit(lengths, window):
    """One document at a time into the fullest bin with room."""
    pieces = [min(window, size - start) for size in lengths for start in range(0, size, window)]
    bins, rooms = [], []  # rooms: sorted (room, number of bin)
    for piece in sorted(pieces, reverse=True):
        place = bisect_left(rooms, (piece, -1))
        if place < len(rooms):
            room, number = rooms.pop(place)
        else:
            room, number = window, len(bins)
            bins.append([])
        bins[number].append(piece)
        insort(rooms, (room - piece, number))
    return bins


def test_blocks_count_from_the_first_token(monkeypatch):
    monkeypatch.setattr(packing, "BLOCK_DOCUMENTS", 2)
    plans = list(packing.plan(np.array([3, 4, 5, 2, 6]), 8, "best_fit"))
    assert [plan[index] for plan in plans for index in range(len(plan))] == [[(0, 3), (3, 7)], [(7, 12), (12, 14)], [(14, 20)]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: packing.best_fit(np.array([3, 0]), 8), "document 1 has 0 tokens"),
        (lambda: packing.pad(np.array([3]), 0), "a window needs 1"),
        (lambda: packing.best_fit(np.array([3]), 8, 0), "at least 1 document"),
        (lambda: list(packing.plan(np.array([3]), 8, "bestfit")), "one of concatenate, best_fit, pad"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_pack_command_states_what_each_way_costs(tmp_path, capsys):
    with ShardWriter(tmp_path / "shard-00000-000.tokens", 300, 0, "00" * 16) as writer:
        for size in (6, 2, 2, 13):
            writer.add(np.arange(1, size + 1), size)
    write_manifest(tmp_path, ["shard-00000-000.tokens"])
    assert main(["pack", str(tmp_path), "--length", "8"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["4", "documents,", "27", "tokens"]
    assert rows[2:] == [
        ["8", "concatenate", "4", "15.62%", "1", "1"],
        ["8", "best_fit", "4", "15.62%", "0", "1"],
        ["8", "pad", "5", "32.50%", "0", "1"],
    ]
