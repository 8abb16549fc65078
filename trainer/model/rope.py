"""Rotary positions beyond those that a model was trained with: what `rope_parameters` may say, and how far they reach.

Hugging Face takes misspelt keys and factors that don't fit the positions with a warning, or none; a run file is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PretrainedConfig, modeling_rope_utils
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

from strict_json import ConfigError, did_you_mean

KEYS = ("rope_parameters", "rope_scaling")
"""Names of the section, the second that of older releases."""
OLDER_KEYS = ("rope_scaling", "rope_theta")
"""What configurations of older releases say beside or instead of rope_parameters; Hugging Face still takes them."""
FROM_ORIGINAL = ("yarn", "longrope", "llama3")
"""Types that scale from `original_max_position_embeddings` to max_position_embeddings."""
BEYOND = ("linear", "dynamic")
"""Types that leave max_position_embeddings at what the model was trained with."""


def sections(parameters: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The parameters of every layer type, or the ones for all layers."""
    nested = [inner for inner in (parameters or {}).values() if isinstance(inner, dict)]
    return nested or ([parameters] if parameters else [])


def check_given(values: dict[str, Any], defaults: PretrainedConfig, origin: str) -> None:
    """Raise ConfigError for keys and types of rotary parameters that nothing reads; `values`: a configuration as given."""
    usual = {key for section in sections(getattr(defaults, "rope_parameters", None)) for key in section}
    known = {
        *RopeParameters.__annotations__,
        "type",
        *usual,
        *(getattr(defaults, "ignore_keys_at_rope_validation", None) or ()),
    }
    types = {"default", *ROPE_INIT_FUNCTIONS, getattr(defaults, "default_rope_type", "default")}
    for name in KEYS:
        for section in sections(values.get(name)):
            for key in section.keys() - known:
                raise ConfigError(f"{origin}.{name}.{key}: unknown key.{did_you_mean(key, known)}")
            kind = section.get("rope_type", section.get("type", "default"))
            if kind not in types:
                hint = did_you_mean(str(kind), types)
                raise ConfigError(f'{origin}.{name}.rope_type: transformers knows no "{kind}".{hint}')
            if kind in FROM_ORIGINAL and not (section.get("original_max_position_embeddings") or _original(values, defaults)):
                raise ConfigError(
                    f'{origin}.{name}: rope_type "{kind}" needs "original_max_position_embeddings", the positions that the '
                    f"model was trained with; Hugging Face would take max_position_embeddings for it."
                )
            if "rope_theta" in section and not section["rope_theta"] > 0:
                raise ConfigError(f"{origin}.{name}.rope_theta is {section['rope_theta']}: the base must be above 0.")
            if kind == "dynamic" and values.get("max_position_embeddings") == "auto":
                raise ConfigError(
                    f'{origin}.{name}: rope_type "dynamic" scales beyond max_position_embeddings, and "auto" is the whole '
                    f"window: it would never scale. Set max_position_embeddings to the positions the model was trained with."
                )


def _original(values: dict[str, Any], defaults: PretrainedConfig) -> int | None:
    """Phi-3 and the like keep it beside the section."""
    return values.get("original_max_position_embeddings", getattr(defaults, "original_max_position_embeddings", None))


def check(config: PretrainedConfig, defaults: PretrainedConfig, origin: str) -> None:
    """Raise ConfigError where Hugging Face only warns: keys that the type doesn't read, values out of range, a factor that is
    not the ratio of the positions."""
    if not hasattr(config, "validate_rope"):
        return
    usual = list(_warnings(defaults))
    for warning in _warnings(config):
        if warning not in usual:
            raise ConfigError(f"{origin}.rope_parameters: {' '.join(warning.split())}")


def _warnings(config: PretrainedConfig) -> list[str]:
    with _collected() as warnings:
        config.validate_rope()
    return warnings


@contextmanager
def _collected() -> Iterator[list[str]]:
    """The warnings of Hugging Face's validation, also those that it gives once per process."""
    warnings: list[str] = []

    class Collector:
        warning = warning_once = staticmethod(warnings.append)

    logger, modeling_rope_utils.logger = modeling_rope_utils.logger, Collector()
    try:
        yield warnings
    finally:
        modeling_rope_utils.logger = logger


def positions(config: PretrainedConfig) -> int | None:
    """Positions that the model can tell apart, rotary scaling included; None: no limit in its configuration.

    "linear" and "dynamic" reach `factor` times max_position_embeddings; the others, max_position_embeddings or `factor` times
    their original positions, whichever is more.
    """
    most = getattr(config, "max_position_embeddings", None)
    scaling = sections(getattr(config, "rope_parameters", None))
    if most is None or most <= 0 or len(scaling) != 1:  # by layer type: max_position_embeddings is the reach of all together
        return most if most and most > 0 else None
    kind, factor = scaling[0].get("rope_type"), scaling[0].get("factor") or 1.0
    if kind in BEYOND:
        return int(most * factor)
    if kind in FROM_ORIGINAL:
        return max(most, int(scaling[0].get("original_max_position_embeddings", most) * factor))
    return most
