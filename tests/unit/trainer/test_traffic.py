"""The bytes that each way to split the work sends; bench/traffic.py compares them with an interface's counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.parallel import traffic

PSI = 1_000_000
FP32 = traffic.Sizes(PSI, data_parallel=64, micro_batches=1, parameter_bytes=4, gradient_bytes=4)
SIZES = st.builds(
    traffic.Sizes,
    parameters=st.integers(1, 10**12),
    data_parallel=st.integers(1, 4096),
    micro_batches=st.integers(1, 64),
    parameter_bytes=st.sampled_from([2, 4]),
    gradient_bytes=st.sampled_from([2, 4]),
    backend=st.sampled_from(["nccl", "gloo"]),
)


def total(stage: int, sizes: traffic.Sizes, kept: int = 0) -> float:
    return sum(traffic.zero(stage, sizes, kept).values())


def test_in_units_of_the_parameters():
    """2 and 3 Psi of the ZeRO paper; what DeepSpeed sends beside them."""
    unit = 4 * PSI * 63 / 64
    assert [round(traffic.paper(stage, FP32) / unit, 9) for stage in range(4)] == [2, 2, 2, 3]
    assert [round(total(stage, FP32) / unit, 9) for stage in range(4)] == [2, 3, 3, 3]
    assert total(3, replace(FP32, backend="gloo")) == pytest.approx(4 * unit)
    assert total(3, FP32, traffic.STAGE3_KEPT) == pytest.approx(2 * unit)  # gathered once for forward and backward
    four = replace(FP32, micro_batches=4)
    assert [round(total(stage, four) / unit, 9) for stage in range(4)] == [2, 3, 4 * 2 + 1, 4 * 3]


@given(SIZES, st.integers(0, 3))
def test_alone_nothing_is_sent_and_more_ranks_send_more_each(sizes, stage):
    assert total(stage, replace(sizes, data_parallel=1)) == 0
    here, more = total(stage, sizes), total(stage, replace(sizes, data_parallel=sizes.data_parallel + 1))
    assert here < more <= 4 * sizes.micro_batches * sizes.parameters * 4


@given(SIZES)
def test_a_ring_sends_everything_it_receives(sizes):
    """An all-reduce is a reduce-scatter and an all-gather."""
    payload, ranks = float(sizes.parameters), sizes.data_parallel
    parts = traffic.reduce_scatter(payload, ranks, "nccl") + traffic.all_gather(payload, ranks)
    assert traffic.all_reduce(payload, ranks) == pytest.approx(parts)


def test_stages_send_forward_and_back():
    sent = [traffic.activations(4, stage, 8, windows=2, length=1024, width=4096, value_bytes=2) for stage in range(4)]
    boundary = 8 * 2 * 1024 * 4096 * 2
    assert sent == [boundary, 2 * boundary, 2 * boundary, boundary]
    assert traffic.activations(1, 0, 8, 2, 1024, 4096, 2) == 0


def test_headers_of_full_frames():
    assert traffic.on_the_wire(1448) == 1514  # an Ethernet frame of an MTU of 1500, without its checksum
    assert traffic.on_the_wire(8948, mtu=9000) == 9014
