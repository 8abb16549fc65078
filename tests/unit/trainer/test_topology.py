"""Ranks in DeepSpeed's order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.parallel.topology import AXES, ParallelSection, Topology, TopologyError, from_world

SIZES = st.tuples(*[st.integers(1, 4)] * 4)


@pytest.mark.parametrize(("stages", "replicas"), [(1, 4), (2, 1), (2, 3), (4, 2)])
def test_same_coordinates_as_deepspeed(stages, replicas):
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    theirs = PipeDataParallelTopology(num_pp=stages, num_dp=replicas)
    ours = from_world(ParallelSection(pipeline_stages=stages), stages * replicas)
    assert ours.world_size == stages * replicas
    for rank in range(ours.world_size):
        coordinate = theirs.get_coord(rank)
        assert (ours.pipe_stage(rank), ours.data_rank(rank)) == (coordinate.pipe, coordinate.data)


def test_ranks_that_do_not_divide():
    with pytest.raises(TopologyError, match=r"6 ranks cannot form 4 .* Start 4 or 8 ranks, .* 1, 2, 3, 6\."):
        from_world(ParallelSection(pipeline_stages=4), 6)


@pytest.mark.parametrize("stage", [2, 3])
def test_pipeline_with_sharded_gradients_is_refused(stage):
    with pytest.raises(TopologyError, match=f"zero_stage {stage} with parallel.pipeline_stages 2.*ZeRO 0 or 1 only"):
        from_world(ParallelSection(pipeline_stages=2, zero_stage=stage), 4)


@given(SIZES)
def test_every_rank_has_one_place(sizes):
    grid = Topology(*sizes)
    places = [grid.place(rank) for rank in range(grid.world_size)]
    assert sorted(places) == places and len(set(places)) == len(places)
    assert all(0 <= index < size for place in places for index, size in zip(place, sizes, strict=True))


@given(SIZES, st.sets(st.sampled_from(AXES)))
def test_groups_divide_the_ranks_and_differ_on_their_axes_alone(sizes, axes):
    grid = Topology(*sizes)
    groups = grid.groups(*axes)
    assert sorted(rank for group in groups for rank in group) == list(range(grid.world_size))
    for group in groups:
        assert group == sorted(group)
        for axis, indices in zip(AXES, zip(*map(grid.place, group), strict=True), strict=True):
            assert set(indices) == set(range(getattr(grid, axis))) if axis in axes else len(set(indices)) == 1


@given(SIZES)
def test_ranks_that_share_a_window_read_the_same_data_and_all_windows_are_read(sizes):
    grid = Topology(*sizes)
    for group in grid.groups("pipeline_stages", "sequence", "tensor"):
        assert len({grid.data_rank(rank) for rank in group}) == 1
    for group in grid.groups("data_parallel_size"):
        assert [grid.data_rank(rank) for rank in group] == list(range(grid.data_parallel_size))
    for group in grid.groups("tensor"):  # what drops out of an activation that all slices hold, drops out of all
        assert len({grid.dropout_rank(rank) for rank in group}) == 1
    assert len({grid.dropout_rank(rank) for rank in range(grid.world_size)}) == grid.world_size // grid.tensor


def test_slices_are_where_deepspeed_looks_for_them():
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    theirs = PipeModelDataParallelTopology(num_pp=2, num_mp=2, num_dp=3)
    ours = Topology(pipeline_stages=2, data_parallel_size=3, tensor=2)
    for rank in range(ours.world_size):
        coordinate = theirs.get_coord(rank)
        assert ours.place(rank) == (coordinate.pipe, coordinate.data, 0, coordinate.model)


def test_factors_of_the_ranks():
    assert from_world(ParallelSection(tensor=2, sequence=3), 12) == Topology(1, 2, 3, 2)
    assert from_world(ParallelSection(tensor=2, sequence=3), 12).describe() == (
        "12 = 1 pipeline stages x 2 data parallel x 3 parts of a window x 2 slices of a matrix"
    )
    said = (
        "8 ranks are not a multiple of 6, the product of parallel.tensor = 2 and parallel.sequence = 3. "
        "Start 6 or 12 ranks, or lower these to a product that is one of 1, 2, 4, 8."
    )
    with pytest.raises(TopologyError, match=f"^{said}$"):
        from_world(ParallelSection(tensor=2, sequence=3), 8)
    said = "3 ranks are not a multiple of parallel.tensor = 2. Start 2 or 4 ranks, or set it to one of 1, 3."
    with pytest.raises(TopologyError, match=f"^{said}$"):
        from_world(ParallelSection(tensor=2), 3)


def test_all_axes_together():
    assert from_world(ParallelSection(pipeline_stages=4, tensor=2), 16) == Topology(4, 2, 1, 2)
    assert from_world(ParallelSection(pipeline_stages=2, sequence=3, tensor=2), 24) == Topology(2, 2, 3, 2)
