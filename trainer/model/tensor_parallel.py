"""Tensor parallelism (arXiv 1909.08053) by DeepSpeed's AutoTP, chunk by chunk: a rank fills a chunk of a model as every rank
does, then keeps its slice, so that no whole model is ever on a device and all ways start from the same parameters.

Which matrices are cut, and how, is the plan that Hugging Face keeps with the architecture (`base_model_tp_plan`): "colwise"
by outputs, whole heads at a time, "rowwise" by inputs. Embeddings and norms stay whole on every rank, and so does a tied head.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from transformers import PreTrainedModel

from trainer.model import config_values

COLUMN_STYLES = ("colwise", "colwise_rep", "colwise_gather_output")
WHOLE_STYLES = ("embedding_rowwise", "replicated_with_grad_allreduce")
"""Of what stays whole with AutoTP; the second: what acts on a rank's heads alone, so that its gradients are added up."""
STYLES = {*COLUMN_STYLES, "rowwise", *WHOLE_STYLES}
"""What AutoTP can do."""
PACKED = {"codegen": "queries, values and keys lie in one matrix, and not head by head"}
"""Architectures whose plan does not say how a matrix must be cut."""


class TensorParallelError(ValueError):
    """This model cannot be cut into as many slices."""


def plan_of(model: PreTrainedModel) -> dict[str, str]:
    """Style by pattern of names in the model, `*` for a layer's number, without those of parts that this model does not have,
    such as experts; empty where Hugging Face has no plan."""
    base = getattr(model.config, "base_model_tp_plan", None) or {}
    prefix = f"{model.base_model_prefix}."
    own = getattr(type(model), "_tp_plan", None) or {}
    plan = {**{prefix + pattern: style for pattern, style in base.items()}, **own} if base else {}
    names = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
    return {pattern: style for pattern, style in plan.items() if fnmatch.filter(names, pattern)}


def check(model: PreTrainedModel, ranks: int, sequence: int = 1) -> None:
    """Raise TensorParallelError when the model, a skeleton will do, cannot be cut into `ranks` slices, or the heads of a slice
    not be shared by `sequence` ranks."""
    config, plan = model.config, plan_of(model)
    where = f'parallel.tensor {ranks}, with a "{config.model_type}" model'
    instead = "set parallel.tensor to 1 and parallel.zero_stage to 3 (with pipeline_stages 1), which shards any model"
    if reason := _obstacle(model, plan):
        choose = 'choose an architecture such as "llama" or "gpt_neox"'
        raise TensorParallelError(f"{where}: {reason}. {instead.capitalize()}; or {choose}.")
    counts = [config_values.of_layers(config, key) for key in ("num_attention_heads", "num_key_value_heads")]
    for heads, key_heads in zip(*counts, strict=True):
        key_heads = key_heads or heads
        if heads % ranks or key_heads % ranks:
            fitting = [str(n) for n in range(1, key_heads + 1) if heads % n == key_heads % n == 0]
            raise TensorParallelError(
                f"{where}: {heads} heads and {key_heads} key heads cannot be cut into {ranks} slices of whole heads. "
                f"Set parallel.tensor to one of {', '.join(fitting)}, or num_key_value_heads to a multiple of {ranks}. Or "
                f"{instead}."
            )
    if dropout := getattr(config, "attention_dropout", 0.0):
        raise TensorParallelError(
            f"{where}: attention_dropout is {dropout}, and the slices draw the same dropout, each for heads of its own. Set "
            f"attention_dropout to 0 in model.config. Or {instead}."
        )
    heads = math.gcd(*counts[0])
    if heads // ranks % sequence:
        raise TensorParallelError(
            f"{where}: the {heads // ranks} heads of a slice cannot be shared by parallel.sequence {sequence}. Their product "
            f"must divide {heads} heads."
        )
    for name, module, dimension in _cut(model, plan):
        size = module.weight.shape[dimension]
        if size % ranks:
            raise TensorParallelError(
                f"{where}: {name} has {size} {('outputs', 'inputs')[dimension]}, which {ranks} slices do not divide. Set the "
                f"configuration's size to a multiple of {ranks}. Or {instead}."
            )


def _obstacle(model: PreTrainedModel, plan: dict[str, str]) -> str | None:
    """Why slices would not compute what the whole model does, or hold no less than it; None where nothing is known."""
    if not plan:
        return "Hugging Face has no plan for it"
    if unknown := sorted({*plan.values()} - STYLES):
        return f"its plan has {', '.join(unknown)}, which AutoTP cannot do"
    if reason := PACKED.get(model.config.model_type):
        return reason
    if any(getattr(model.config, "activation_sparsity_pattern", None) or ()):
        return "its sparse activations (activation_sparsity_pattern) compare all features of a layer, and a slice has some"
    cut = {name for name, *_ in _cut(model, plan)}
    sliced = {name.rpartition(".")[0] for name in cut if _style(name, plan) in ("colwise", "rowwise")} - {""}
    if not sliced:
        return "its plan leaves the blocks whole, so every rank would hold all of them"
    for parameter, _ in model.named_parameters():
        module = parameter.rpartition(".")[0]
        beside = any(parameter.startswith(f"{name}.") for name in sliced)
        if beside and module not in cut and _style(module, plan) not in WHOLE_STYLES:
            return f"its plan says nothing of {parameter}, which acts on slices: each rank would train it on its own"
    return None


def _style(name: str, plan: dict[str, str]) -> str | None:
    return next((style for pattern, style in plan.items() if fnmatch.fnmatch(name, pattern)), None)


def _cut(model: PreTrainedModel, plan: dict[str, str]) -> Iterator[tuple[str, nn.Module, int]]:
    """(name, module, dimension of its weight) of all that the plan cuts."""
    for name, module in model.named_modules():
        style = _style(name, plan)
        tied = f"{name}.weight" in model.all_tied_weights_keys
        if style in (*COLUMN_STYLES, "rowwise") and isinstance(module, nn.Linear) and not tied:
            yield name, module, int(style == "rowwise")


def cut_parameters(model: PreTrainedModel) -> set[nn.Parameter]:
    """The parameters of a model, or its skeleton, of which a rank keeps a slice."""
    cut = list(_cut(model, plan_of(model)))
    return {module.weight for _, module, _ in cut} | {module.bias for _, module, dimension in cut if dimension == 0} - {None}


class Slices:
    """Cuts the chunks of one model, made from its skeleton while tied weights are still one."""

    def __init__(self, model: PreTrainedModel, group: dist.ProcessGroup):
        from deepspeed.module_inject.auto_tp import AutoTP
        from deepspeed.module_inject.autotp_config import AutoTPConfig
        from deepspeed.module_inject.layers import set_autotp_mode
        from deepspeed.module_inject.tp_plan_converter import TPPlanConverter

        set_autotp_mode(training=True)
        self._model, size = model, dist.get_world_size(group)
        specs = TPPlanConverter.convert(plan_of(model))
        options: dict[str, Any] = dict.fromkeys(("state_dict", "orig_layer_impl"))
        self._autotp = AutoTP(
            model, (), "", linear_layer_setting=(nn.Linear, nn.Embedding), training_mode=True, model_config=model.config,
            partition_config=AutoTPConfig(tp_size=size, layer_specs=specs), **options,
        )  # fmt: skip
        self._autotp.mp_size, self._autotp.mp_group = size, group
        self._autotp.update_linear_policies()
        self._autotp._configure_gathered_column_tie_fallbacks()
        self._names = {module: name for name, module in model.named_modules()}

    def cut(self, chunk: nn.Module) -> None:
        """Leave this rank's slice of a filled chunk, in place of it."""
        name, autotp = self._names[chunk], self._autotp
        parent, _, attribute = name.rpartition(".")
        if isinstance(chunk, nn.Linear):
            if name not in autotp._tied_gathered_column_module_names:
                setattr(self._model.get_submodule(parent), attribute, autotp._replace_with_config(chunk, name))
            return
        autotp._replace_module(chunk, attribute, parent)
        autotp.update_mp_params(chunk, name)

    def finish(self) -> None:
        """When all chunks are cut and weights tied: gradients of what acts on slices, and DeepSpeed's marks."""
        from deepspeed.checkpoint.constants import UNIVERSAL_CHECKPOINT_INFO
        from deepspeed.module_inject.layers import collect_autotp_universal_checkpoint_info

        self._autotp.register_replicated_grad_hooks(self._model)
        setattr(self._model, UNIVERSAL_CHECKPOINT_INFO, collect_autotp_universal_checkpoint_info(self._model))
        self._model.ds_autotp_parsed = True


def keep_products() -> None:
    """Let DeepSpeed add up the slices' products in a copy. It does so in place: what selective activation checkpointing keeps
    of a product would be the sum already, which the recomputation then adds up once more."""
    from deepspeed.module_inject import layers

    plain = layers.RowParallel
    if getattr(plain, "in_a_copy", False):
        return

    class RowParallel(plain):
        in_a_copy = True

        @staticmethod
        def forward(context: Any, group: dist.ProcessGroup, products: torch.Tensor, is_inference_mode: bool) -> torch.Tensor:
            return plain.forward(context, group, products.clone(), is_inference_mode)

    layers.RowParallel = RowParallel
