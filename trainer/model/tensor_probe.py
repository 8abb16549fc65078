"""The proof, on the ranks that will train, that slices of matrices compute what the stock model computes.

A small model of the same architecture is run whole on every rank, and in slices by all of them: logits must be the same, and
gradients, of what every rank holds whole, and in norm of what is cut.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed as dist
from transformers import PretrainedConfig, PreTrainedModel

from trainer.model import build, pipeline_probe
from trainer.model.tensor_parallel import Slices, TensorParallelError
from trainer.parallel.groups import add_up

TOLERANCE = 1e-3
"""Relative, in float32, in which Gemma 4's gradients are 2e-4 apart (2e-7 in float64, but for its norms); a device's matrix
products may be of TF32 where the user allows it. Wrong slices are off by tenths."""


def check(config: PretrainedConfig, attention: str, group: dist.ProcessGroup, device: torch.device) -> None:
    """Raise TensorParallelError, on every rank of the group alike, unless the group's slices compute what the model does."""
    size = dist.get_world_size(group)
    where = f'parallel.tensor {size}: a "{config.model_type}" model'
    way_out = (
        "Set parallel.tensor to 1 and parallel.zero_stage to 3 (with pipeline_stages 1); and choose another run.folder, or "
        "remove this one."
    )
    attention = "sdpa" if attention.startswith("flash") else attention
    try:
        apart = compare(small_config(config, size, attention), attention, group, device)
    except Exception as error:  # whatever a stranger's model class raises, on slices of it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise TensorParallelError(f"{where} cannot be shown to train in slices ({reason}). {way_out}") from None
    if not apart <= TOLERANCE:
        raise TensorParallelError(
            f"{where} does not compute in slices what it does whole: a small one's logits or gradients are {apart:.1e} apart "
            f"(relative; {TOLERANCE:.0e} would be rounding). {way_out}"
        )


def small_config(config: PretrainedConfig, size: int, attention: str = "sdpa") -> PretrainedConfig:
    """That of pipeline_probe, with sizes that `size` slices divide, and key heads shared by two heads where they are shared."""
    values, names = pipeline_probe.small_config(config, attention).to_dict(), type(config).attribute_map
    everywhere = config.to_dict()
    for own in (values.get("per_layer_config") or {}).values():
        own.update({key: value for key, value in _sizes(everywhere | own, names, size).items() if key in own})
    sizes = {
        key: [one] * len(values[key]) if isinstance(values[key], list) else one
        for key, one in _sizes(everywhere, names, size).items()
    }
    return type(config).from_dict({**values, **sizes})


def _sizes(values: dict[str, Any], names: dict[str, str], size: int) -> dict[str, int]:
    """Those of a small model that it has, by its own names."""
    heads, key_heads = (values.get(names.get(key, key)) for key in pipeline_probe.HEADS)
    grouped = key_heads is not None and key_heads != heads
    count = 2 * size if grouped else max(size, 4 // size * size)
    width = max(64, 8 * count)
    wanted = {
        "num_attention_heads": count,
        "num_key_value_heads": size if grouped else count,
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "intermediate_size": 16 * size,
        "vocab_size": 32 * size,
    }
    known = {names.get(key, key): value for key, value in wanted.items()}
    return {key: value for key, value in known.items() if isinstance(values.get(key), (int, list))}


def compare(config: PretrainedConfig, attention: str, group: dist.ProcessGroup, device: torch.device) -> float:
    """Largest relative difference of slices from the whole model: of logits and gradients, the same number on every rank."""
    whole, cut = (pipeline_probe.small_model(config, attention).to(device).eval() for _ in range(2))
    _slice(cut, group)
    generator = torch.Generator().manual_seed(1)
    shape = pipeline_probe.SHAPE
    tokens = torch.randint(config.vocab_size, shape, generator=generator).to(device)
    direction = torch.randn(*shape, config.vocab_size, generator=generator).to(device)
    logits = []
    for model in (whole, cut):
        output = model(input_ids=tokens, use_cache=False).logits
        (output * direction).mean().backward()
        logits.append(output.detach())
    apart = [_apart(logits[1], logits[0])]
    sliced = dict(cut.named_parameters())
    for name, parameter in whole.named_parameters():
        if parameter.grad is None:
            continue
        gradient = sliced[name].grad
        if gradient.shape == parameter.shape:
            apart.append(_apart(gradient, parameter.grad))
        else:
            squares = add_up(gradient.square().sum(), group)
            apart.append(_apart(squares.sqrt(), parameter.grad.norm()))
    worst = torch.stack(apart).max()
    dist.all_reduce(worst, dist.ReduceOp.MAX, group=group)
    return worst.item()


def _slice(model: PreTrainedModel, group: dist.ProcessGroup) -> None:
    """Cut a filled model as the engine cuts its own, chunk by chunk."""
    slices = Slices(model, group)
    for name, chunk in dict(build.chunks(model)).items():
        if not build.is_tied(model, name, chunk):
            slices.cut(chunk)
    model.tie_weights()
    slices.finish()


def _apart(value: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return (value - reference).abs().max() / reference.abs().max().clamp(min=1e-12)
