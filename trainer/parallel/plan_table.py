"""Who holds what, as a table: which layers, which slice of them, which part of the windows, which windows, which ZeRO shard."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.batch import BatchPlan
from trainer.parallel.topology import Topology

MOST_ROWS = 20
"""Ranks that get a row each; of more, those of one pipeline stage share a row, and the middle of many stages is left out."""
HEADING = ("rank", "host", "layers", "matrices", "tokens of a window", "windows of a micro-batch", "ZeRO shard")
SHARDED = ("", "optimizer states", "optimizer states, gradients", "optimizer states, gradients, parameters")
"""What ZeRO divides, by its stage."""


def lines(topology: Topology, batch: BatchPlan, zero_stage: int, layers: Sequence[str], hosts: Sequence[str] = ()) -> list[str]:
    """The table, heading first; a column in which nothing is divided is left out.

    layers: what each pipeline stage holds, in words. hosts: that of each rank; shown where there are several.
    """
    assert len(layers) == topology.pipeline_stages
    size, hosts = topology.world_size, hosts if len(set(hosts)) > 1 else ()
    per_row = 1 if size <= MOST_ROWS else size // topology.pipeline_stages
    rows = [HEADING]
    for first in range(0, size, per_row):
        last = first + per_row - 1
        rows.append(
            (_span(first, last), _hosts(hosts[first : last + 1]), *_held(topology, batch, zero_stage, layers, first, last))
        )
    if len(rows) > MOST_ROWS + 1:
        half = MOST_ROWS // 2
        rows[half + 1 : -half] = [(f"... {len(rows) - 1 - 2 * half} more", *[""] * (len(HEADING) - 1))]
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in zip(*columns, strict=True)]
    if per_row > 1 and topology.sequence * topology.tensor > 1:
        table.append(
            f"rank = ((stage x {topology.data_parallel_size} replicas + replica) x {topology.sequence} parts of a window "
            f"+ part) x {topology.tensor} slices + slice"
        )
    return table


def _held(
    topology: Topology, batch: BatchPlan, zero_stage: int, layers: Sequence[str], first: int, last: int
) -> tuple[str, str, str, str, str]:
    """What a rank holds, or the ranks of one stage; empty where it is everything."""
    (stage, replica, part, piece), (_, last_replica, last_part, last_piece) = topology.place(first), topology.place(last)
    replicas, parts, pieces = topology.data_parallel_size, topology.sequence, topology.tensor
    tokens, micro, shards = batch.sequence_length // parts, batch.micro_batch_size, replicas * parts
    shard, last_shard = replica * parts + part, last_replica * parts + last_part
    return (
        f"{stage}: {layers[stage]}" if topology.pipeline_stages > 1 else "",
        f"slice {_span(piece, last_piece)} of {pieces}" if pieces > 1 else "",
        f"{_span(part * tokens, (last_part + 1) * tokens - 1)}" if parts > 1 else "",
        f"{_span(replica * micro, (last_replica + 1) * micro - 1)} of {replicas * micro}" if replicas > 1 else "",
        f"{_span(shard, last_shard)} of {shards}: {SHARDED[zero_stage]}" if zero_stage and shards > 1 else "",
    )


def names(layers: Sequence[str]) -> str:
    """Layers in words: numbered ones that follow each other as one range ("layers 0", "layers 1" as "layers 0-1")."""
    spans: list[list[str]] = []
    for layer in filter(None, layers):
        kind, _, number = layer.rpartition(" ")
        if number.isdecimal() and spans and spans[-1][0] == kind:
            spans[-1][2] = number
        else:
            spans.append([kind, number, number] if number.isdecimal() else [layer, "", ""])
    return ", ".join(f"{kind} {_span(first, last)}".rstrip() for kind, first, last in spans)


def _span(first: int | str, last: int | str) -> str:
    return f"{first}" if first == last else f"{first}-{last}"


def _hosts(hosts: Sequence[str]) -> str:
    """The hosts of some ranks, one after another."""
    different = list(dict.fromkeys(hosts))
    return ", ".join(different) if len(different) < 4 else f"{different[0]} ... {different[-1]} ({len(different)})"
