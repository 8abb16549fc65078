"""The shuffle of an epoch: a bijection for every size and key, well mixed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.permutation import Permutation

keys = st.integers(0, 2**128 - 1)


@given(size=st.integers(1, 3000), key=keys)
def test_bijection_and_inverse(size, key):
    permutation = Permutation(size, key)
    images = permutation(np.arange(size))
    assert np.array_equal(np.sort(images), np.arange(size))
    assert np.array_equal(permutation.inverse(images), np.arange(size))


@given(size=st.integers(2**40, 2**62), key=keys, positions=st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=20))
def test_huge_sizes(size, key, positions):
    permutation = Permutation(size, key)
    images = permutation(np.array(positions))
    assert (images < size).all()
    assert permutation.inverse(images).tolist() == positions


@pytest.mark.parametrize("size", [0, -1, 2**62 + 1])
def test_impossible_sizes(size):
    with pytest.raises(ValueError, match="size"):
        Permutation(size, 0)


def test_places_are_evenly_used():
    """Over many keys, element 0 lands in each tenth of [0, 1000) about equally often (chi-square, 9 degrees, p about 1e-6)."""
    images = [int(Permutation(1000, key)(np.array([0]))[0]) for key in range(4000)]
    counts = np.bincount(np.array(images) // 100, minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 45


def test_neighbours_do_not_stay_together():
    images = Permutation(100_000, 7)(np.arange(100_000)).astype(np.int64)
    assert (np.abs(np.diff(images)) == 1).sum() < 20
