"""Offload of optimizer states and parameters to memory: which combinations DeepSpeed runs, known before it starts.

ZeRO-Offload (arXiv 2101.06840): optimizer states and the optimizer's work on the CPU, with ZeRO 1 to 3. ZeRO-Infinity (arXiv
2104.07857): parameters, too, with ZeRO-3; its disks are refused.
"""

from __future__ import annotations

from typing import Any

from strict_json import ConfigError

KEYS = ("offload_optimizer", "offload_param")
"""Of DeepSpeed's zero_optimization."""


def device(ds_config: dict[str, Any], key: str) -> str:
    """Where a key of KEYS says that things go: "none", "cpu" or "nvme"."""
    return (ds_config.get("zero_optimization", {}).get(key) or {}).get("device", "none")


def check(ds_config: dict[str, Any], zero_stage: int, pipeline_stages: int) -> None:
    """Raise ConfigError for a combination that DeepSpeed ignores, or refuses only when it has started."""
    for key in KEYS:
        where, dotted = device(ds_config, key), f"deepspeed.zero_optimization.{key}"
        if where == "none":
            continue
        if pipeline_stages > 1:
            raise ConfigError(
                f"{dotted} with parallel.pipeline_stages {pipeline_stages}: DeepSpeed's pipeline does not offload. Remove "
                f"{key}, or set pipeline_stages to 1 and zero_stage to 3, which divides the parameters, too."
            )
        if where == "nvme":
            raise ConfigError(
                f"{dotted} to a disk: what DeepSpeed 0.19 writes there cannot be resumed from: a run that is started again "
                f'does not continue its curve. Set its device to "cpu".'
            )
        if zero_stage < 3 and key == "offload_param":
            raise ConfigError(
                f"{dotted} needs ZeRO-3; parallel.zero_stage is {zero_stage}. Set zero_stage to 3, or remove {key}."
            )
        if zero_stage == 0:
            raise ConfigError(
                f"{dotted}: without ZeRO (parallel.zero_stage 0) DeepSpeed ignores it. Set zero_stage to 1, 2 or 3, or remove "
                f"{key}."
            )
