"""Checkpoints: DeepSpeed's files and the TrainState in one folder that is either whole or absent.

A checkpoint is written under a hidden name and renamed when every rank is done, so that a killed save leaves nothing
that looks finished. The newest `step-*` folder is the one to resume from; no pointer file can disagree with it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from trainer import checkpoint_files, endings, finite, swapped_states
from trainer.checkpoint_files import CheckpointError
from trainer.data.loader import MicroBatch
from trainer.engine import PipelineEngine, ZeroEngine
from trainer.hosts.disks import Disk
from trainer.hosts.launch_env import named_ranks
from trainer.optimizer import conform
from trainer.parallel.topology import Topology
from trainer.preflight import RunPlan
from trainer.run_folder import CHECKPOINTS, PARTIAL_PREFIX, STATE_FILE, checkpoint_name, checkpoints_in, read_state
from trainer.state import TrainState


def save(engine: ZeroEngine | PipelineEngine, plan: RunPlan, state: TrainState, chain: str | None, disk: Disk) -> Path:
    """Write the checkpoint of `state` into the run folder, from all ranks, and return its path.

    Raises DivergedError, on all ranks and before an older checkpoint goes, when what would be saved is not finite.

    Beside the state it records a probe, the live engine's loss on tokens that an export can draw again and must match; the data
    order so far, which a resume must continue; the ledger's chain, on the first rank (`chain` there, else ignored); and the
    files' checksums. On each of several disks are the files of its own ranks, and all that those need to go on.
    """
    folder, keep = plan.folder / CHECKPOINTS, plan.config.checkpoint.keep
    probe = _probe(engine, plan)
    if not finite.weights_are_finite(engine.deepspeed):
        raise endings.diverged(plan, state, f"step {state.step}: weights or optimizer states are not finite any more")
    if not math.isfinite(probe["nll"]):
        raise endings.diverged(plan, state, f"step {state.step}: weights are finite, but the model's loss is {probe['nll']}")
    final = folder / checkpoint_name(state.step)
    partial = folder / (PARTIAL_PREFIX + final.name)
    keeper = dist.get_rank() == disk.keeper
    if keeper:
        shutil.rmtree(partial, ignore_errors=True)
    dist.barrier()
    wrapped = engine.deepspeed
    with (
        _model_on_every_disk(engine, plan.topology, disk),
        swapped_states.saved(wrapped),
        checkpoint_files.written(wrapped) as mine,
    ):
        wrapped.save_checkpoint(str(folder), tag=partial.name, client_state={}, save_latest=False)
    checksums: list[dict[str, str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(checksums, checkpoint_files.checksums(mine, partial))  # and all ranks have written theirs
    if keeper:
        record = {"state": state.to_json(), "probe": probe, "order": plan.order_before(state), "chain": chain}
        record["files"] = checkpoint_files.merged(checksums, disk.ranks)
        record |= {} if disk.shared else {"ranks": disk.ranks, "world_size": plan.topology.world_size}
        (partial / STATE_FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")
        for file in partial.rglob("*"):
            _sync(file)
    dist.barrier()  # no disk names its part before all are whole
    if keeper:
        if final.exists():  # left by a run that was killed after this rename and resumed from an older checkpoint
            shutil.rmtree(final)
        partial.rename(final)
        _sync(folder)
    dist.barrier()  # nor removes an older one before all are named
    if keeper:
        for old in checkpoints_in(folder)[:-keep] if keep else []:
            shutil.rmtree(old)
    return final


@contextmanager
def _model_on_every_disk(engine: ZeroEngine | PipelineEngine, topology: Topology, disk: Disk) -> Iterator[None]:
    """DeepSpeed writes what data-parallel ranks have in common once; here, once on each disk that holds such ranks. Its own
    use_node_local_storage does that without a pipeline, and for one stage per host."""
    rank, wrapped = dist.get_rank(), engine.deepspeed
    alike = [other for other in disk.ranks if topology.model_part(other) == topology.model_part(rank)]
    if disk.shared or rank != alike[0]:
        yield
        return
    wrapped.save_non_zero_checkpoint = True
    grid = getattr(wrapped, "grid", None)
    if grid is None:
        yield
        return
    number, grid.data_parallel_id = grid.data_parallel_id, 0  # the pipeline's layers are written by data-parallel rank 0
    try:
        yield
    finally:
        grid.data_parallel_id = number


def _probe(engine: ZeroEngine | PipelineEngine, plan: RunPlan) -> dict[str, float | int]:
    """The engine's summed loss (nats) on a micro-batch of random tokens on every data-parallel rank."""
    micro = plan.batch.micro_batch_size
    windows = micro * plan.batch.data_parallel_size
    tokens = probe_tokens(windows, plan.batch.sequence_length, plan.corpus.windows[0].shards.vocab_size)
    first = plan.topology.data_rank(dist.get_rank()) * micro
    mine = tokens[first : first + micro]
    total, _ = engine.eval_sum([MicroBatch(mine[:, :-1], mine[:, 1:])])
    return {"windows": windows, "vocab_size": plan.corpus.windows[0].shards.vocab_size, "nll": total}


def probe_tokens(windows: int, sequence_length: int, vocab_size: int) -> torch.Tensor:
    """int64 [windows, sequence_length + 1], always the same."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, vocab_size, (windows, sequence_length + 1)))


def require_files(checkpoint: Path, rank: int, disk: Disk) -> None:
    """Raise CheckpointError when this disk's part of a checkpoint is that of other ranks, or one of its files is damaged."""
    ranks = read_state(checkpoint).get("ranks")
    if ranks is not None and rank not in ranks:
        raise CheckpointError(
            f"{checkpoint} has the files of {named_ranks(ranks)} alone, as its host had a disk of its own, and rank {rank} "
            f"runs here now. Start on the hosts that wrote it, in the same order and with as many ranks each."
        )
    checkpoint_files.check(checkpoint, disk.ranks.index(rank), len(disk.ranks))


def load(engine: ZeroEngine | PipelineEngine, checkpoint: Path) -> None:
    """Restore parameters and optimizer states, into an engine built the same way."""
    wrapped = engine.deepspeed
    if "ranks" in read_state(checkpoint):  # DeepSpeed would look for the model files of the ranks on other disks, to load one
        wrapped._get_all_ckpt_names = lambda folder, tag: [wrapped._get_ckpt_name(folder, tag)] * wrapped.mp_world_size
    with swapped_states.loaded(wrapped):
        path, _ = wrapped.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name, load_lr_scheduler_states=False)
    conform(wrapped.basic_optimizer)
    if path is None:
        raise CheckpointError(f"{checkpoint}: DeepSpeed found no checkpoint files for this rank there.")


def hugging_face_weights(checkpoint: Path, skeleton: Any, stages: int, tensor: int = 1) -> Iterator[tuple[str, torch.Tensor]]:
    """(Hugging Face name, tensor) of every parameter in a checkpoint, from ZeRO's or the pipeline's files, slices joined.

    ZeRO's optimizer files are DeepSpeed's own pickles: export only checkpoints that you trust.
    """
    whole = {name: parameter.shape for name, parameter in skeleton.named_parameters(remove_duplicate=False)}
    if stages > 1:
        from trainer.model.layers import row
        from trainer.model.pipeline import saved_layers

        marks = [f"-model_{rank:02d}" for rank in range(tensor)] if tensor > 1 else [""]
        for index, layer in saved_layers(row(skeleton)):
            slices = [_read(checkpoint / f"layer_{index:02d}{mark}-model_states.pt") for mark in marks]
            for name, weight in slices[0].items():
                own = layer.hugging_face_name(name)
                yield own, _joined([one[name] for one in slices], whole.get(own, weight.shape))
        return
    written = list(checkpoint.glob("*zero_pp_rank_*_optim_states.pt"))
    if written and len(written) < read_state(checkpoint).get("world_size", 0):
        raise CheckpointError(f"{checkpoint} is not whole: {_elsewhere(checkpoint)}")
    slices = [_slice(checkpoint, rank) for rank in range(tensor)]
    for name in [name for name in slices[0] if all(name in one for one in slices)]:  # the first has tied weights twice
        parts = [one.pop(name) for one in slices]
        yield name, _joined(parts, whole.get(name, parts[0].shape))


def _joined(slices: list[torch.Tensor], whole: torch.Size) -> torch.Tensor:
    """The tensor of shape `whole` that was cut along one dimension, or that all slices hold alike."""
    for dimension, (size, full) in enumerate(zip(slices[0].shape, whole, strict=True)):
        if size != full:
            return torch.cat(slices, dimension)
    return slices[0]


def _slice(checkpoint: Path, rank: int) -> dict[str, torch.Tensor]:
    """What the ranks with slice `rank` hold of the stock model, by Hugging Face name.

    In float32 from ZeRO's files, else as the model computes: DeepSpeed reads none of its BF16_Optimizer's (bf16_zero_*).
    """
    own = f"mp_rank_{rank:02d}"
    if not any(checkpoint.glob(f"zero_pp_rank_*{own}_*")):
        return _read(checkpoint / f"{own}_model_states.pt")["module"]
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with tempfile.TemporaryDirectory() as folder:  # it reads a folder of one slice
        alone = Path(folder) / "slice"
        alone.mkdir()
        for file in checkpoint.glob(f"*{own}_*"):
            (alone / file.name.replace(own, "mp_rank_00")).symlink_to(file.resolve())
        return get_fp32_state_dict_from_zero_checkpoint(folder, tag="slice")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        present = ", ".join(sorted(p.name for p in file.parent.iterdir())[:5])
        raise CheckpointError(f"{file}: missing from the checkpoint (it holds {present}, ...). {_elsewhere(file.parent)}")
    return torch.load(file, map_location="cpu", weights_only=True)


def _elsewhere(checkpoint: Path) -> str:
    """Where the rest of a checkpoint is, when its hosts had disks of their own."""
    state = read_state(checkpoint)
    if "ranks" not in state:
        return ""
    return (
        f"it has the files of {named_ranks(state['ranks'])} of {state['world_size']} alone, the others' are on other disks: "
        f"copy those beside these: rsync -a --exclude {STATE_FILE} HOST:{checkpoint}/ {checkpoint}/"
    )


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that the rename cannot come to be before the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
