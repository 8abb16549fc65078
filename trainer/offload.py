"""Offload of optimizer states and parameters to memory or disks: which combinations DeepSpeed runs, known before it starts.

ZeRO-Offload (arXiv 2101.06840): optimizer states and the optimizer's work on the CPU, with ZeRO 1 to 3. ZeRO-Infinity (arXiv
2104.07857): parameters, too, and both on disks of the hosts ("nvme"), with ZeRO-3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from strict_json import ConfigError

KEYS = ("offload_optimizer", "offload_param")
"""Of DeepSpeed's zero_optimization."""
DEPRECATED = {
    "cpu_offload": 'offload_optimizer: {"device": "cpu"}',
    "cpu_offload_param": 'offload_param: {"device": "cpu"}',
    "cpu_offload_use_pin_memory": "pin_memory in offload_optimizer and offload_param",
}
"""Older keys of the same, and what takes their place."""
SUB_GROUP = 20_000_000
"""Parameters of a rank whose states are in memory at a time, with an optimizer on disks: DeepSpeed's buffers hold 16 bytes for
each. Its own default, 10^9, would take more memory than the states of most models."""
MAX_IN_CPU = 10**9
"""DeepSpeed's default."""
STATE_BYTES = 16
"""Per parameter, of an optimizer on disks: master copy, two moments (Adam) and the gradient, in fp32."""


def device(ds_config: dict[str, Any], key: str) -> str:
    """Where a key of KEYS says that things go: "none", "cpu" or "nvme"."""
    return (ds_config.get("zero_optimization", {}).get(key) or {}).get("device", "none")


def disk_paths(ds_config: dict[str, Any]) -> dict[str, str]:
    """The nvme_path of each key of KEYS whose things go to a disk."""
    return {key: ds_config["zero_optimization"][key]["nvme_path"] for key in KEYS if device(ds_config, key) == "nvme"}


def disk_bytes(ds_config: dict[str, Any], key: str, precision: str) -> int:
    """Bytes per parameter that a key of KEYS puts on disks, over all ranks."""
    if device(ds_config, key) != "nvme":
        return 0
    return STATE_BYTES if key == "offload_optimizer" else {"fp32": 4}.get(precision, 2)


def describe(ds_config: dict[str, Any], precision: str) -> Iterator[str]:
    """What goes to disks, a line each; of a completed configuration."""
    zero = ds_config["zero_optimization"]
    for key, path in disk_paths(ds_config).items():
        amount = f"in {path}, {disk_bytes(ds_config, key, precision)} bytes for each parameter"
        if key == "offload_optimizer":
            yield f"optimizer states {amount}; those of {zero['sub_group_size']:,.0f} parameters of a rank in memory at a time"
        else:
            kept = zero[key].get("max_in_cpu", MAX_IN_CPU)
            yield f"parameters {amount}; the first {kept:,.0f} of a rank stay in memory (max_in_cpu)"


def check(ds_config: dict[str, Any], zero_stage: int, pipeline_stages: int) -> None:
    """Raise ConfigError for a combination that DeepSpeed ignores, or refuses only when it has started."""
    for key, instead in DEPRECATED.items():
        if key in ds_config.get("zero_optimization", {}):
            raise ConfigError(f"deepspeed.zero_optimization.{key}: DeepSpeed has given this key up. Use {instead}.")
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
            to_disk = " to a disk" if where == "nvme" else ""
            cpu = ', set its device to "cpu"' if key == "offload_optimizer" and zero_stage > 0 else ""
            raise ConfigError(
                f"{dotted}{to_disk} needs ZeRO-3; parallel.zero_stage is {zero_stage}. Set zero_stage to 3{cpu}, or remove "
                f"{key}."
            )
        if zero_stage == 0:
            raise ConfigError(
                f"{dotted}: without ZeRO (parallel.zero_stage 0) DeepSpeed ignores it. Set zero_stage to 1, 2 or 3, or remove "
                f"{key}."
            )
        if where == "nvme":
            _check_disk(ds_config["zero_optimization"][key], key, dotted)
    if device(ds_config, KEYS[0]) == "nvme" and ds_config.get("bf16", {}).get("bf16_master_weights_and_grads"):
        raise ConfigError(
            "deepspeed.bf16.bf16_master_weights_and_grads with an optimizer on disks: its files are of fp32 states. Remove "
            'that key, or set deepspeed.zero_optimization.offload_optimizer.device to "cpu".'
        )


def _check_disk(section: dict[str, Any], key: str, dotted: str) -> None:
    """Raise ConfigError where DeepSpeed would fail, once it has started, with what goes to a disk."""
    if not section.get("nvme_path"):
        raise ConfigError(
            f"{dotted}.nvme_path is missing: name a folder on a fast disk of each host, the same path on all of them."
        )
    if key == "offload_param":
        return
    if section.get("ratio", 1.0) != 1.0 or section.get("super_offload"):
        name = "super_offload" if section.get("super_offload") else "ratio"
        raise ConfigError(f'{dotted}.{name}: is for the device "cpu". Remove it: the whole optimizer goes to the disk.')
    flights = 1 + bool(section.get("pipeline_read")) + bool(section.get("pipeline_write"))
    if section.get("buffer_count", 4) < 4 * flights:
        busy = {1: "", 2: " and the one read or written beside it"}.get(flights, " and those read and written beside it")
        raise ConfigError(
            f"{dotted}.buffer_count is {section.get('buffer_count', 4)}: the states of the part that is updated{busy} need "
            f"{4 * flights}. Set it to {4 * flights}."
        )


def complete(ds_config: dict[str, Any], largest: int) -> None:
    """Fill in sizes that DeepSpeed's defaults choose badly for disks. largest: parameters in a rank's part of the largest one.

    Raises ConfigError when the buffers for parameters on disks are too small for it.
    """
    zero = ds_config["zero_optimization"]
    if device(ds_config, "offload_optimizer") == "nvme":
        zero.setdefault("sub_group_size", SUB_GROUP)
    if device(ds_config, "offload_param") == "nvme":
        zero.setdefault("stage3_max_reuse_distance", 0)  # what stays gathered keeps one of the few buffers
        section = zero["offload_param"]
        if section.setdefault("buffer_size", largest) < largest:
            raise ConfigError(
                f"deepspeed.zero_optimization.offload_param.buffer_size is {section['buffer_size']:,.0f}, but a rank's part of "
                f"the largest parameter has {largest:,} values. Remove it: then it is so much."
            )
