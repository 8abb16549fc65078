"""From the run file's model section to a Hugging Face model: first a skeleton on the meta device, then, chunk by chunk,
its parameters on the device where they train. No rank ever holds a model that it doesn't keep.

A chunk is the unit that is filled at once: one block, or one module outside the blocks. What is drawn for a chunk depends on
the seed and the chunk's name alone, so every way of splitting the model starts from the same parameters.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

import strict_json
from trainer.flops import ModelShape
from trainer.model import architecture, config_values, construction, rope
from trainer.state import derive_seed

POSITION_KEYS = ("max_position_embeddings", "n_positions")
"""Names under which configurations keep the largest number of positions."""
PER_LAYER_VOCABULARY = "vocab_size_per_layer_input"
HEAD_KEYS = ("num_attention_heads", "num_key_value_heads")
VOCABULARY_MULTIPLE = 64
"""An "auto" vocabulary is padded to this multiple: matrix products on tensor cores want it."""

OLDER_BUFFERS = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
"""What older releases of Hugging Face saved beside weights, and compute now."""
OLDER_MASKS = r"attn(\.attention)?\.(bias|masked_bias)$|attention\.(bias|masked_bias)$"
"""The same, where it has four dimensions or none: with one it would be a bias."""

ATTENTIONS = ("sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
"""Hugging Face's names."""
ENCODER_KEYS = {"is_decoder": (False, "true"), "causal": (False, "true"), "attn_type": ("bi", '"uni"')}
"""Keys that make some architectures an encoder, with the value that does and the one that does not."""


class ModelError(ValueError):
    """The model cannot be built as asked, or does not fit the data."""


def load_config(
    spec: str | dict[str, Any],
    vocab_size: int,
    eod_id: int,
    sequence_length: int,
    origin: str = "model.config",
    init_from: str | None = None,
) -> PretrainedConfig:
    """Resolve `model.config`: inline, a local file or folder, or a hub name. No code is taken from the source.

    Inline without model_type, its keys replace those of the configuration in `init_from`. Raises ConfigError for unknown inline
    keys and for numbers out of range, ModelError when nothing can be found under a name.
    """
    if init_from and not Path(init_from).is_dir():
        raise ModelError(
            f"model.init_from: {init_from}: no such folder (relative paths start at {Path.cwd()}). Name a local Hugging Face "
            f"folder with safetensors weights, such as a run's export."
        )
    if isinstance(spec, dict):
        trained = (
            load_config(init_from, vocab_size, eod_id, sequence_length) if init_from and "model_type" not in spec else None
        )
        return _inline_config(dict(spec), vocab_size, eod_id, sequence_length, origin, trained=trained)
    path = Path(spec)
    if path.suffix == ".json":
        return _inline_config(strict_json.read(path), vocab_size, eod_id, sequence_length, str(path), closed=False)
    try:
        config = AutoConfig.from_pretrained(spec, trust_remote_code=False)
    except (OSError, ValueError) as error:
        kind = "folder" if path.is_dir() else "local folder, and not to be had from the hub either"
        raise ModelError(f"{origin}: {spec}: no usable model configuration in this {kind}: {error}") from None
    architecture.check_class(config, f"{origin} {spec}")
    config_values.check(config.to_dict(), AutoConfig.for_model(config.model_type), f"{origin}: {spec}: config.json")
    return config


def _inline_config(
    values: dict[str, Any],
    vocab_size: int,
    eod_id: int,
    sequence_length: int,
    origin: str,
    closed: bool = True,
    trained: PretrainedConfig | None = None,
) -> PretrainedConfig:
    model_type = values.pop("model_type", trained and trained.model_type)
    if not isinstance(model_type, str):
        raise strict_json.ConfigError(f'{origin}: "model_type" is required, for example "llama".')
    try:
        defaults = AutoConfig.for_model(model_type)
    except ValueError:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        hint = strict_json.did_you_mean(model_type, CONFIG_MAPPING_NAMES)
        raise strict_json.ConfigError(f'{origin}.model_type: transformers knows no "{model_type}".{hint}') from None
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise strict_json.ConfigError(f'{origin}.model_type: "{model_type}" has no valid defaults: {reason}') from None
    architecture.check_class(defaults, f"{origin}.model_type")
    if closed:  # Hugging Face takes any key in silence
        known = {*defaults.to_dict(), *type(defaults).attribute_map, "tie_word_embeddings", "dtype"}
        known |= set(rope.OLDER_KEYS) if "rope_parameters" in known else set()
        known |= _read_if_there(defaults)
        if unknown := sorted(values.keys() - known):
            _check_not_encoder(defaults, values)  # whose keys need no mending
            raise architecture.unknown_keys(unknown, model_type, known, origin)
        given = values.keys()
        values = values if trained is None else _changed(trained, values)
        rope.check_given(values, defaults, origin, sequence_length, trained)
    config_values.check(values, defaults, origin)
    padded = -(-vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    derived = {"vocab_size": padded, PER_LAYER_VOCABULARY: padded, **dict.fromkeys(POSITION_KEYS, sequence_length)}
    values = {key: derived[key] if value == "auto" and key in derived else value for key, value in values.items()}
    token_ids = {"eos_token_id": eod_id, "bos_token_id": eod_id} if closed else {}
    try:
        config = AutoConfig.for_model(model_type, **(token_ids | values))
    except (TypeError, ValueError, KeyError, StrictDataclassError) as error:  # transformers' own validation
        reason = " ".join(str(error).split())
        raise strict_json.ConfigError(f'{origin}: not a valid "{model_type}" configuration: {reason}') from None
    if closed:
        architecture.check_token_ids(config, given, origin)
        rope.check(config, defaults, origin, any(key in values for key in rope.KEYS), trained)
    return config


def _check_not_encoder(defaults: PretrainedConfig, values: dict[str, Any]) -> None:
    """Raise ModelError where an architecture is an encoder's, whatever the sizes."""
    given = {key: values[key] for key in ENCODER_KEYS if key in values}
    try:
        model = skeleton(type(defaults).from_dict({**defaults.to_dict(), **given, "num_hidden_layers": 1}), "eager")
    except ModelError:
        return  # not with the defaults
    check_causal(model)


def _read_if_there(config: PretrainedConfig) -> set[str]:
    """Keys that the causal LM's code reads where a configuration has them, such as Qwen3-MoE's head_dim, or that its
    configuration class takes for others, such as Gemma 4's global_head_dim."""
    causal, own = (sys.modules[one.__module__] for one in (MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], type(config)))
    read = re.findall(r'getattr\(\s*(?:self\.)?config,\s*"(\w+)"', inspect.getsource(causal))
    return {*read, *re.findall(r'kwargs\.(?:get|pop)\(\s*"(\w+)"', inspect.getsource(own))}


def _changed(trained: PretrainedConfig, values: dict[str, Any]) -> dict[str, Any]:
    """A trained model's configuration with other values. Those of an object within it are replaced one by one, so that a
    scaling of its rotary positions keeps their base; null removes one."""
    before = trained.to_dict()
    for key in ("model_type", "transformers_version", "_name_or_path"):
        before.pop(key, None)
    merged = before | values
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(before.get(key), dict):
            merged[key] = {inner: one for inner, one in (before[key] | value).items() if one is not None}
    return merged


def check_fits(config: PretrainedConfig, vocab_size: int, sequence_length: int) -> None:
    """Raise ModelError when data do not fit the model's sizes, or these each other."""
    if config.vocab_size < vocab_size:
        raise ModelError(
            f"the shards use {vocab_size} token ids, the model's vocab_size is {config.vocab_size}. "
            f'Set vocab_size to at least {vocab_size} in model.config (or "auto"), or name shards of its own tokenizer.'
        )
    positions = rope.positions(config)
    if positions is not None and positions < sequence_length:
        rotary = "" if getattr(config, "rope_parameters", None) is None else " (README: Train on longer windows)"
        raise ModelError(
            f"data.sequence_length is {sequence_length} tokens, the model has {positions} positions. "
            f"Set data.sequence_length to at most {positions}, or the model's positions to at least {sequence_length}{rotary}."
        )
    for heads, key_heads in zip(*(config_values.of_layers(config, key) for key in HEAD_KEYS), strict=True):
        if isinstance(heads, int) and isinstance(key_heads, int) and key_heads and heads % key_heads:
            raise ModelError(
                f"the model has {heads} heads (num_attention_heads), no multiple of its {key_heads} key heads: set "
                f"num_key_value_heads in model.config, whose default may be for another size, to a divisor of {heads}."
            )
    table = getattr(config, PER_LAYER_VOCABULARY, None)
    if table is not None and table < vocab_size and getattr(config, "hidden_size_per_layer_input", 1):
        raise ModelError(
            f"the shards use {vocab_size} token ids, the model's table of inputs of each layer's own has {table}. Set "
            f'{PER_LAYER_VOCABULARY} to at least {vocab_size} in model.config (or "auto").'
        )


def skeleton(config: PretrainedConfig, attention: str = "sdpa") -> PreTrainedModel:
    """The whole model with real buffers and parameters on the meta device: names and shapes, no memory."""
    config = type(config).from_dict(config.to_dict())  # building writes into its config
    config.use_cache = False
    try:
        with init_empty_weights(include_buffers=False), construction.remembered(), no_init_weights():
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    except (ValueError, ImportError, LookupError, TypeError, AttributeError, AssertionError) as error:
        reason = str(error)
        if isinstance(error, KeyError) and error.args:
            reason = architecture.unknown_value(config, error.args[0]) or f"{reason} was looked up in vain"
        if "Padding_idx" in reason:
            reason = f'its pad_token_id is {config.pad_token_id}, which is no token. Set "pad_token_id": null in model.config.'
        if attention != "eager" and "attn_implementation" in reason:  # Hugging Face speaks of its own arguments
            hint = strict_json.did_you_mean(attention, ATTENTIONS) if attention not in ATTENTIONS else ""
            way_out = hint or ' Set model.attention to "eager".'
            reason = f'Hugging Face has no "{attention}" attention for it here.{way_out}'
        elif attention not in ("sdpa", "eager") and isinstance(error, ImportError):
            reason = f'{reason} Install it, or set model.attention to "sdpa".'
        raise ModelError(f'a "{config.model_type}" causal LM cannot be built as configured: {reason}') from None
    model.tie_weights()
    embedding = model.get_input_embeddings()
    if getattr(embedding, "padding_idx", None) is not None:
        embedding.padding_idx = None  # the default pad_token_id may be any token here; it would stay at zero, untrained
    return model


def check_causal(model: PreTrainedModel) -> None:
    """Raise ModelError for an encoder's model that would see the very tokens it is to predict."""
    config = model.config
    if any(getattr(module, "is_causal", None) is True for module in model.modules()):
        return
    for key, (wrong, right) in ENCODER_KEYS.items():
        if getattr(config, key, None) == wrong:
            raise ModelError(
                f'a "{config.model_type}" model with {key} {str(wrong).lower()} sees the tokens that it should predict: it is '
                f'an encoder. Set "{key}": {right} in model.config, or choose a decoder such as "llama".'
            )


def shape(model: PreTrainedModel, sequence_length: int) -> ModelShape:
    """The sizes that decide the model's FLOPs, from its skeleton."""
    head = model.get_output_embeddings().weight
    tables = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    matmuls = sum(p.numel() for p in model.parameters() if id(p) not in tables or p is head)
    config = model.config
    heads = config_values.of_layers(config, "num_attention_heads", 0)  # none in a state-space model
    widths = [
        count * (width or (config.hidden_size // count if count else 0))
        for count, width in zip(heads, config_values.of_layers(config, "head_dim"), strict=True)
    ]
    return ModelShape(
        parameters_in_matmuls=matmuls,
        num_layers=config.num_hidden_layers,
        attention_width=round(sum(widths) / len(widths)),
        sequence_length=sequence_length,
    )


def chunks(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(dotted name, module) of every chunk, in the model's order: together they own every parameter."""
    if any(True for _ in model.parameters(recurse=False)) or not any(True for _ in model.children()):
        yield prefix, model
        return
    for name, child in model.named_children():
        dotted = f"{prefix}.{name}" if prefix else name
        if isinstance(model, nn.ModuleList):
            yield dotted, child
        else:
            yield from chunks(child, dotted)


def is_tied(model: PreTrainedModel, name: str, chunk: nn.Module) -> bool:
    """Whether all parameters of a chunk are those of another one."""
    own = [f"{name}.{inner}" for inner, _ in chunk.named_parameters()]
    return bool(own) and all(parameter in model.all_tied_weights_keys for parameter in own)


def place_buffers(model: nn.Module, device: torch.device | str) -> None:
    """Move all buffers to a device, also those that lie outside of chunks."""
    for owner in model.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, buffer.to(device))


def compile_blocks(model: nn.Module) -> None:
    """Let torch.compile have each block, at its first call: blocks alike share what is compiled. Names and weights stay."""
    for name, module in chunks(model):
        if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.ModuleList):
            module.compile()


class Weights:
    """Parameters and persistent buffers (routing biases) of a model by name, from a local Hugging Face folder of safetensors
    files, read one at a time.

    Files may use the names of older Hugging Face releases or of the base model, as `from_pretrained` accepts them.
    """

    def __init__(self, folder: str | Path, model: PreTrainedModel):
        self.folder = Path(folder)
        index = self.folder / "model.safetensors.index.json"
        files = ["model.safetensors"]
        if index.is_file():
            try:
                files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ModelError(f"{index}: not an index of weights: {type(error).__name__}: {error}") from None
        missing = [name for name in files if not (self.folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{self.folder}: no {', '.join(missing)}. model.init_from needs a local Hugging Face folder with "
                f"safetensors weights (pickled .bin weights are not read: save them again with save_pretrained)."
            )
        transforms = get_model_conversion_mapping(model)
        renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
        converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
        known = model.state_dict(keep_vars=True)
        self._place: dict[str, tuple[Path, str]] = {}
        for path in (self.folder / name for name in files):
            for stored in _keys(path):
                own, converter = rename_source_key(stored, renamings, converters, model.base_model_prefix, known)
                if converter is not None:
                    raise ModelError(
                        f"{path}: {stored} is stored in another shape than the model's own parameters. Open the folder with "
                        f"AutoModelForCausalLM.from_pretrained, write it with save_pretrained(NEW_FOLDER, "
                        f"save_original_format=False), and set model.init_from to that."
                    )
                self._place[own] = (path, stored)

    def __contains__(self, name: str) -> bool:
        return name in self._place

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter, from the file's header."""
        path, stored = self._place[name]
        with safe_open(path, framework="pt") as file:
            return tuple(file.get_slice(stored).get_shape())

    def __getitem__(self, name: str) -> torch.Tensor:
        path, stored = self._place[name]
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(stored)

    def check(self, model: PreTrainedModel) -> None:
        """Raise ModelError unless the files hold every parameter of `model` in its shape; buffers may be left out."""
        tied = model.all_tied_weights_keys
        parameters = {name for name, _ in model.named_parameters()} - tied.keys()
        wanted = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}
        missing = [name for name in wanted if name in parameters and name not in self]
        wrong = [name for name in wanted if name in self and self.shape(name) != wanted[name]]
        if missing or wrong:
            shown = [f"{name}: absent, {wanted[name]} needed" for name in missing[:3]]
            shown += [f"{name}: {self.shape(name)}, {wanted[name]} needed" for name in wrong[:3]]
            raise ModelError(
                f"{self.folder} holds another model than model.config: {len(missing)} of {len(parameters)} parameters are "
                f"absent and {len(wrong)} differ in shape ({'; '.join(shown)}). Leave model.config out to take the "
                f"configuration from model.init_from."
            )
        self._check_left_out(model)

    def _check_left_out(self, model: PreTrainedModel) -> None:
        """Raise ModelError for trained weights that `model` would go without."""
        tied = model.all_tied_weights_keys.items()
        lost = [(name, source) for name, source in tied if name in self and source in self and not self._alike(name, source)]
        if lost:
            name, source = lost[0]
            raise ModelError(
                f"{self.folder} holds {len(lost)} trained weights that model.config ties to others, and that differ from them: "
                f'{name} would be dropped for {source}. Set "tie_word_embeddings": false in model.config.'
            )
        known = {*model.state_dict(), *(name for name, _ in model.named_buffers())}
        ignored = [*(model._keys_to_ignore_on_load_unexpected or ()), *OLDER_BUFFERS]
        unread = [name for name in self._place if name not in known and not any(re.search(one, name) for one in ignored)]
        unread = [name for name in unread if not (re.search(OLDER_MASKS, name) and len(self.shape(name)) in (0, 4))]
        if unread:
            shown = ", ".join(unread[:5]) + (", ..." if len(unread) > 5 else "")
            raise ModelError(
                f"{self.folder} holds {len(unread)} of {len(self._place)} weights that nothing in the model of model.config "
                f"reads ({shown}): they would be dropped. Leave out of model.config what does without them (layers or biases, "
                f"say). To go on without them, open the folder with AutoModelForCausalLM.from_pretrained, write it with "
                f"save_pretrained(NEW_FOLDER), and set model.init_from to that."
            )

    def _alike(self, first: str, second: str, rows: int = 1 << 14) -> bool:
        """Whether two weights are equal, bit for bit, read a part at a time."""
        if self.shape(first) != self.shape(second):
            return False
        (path, stored), (other_path, other_stored) = self._place[first], self._place[second]
        with safe_open(path, framework="pt") as file, safe_open(other_path, framework="pt") as other_file:
            one, other = file.get_slice(stored), other_file.get_slice(other_stored)
            parts = range(0, self.shape(first)[0], rows)
            return all(torch.equal(one[start : start + rows], other[start : start + rows]) for start in parts)


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged, or no safetensors file: {error}") from None


def materialise(
    model: PreTrainedModel,
    names: dict[str, nn.Module],
    device: torch.device | str,
    dtype: torch.dtype,
    seed: int,
    weights: Weights | None = None,
) -> Iterator[nn.Module]:
    """Fill the named chunks on `device`, yielding each filled module so that the caller can shard it before the next.

    Parameters are drawn by the model's own Hugging Face initialisation in float32, or read from `weights`, then kept in
    `dtype`; buffers keep theirs, and get what `weights` have for them. Call `model.tie_weights()` before the first forward
    pass. Raises ModelError when that initialisation leaves any parameter unset.
    """
    tied = model.all_tied_weights_keys
    for name, module in names.items():
        if is_tied(model, name, module):
            continue  # filled under its other name
        own = {f"{name}.{inner}": inner for inner, _ in module.named_parameters()}
        _allocate(module, device)
        with torch.no_grad():
            if weights is None:
                _draw(model, module, derive_seed(seed, "init", name), device)
                unset = construction.unset(module)
                if unset:
                    raise ModelError(
                        f'Hugging Face\'s initialisation of a "{model.config.model_type}" model leaves {len(unset)} of '
                        f"{len(own)} parameters of {name} unset ({', '.join(unset[:3])}). Start from trained weights "
                        f"(model.init_from), or choose another architecture."
                    )
            else:
                for dotted, inner in own.items():
                    if dotted not in tied:
                        module.get_parameter(inner).copy_(weights[dotted])
                for inner, buffer in module.named_buffers():
                    if f"{name}.{inner}" in weights:
                        buffer.copy_(weights[f"{name}.{inner}"])
            for parameter in module.parameters():
                parameter.data = parameter.data.to(dtype)
        yield module


def _allocate(module: nn.Module, device: torch.device | str) -> None:
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            value = construction.start(owner, name, device)
            setattr(owner, name, nn.Parameter(value, requires_grad=parameter.requires_grad))
    place_buffers(module, device)


def _draw(model: PreTrainedModel, module: nn.Module, seed: int, device: torch.device | str) -> None:
    """Run the model class's own initialisation over a chunk, children before parents as Hugging Face does."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type != "cpu" else [], device_type=device.type):
        torch.manual_seed(seed)
        for inner in reversed(list(module.modules())):
            model._init_weights(inner)
            if isinstance(inner, Conv1D) and inner.weight.isnan().any():  # left to its constructor, in GPT-1
                nn.init.normal_(inner.weight, std=0.02)
