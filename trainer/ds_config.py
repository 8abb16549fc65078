"""The DeepSpeed configuration: what the run file's sections decide, joined with its `deepspeed` section, verbatim."""

from __future__ import annotations

import copy
import json
from typing import Any

from strict_json import ConfigError
from trainer import deepspeed_keys, offload
from trainer.batch import BatchPlan
from trainer.config import RunConfig
from trainer.parallel.topology import ParallelSection

ELSEWHERE = {
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "checkpoint": "checkpoint",
    "activation_checkpointing": "model (its activation_checkpointing)",
    "tensorboard": "monitor.tensorboard",
    "csv_monitor": "monitor",
    "wandb": "monitor",
}
"""Keys of DeepSpeed whose job a section of the run file does; accepted only when every value inside is "auto", false
where it is `enabled`, or AdamW where it is the optimizer's type."""
SECTIONS = ("bf16", "bfloat16", "fp16", "zero_optimization", "data_types")
"""Sections that are read or completed here."""
REFUSED = {
    "autotuning": "it would change the batch behind the trainer's back",
    "data_efficiency": "the trainer's loader decides the data and its order",
    "hybrid_engine": "it is for reinforcement learning",
    "expert_parallel": "expert parallelism is not supported yet",
    "datastates_ckpt": "the trainer's checkpoints are whole or absent by their names, which are given when all is written",
    "zero_optimization.zenflow": "its optimizer steps late and in part, so that the loss depends on how the work is split",
}
"""Keys that DeepSpeed knows but that would break what the trainer promises."""


PIPELINE_ELSEWHERE = {
    "stages": "parallel.pipeline_stages",
    "partition": "parallel.pipeline_partition",
    "activation_checkpoint_interval": "model.activation_checkpointing",
}
"""The same, of keys in DeepSpeed's section `pipeline`, the first two of which it reads nowhere."""


QUANTIZED = ("zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights")
"""Of zero_optimization: what ZeRO++ (arXiv 2306.10209) sends or keeps in fewer bits, by kernels for GPUs."""


def precision(deepspeed: dict[str, Any]) -> str:
    """ "bf16", "fp16" or "fp32", as the `deepspeed` section's bf16 and fp16 keys say."""
    enabled = [key for key in ("bf16", "bfloat16", "fp16") if deepspeed.get(key, {}).get("enabled") is True]
    if len(enabled) > 1:
        raise ConfigError(f"deepspeed.{enabled[0]} and deepspeed.{enabled[1]} are both enabled. Keep one.")
    return {"bfloat16": "bf16"}.get(enabled[0], enabled[0]) if enabled else "fp32"


def derive(config: RunConfig, batch: BatchPlan) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`.

    Raises ConfigError for keys that DeepSpeed doesn't know, for a derived key given with another value, and for
    "auto" where nothing derives a value.
    """
    deepspeed_keys.check(config.deepspeed)
    result = copy.deepcopy(config.deepspeed)
    for key in SECTIONS:
        if result.get(key) == "auto":
            raise ConfigError(f'deepspeed.{key} is "auto", but it is a section: give its keys, or remove it.')
    if "bf16" in result and "bfloat16" in result:
        raise ConfigError("deepspeed.bf16 and deepspeed.bfloat16 are two names of one section. Keep one.")
    for dotted, reason in REFUSED.items():
        *sections, key = dotted.split(".")
        section = result.get(sections[0], {}) if sections else result
        if key in section and section[key] != 1 and _is_enabled(section[key]):
            raise ConfigError(f"deepspeed.{dotted}: {reason}. Remove the key.")
    if result.get("managed_gradient_accumulation", True) is False:
        raise ConfigError("deepspeed.managed_gradient_accumulation: the trainer relies on it. Remove the key.")
    if result.get("gradient_allreduce_op", "mean") != "mean":
        raise ConfigError("deepspeed.gradient_allreduce_op: the loss is weighted for a mean over ranks. Remove the key.")
    _check_optimizer(result.get("optimizer"))
    _check_scheduler(result.get("scheduler"))
    for key, home in ELSEWHERE.items():
        if key in result and not _all_auto(result.pop(key)):
            raise ConfigError(f"deepspeed.{key}: moenda does this; remove the key and use the section {home}.")
    for key, home in PIPELINE_ELSEWHERE.items():
        if key in (section := result.get("pipeline", {})) and section.pop(key) not in ("auto", 0):
            raise ConfigError(f"deepspeed.pipeline.{key}: remove the key, and use {home}.")
    derived = {
        "train_batch_size": (batch.windows_per_step, "batch.global_batch_tokens"),
        "train_micro_batch_size_per_gpu": (batch.micro_batch_size, "batch.micro_batch_size"),
        "gradient_accumulation_steps": (
            batch.gradient_accumulation_steps,
            "batch.gradient_accumulation_steps",
        ),
        "gradient_clipping": (config.optimizer.gradient_clipping, "optimizer.gradient_clipping"),
        "zero_optimization.stage": (config.parallel.zero_stage, "parallel.zero_stage"),
    }
    for dotted, (value, home) in derived.items():
        _derive_key(result, dotted, value, home)
    _derive_splits(result, config)
    if config.parallel.pipeline_stages > 1:  # DeepSpeed's pipeline counts ranks with parts of a window as replicas
        result["train_batch_size"] *= config.parallel.sequence
    for key in ("bf16", "bfloat16", "fp16"):
        if result.get(key, {}).get("enabled") == "auto":
            raise ConfigError(f'deepspeed.{key}.enabled is "auto", but the precision has its home here: say true or false.')
    mode = precision(result)
    if mode == "fp16" and config.parallel.zero_stage == 0:
        raise ConfigError(
            "deepspeed.fp16 with parallel.zero_stage 0: DeepSpeed's fp16 optimizer without ZeRO divides gradients by the wrong "
            "loss scale in each step that raises it, and counts a tied table once per pipeline stage. Set parallel.zero_stage "
            "to 1, on one device too."
        )
    if mode == "bf16" and config.parallel.zero_stage > 0:
        # DeepSpeed's default is to accumulate gradients in bf16, which loses small ones as micro-batches add up
        result.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
    result.setdefault("steps_per_print", 10**9)  # progress is moenda's to print
    _refuse_auto(result)
    offload.check(result, config.parallel.zero_stage, config.parallel.pipeline_stages)
    _check_hierarchy(result["zero_optimization"].get("zero_hpz_partition_size", 1), config.parallel, batch.data_parallel_size)
    return result


def _check_optimizer(section: Any) -> None:
    """Raise ConfigError for an optimizer that is not AdamW, which moenda's is. "Adam" means AdamW in DeepSpeed, unless
    adam_w_mode is false."""
    if not isinstance(section, dict):
        return
    kind, parameters = section.get("type", "auto"), section.get("params")
    way_out = "Remove deepspeed.optimizer: moenda trains with AdamW, and the section optimizer has its settings."
    if not isinstance(kind, str) or kind.lower() not in ("auto", "adamw", "adam"):
        raise ConfigError(f"deepspeed.optimizer.type is {json.dumps(kind)}, not AdamW. {way_out}")
    if kind.lower() != "adamw" and isinstance(parameters, dict) and parameters.get("adam_w_mode") is False:
        raise ConfigError(f"deepspeed.optimizer.params.adam_w_mode is false: that is Adam, not AdamW. {way_out}")


def _check_scheduler(section: Any) -> None:
    """Raise ConfigError for a scheduler of DeepSpeed's: its types have other curves than `schedule`."""
    kind = section.get("type", "auto") if isinstance(section, dict) else "auto"
    if kind != "auto":
        raise ConfigError(
            f"deepspeed.scheduler.type is {json.dumps(kind)}, but the learning rate follows the section schedule. Remove "
            f"deepspeed.scheduler, and set schedule.type, warmup_tokens and min_lr_ratio to what it should be."
        )


def _derive_splits(result: dict[str, Any], config: RunConfig) -> None:
    """The keys by which DeepSpeed is told of slices of matrices, and not of parts of windows (see trainer.parallel.groups)."""
    parallel = config.parallel
    more = sorted(result.get("tensor_parallel", {}).keys() - {"autotp_size"})
    if more:
        raise ConfigError(
            f"deepspeed.tensor_parallel.{more[0]}: what is cut is Hugging Face's plan for the architecture. Remove the key."
        )
    if parallel.tensor > 1 and parallel.zero_stage == 0 and precision(result) == "bf16":
        raise ConfigError(
            f"parallel.tensor {parallel.tensor} with parallel.zero_stage 0 in bf16: DeepSpeed's optimizer "
            f"without ZeRO would clip by the gradient of the first slice alone. Set parallel.zero_stage to 1, or train in fp32."
        )
    if parallel.pipeline_stages > 1 and parallel.zero_stage == 0 and precision(result) == "bf16":
        raise ConfigError(
            f"parallel.pipeline_stages {parallel.pipeline_stages} with parallel.zero_stage 0 in bf16: DeepSpeed cannot go on "
            f"from what its bf16 optimizer saves without ZeRO. Set parallel.zero_stage to 1, or train in fp32."
        )
    _derive_key(result, "tensor_parallel.autotp_size", parallel.tensor, "parallel.tensor")
    _derive_key(result, "sequence_parallel_size", parallel.sequence, "parallel.sequence")
    del result["sequence_parallel_size"]
    if parallel.tensor == 1 or parallel.pipeline_stages > 1:  # DeepSpeed's pipeline knows slices by its grid of ranks
        del result["tensor_parallel"]


def _check_hierarchy(ranks: int, parallel: ParallelSection, replicas: int) -> None:
    """Raise ConfigError where DeepSpeed's second partition of parameters, over some of the ranks (hpZ of ZeRO++, arXiv
    2306.10209), is ignored or fails."""
    where = f"deepspeed.zero_optimization.zero_hpz_partition_size {ranks}"
    if ranks > 1 and parallel.zero_stage < 3:
        raise ConfigError(
            f"{where} needs ZeRO-3; parallel.zero_stage is {parallel.zero_stage}. Set it to 3, or remove the key."
        )
    if ranks > 1 and parallel.tensor * parallel.sequence > 1:
        raise ConfigError(f"{where}: DeepSpeed would divide over ranks with other slices or parts of windows. Remove the key.")
    if ranks > 1 and replicas % ranks:
        fitting = ", ".join(str(count) for count in range(2, replicas + 1) if replicas % count == 0)
        way_out = f"Set it to one of {fitting}, or remove the key" if fitting else "Remove the key"
        raise ConfigError(f"{where} does not divide the {replicas} data-parallel ranks. {way_out}.")


def _derive_key(result: dict[str, Any], dotted: str, value: float, home: str) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        result = result.setdefault(section, {})
    given = result.get(key, "auto")
    if given not in ("auto", value):
        raise ConfigError(
            f"deepspeed.{dotted} is {given}, but {home} makes it {value}. Its home is {home}: remove deepspeed.{dotted} "
            f'(or set it to "auto") and change {home} if {given} is what you want.'
        )
    result[key] = value


def _is_enabled(section: Any) -> bool:
    return bool(section.get("enabled", True)) if isinstance(section, dict) else bool(section)


def _all_auto(value: Any, key: str = "") -> bool:
    if isinstance(value, dict):
        return all(_all_auto(inner, key) for key, inner in value.items())
    return value == "auto" or key == "type" or (value is False and key in ("", "enabled"))


def _refuse_auto(value: Any, dotted: str = "deepspeed") -> None:
    if value == "auto":
        raise ConfigError(f'{dotted} is "auto", but no section of the run file decides it. Give a value or remove it.')
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_auto(inner, f"{dotted}.{key}")
