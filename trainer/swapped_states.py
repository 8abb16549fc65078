"""Optimizer states that ZeRO-3 keeps on a disk (ZeRO-Infinity, arXiv 2104.07857), in checkpoints.

DeepSpeed 0.19 copies its swap files into the checkpoint, whose names belong to one process, and at a resume passes over the
optimizer's own file. Here a checkpoint holds what it holds without a disk, in the same files: written straight from the swap
files, which are mapped into memory, and read back one part of the states (sub-group) at a time. So export, checksums and a
resume with other settings of the offload need to know nothing of disks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.serialization import config as serialization

from trainer.checkpoint_files import CheckpointError

STATES, FLAT = "optimizer_state_dict", "fp32_flat_groups"
"""Keys of ZeRO-3's state: the wrapped optimizer's state_dict(), and the fp32 parameters by sub-group."""


class SwappedStatesError(CheckpointError):
    """Saved optimizer states do not fit the model."""


def on_disk(engine: Any) -> bool:
    """Whether DeepSpeed's engine has optimizer states or parameters on a disk."""
    return any(getattr(engine.optimizer, name, False) for name in ("swap_optimizer", "params_in_nvme_and_cpu"))


@contextmanager
def saved(engine: Any) -> Iterator[None]:
    """Around DeepSpeed's save_checkpoint: optimizer states come from the swap files, whose copies are spared."""
    optimizer = engine.optimizer
    if not getattr(optimizer, "swap_optimizer", False):
        yield
        return
    with _replaced(engine, "zero_nvme_offload_optimizer", lambda: False), \
         _replaced(optimizer, "state_dict", lambda: _mapped_state(optimizer)):  # fmt: skip
        yield


@contextmanager
def loaded(engine: Any) -> Iterator[None]:
    """Around DeepSpeed's load_checkpoint with ZeRO-3: states fit sub-groups of another size than they were saved in, and those
    that belong on a disk go there part by part."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() < 3:
        yield
        return
    disk, swapped, plain = on_disk(engine), getattr(optimizer, "swap_optimizer", False), optimizer._rigid_load_state_dict

    def load(state: dict[str, Any], load_optimizer_states: bool = True) -> None:
        state = regrouped(state, *_sub_groups(optimizer))
        _restore(optimizer, state) if disk else plain(state, load_optimizer_states)

    with _replaced(engine, "zero_nvme_offload_optimizer", lambda: False), \
         _replaced(optimizer, "_rigid_load_state_dict", load), serialization.patch("load.mmap", swapped):  # fmt: skip
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """A method of one object replaced within a `with` block."""
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)  # that of its class again


def _sub_groups(optimizer: Any) -> tuple[list[int], list[int]]:
    """Of each sub-group: its elements on this rank, and its parameter group."""
    sizes = list(optimizer.fp16_partitioned_groups_flat_numel)
    return sizes, [optimizer.sub_group_to_group_id[number] for number in range(len(sizes))]


def _mapped_state(optimizer: Any) -> dict[str, Any]:
    """ZeRO-3's state_dict() with tensors whose memory is that of the swap files (private mappings: the kernel reads them when
    they are looked at, and may drop them at any time)."""
    state = optimizer._rigid_state_dict()
    swapper, flats = optimizer.optimizer_swapper, list(state[FLAT])
    states = dict(state[STATES]["state"])
    for number, flat in enumerate(flats):
        if not optimizer._swappable_optimizer_subgroup(number):
            continue
        size = optimizer.fp16_partitioned_groups_flat_numel[number]
        files = {id(one.compute_tensor): one.swap_path for one in swapper.swap_params_info[flat.ds_id].tensors}
        flats[number] = torch.from_file(files[id(flat)], size=size, dtype=swapper.dtype)
        states[number] = {
            name: torch.from_file(files[id(value)], size=size, dtype=swapper.dtype) if id(value) in files else value
            for name, value in states.get(number, {}).items()
        }
    return state | {FLAT: flats, STATES: state[STATES] | {"state": states}}


def regrouped(state: dict[str, Any], sizes: Sequence[int], groups: Sequence[int]) -> dict[str, Any]:
    """A rank's state in other sub-groups, of these sizes (elements) and parameter groups: those of one parameter group are
    a row of parameters, cut at some places. Raises SwappedStatesError when they are not of this model.
    """
    saved_flats, inner = state[FLAT], state[STATES]
    if [flat.numel() for flat in saved_flats] == list(sizes):
        return state
    flats: list[torch.Tensor] = []
    states: dict[int, dict[str, Any]] = {}
    param_groups = []
    for group, saved_group in enumerate(inner["param_groups"]):
        now = [size for size, its in zip(sizes, groups, strict=True) if its == group]
        before = saved_group["params"]
        rows = {FLAT: _cut([saved_flats[number] for number in before], now)}
        first = inner["state"].get(before[0], {}) if before else {}
        for name, value in first.items():
            tensors = [inner["state"][number][name] for number in before]
            rows[name] = _cut(tensors, now) if torch.is_tensor(value) and value.dim() else [value for _ in now]
        numbers = list(range(len(flats), len(flats) + len(now)))
        flats += rows.pop(FLAT)
        states |= {number: {name: row[place] for name, row in rows.items()} for place, number in enumerate(numbers) if rows}
        param_groups.append(saved_group | {"params": numbers})
    return state | {FLAT: flats, STATES: inner | {"state": states, "param_groups": param_groups}}


def _cut(tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
    """The row that tensors make one after another, cut into pieces of these sizes; copied only where a piece spans several."""
    have = sum(tensor.numel() for tensor in tensors)
    if have != sum(sizes):
        raise SwappedStatesError(
            f"the saved optimizer states of a rank are for {have:,} parameters, the model has {sum(sizes):,}."
        )
    pieces, left, rest = [], list(tensors), None
    for size in sizes:
        parts, missing = [], size
        while missing:
            rest = left.pop(0) if rest is None else rest
            part, rest = rest[:missing], rest[missing:] if rest.numel() > missing else None
            parts.append(part)
            missing -= part.numel()
        pieces.append(parts[0] if len(parts) == 1 else torch.cat(parts))
    return pieces


@torch.no_grad()
def _restore(optimizer: Any, state: dict[str, Any]) -> None:
    """ZeRO-3's _rigid_load_state_dict where states or parameters are on a disk: into a new optimizer, a sub-group at a time."""
    optimizer.loss_scaler, optimizer.dynamic_loss_scale = state["loss_scaler"], state["dynamic_loss_scale"]
    optimizer.overflow = state["overflow"]
    wrapped, inner = optimizer.optimizer, state[STATES]
    for group, saved_group in zip(wrapped.param_groups, inner["param_groups"], strict=True):
        group.update({name: value for name, value in saved_group.items() if name != "params"})
    if not optimizer.swap_optimizer:
        optimizer._set_fp32_optimizer_param_groups()
        wrapped.load_state_dict(inner)
        optimizer._clear_fp32_optimizer_param_groups()
    for number, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
        swapped = optimizer._swappable_optimizer_subgroup(number)
        if swapped:
            optimizer._optimizer_states_and_gradient_swap_in(number)
        flat.data.copy_(state[FLAT][number])
        optimizer._reassign_or_swap_out_partitioned_parameters(number)
        if optimizer.swap_optimizer and number in inner["state"]:
            own = inner["state"][number].items()  # what is swapped out is copied on its way
            wrapped.state[flat] = {
                name: value if swapped or not torch.is_tensor(value) else value.clone() for name, value in own
            }
        if swapped:
            optimizer._optimizer_states_and_gradient_swap_out(number)
