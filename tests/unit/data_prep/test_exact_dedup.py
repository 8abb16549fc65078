"""Exact deduplication: the first stays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dedup import exact


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60))
def test_first_occurrences_against_brute_force(pairs):
    high = np.array([a for a, _ in pairs], dtype=np.uint64)
    low = np.array([b for _, b in pairs], dtype=np.uint64)
    assert exact.first_occurrences(high, low).tolist() == [pairs.index(pair) for pair in pairs]


def test_what_counts_as_equal():
    assert exact.normalise("Cafe\u0301  au\n\tlait ") == exact.normalise("Caf\u00e9 au lait")
    assert exact.normalise("Cafe") != exact.normalise("cafe")
    assert exact.normalise("cafe.") != exact.normalise("cafe")


def test_holdout_keys_are_even_and_depend_on_the_seed():
    keys = np.array([exact.holdout_key(f"doc {n}", 0) for n in range(4000)], dtype=np.float64) / 2**64
    assert abs(keys.mean() - 0.5) < 0.02
    assert exact.holdout_key("doc 1", 0) != exact.holdout_key("doc 1", 1)
