"""Where embedding, blocks, norm and head live in each Hugging Face architecture, for taking a model apart.

ZeRO runs any causal language model as it is. The pipeline needs the names of the parts: most architectures declare them
themselves (`base_model_pp_plan` of the configuration class), the others stand in a table here. What the forward pass does
around the parts is left to the stock code (trainer.model.layers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Anatomy:
    """Dotted names of a causal LM's submodules."""

    base: str
    """The module whose forward pass runs the blocks."""
    token_embedding: str
    before: tuple[str, ...]
    """What embedded tokens go through before the blocks: learned positions, norms, projections, dropout."""
    blocks: str
    after: tuple[str, ...]
    """What follows the last block: norm, projection."""
    head: str


@dataclass(frozen=True)
class Parts:
    """An architecture's parts by their names within its base module."""

    before: tuple[str, ...]
    blocks: str
    after: tuple[str, ...]
    base: str | None = None
    """Within the whole model, where it is not Hugging Face's base model."""


WITHOUT_PLAN = {
    "bloom": Parts(("word_embeddings_layernorm",), "h", ("ln_f",)),
    "gpt2": Parts(("wpe", "drop"), "h", ("ln_f",)),
    "gpt_bigcode": Parts(("wpe", "drop"), "h", ("ln_f",)),
    "gpt_neo": Parts(("wpe", "drop"), "h", ("ln_f",)),
    "opt": Parts(("embed_positions", "project_in"), "layers", ("final_layer_norm", "project_out"), base="model.decoder"),
    "stablelm": Parts((), "layers", ("norm",)),
}
"""Architectures whose configuration declares no plan."""


class UnsupportedModelError(ValueError):
    """This model cannot be split the way the run file asks."""


def refusal(model_type: str, reason: str) -> UnsupportedModelError:
    """The error of a model that the pipeline cannot run as Hugging Face does, with what to use instead."""
    return UnsupportedModelError(
        f'model_type "{model_type}" cannot run in pipeline stages: {reason}. Set parallel.pipeline_stages to 1 and '
        f"parallel.zero_stage to 1, 2 or 3: ZeRO runs any causal LM as it is."
    )


def anatomy(model: nn.Module) -> Anatomy:
    """The parts of a Hugging Face causal LM; a skeleton will do. Raises UnsupportedModelError when they are not known, or
    when they don't hold all of its parameters."""
    kind = model.config.model_type
    parts = WITHOUT_PLAN.get(kind) or _planned(getattr(model.config, "base_model_pp_plan", None))
    if parts is None:
        raise refusal(
            kind, f"its parts are not known: no base_model_pp_plan, and none of the table {', '.join(sorted(WITHOUT_PLAN))}"
        )
    names = {id(module): name for name, module in reversed(list(model.named_modules()))}  # a shared module's first name
    base = parts.base or model.base_model_prefix
    blocks = f"{base}.{parts.blocks}"
    modules = dict(model.named_modules())
    if not isinstance(modules.get(blocks), nn.ModuleList) or model.get_output_embeddings() is None:
        raise refusal(kind, f"it has no list of blocks {blocks}, or no head")
    inner = {group: tuple(f"{base}.{name}" for name in getattr(parts, group)) for group in ("before", "after")}
    present = {group: tuple(name for name in found if name in modules) for group, found in inner.items()}
    found = Anatomy(
        base=base,
        token_embedding=names[id(model.get_input_embeddings())],
        blocks=blocks,
        head=names[id(model.get_output_embeddings())],
        **present,
    )
    _check_complete(model, found)
    return found


def _planned(plan: dict[str, Any] | None) -> Parts | None:
    """Hugging Face's plan maps names, in the forward pass's order, to (inputs, outputs); the blocks take a mask."""
    if not plan:
        return None
    order = list(plan)
    blocks = next((name for name, (inputs, _) in plan.items() if "attention_mask" in inputs), None)
    if blocks is None:
        return None
    at = order.index(blocks)
    embedding = {name for name, (inputs, _) in plan.items() if "input_ids" in inputs}
    return Parts(tuple(name for name in order[:at] if name not in embedding), blocks, tuple(order[at + 1 :]))


def _check_complete(model: nn.Module, parts: Anatomy) -> None:
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
