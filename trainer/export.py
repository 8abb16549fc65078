"""From a run's checkpoint to a Hugging Face folder: safetensors, config, tokenizer; done only when its logits are right."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from data_prep.shards.storage import is_remote, join, read_whole
from trainer import checkpoint, checkpoint_files
from trainer.devices import DTYPES
from trainer.model import build, fused_loss
from trainer.run_folder import CHECKPOINTS, checkpoint_name, checkpoints_in, read_record, read_state

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 1e-2}
"""Largest relative difference from the loss that the live engine recorded, by the precision in which it computed."""


class ExportError(ValueError):
    """The checkpoint cannot be exported, or the exported model is not the trained one."""


def export(run: Path, output: Path, step: int | None = None, precision: str | None = None) -> dict[str, Any]:
    """Write the Hugging Face folder `output` from the newest checkpoint of `run`, or from that of `step`.

    The folder appears only after the model that `AutoModelForCausalLM` loads from it has given (a) the logits of the
    checkpoint's own weights, and (b) the loss that the training engine recorded when it saved them. Returns these facts.
    """
    if output.exists():
        raise ExportError(f"{output} exists. Nothing was written; choose another folder with --output.")
    source = _checkpoint(run, step)
    record = read_record(run)
    identity = record["identity"]
    precision = precision or identity["precision"]
    checkpoint_files.check(source)
    model = _trained_model(source, identity, precision)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(partial, safe_serialization=True)
    _copy_tokenizer(record["tokenizer_folder"], partial)

    facts = {"checkpoint": str(source), "output": str(output), **_compare(model, partial, precision)}
    facts |= _match_probe(partial, record, read_state(source).get("probe"))
    os.rename(partial, output)
    return facts


def _checkpoint(run: Path, step: int | None) -> Path:
    saved = checkpoints_in(run / CHECKPOINTS)
    if not saved:
        raise ExportError(f"{run} holds no finished checkpoint.")
    if step is None:
        return saved[-1]
    wanted = run / CHECKPOINTS / checkpoint_name(step)
    if wanted not in saved:
        steps = ", ".join(path.name for path in saved)
        raise ExportError(f"{run} holds no checkpoint of step {step}; it holds {steps}.")
    return wanted


def _trained_model(source: Path, identity: dict[str, Any], precision: str) -> PreTrainedModel:
    """The stock model with the checkpoint's weights, on the CPU."""
    config = AutoConfig.for_model(**identity["model"])
    model = build.skeleton(config, "eager" if identity["attention"].startswith("flash") else identity["attention"])
    tied = model.all_tied_weights_keys
    expected = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False) if name not in tied}
    buffers = {name: value for name, value in model.state_dict().items() if name not in expected and name not in tied}
    found = {}
    slices = identity.get("tensor", 1)
    for name, tensor in checkpoint.hugging_face_weights(source, model, identity["pipeline_stages"], slices):
        if name in expected:
            if tuple(tensor.shape) != expected[name]:
                raise ExportError(f"{source}: {name} is {tuple(tensor.shape)}, the model needs {expected[name]}.")
            found[name] = tensor.to(DTYPES[precision])
        elif name in buffers and tensor.shape == buffers[name].shape:
            found[name] = tensor.to(buffers[name].dtype)
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise ExportError(f"{source}: {len(missing)} of {len(expected)} parameters are missing, first {missing[0]}.")
    model.load_state_dict(found, assign=True, strict=False)
    model.tie_weights()
    model.config.use_cache = True
    model.config.dtype = DTYPES[precision]
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.use_cache = True
    return model.eval()


def _copy_tokenizer(folder: str | None, output: Path) -> None:
    """The tokenizer's files as they are: saving it anew could change its fingerprint."""
    if folder is None:
        return
    if is_remote(folder):  # what a store holds cannot always be listed
        for name in TOKENIZER_FILES:
            content = read_whole(join(folder, name))
            if content is not None:
                (output / name).write_bytes(content)
        return
    for file in sorted(Path(folder).iterdir()):
        if file.is_file() and not file.name.startswith(("config", "model", "generation")):
            shutil.copyfile(file, output / file.name)


@torch.no_grad()
def _compare(model: PreTrainedModel, folder: Path, precision: str) -> dict[str, Any]:
    """Load the folder as a user will, and compare logits on random tokens."""
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[precision]).eval()
    for name, parameter in loaded.named_parameters():  # Hugging Face keeps some in float32 (DeepSeek-V4)
        model.get_parameter(name).data = model.get_parameter(name).data.to(parameter.dtype)
    length = min(64, getattr(model.config, "max_position_embeddings", 64))
    tokens = torch.randint(model.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    expected, got = model(input_ids=tokens).logits.float(), loaded(input_ids=tokens).logits.float()
    difference = (expected - got).abs().max().item()
    if not difference <= 1e-5 * max(1.0, expected.abs().max().item()):
        raise ExportError(f"the exported model's logits differ from the checkpoint's by {difference}; nothing was exported.")
    return {"largest_logit_difference": difference}


@torch.no_grad()
def _match_probe(folder: Path, record: dict[str, Any], probe: dict[str, Any] | None) -> dict[str, Any]:
    """Compare with the loss that the training engine recorded with the checkpoint."""
    if probe is None:
        return {"probe": "not compared: the checkpoint records none"}
    identity = record["identity"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    fused_loss.install(model, fused=fused_loss.obstacle(model) is None)
    total = 0.0
    for row in checkpoint.probe_tokens(probe["windows"], identity["sequence_length"], probe["vocab_size"]):
        total += model(input_ids=row[None, :-1], targets=row[None, 1:], use_cache=False).loss.item()
    relative = abs(total - probe["nll"]) / max(probe["nll"], 1e-9)
    if not relative <= TOLERANCE[identity["precision"]]:
        raise ExportError(
            f"the exported model's loss on {probe['windows']} windows of random tokens is {total:.4f}, the training engine "
            f"recorded {probe['nll']:.4f} ({relative:.2%} apart); nothing was exported."
        )
    return {"probe": f"loss of the live engine matched within {relative:.2e} (relative)"}
