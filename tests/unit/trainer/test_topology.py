"""Ranks in DeepSpeed's order."""

from __future__ import annotations

import pytest

from trainer.topology import ParallelSection, TopologyError, from_world


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
