"""Attention that stays within a document, for any Hugging Face causal LM, without a quadratic mask where the backend can.

Where documents begin follows from positions that restart. While a micro-batch goes through a model, its documents are the
current ones (`within`), and Hugging Face's registries of masks and attention functions, extended here, heed them:

- "sdpa": no mask. On GPUs in half precision PyTorch's own varlen kernel, as below; elsewhere queries are regrouped by documents
  of about equal length, so that causal attention alone is right; a sliding window is a band over runs of queries. Models that
  don't call the registered function get a [batch, 1, length, length] mask.
- "flash_attention_2" to "_4": no mask; the micro-batch is one row of documents with given bounds (varlen).
- "eager", "flex_attention": Hugging Face's masks (flex: of blocks), each overlaid with "of the same document".

Outside `within` all of them do what they did. Not every model hands positions down to its attention, hence a current value
instead of an argument. It is the module's and not the thread's: autograd recomputes activations on threads of its own.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    AttentionMaskInterface,
    and_masks,
    causal_mask_function,
    eager_mask,
    flex_attention_mask,
    packed_sequence_mask_function,
    sdpa_mask,
    sliding_window_causal_mask_function,
)

ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Hugging Face's layer types in which tokens meet in attention alone, one key per token."""
ANY_SHAPE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Without cuDNN's, PyTorch's first choice on Hopper GPUs, which plans anew for each shape: groups have ever others, and a step
took 20 to 30 times as long."""
FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")


class DocumentMaskError(ValueError):
    """This model, with this attention, cannot keep documents apart."""


@dataclass(frozen=True)
class Group:
    """Runs of queries that one attention call handles: n runs, padded to m queries."""

    queries: torch.Tensor
    """int64 [n, m]: place in the flattened micro-batch; padding repeats a run's last query, which no earlier one sees."""
    keys: torch.Tensor
    """int64 [n, m], the same as `queries`, or [n, window + m] for a band."""
    mask: torch.Tensor | None
    """bool [1, 1, m, window + m], shared by all runs of a band; None: causal."""


@dataclass(frozen=True)
class Layout:
    """How a micro-batch's attention is regrouped."""

    groups: list[Group]
    places: torch.Tensor
    """int64 [batch x length]: where each token's output lies in the groups' outputs, joined."""


@dataclass(frozen=True)
class Documents:
    """The documents of one micro-batch. None goes from one row to the next."""

    ids: torch.Tensor
    """int64 [batch, length], on the model's device: ascending number of each token's document."""
    starts: np.ndarray
    """int64 [documents]: first token of each in the flattened micro-batch."""
    stops: np.ndarray
    """int64 [documents]: the token after its last."""
    maskless: bool
    """The model takes masks of None for granted (see `maskless`)."""
    layouts: dict[int | None, Layout] = field(default_factory=dict)
    """By sliding window, made when first needed."""

    @classmethod
    def of(cls, positions: torch.Tensor, device: torch.device, maskless: bool) -> Documents:
        """From positions, int64 [batch, length]; a document begins wherever they don't go on by one.

        Cheapest while they are still on the host: on a device, this waits for it once.
        """
        host = positions.cpu().numpy()
        begins = np.ones(host.shape, dtype=bool)
        begins[:, 1:] = host[:, 1:] != host[:, :-1] + 1
        starts = np.flatnonzero(begins)
        ids = torch.from_numpy(begins.ravel().cumsum().reshape(host.shape))
        return cls(ids.to(device), starts, np.append(starts[1:], host.size), maskless)

    @functools.cached_property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return int((self.stops - self.starts).max())

    @functools.cached_property
    def bounds(self) -> torch.Tensor:
        """int32 [documents + 1], on the model's device: cumulative lengths, as varlen kernels take them."""
        return torch.from_numpy(np.append(self.starts, self.stops[-1]).astype(np.int32)).to(self.ids.device)

    def whole_rows(self, window: int | None) -> bool:
        """Whether each row is one document, and the sliding window no shorter: attention as it is."""
        return len(self.starts) == len(self.ids) and (window is None or window >= self.longest)

    def layout(self, window: int | None) -> Layout | None:
        """The regrouping for a sliding window (None: full attention). None when each row is one document, in full attention."""
        if window is not None and window >= self.longest:
            window = None
        if self.whole_rows(window):
            return None
        if window not in self.layouts:
            self.layouts[window] = _layout(self.starts, self.stops, window, self.ids)
        return self.layouts[window]

    def mask(self, window: int | None) -> torch.Tensor:
        """bool [batch, 1, length, length], True where a query may see a key."""
        batch, length = self.ids.shape
        pattern = sliding_window_causal_mask_function(window) if window else causal_mask_function
        pattern = and_masks(pattern, packed_sequence_mask_function(self.ids))
        options = {"mask_function": pattern, "allow_is_causal_skip": False, "device": self.ids.device}
        return sdpa_mask(batch, length, length, **options)


def _layout(starts: np.ndarray, stops: np.ndarray, window: int | None, ids: torch.Tensor) -> Layout:
    """Runs of queries: whole documents, or runs of `window` of them, each of which sees also the run before."""
    heads, tails = (starts, stops), None
    if window is not None:
        runs = -(-(stops - starts) // window)
        number = np.arange(runs.sum()) - np.repeat(runs.cumsum() - runs, runs)  # of each run within its document
        first = np.repeat(starts, runs) + number * window
        last = np.minimum(first + window, np.repeat(stops, runs))
        heads = first[number == 0], last[number == 0]
        tails = first[number > 0], last[number > 0]
    groups, places, done = [], np.empty(ids.numel(), dtype=np.int64), 0
    for (first, last), reach in ((heads, 0), (tails, window)):
        sizes = _padded(last - first)
        for size in np.unique(sizes):
            chosen = sizes == size
            begin, length = first[chosen, None], (last - first)[chosen, None]
            most = int(length.max())
            offsets = np.arange(-reach, most)
            keys = begin + np.minimum(offsets, length - 1)
            queries = keys[:, reach:]
            real = offsets[reach:] < length
            places[queries[real]] = done + np.flatnonzero(real)
            done += real.size
            groups.append(_group(queries, keys, window if reach else None, ids.device))
        if tails is None:
            break
    return Layout(groups, torch.from_numpy(places).to(ids.device))


def _padded(lengths: np.ndarray) -> np.ndarray:
    """Lengths rounded up to four steps an octave (16 at least): few attention calls, at most a quarter of padding."""
    octave = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    step = np.maximum(16, 1 << np.maximum(octave - 2, 0))
    return -(-lengths // step) * step


def _group(queries: np.ndarray, keys: np.ndarray, window: int | None, device: torch.device) -> Group:
    mask = None
    if window is not None:
        query, key = np.ogrid[: queries.shape[1], : keys.shape[1]]  # query i lies at key i + window
        mask = torch.from_numpy((key > query) & (key <= query + window))[None, None].to(device)
    at = torch.from_numpy(queries).to(device)
    return Group(at, at if window is None else torch.from_numpy(keys).to(device), mask)


def documents_of(positions: torch.Tensor, maskless: bool) -> Documents:
    """The documents of positions on the model's device. They are kept with that tensor: blocks hand it on as it is."""
    if not hasattr(positions, "documents"):
        positions.documents = Documents.of(positions, positions.device, maskless)
    return positions.documents


_current: Documents | None = None


@contextmanager
def within(documents: Documents) -> Iterator[None]:
    """Keep attention within these documents: around forward and backward, as activations may be recomputed."""
    global _current
    before, _current = _current, documents
    try:
        yield
    finally:
        _current = before


def sdpa(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Hugging Face's "sdpa" function, within the current documents. query [batch, heads, length, width], key and value alike
    with as many or fewer heads; returns [batch, length, heads, width]."""
    if _current is None or attention_mask is not None:  # a mask was made within the documents
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return _sdpa_within(_current, module, query, key, value, **options)


@torch.compiler.disable  # documents differ from one micro-batch to the next: each would be compiled for itself
def _sdpa_within(
    documents: Documents, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, None]:
    if query.shape[::2] != documents.ids.shape or key.size(2) != query.size(2):
        raise DocumentMaskError(
            f"attention over {tuple(query.shape)} queries and {tuple(key.shape)} keys of [batch, heads, length, width], in a "
            f"micro-batch of {tuple(documents.ids.shape)} tokens: this architecture's attention does not have one key per "
            f"token. Set data.document_mask to false."
        )
    window = options.get("sliding_window")
    if options.get("position_bias") is not None:  # as large as a mask itself
        return sdpa_attention_forward(module, query, key, value, documents.mask(window), **options)
    if documents.whole_rows(window):
        return sdpa_attention_forward(module, query, key, value, None, **options)
    query, key, value = (_tokens_first(states) for states in (query, key, value))
    if _varlen_takes(query, key, value, options.get("dropout", 0.0)):
        return _varlen(documents, query, key, value, window, options.get("scaling")).unflatten(0, documents.ids.shape), None
    layout, outputs = documents.layout(window), []
    with sdpa_kernel(ANY_SHAPE):
        for group in layout.groups:
            parts = (_gather(query, group.queries), _gather(key, group.keys), _gather(value, group.keys))
            output, _ = sdpa_attention_forward(module, *parts, group.mask, **options)
            outputs.append(output.flatten(0, 1))
    return torch.cat(outputs).index_select(0, layout.places).unflatten(0, documents.ids.shape), None


def _varlen_takes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """Whether PyTorch's varlen kernel, that of flash attention, can compute this; states are [tokens, heads, width]."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16) or dropout:
        return False
    width, ampere = query.size(2), torch.cuda.get_device_capability(query.device) >= (8, 0)
    return ampere and key.size(2) == value.size(2) == width <= 256 and width % 8 == 0


def _varlen(
    documents: Documents,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
    scale: float | None,
) -> torch.Tensor:
    """Causal attention of each document alone, in one call; states are [tokens, heads, width], key and value of fewer heads."""
    grouped = {"enable_gqa": True} if key.size(1) != query.size(1) else {}
    reach = (-1 if window is None else window - 1, 0)
    bounds, longest = documents.bounds, documents.longest
    return varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scale, window_size=reach, **grouped)


def _gather(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, width] at places [n, m] -> [n, heads, m, width]."""
    return states.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)


def flash(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Hugging Face's flash attention within the current documents: the micro-batch as one row of B x L tokens, with the
    cumulative lengths that select its varlen kernel. Shapes as in `sdpa`."""
    if _current is None:
        return flash_attention_forward(module, query, key, value, attention_mask, **options)
    return _flash_within(_current, module, query, key, value, **options)


@torch.compiler.disable  # as above
def _flash_within(
    documents: Documents, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, None]:
    lengths = dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), documents.bounds)
    lengths |= dict.fromkeys(("max_length_q", "max_length_k"), documents.longest)
    row = (_tokens_first(states).transpose(0, 1)[None] for states in (query, key, value))
    output, _ = flash_attention_forward(module, *row, None, **{**options, "position_ids": None, **lengths})
    return output.unflatten(1, documents.ids.shape)[0], None


def _tokens_first(states: torch.Tensor) -> torch.Tensor:
    """[batch, heads, length, width] -> [batch x length, heads, width]."""
    return states.transpose(1, 2).flatten(0, 1)


def _mask_within(make: Callable[..., Any], *arguments: Any, use_vmap: bool = False, **options: Any) -> Any:
    """Hugging Face's mask by `make`, overlaid with the current documents; None for "sdpa" where its function needs none."""
    documents = _current
    if documents is not None:
        plain = not use_vmap and not options.get("allow_is_bidirectional_skip")  # causal or sliding, without an overlay
        size = options.get("local_size")
        chunked = size is not None and size == getattr(options.get("config"), "attention_chunk_size", None)
        if make is sdpa_mask and documents.maskless and plain and not chunked:
            return None
        pattern = options.get("mask_function", causal_mask_function)
        options["mask_function"] = and_masks(pattern, packed_sequence_mask_function(documents.ids))
        options["allow_is_causal_skip"] = False
    return make(*arguments, use_vmap=use_vmap, **options)


def install() -> None:
    """Extend Hugging Face's registries; nothing changes outside `within`."""
    AttentionInterface.register("sdpa", sdpa)
    for name in FLASH:
        AttentionInterface.register(name, flash)
    for name, make in {"sdpa": sdpa_mask, "eager": eager_mask, "flex_attention": flex_attention_mask}.items():
        AttentionMaskInterface.register(name, functools.partial(_mask_within, make))


def maskless(model: PreTrainedModel) -> bool:
    """Whether the model's attention calls the function registered as "sdpa", with all that a mask would have told it.

    A sliding window reaches the function as an argument in models that Hugging Face lets run with flash attention.
    """
    registry = getattr(sys.modules[type(model).__module__], "ALL_ATTENTION_FUNCTIONS", {})
    own = inspect.unwrap(registry["sdpa"]) is sdpa if "sdpa" in registry else False
    return own and bool(getattr(model, "_supports_flash_attn", False))


def takes_positions(model: nn.Module) -> bool:
    """Whether position_ids are an argument of its forward pass. One with ALiBi takes none: distances are all it uses."""
    return "position_ids" in inspect.signature(model.forward).parameters


def mixes_tokens(model: PreTrainedModel) -> str | None:
    """Why tokens of this architecture are known to meet other than in attention with one key per token; None: not known."""
    layers = sorted(set(getattr(model.config, "layer_types", None) or ()) - ATTENTION_LAYERS)
    if getattr(model, "_is_stateful", False):
        return "its state-space or recurrent layers carry a state from token to token"
    if layers:
        return f"its layers of type {', '.join(layers)} mix tokens other than by attention with one key per token"
    if any(isinstance(module, nn.Conv1d) for module in model.modules()):
        return "its convolutions mix neighbouring tokens"
    return None


def moving_rope(config: PretrainedConfig, sequence_length: int) -> tuple[str, int] | None:
    """A rope_type whose turns depend on the largest position of a micro-batch at this length, and the positions from which
    they do; None: they are fixed."""
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(inner for inner in rope.values() if isinstance(inner, dict))):
        kind = parameters.get("rope_type")
        trained = parameters.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
        if kind in ("dynamic", "longrope") and trained and sequence_length > trained:
            return kind, trained
    return None


def position_arguments(model: nn.Module, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """Positions as an argument of a Hugging Face model's forward pass, where it takes any."""
    return {"position_ids": positions} if takes_positions(model) else {}


class DocumentMasks:
    """Document masks of one whole model; `install` comes before."""

    def __init__(self, model: PreTrainedModel):
        self._model, self._maskless = model, maskless(model)

    @contextmanager
    def __call__(self, positions: torch.Tensor | None, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
        """Around forward and backward of a micro-batch; yields more arguments of the forward pass. No positions: no masks."""
        if positions is None:
            yield {}
            return
        with within(Documents.of(positions, device, self._maskless)):
            yield position_arguments(self._model, positions.to(device))


def check(model: PreTrainedModel, sequence_length: int) -> None:
    """Raise DocumentMaskError for architectures known to carry information across documents; a skeleton will do.

    What is not known here shows when the engine starts (trainer.model.document_probe).
    """
    if reason := mixes_tokens(model):
        raise DocumentMaskError(
            f'data.document_mask: a "{model.config.model_type}" model cannot keep documents apart: {reason}. Set '
            f'data.document_mask to false, or choose an architecture of attention alone, such as "llama".'
        )
    if moving := moving_rope(model.config, sequence_length):
        kind, trained = moving
        raise DocumentMaskError(
            f'data.document_mask: rope_type "{kind}" turns all documents of a micro-batch by the length of its longest, '
            f"once that is over {trained} positions, and data.sequence_length is {sequence_length}. Set "
            f'data.sequence_length to at most {trained}, choose a fixed rope_type such as "yarn", or set '
            f"data.document_mask to false."
        )
