"""What a Hugging Face configuration asks for that its architecture does not have, said in the run file's terms."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PretrainedConfig
from transformers.activations import ACT2FN

from strict_json import ConfigError, did_you_mean

COMMON = ("llama", "gpt2", "gpt_neox")
"""Architectures whose keys are names that people know: where another lacks one, it is not misspelt."""
SIZES = ("num_hidden_layers", "vocab_size")
"""What every language model's configuration says."""
TOKEN_KEYS = ("bos_token_id", "eos_token_id")


def check_class(config: PretrainedConfig, origin: str) -> None:
    """Raise ConfigError for a configuration that no causal language model has."""
    kind = config.model_type
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        what = "encoder and decoder" if getattr(config, "is_encoder_decoder", False) else "another kind of model"
        raise ConfigError(
            f'{origin}: a "{kind}" model is no causal language model, but {what}: transformers has no AutoModelForCausalLM of '
            f'it. Choose a decoder as model_type, such as "llama" or "gpt_neox".'
        )
    missing = [key for key in SIZES if not hasattr(config, key)]
    if missing:
        text = getattr(config, "text_config", None)
        other = text.model_type if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING else COMMON[0]
        raise ConfigError(
            f'{origin}: a "{kind}" model is made of several, and has no {" or ".join(missing)} of its own. Choose a model of '
            f'text alone as model_type, such as "{other}".'
        )


def unknown_keys(keys: list[str], kind: str, known: set[str], origin: str) -> ConfigError:
    """The error for keys that a configuration of this kind does not have."""
    usual = {name for common in COMMON for name in AutoConfig.for_model(common).to_dict()}
    misspelt = [key for key in keys if key not in usual]
    if misspelt:
        return ConfigError(
            f'{origin}.{misspelt[0]}: unknown key of a "{kind}" configuration.{did_you_mean(misspelt[0], known)}'
        )
    return ConfigError(
        f'{origin}: a "{kind}" model has no {", ".join(keys)}, though others do. Remove what it does not have, or choose '
        f'another model_type, such as "{COMMON[0]}".'
    )


def unknown_value(config: PretrainedConfig, value: Any) -> str | None:
    """Why no model is built, where the code looked `value` up in vain; None where it comes from no key of the configuration."""
    keys = [key for key, given in config.to_dict().items() if isinstance(given, str) and given == value]
    if not keys:
        return None
    reason = f"{', '.join(keys)} is {json.dumps(value)}, which transformers does not know."
    if any("act" in key for key in keys):
        reason += did_you_mean(value, ACT2FN) or f" Activations are {', '.join(sorted(ACT2FN))}."
    return reason


def check_token_ids(config: PretrainedConfig, given: Collection[str], origin: str) -> None:
    """Raise ConfigError for special tokens that are none of the model's vocabulary: generation would never see them. Those that
    are not among the keys `given` may be an architecture's defaults, which nothing uses."""
    for key in [key for key in TOKEN_KEYS if key in given]:
        value = getattr(config, key, None)
        for token in value if isinstance(value, list) else [value]:
            if isinstance(token, int) and not 0 <= token < config.vocab_size:
                raise ConfigError(
                    f"{origin}.{key} is {token}, which is no token of the model's {config.vocab_size} (vocab_size). Leave "
                    f"{key} out: then it is the shards' end-of-document token."
                )
