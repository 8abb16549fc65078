"""Values of DeepSpeed's own keys, judged by its own classes before anything starts: else every rank ends in a traceback."""

from __future__ import annotations

import json
from typing import Any

import pydantic
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.compile.config import CompileConfig
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

from strict_json import ConfigError

SECTIONS: dict[str, type[pydantic.BaseModel]] = {
    "zero_optimization": DeepSpeedZeroConfig,
    "bf16": DeepSpeedBF16Config,
    "bfloat16": DeepSpeedBF16Config,
    "fp16": DeepSpeedFP16Config,
    "comms_logger": CommsLoggerConfig,
    "compile": CompileConfig,
    "timers.throughput": DeepSpeedThroughputTimerConfig,
}
LIMITS = {
    "fp16.initial_scale_power": (0, 62),  # the scale is an integer that a tensor is multiplied by
    "fp16.hysteresis": (1, None),
    "gradient_predivide_factor": (1e-30, None),
    "steps_per_print": (1, None),
    "aio.block_size": (1, None),
    "aio.queue_depth": (1, None),
    "aio.intra_op_parallelism": (1, None),
}
"""Smallest and largest value of keys that DeepSpeed takes unseen, and that fail it in a step."""


def check(ds_config: dict[str, Any]) -> None:
    """Raise ConfigError listing what DeepSpeed would refuse of a derived configuration, or fail with."""
    mistakes = []
    for dotted, judge in SECTIONS.items():
        section = _at(ds_config, dotted)
        if not isinstance(section, dict):
            continue
        try:
            judge(**section)
        except pydantic.ValidationError as error:
            mistakes += [_told(dotted, section, one) for one in error.errors(include_url=False)]
    for dotted, (lowest, highest) in LIMITS.items():
        value = _at(ds_config, dotted)
        if value is not None and not (lowest <= value and (highest is None or value <= highest)):
            allowed = f"at least {lowest}" if highest is None else f"{lowest} to {highest}"
            mistakes.append(f"deepspeed.{dotted} is {json.dumps(value)}, not {allowed}.")
    if mistakes:
        raise ConfigError("\n  ".join(["the deepspeed section:", *mistakes]))


def _at(config: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _told(dotted: str, section: dict[str, Any], error: Any) -> str:
    """One mistake: the key where pydantic names one, its value, and what is allowed."""
    place = ".".join([dotted, *map(str, error["loc"])])
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").removeprefix("Input ")
    given = f" is {json.dumps(error['input'])}" if error["loc"] else ""
    return f"deepspeed.{place}{given}: {reason}."
