"""Saved optimizer states in other sub-groups: the same rows of parameters, cut at other places."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.swapped_states import FLAT, STATES, SwappedStatesError, regrouped

cuts = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3)
"""Sizes of the sub-groups of each parameter group."""


def state_of(sizes: list[list[int]], stepped: bool = True) -> dict:
    """A ZeRO-3 state whose values say which element of which parameter group they belong to."""
    flats, states, groups = [], {}, []
    for group, its in enumerate(sizes):
        numbers = range(len(flats), len(flats) + len(its))
        for start, size in zip(accumulate([0, *its]), its, strict=False):
            row = torch.arange(start, start + size) + 1000.0 * group
            if stepped:
                states[len(flats)] = {"step": 7, "exp_avg": row + 0.25, "exp_avg_sq": row + 0.5}
            flats.append(row)
        groups.append({"lr": 0.1 * group, "params": list(numbers)})
    return {FLAT: flats, STATES: {"state": states, "param_groups": groups}, "overflow": False}


def same(one: dict, other: dict) -> bool:
    def plain(value):
        if torch.is_tensor(value):
            return value.tolist()
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    return plain(one) == plain(other)


@given(cuts, st.booleans(), st.data())
def test_states_are_cut_anew(before, stepped, data):
    after = []
    for its in before:  # the same row, cut elsewhere
        inner = data.draw(st.sets(st.integers(1, sum(its) - 1), max_size=3)) if sum(its) > 1 else set()
        edges = [0, *sorted(inner), sum(its)]
        after.append([high - low for low, high in pairwise(edges)])
    sizes, groups = zip(*((size, group) for group, its in enumerate(after) for size in its), strict=True)
    saved = state_of(before, stepped)
    assert same(regrouped(saved, sizes, groups), state_of(after, stepped))
    assert same(saved, state_of(before, stepped))


def test_pieces_within_one_tensor_are_not_copied():
    saved = state_of([[8]])
    apart = regrouped(saved, [3, 5], [0, 0])
    assert [flat.data_ptr() for flat in apart[FLAT]] == [saved[FLAT][0].data_ptr(), saved[FLAT][0][3:].data_ptr()]
    assert regrouped(saved, [8], [0]) is saved


def test_states_of_another_model_are_refused():
    with pytest.raises(SwappedStatesError, match="for 8 parameters, the model has 9"):
        regrouped(state_of([[8]]), [4, 5], [0, 0])
