"""Checkpoints: DeepSpeed's files and the TrainState in one folder that is either whole or absent.

A checkpoint is written under a hidden name and renamed when every rank is done, so that a killed save leaves nothing
that looks finished. The newest `step-*` folder is the one to resume from; no pointer file can disagree with it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from trainer.data.loader import MicroBatch
from trainer.engine import PipelineEngine, ZeroEngine
from trainer.preflight import RunPlan
from trainer.run_folder import CHECKPOINTS, PARTIAL_PREFIX, STATE_FILE, checkpoint_name, checkpoints_in
from trainer.state import TrainState


class CheckpointError(ValueError):
    """A checkpoint cannot be read."""


def save(engine: ZeroEngine | PipelineEngine, plan: RunPlan, state: TrainState, chain: str | None) -> Path:
    """Write the checkpoint of `state` into the run folder, from all ranks, and return its path.

    Beside the state it records a probe, the live engine's loss on tokens that an export can draw again and must match; the data
    order so far, which a resume must continue; and the ledger's chain, on the first rank (`chain` there, else ignored).
    """
    folder, keep = plan.folder / CHECKPOINTS, plan.config.checkpoint.keep
    probe = _probe(engine, plan)
    final = folder / checkpoint_name(state.step)
    partial = folder / (PARTIAL_PREFIX + final.name)
    first = dist.get_rank() == 0
    if first:
        shutil.rmtree(partial, ignore_errors=True)
    dist.barrier()
    engine.deepspeed.save_checkpoint(str(folder), tag=partial.name, client_state={}, save_latest=False)
    dist.barrier()
    if first:
        record = {"state": state.to_json(), "probe": probe, "order": plan.order_before(state), "chain": chain}
        (partial / STATE_FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")
        for file in partial.rglob("*"):
            _sync(file)
        if final.exists():  # left by a run that was killed after this rename and resumed from an older checkpoint
            shutil.rmtree(final)
        partial.rename(final)
        _sync(folder)
        for old in checkpoints_in(folder)[:-keep] if keep else []:
            shutil.rmtree(old)
    dist.barrier()
    return final


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


def load(engine: ZeroEngine | PipelineEngine, checkpoint: Path) -> None:
    """Restore parameters and optimizer states, into an engine built the same way."""
    path, _ = engine.deepspeed.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name, load_lr_scheduler_states=False)
    if path is None:
        raise CheckpointError(f"{checkpoint}: DeepSpeed found no checkpoint files for this rank there.")


def hugging_face_weights(checkpoint: Path, skeleton: Any, stages: int) -> Iterator[tuple[str, torch.Tensor]]:
    """(Hugging Face name, tensor) of every parameter in a checkpoint, from ZeRO's or the pipeline's files.

    ZeRO's optimizer files are DeepSpeed's own pickles: export only checkpoints that you trust.
    """
    if stages > 1:
        from trainer.model.layers import row
        from trainer.model.pipeline import saved_layers

        for index, layer in saved_layers(row(skeleton)):
            file = checkpoint / f"layer_{index:02d}-model_states.pt"
            for name, tensor in _read(file).items():
                yield layer.hugging_face_name(name), tensor
        return
    if any(checkpoint.glob("*zero_pp_rank_*")):
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        yield from get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), tag=checkpoint.name).items()
    else:
        yield from _read(checkpoint / "mp_rank_00_model_states.pt")["module"].items()


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        present = ", ".join(sorted(p.name for p in file.parent.iterdir())[:5])
        raise CheckpointError(f"{file}: missing from the checkpoint (it holds {present}, ...).")
    return torch.load(file, map_location="cpu", weights_only=True)


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that the rename cannot come to be before the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
