"""Offload of optimizer states and parameters to memory or disk: which combinations DeepSpeed runs, known before it starts.

ZeRO-Offload (arXiv 2101.06840): optimizer states and the optimizer's work on the CPU, with ZeRO 1 to 3. ZeRO-Infinity (arXiv
2104.07857): also on a disk, and parameters too, with ZeRO-3.
"""

from __future__ import annotations

import os
from pathlib import Path
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
        if zero_stage < 3 and (key == "offload_param" or where == "nvme"):
            instead = 'set its device to "cpu"' if key == "offload_optimizer" and zero_stage else f"remove {key}"
            raise ConfigError(
                f'{dotted} to "{where}" needs ZeRO-3; parallel.zero_stage is {zero_stage}. Set zero_stage to 3, or {instead}.'
            )
        if zero_stage == 0:
            raise ConfigError(
                f"{dotted}: without ZeRO (parallel.zero_stage 0) DeepSpeed ignores it. Set zero_stage to 1, 2 or 3, or remove "
                f"{key}."
            )
        if where == "nvme" and not ds_config["zero_optimization"][key].get("nvme_path"):
            raise ConfigError(f'{dotted}: device "nvme" needs "nvme_path", a folder on a fast local disk of every host.')


def check_disks(ds_config: dict[str, Any]) -> None:
    """Raise ConfigError when this host cannot write where the run offloads to; the folder is made when its parent is there."""
    for key in KEYS:
        if device(ds_config, key) != "nvme":
            continue
        folder = Path(ds_config["zero_optimization"][key]["nvme_path"])
        dotted = f"deepspeed.zero_optimization.{key}.nvme_path"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{dotted}: {folder}: {error.strerror}. Name a folder on a local disk of this host.") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"{dotted}: {folder} cannot be written by this user. Name a folder that can.")
