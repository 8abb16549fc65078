"""Rotary positions beyond those that a model was trained with: what `rope_parameters` may say, and how far they reach.

Hugging Face takes misspelt keys and factors that don't fit the positions with a warning, or none; a run file is refused.
"""

from __future__ import annotations

import json
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
OTHER_KINDS = {
    "short_factor": "a list of numbers", "long_factor": "a list of numbers", "mrope_section": "a list of numbers",
    "truncate": "true or false", "mrope_interleaved": "true or false",
}  # fmt: skip
"""What other values are than numbers and types."""
BEYOND = ("linear", "dynamic")
"""Types that leave max_position_embeddings at what the model was trained with."""


def sections(parameters: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The parameters of every layer type, or the ones for all layers."""
    nested = [inner for inner in (parameters or {}).values() if isinstance(inner, dict)]
    return nested or ([parameters] if parameters else [])


def check_given(
    values: dict[str, Any],
    defaults: PretrainedConfig,
    origin: str,
    sequence_length: int,
    trained: PretrainedConfig | None = None,
) -> None:
    """Raise ConfigError for keys and types of rotary parameters that nothing reads, and for "auto" positions where they scale
    beyond them; `values`: a configuration as given, `trained`: the one that it changes."""
    usual = {key for section in sections(getattr(defaults, "rope_parameters", None)) for key in section}
    known = {
        *RopeParameters.__annotations__,
        "type",
        *usual,
        *(getattr(defaults, "ignore_keys_at_rope_validation", None) or ()),
    }
    types = {"default", *ROPE_INIT_FUNCTIONS, getattr(defaults, "default_rope_type", "default")}
    _check_kinds(values, known, origin)
    for name in KEYS:
        for section in sections(values.get(name)):
            kind = section.get("rope_type", section.get("type", "default"))
            if kind not in types:
                hint = did_you_mean(str(kind), types)
                raise ConfigError(f'{origin}.{name}.rope_type: transformers knows no "{kind}".{hint}')
            if kind in FROM_ORIGINAL and not (section.get("original_max_position_embeddings") or _original(values, defaults)):
                raise ConfigError(
                    f'{origin}.{name}: rope_type "{kind}" needs "original_max_position_embeddings", the positions that the '
                    f"model was trained with; Hugging Face would take max_position_embeddings for it."
                )
            if kind == "yarn" and "mscale" in section and not section.get("mscale_all_dim"):
                raise ConfigError(f"{origin}.{name}.mscale: nothing reads it without mscale_all_dim. Give both, or none.")
            if "rope_theta" in section and not section["rope_theta"] > 0:
                raise ConfigError(f"{origin}.{name}.rope_theta is {section['rope_theta']}: the base must be above 0.")
            if kind in BEYOND and values.get("max_position_embeddings") == "auto":
                _check_auto(kind, section, values[name], f"{origin}.{name}", sequence_length, trained)


def _check_kinds(values: dict[str, Any], known: set[str], origin: str) -> None:
    """Raise ConfigError for unknown keys, values of the wrong kind, and two keys that say different things of the same."""
    given = [name for name in KEYS if values.get(name) is not None]
    for name in given:
        if not isinstance(values[name], dict):
            raise ConfigError(
                f'{origin}.{name} is {json.dumps(values[name])}, not an object such as {{"rope_type": "default"}}.'
            )
        for section in sections(values[name]):
            for key in section.keys() - known:
                raise ConfigError(f"{origin}.{name}.{key}: unknown key.{did_you_mean(key, known)}")
            for key, value in section.items():
                kind = "text" if key in ("rope_type", "type") else OTHER_KINDS.get(key, "a number")
                if not _is(kind, value) and (value is not None or key == "rope_theta"):
                    raise ConfigError(f"{origin}.{name}.{key} is {json.dumps(value)}, not {kind}.")
    if len(given) == len(KEYS):
        raise ConfigError(
            f"{origin}.rope_scaling is the older name of rope_parameters, and both are given. Keep rope_parameters."
        )
    if "rope_theta" not in values:
        return
    theta = values["rope_theta"]
    if not _is("a number", theta):
        raise ConfigError(f"{origin}.rope_theta is {json.dumps(theta)}, not a number.")
    for name in given:
        for section in sections(values[name]):
            if section.get("rope_theta", theta) != theta:
                raise ConfigError(
                    f"{origin}.rope_theta is {theta}, but {origin}.{name}.rope_theta is {section['rope_theta']}. Keep one."
                )


def _is(kind: str, value: Any) -> bool:
    """Whether a value is of a kind that OTHER_KINDS names."""
    if kind == "a number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "a list of numbers":
        return isinstance(value, list) and all(_is("a number", one) for one in value)
    return isinstance(value, {"text": str, "true or false": bool}[kind])


def _check_auto(
    kind: str, section: dict[str, Any], given: dict[str, Any], where: str, length: int, trained: PretrainedConfig | None
) -> None:
    """Raise ConfigError where max_position_embeddings would be the whole window, and the type scales beyond it."""
    factor = section.get("factor")
    numeric = isinstance(factor, int | float) and factor > 1
    if kind == "linear" and (section is not given or not numeric):
        return  # by layer type, max_position_embeddings is the reach of all together
    would = f"the positions would reach {factor:g} times as far" if kind == "linear" else "it would never scale"
    most = trained.max_position_embeddings if trained else -(-length // factor) if numeric else None
    raise ConfigError(
        f'{where}: rope_type "{kind}" scales beyond max_position_embeddings, and "auto" is the whole window, {length}: '
        f"{would}. Set max_position_embeddings to the positions that the model was trained with"
        + (f": {most:g}." if trained else f", at least {most:g} for these windows." if most else ".")
    )


def _original(values: dict[str, Any], defaults: PretrainedConfig) -> int | None:
    """Phi-3 and the like keep it beside the section."""
    return values.get("original_max_position_embeddings", getattr(defaults, "original_max_position_embeddings", None))


def check(
    config: PretrainedConfig,
    defaults: PretrainedConfig,
    origin: str,
    is_given: bool = True,
    trained: PretrainedConfig | None = None,
) -> None:
    """Raise ConfigError where Hugging Face only warns: keys that the type doesn't read, values out of range, a factor that is
    not the ratio of the positions; and where longrope's is not. `is_given`: the parameters are the user's, not the
    architecture's own; `trained`: the configuration that this one changes."""
    if not hasattr(config, "validate_rope"):
        return
    usual = list(_warnings(defaults))
    for warning in _warnings(config):
        if warning not in usual and _OF_STYLE not in warning:
            way_out = _way_out(config, warning, is_given, trained)
            raise ConfigError(f"{origin}.rope_parameters: {' '.join(warning.split())}{way_out}")
    for section in sections(getattr(config, "rope_parameters", None)):
        if section.get("rope_type") == "longrope":
            _check_longrope(section, config, trained, origin)


_OF_RATIO = "implicit factor"
"""Of a warning that factor and positions don't go together."""
_OF_STYLE = "Please set the `factor` field"
"""Of a warning about longrope without a factor, which is then the ratio of the positions: no mistake."""


def _way_out(config: PretrainedConfig, warning: str, is_given: bool, trained: PretrainedConfig | None) -> str:
    """What to write in model.config, to follow what is wrong with its rotary parameters."""
    most = getattr(config, "max_position_embeddings", None)
    section = config.rope_parameters
    if trained is not None and most != getattr(trained, "max_position_embeddings", most):
        before = trained.max_position_embeddings
        return (
            f" The trained model's max_position_embeddings is {before}: leave it so, where windows are no longer, or write "
            f"the rope_parameters that go with {most}."
        )
    if is_given:
        original, factor = section.get("original_max_position_embeddings"), section.get("factor")
        if _OF_RATIO not in warning or not original or not factor:
            return ""
        ratio = f", or factor to {most / original:g}" if most > original else ""
        return f" Set max_position_embeddings to {original * factor:g}{ratio}."
    plain = {key: section[key] for key in ("rope_theta", "partial_rotary_factor") if section.get(key) is not None}
    return (
        f' These are the default of a "{config.model_type}" model, which scales to more positions than the {most} of this '
        f"run. Without scaling, write in model.config: "
        f'"rope_parameters": {json.dumps({"rope_type": "default"} | plain)}'
    )


def _check_longrope(section: dict[str, Any], config: PretrainedConfig, trained: PretrainedConfig | None, origin: str) -> None:
    """The factor of longrope scales attention; where none is written, it is the ratio of max_position_embeddings to the
    original ones."""
    original, most = section["original_max_position_embeddings"], config.max_position_embeddings
    if section.get("attention_factor") is not None:
        return
    factor = section.get("factor")
    if factor is not None and most > original * factor:
        raise ConfigError(
            f"{origin}.rope_parameters: factor {factor:g} takes {original} original positions to {original * factor:g}, "
            f"max_position_embeddings is {most}. Set factor to {most / original:g}, or max_position_embeddings to "
            f"{original * factor:g}."
        )
    if factor is None and trained is not None and section in sections(getattr(trained, "rope_parameters", None)):
        was = trained.max_position_embeddings
        if max(was, original) != max(most, original):  # a factor below 1 counts as 1
            raise ConfigError(
                f'{origin}.max_position_embeddings is {most}, the trained model\'s {was}: rope_type "longrope" scales '
                f"attention by their ratio to the {original} original positions, {most / original:g} in place of "
                f"{was / original:g}. Leave max_position_embeddings at {was} where windows are no longer, or write in "
                f"rope_parameters the factor that you mean ({was / original:g}: as trained)."
            )


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
