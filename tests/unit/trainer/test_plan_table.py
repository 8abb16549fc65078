"""The table of who holds what."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.corpora import write_shards
from tests.models import FAMILIES, run_file
from trainer.batch import BatchPlan
from trainer.parallel import plan_table
from trainer.parallel.topology import Topology
from trainer.preflight import prepare


def table(
    topology: Topology, zero_stage: int = 1, layers: list[str] | None = None, hosts: list[str] | None = None
) -> list[str]:
    batch = BatchPlan(1024, 2, 3, topology.data_parallel_size)
    layers = layers or [f"blocks of {stage}" for stage in range(topology.pipeline_stages)]
    return plan_table.lines(topology, batch, zero_stage, layers, hosts or [])


def test_one_rank_holds_everything():
    assert table(Topology(), layers=["all"]) == ["rank", "0"]


def test_stages_replicas_and_shards():
    assert table(
        Topology(2, 2), layers=["token embedding, blocks 0-1", "blocks 2-3, norm, head"], hosts=["a", "a", "b", "b"]
    ) == [
        "rank  host  layers                          windows of a micro-batch  ZeRO shard",
        "0     a     0: token embedding, blocks 0-1  0-1 of 4                  0 of 2: optimizer states",
        "1     a     0: token embedding, blocks 0-1  2-3 of 4                  1 of 2: optimizer states",
        "2     b     1: blocks 2-3, norm, head       0-1 of 4                  0 of 2: optimizer states",
        "3     b     1: blocks 2-3, norm, head       2-3 of 4                  1 of 2: optimizer states",
    ]


def test_slices_and_parts_of_windows():
    assert table(Topology(1, 1, 2, 2), zero_stage=2) == [
        "rank  matrices      tokens of a window  ZeRO shard",
        "0     slice 0 of 2  0-511               0 of 2: optimizer states, gradients",
        "1     slice 1 of 2  0-511               0 of 2: optimizer states, gradients",
        "2     slice 0 of 2  512-1023            1 of 2: optimizer states, gradients",
        "3     slice 1 of 2  512-1023            1 of 2: optimizer states, gradients",
    ]


def test_many_ranks_share_rows_by_stage():
    lines = table(Topology(32, 4), hosts=[f"node{rank // 8:02d}" for rank in range(128)])
    assert len(lines) == 22
    assert lines[1] == "0-3          node00  0: blocks of 0    0-7 of 8                  0-3 of 4: optimizer states"
    assert lines[11] == "... 12 more"
    assert lines[-1].startswith("124-127      node15  31: blocks of 31")


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_it_fits_a_screen_and_every_rank_is_in_it_once(stages, replicas, sequence, tensor):
    topology = Topology(stages, replicas, sequence, tensor)
    lines = table(topology)
    rule = [line for line in lines if line.startswith("rank = ")]  # where rows of many ranks leave a rank's place open
    assert bool(rule) == (topology.world_size > plan_table.MOST_ROWS and topology.world_size > stages and sequence * tensor > 1)
    lines = lines[: len(lines) - len(rule)]
    assert len(lines) <= plan_table.MOST_ROWS + 2
    if not any(line.startswith("...") for line in lines):
        spans = [line.split()[0].partition("-") for line in lines[1:]]
        assert [r for a, _, b in spans for r in range(int(a), int(b or a) + 1)] == list(range(topology.world_size))


def test_layers_in_words():
    assert plan_table.names(["wte", "wpe, drop", "h 0", "h 1", "h 2"]) == "wte, wpe, drop, h 0-2"
    assert plan_table.names(["layers 3", "", "norm", "lm_head"]) == "layers 3, norm, lm_head"
    assert plan_table.names([]) == ""


def test_the_plan_of_a_run_names_the_layers_as_hugging_face_does(tmp_path):
    model = {"config": {**FAMILIES["gpt2"], "vocab_size": "auto"}}
    parallel = {"zero_stage": 1, "pipeline_stages": 2}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run_file(tmp_path / "run", write_shards(tmp_path / "train"), model=model, parallel=parallel)))
    plan = prepare(file, [], 4)
    assert plan.table().split("\n")[1:] == [
        "0     0: wte, wpe, h 0-1       0-1 of 4                  0 of 2: optimizer states",
        "1     0: wte, wpe, h 0-1       2-3 of 4                  1 of 2: optimizer states",
        "2     1: h 2-3, ln_f, lm_head  0-1 of 4                  0 of 2: optimizer states",
        "3     1: h 2-3, ln_f, lm_head  2-3 of 4                  1 of 2: optimizer states",
    ]
    assert "by their measured cost" in prepare(file, ["parallel.pipeline_partition=cost"], 4).table()
