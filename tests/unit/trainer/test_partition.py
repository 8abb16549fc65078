"""Stages of equal size."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tests.models import FAMILIES
from trainer.engine import pipeline_loss
from trainer.model import build, layers, partition

costs = st.lists(st.one_of(st.just(0.0), st.floats(0.01, 100)), min_size=1, max_size=8)


@given(costs, st.data())
@settings(max_examples=200, deadline=None)
def test_the_largest_stage_is_as_small_as_can_be(weights, data):
    stages = data.draw(st.integers(1, len(weights)))
    bounds = partition.balanced(weights, stages)
    assert bounds[0] == 0 and bounds[-1] == len(weights) and sorted(set(bounds)) == bounds and len(bounds) == stages + 1

    def largest(cuts):
        return max(sum(weights[a:b]) for a, b in itertools.pairwise(cuts))

    every = [(0, *cuts, len(weights)) for cuts in itertools.combinations(range(1, len(weights)), stages - 1)]
    assert largest(bounds) == pytest.approx(min(map(largest, every)))


def test_uniform_stages_have_blocks_each():
    assert partition.balanced([0, 0, 1, 1, 1, 1, 1, 0, 0], 4) in (
        [0, 3, 4, 5, 9],
        [0, 3, 4, 6, 9],
        [0, 3, 5, 6, 9],
        [0, 4, 5, 6, 9],
    )
    assert partition.balanced([0, 0, 1, 1, 1, 1, 0, 0], 2) == [0, 4, 8]


@pytest.mark.parametrize("tied", [True, False])
def test_costs_are_measured_for_every_layer_and_the_head_counts(tied, monkeypatch):
    """By a clock that counts floating-point operations, so that nothing else that the machine does shows."""
    wide = {**FAMILIES["llama"], "vocab_size": 8192, "tie_word_embeddings": tied}
    plan = SimpleNamespace(
        config=SimpleNamespace(
            model=SimpleNamespace(attention="sdpa", activation_checkpointing=False), run=SimpleNamespace(seed=1)
        ),
        hf_config=build.load_config(wide, 300, 0, 64),
        batch=SimpleNamespace(micro_batch_size=4, sequence_length=64),
        whole_logits=None,
    )
    with FlopCounterMode(display=False) as operations:
        monkeypatch.setattr(partition.time, "perf_counter", operations.get_total_flops)
        seconds = partition.measured(plan, pipeline_loss, torch.float32, torch.device("cpu"))
        monkeypatch.undo()
    kinds = [type(layer).__name__ for layer in layers.row(build.skeleton(plan.hf_config))]
    assert kinds == ["TokenEmbedding", "Before", *["Block"] * 4, "After", "Head"] and len(seconds) == len(kinds)
    assert len(set(seconds[2:6])) == 1 and min(seconds) >= 0
    assert seconds[-1] > seconds[2]  # 8192 logits of each token cost more than a block of width 64
    assert (
        partition.balanced(seconds, 2)[1]
        > partition.balanced(partition.uniform(layers.row(build.skeleton(plan.hf_config))), 2)[1]
    )


@pytest.mark.parametrize("tied", [True, False])
def test_slices_of_a_layer_weigh_what_a_rank_holds_of_it(tied):
    """With 4 slices a block's matrices weigh a quarter and its norms as much as before; a tied table stays whole."""
    spec = build.load_config({**FAMILIES["llama"], "num_key_value_heads": 4, "tie_word_embeddings": tied}, 300, 0, 64)
    row = layers.row(build.skeleton(spec))
    whole = partition.parameters(row)
    sliced = partition.of_a_slice(row, whole, 4)
    norms = sum(p.numel() for p in row[2].parameters() if p.dim() == 1)
    assert sliced[2] == pytest.approx((whole[2] - norms) / 4 + norms) and sliced[0] == whole[0]
    assert sliced[-1] == pytest.approx(whole[-1] / (1 if tied else 4))
    assert partition.of_a_slice(row, whole, 1) == whole


def test_a_run_keeps_its_first_measurement(tmp_path):
    """Checkpoints hold optimizer states by stage: a later start must not divide the layers otherwise."""
    file = tmp_path / "run" / partition.FILE
    assert partition._remembered(file, lambda: [0.1, 1 / 3]) == [0.1, 1 / 3]
    assert partition._remembered(file, lambda: pytest.fail("measured again")) == [0.1, 1 / 3]
