"""Which layers each pipeline stage has: consecutive ones, such that the largest stage is as small as can be.

`parallel.pipeline_partition` says what a layer weighs: its "parameters", the same for each block ("uniform"), or its "cost",
the time of its forward and backward pass, measured once when a run starts, head and loss included. A run keeps its first
partition, since its checkpoints hold optimizer states by stage.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.utils import _pytree as pytree

from trainer.model import build, layers, recompute, tensor_parallel
from trainer.model.layers import Block, Head, Layer, Output, State

FILE = "layer_seconds.json"
"""In the run folder."""
Loss = Callable[[Output, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]
"""Of the last layer's output, and (targets, weight of the micro-batch)."""
ROUNDS = 3
"""Passes of which the median time counts, after one to warm up."""


def balanced(costs: list[float], stages: int) -> list[int]:
    """Bounds, stages + 1 of them, of consecutive non-empty parts: their largest sum is least, then their sum of squares."""
    assert 0 < stages <= len(costs)
    sums = [0.0, *itertools.accumulate(costs)]
    largest, _ = _best(sums, stages, max, float("inf"))
    return _best(sums, stages, lambda before, part: before + part * part, largest)[1]


def _best(sums: list[float], stages: int, joined: Callable[[float, float], float], limit: float) -> tuple[float, list[int]]:
    """(score, bounds) of the partition of least score, no part's sum over the limit. `joined` adds a part to a score."""
    count = len(sums) - 1
    found: list[tuple[float, list[int]]] = [(float("inf"), [])] * (count + 1)
    found[0] = (0.0, [0])  # of the first n layers in the parts so far
    for part in range(stages):
        previous, found = found, [(float("inf"), [])] * (count + 1)
        for stop in range(part + 1, count + 1):
            for start in range(part, stop):
                size = sums[stop] - sums[start]
                score = joined(previous[start][0], size) if size <= limit else float("inf")
                if score < found[stop][0]:
                    found[stop] = (score, [*previous[start][1], stop])
    return found[count]


def parameters(row: list[Layer]) -> list[float]:
    """Trainable parameters of each layer; a tied head counts the embedding's."""
    counts = [sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in row]
    if row[-1].stock.tied:
        counts[-1] = counts[0]
    return [float(count) for count in counts]


def uniform(row: list[Layer]) -> list[float]:
    """1 for each block, 0 for the rest."""
    return [float(isinstance(layer, Block)) for layer in row]


def of_a_slice(row: list[Layer], costs: list[float], slices: int) -> list[float]:
    """What of each layer's cost falls to a rank that holds one of `slices`: as much as of the layer's parameters."""
    cut = tensor_parallel.cut_parameters(row[0].stock.model) if slices > 1 else set()
    shares = []
    for layer in row:
        sizes = [(parameter.numel(), parameter in cut) for parameter in layer.parameters()]
        held = sum(size / slices if is_cut else size for size, is_cut in sizes)
        shares.append(held / sum(size for size, _ in sizes) if sizes else 1.0)
    return [cost * share for cost, share in zip(costs, shares, strict=True)]


COUNTED = {"parameters": parameters, "uniform": uniform}
"""Methods that need no measurement."""


def labels(row: list[Layer]) -> list[str]:
    """Each layer as Hugging Face names its parts, without their place in the model; blocks are numbered."""
    parts = row[0].stock.parts

    def last(*names: str) -> str:
        return ", ".join(name.rpartition(".")[2] for name in names)

    blocks = [f"{last(parts.blocks)} {layer.index}" for layer in row if isinstance(layer, Block)]
    return [last(parts.token_embedding), last(*parts.before), *blocks, last(*parts.after), last(parts.head)]


def planned(plan: Any) -> list[list[str]] | None:
    """The labels of each stage's layers, as the run of this plan will divide them; None until their cost has been measured."""
    row = layers.row(build.skeleton(plan.hf_config, plan.config.model.attention))
    method, file = plan.config.parallel.pipeline_partition, plan.folder / FILE
    if method == "cost":
        if not file.is_file():
            return None
        costs = json.loads(file.read_text(encoding="utf-8"))["seconds"]
    else:
        costs = COUNTED[method](row)
    costs, names = of_a_slice(row, costs, plan.topology.tensor), labels(row)
    bounds = balanced(costs, plan.topology.pipeline_stages)
    return [names[start:stop] for start, stop in itertools.pairwise(bounds)]


def weigher(plan: Any, loss: Loss, dtype: torch.dtype, device: torch.device) -> Callable[[list[Layer]], list[float]]:
    """What parallel.pipeline_partition of a run's plan asks for: a function from the row to each layer's weight, the same on
    every rank."""
    method = plan.config.parallel.pipeline_partition

    def seconds(_row: list[Layer]) -> list[float]:
        measurement: list[list[float] | None] = [None]
        if dist.get_rank() == 0:
            measurement[0] = _remembered(plan.folder / FILE, lambda: measured(plan, loss, dtype, device))
        dist.broadcast_object_list(measurement)
        return measurement[0]

    costs = COUNTED.get(method, seconds)
    return lambda row: of_a_slice(row, costs(row), plan.topology.tensor)


def _remembered(file: Path, measure: Callable[[], list[float]]) -> list[float]:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"seconds": measure()}), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))["seconds"]


def measured(plan: Any, loss: Loss, dtype: torch.dtype, device: torch.device) -> list[float]:
    """Seconds of each layer's forward and backward pass on one micro-batch of this run; layers alike are measured once.

    The layers come to life one at a time, in a skeleton of their own.
    """
    section = plan.config.model
    model = build.skeleton(plan.hf_config, section.attention).train()
    row = layers.row(model)
    row[-1].fused = plan.whole_logits is None
    kinds = getattr(model.config, "layer_types", None) or [None] * len(row)
    shape = (plan.batch.micro_batch_size, plan.batch.sequence_length)
    state = State(torch.randint(model.config.vocab_size, shape, device=device))
    seconds: dict[Any, float] = {}
    costs = []
    for layer in row:
        key: Any = (type(layer), *((name, p.shape) for name, p in layer.named_parameters()))
        if isinstance(layer, Block):
            layer.recompute = recompute.of_block(section.activation_checkpointing, layer.index)
            key += (kinds[layer.index], layer.recompute)
            key += (layer.index,) if layer.stock.wiring.last else ()  # later blocks take what this one makes
        held = tuple(f"{name}." for name in (layer if layer.parts else row[0]).parts.values())
        chunks = {name: module for name, module in build.chunks(model) if f"{name}.".startswith(held)}
        if key not in seconds:
            list(build.materialise(model, chunks, device, dtype, plan.config.run.seed))
            run = functools.partial(layer.tied, row[0]) if isinstance(layer, Head) and layer.stock.tied else layer
            seconds[key], after = _seconds(run, state, loss if isinstance(layer, Head) else None)
            state = after if after is not None else state
            _release(layer)
        costs.append(seconds[key])
    return costs


def _release(layer: Layer) -> None:
    for owner in layer.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            setattr(owner, name, nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad))


def _seconds(run: Callable[[State], Output | State], state: State, loss: Loss | None) -> tuple[float, State | None]:
    """(median seconds, the layer's output); with the loss, the layer is the last."""
    times = []
    for _ in range(1 + ROUNDS):
        inputs = _each(state, _leaf)
        begin = _now(state.hidden.device)
        output = run(inputs)
        if loss is None:
            output.hidden.backward(torch.ones_like(output.hidden))
        else:
            targets = torch.zeros(inputs.hidden.shape[:2], dtype=torch.int64, device=inputs.hidden.device)
            loss(output, (targets, torch.ones((), device=targets.device))).backward()
        times.append(_now(state.hidden.device) - begin)
    return statistics.median(times[1:]), None if loss is not None else _each(output, torch.Tensor.detach)


def _each(state: State, change: Callable[[torch.Tensor], torch.Tensor]) -> State:
    return State(*pytree.tree_map_only(torch.Tensor, change, (*state[:3], dict(state.others))))


def _leaf(part: torch.Tensor) -> torch.Tensor:
    return part.detach().requires_grad_() if part.is_floating_point() else part


def _now(device: torch.device) -> float:
    """Seconds on a clock, when all work submitted to the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()
