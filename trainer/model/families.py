"""Where embedding, blocks, norm and head live in a Hugging Face causal LM, for taking it apart.

ZeRO runs any causal language model as it is. The pipeline needs the parts, and finds them: the blocks are the
largest list of modules beside the token embedding; what acts before and after them is seen in a forward pass without
them (trainer.model.wiring). What the forward pass does around the parts is left to the stock code (trainer.model.layers).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from trainer.model import wiring
from trainer.model.wiring import Wiring, WiringError


@dataclass(frozen=True)
class Anatomy:
    """Dotted names of a causal LM's submodules."""

    base: str
    """The module whose forward pass runs the blocks."""
    token_embedding: str
    before: tuple[str, ...]
    """What embedded tokens go through before the blocks: learned positions, norms, projections."""
    blocks: str
    after: tuple[str, ...]
    """What follows the last block: norm, projection."""
    head: str
    wiring: Wiring


class UnsupportedModelError(ValueError):
    """This model cannot be split the way the run file asks."""


def refusal(model_type: str, reason: str) -> UnsupportedModelError:
    """The error of a model that the pipeline cannot run as Hugging Face does, with what to use instead."""
    return UnsupportedModelError(
        f'model_type "{model_type}" cannot run in pipeline stages: {reason}. Set parallel.pipeline_stages to 1 and '
        f"parallel.zero_stage to 1, 2 or 3: ZeRO runs any causal LM as it is."
    )


def anatomy(model: PreTrainedModel) -> Anatomy:
    """The parts of a Hugging Face causal LM; a skeleton will do. Raises UnsupportedModelError when they are not found, or when
    they don't hold all of its parameters."""
    kind = model.config.model_type
    names = {id(module): name for name, module in reversed(list(model.named_modules()))}  # a shared module's first name
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or not isinstance(getattr(embedding, "weight", None), nn.Parameter):
        raise refusal(kind, "it has no head, or no table of token embeddings")
    token_embedding = names[id(embedding)]
    base, lists = token_embedding, {}
    while base and not lists:
        base = base.rpartition(".")[0]
        holder = model.get_submodule(base)
        lists = {name: one for name, one in holder.named_children() if isinstance(one, nn.ModuleList)} or dict(_lists(holder))
    if not lists or not base:
        raise refusal(kind, f"beside {token_embedding}, it has no list of blocks")
    blocks = max(lists, key=lambda name: sum(p.numel() for p in lists[name].parameters()))
    inner = token_embedding[len(base) + 1 :]
    try:
        found = wiring.survey(model.get_submodule(base), inner, blocks)
    except WiringError as error:
        raise refusal(kind, str(error)) from None
    before, after = (tuple(f"{base}.{name}" for name in group) for group in (found.before, found.after))
    parts = Anatomy(base, token_embedding, before, f"{base}.{blocks}", after, names[id(head)], found)
    _check_complete(model, parts)
    return parts


def _lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    """Lists of modules at any depth, but none within another."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield prefix + name, child
        else:
            yield from _lists(child, f"{prefix}{name}.")


def _check_complete(model: PreTrainedModel, parts: Anatomy) -> None:
    held = [f"{name}." for name in (parts.token_embedding, parts.blocks, parts.head, *parts.before, *parts.after)]
    outside = [name for name, _ in model.named_parameters() if not name.startswith(tuple(held))]
    if outside:
        raise refusal(model.config.model_type, f"{len(outside)} parameters belong to no stage, first {outside[0]}")
    tied = set(model.all_tied_weights_keys) - {f"{parts.head}.weight"}
    if tied:
        raise refusal(model.config.model_type, f"it shares {sorted(tied)[0]} in a way that stages cannot")
    if f"{parts.head}.weight" in model.all_tied_weights_keys and f"{parts.head}.bias" in dict(model.named_parameters()):
        raise refusal(model.config.model_type, "its head shares the embedding's weight and has a bias of its own")
    if getattr(model.config, "layerdrop", 0):
        raise refusal(model.config.model_type, "with layerdrop above 0 it skips blocks at random")
