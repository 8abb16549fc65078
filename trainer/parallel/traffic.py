"""Bytes that a rank sends over the network per optimizer step, from the sizes of the model and of the split.

The ZeRO paper (arXiv 1910.02054, section 7) counts, for Psi parameters and large data-parallel degrees: 2 Psi for stages 0 to
2 (an all-reduce, or a reduce-scatter and an all-gather), 3 Psi for stage 3 (an all-gather each for forward and backward, a
reduce-scatter). What DeepSpeed sends differs, and is counted here as it is:

- stages 1 and 2 reduce gradients by all-reduce, unless zero_optimization.use_multi_rank_bucket_allreduce is false: 3 Psi;
- stage 2 reduces gradients, and stage 3 gathers parameters and reduces gradients, in every micro-batch;
- stage 3 keeps what it gathered for forward until backward where all of it fits in stage3_max_live_parameters and
  stage3_max_reuse_distance (a thousand million parameters each): one all-gather instead of two (where it does not fit, a tied
  table, which forward and backward need at both ends, counts twice);
- gloo has no reduce-scatter of its own; torch makes one of an all-reduce.

Collectives are rings (Patarasuk & Yuan, 2009): a rank of n sends (n-1)/n of what is gathered or scattered, 2 (n-1)/n of what
is all-reduced. Nothing here knows torch.
"""

from __future__ import annotations

from dataclasses import dataclass

MILLION = 10**6
STAGE3_KEPT = 1000 * MILLION
"""DeepSpeed's default of stage3_max_live_parameters and stage3_max_reuse_distance, in parameters."""
HEADERS = {"ethernet": 14, "IPv4": 20, "TCP": 20, "TCP timestamps": 12}
"""Bytes around the payload of each frame, as Linux sends them (RFC 9293, RFC 7323); the Ethernet checksum is not counted."""


@dataclass(frozen=True)
class Sizes:
    """What decides the traffic of one pipeline stage, or of the whole model where there is one stage."""

    parameters: int
    """Parameters of the stage, a tied table once."""
    data_parallel: int
    """Ranks that ZeRO spreads over."""
    micro_batches: int
    """Forward and backward passes per optimizer step."""
    parameter_bytes: int
    """Bytes per parameter on the wire: 4 in fp32, 2 in bf16 and fp16."""
    gradient_bytes: int
    """Bytes per gradient on the wire."""
    backend: str = "nccl"
    """The backend of torch.distributed: "nccl" or "gloo"."""


def all_gather(payload: float, ranks: int) -> float:
    """Bytes sent by a rank of `ranks` when `payload` bytes are put together on every one of them."""
    return payload * (ranks - 1) / ranks


def all_reduce(payload: float, ranks: int) -> float:
    """Bytes sent by a rank of `ranks` when `payload` bytes are added up on every one of them."""
    return 2 * payload * (ranks - 1) / ranks


def reduce_scatter(payload: float, ranks: int, backend: str) -> float:
    """Bytes sent by a rank of `ranks` when `payload` bytes are added up and each rank keeps its share."""
    return all_reduce(payload, ranks) if backend == "gloo" else payload * (ranks - 1) / ranks


def zero(stage: int, sizes: Sizes, stage3_kept: int = STAGE3_KEPT) -> dict[str, float]:
    """Bytes sent by a rank per optimizer step for gradients and parameters under ZeRO `stage`, with DeepSpeed's defaults.

    stage3_kept: the smaller of stage3_max_live_parameters and stage3_max_reuse_distance.
    """
    ranks, count = sizes.data_parallel, sizes.micro_batches
    gradients, parameters = sizes.parameters * sizes.gradient_bytes, sizes.parameters * sizes.parameter_bytes
    if stage == 0:
        return {"gradients": all_reduce(gradients, ranks), "parameters": 0.0}
    if stage < 3:
        times = count if stage == 2 else 1
        return {"gradients": times * all_reduce(gradients, ranks), "parameters": all_gather(parameters, ranks)}
    gathers = 1 if sizes.parameters <= stage3_kept else 2
    return {
        "gradients": count * reduce_scatter(gradients, ranks, sizes.backend),
        "parameters": count * gathers * all_gather(parameters, ranks),
    }


def paper(stage: int, sizes: Sizes) -> float:
    """The ZeRO paper's count for one micro-batch: 2 Psi for stages 0 to 2, 3 Psi for stage 3, times (ranks - 1) / ranks."""
    gradients = all_gather(sizes.parameters * sizes.gradient_bytes, sizes.data_parallel)
    parameters = all_gather(sizes.parameters * sizes.parameter_bytes, sizes.data_parallel)
    return {0: 2 * gradients, 3: gradients + 2 * parameters}.get(stage, gradients + parameters)


def activations(stages: int, stage: int, micro_batches: int, windows: int, length: int, width: int, value_bytes: int) -> float:
    """Bytes that a rank of a pipeline `stage` sends to its neighbours per optimizer step: the hidden states of every micro-
    batch (`windows` x `length` tokens of `width` values) to the next stage, their gradients to the one before."""
    neighbours = (stage < stages - 1) + (stage > 0)
    return float(neighbours * micro_batches * windows * length * width * value_bytes)


def on_the_wire(payload: float, mtu: int = 1500) -> float:
    """Bytes of the full frames that carry `payload` bytes over TCP, at an interface with this MTU."""
    segment = mtu - sum(size for name, size in HEADERS.items() if name != "ethernet")
    return payload * (1 + sum(HEADERS.values()) / segment)
