"""Sequence parallelism after DeepSpeed-Ulysses (arXiv 2309.14509, 2506.13996), for stock Hugging Face causal LMs.

Each rank of a group runs the model on its own contiguous part of every window. Before attention, an all-to-all trades parts
of the window for heads: every rank then has the whole window for its share of the heads, and after it they trade back. With
fewer key heads than ranks, key heads are repeated first.

DeepSpeed's own UlyssesSPAttentionHF is not used: it knows neither windows of several documents nor sliding windows without a
quadratic mask. Here every window counts as one of documents (trainer.model.document_mask), if only of one, so that no mask is
made for the part of the window that a rank happens to hold.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trainer.data.loader import MicroBatch
from trainer.model import config_values, document_mask

ATTENTIONS = ("sdpa", *document_mask.FLASH)
"""Hugging Face's names of attention functions that can be called with a share of the heads."""
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-2}
"""Relative difference between a window in parts and whole that rounding explains, by precision."""
PROBED = 256
"""Most tokens of the window that is compared when an engine starts."""


class SequenceParallelError(ValueError):
    """This model, with these windows, cannot be run in parts of windows."""


class _AllToAll(torch.autograd.Function):
    """Row i of [ranks, n] goes to rank i; row i of the result came from rank i. It is its own adjoint."""

    @staticmethod
    def forward(context: Any, rows: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        context.group = group
        received = torch.empty_like(rows)
        dist.all_to_all_single(received, rows, group=group)
        return received

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _AllToAll.apply(gradient.contiguous(), context.group), None


def _heads_for_tokens(tensors: list[torch.Tensor], group: dist.ProcessGroup) -> list[torch.Tensor]:
    """Each [batch, heads, part, width] -> [batch, heads / ranks, window, width], in one exchange."""
    ranks = dist.get_world_size(group)
    split = [one.unflatten(1, (ranks, -1)).transpose(0, 1) for one in tensors]  # [ranks, batch, heads / ranks, part, width]
    rows = torch.cat([one.flatten(1) for one in split], dim=1)
    received = _AllToAll.apply(rows, group).split([one[0].numel() for one in split], dim=1)
    return [got.view(one.shape).permute(1, 2, 0, 3, 4).flatten(2, 3) for got, one in zip(received, split, strict=True)]


def _tokens_for_heads(output: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """[batch, window, heads / ranks, width] -> [batch, part, heads, width]."""
    split = output.unflatten(1, (dist.get_world_size(group), -1)).transpose(0, 1)  # [ranks, batch, part, heads / ranks, width]
    received = _AllToAll.apply(split.flatten(1), group).view(split.shape)
    return received.permute(1, 2, 0, 3, 4).flatten(2, 3)


class _Share:
    """An attention module as its function sees it: with the group size of a share of the heads."""

    def __init__(self, module: nn.Module, queries_per_key: int):
        self._module, self.num_key_value_groups = module, queries_per_key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


_current: dist.ProcessGroup | None = None


def _attention(
    inner: Callable[..., Any],
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Hugging Face's attention function `inner`, between two exchanges when a window is in parts. Shapes as in
    `document_mask.sdpa`, of the part."""
    group = _current
    if group is None:
        return inner(module, query, key, value, attention_mask, **options)
    if attention_mask is not None or options.get("position_bias") is not None or key.size(2) != query.size(2):
        raise SequenceParallelError(
            f"parallel.sequence: the attention of {type(module).__name__} comes with a mask or bias, or has not one key per "
            f"token: it needs whole windows. Set parallel.sequence to 1."
        )
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    heads, key_heads = query.size(1), key.size(1)
    repeated = math.lcm(key_heads, ranks)
    if repeated != key_heads:
        key, value = (states.repeat_interleave(repeated // key_heads, dim=1) for states in (key, value))
    if options.get("s_aux") is not None:  # attention sinks, one a head
        options["s_aux"] = options["s_aux"].chunk(ranks)[rank]
    options["position_ids"] = None  # of the part
    query, key, value = _heads_for_tokens([query, key, value], group)
    output, _ = inner(_Share(module, heads // repeated), query, key, value, None, **options)
    return _tokens_for_heads(output, group), None


def install() -> None:
    """Extend Hugging Face's registries, document masks included; nothing changes but within a `SequenceParallel`."""
    document_mask.install()
    for name in ATTENTIONS:
        function = ALL_ATTENTION_FUNCTIONS[name]
        AttentionInterface.register(name, functools.wraps(function)(functools.partial(_attention, function)))


class SequenceParallel:
    """Parts of windows for one model; `install` comes before."""

    def __init__(self, group: dist.ProcessGroup):
        self.group, self.ranks, self._rank = group, dist.get_world_size(group), dist.get_rank(group)

    def part(self, windows: torch.Tensor) -> torch.Tensor:
        """This rank's part of [windows, length]."""
        return windows.chunk(self.ranks, dim=1)[self._rank].contiguous()

    def own(self, micro_batch: MicroBatch) -> MicroBatch:
        """This rank's part of a micro-batch, with the positions of whole windows."""
        positions = micro_batch.positions
        if positions is None:
            positions = torch.arange(micro_batch.inputs.size(1)).expand(micro_batch.inputs.shape)
        return MicroBatch(self.part(micro_batch.inputs), self.part(micro_batch.targets), positions)

    @contextmanager
    def within(self, documents: document_mask.Documents) -> Iterator[None]:
        """Attention over whole windows, within these documents: around a forward pass, and where it is done again."""
        global _current
        before, _current = _current, self.group
        try:
            with document_mask.within(documents):
                yield
        finally:
            _current = before

    @contextmanager
    def __call__(self, micro_batch: MicroBatch, device: torch.device) -> Iterator[tuple[MicroBatch, dict[str, torch.Tensor]]]:
        """Around forward and backward of a micro-batch; yields this rank's part, and more arguments of the forward pass."""
        mine = self.own(micro_batch)
        with self.within(document_mask.Documents.of(mine.positions, device, maskless=True)):
            yield mine, {"position_ids": self.part(mine.positions).to(device)}


def check(model: PreTrainedModel, attention: str, lengths: Iterable[int], ranks: int) -> None:
    """Raise SequenceParallelError for a model, a skeleton will do, or window lengths that `ranks` parts do not suit.

    What is not known here shows when the engine starts (`probe`).
    """
    install()
    config = model.config
    where = f'parallel.sequence {ranks}, with a "{config.model_type}" model'
    for length in lengths:
        if length % ranks:
            near = sorted({length // ranks * ranks, -(-length // ranks) * ranks} - {0})
            raise SequenceParallelError(
                f"parallel.sequence: windows of {length} tokens cannot be cut into {ranks} equal parts. Set the length to "
                f"{' or '.join(map(str, near))} (data.sequence_length, and the lengths of a curriculum), or sequence to one of "
                f"{_divisors(length)}."
            )
    heads = math.gcd(*config_values.of_layers(config, "num_attention_heads", 0))
    if not heads:
        raise SequenceParallelError(
            f"{where}: its configuration has no num_attention_heads, which the ranks would share. Set parallel.sequence to 1."
        )
    if heads % ranks:
        raise SequenceParallelError(
            f"{where}: {heads} attention heads cannot be shared by {ranks} ranks. Set parallel.sequence to one of "
            f"{_divisors(heads)}, or num_attention_heads to a multiple of {ranks}."
        )
    if attention not in ATTENTIONS and not getattr(model, "_supports_sdpa", False):
        raise SequenceParallelError(
            f'{where}: Hugging Face has no "sdpa" attention for it, which could be called with a share of the heads. Set '
            f"parallel.sequence to 1."
        )
    if attention not in ATTENTIONS:
        raise SequenceParallelError(
            f'{where}: model.attention "{attention}" cannot be called with a share of the heads. Set it to "sdpa" or '
            f'"flash_attention_2".'
        )
    reason = _needs_whole_windows(model, max(lengths))
    if reason:
        raise SequenceParallelError(
            f"{where}: {reason}. Set parallel.sequence to 1 (model.activation_checkpointing and parallel.zero_stage 3 save "
            f'memory, too), or choose an architecture of causal attention with rotary or learned positions, such as "llama".'
        )


def _needs_whole_windows(model: PreTrainedModel, length: int) -> str | None:
    """Why a part of a window is not enough for this model outside its attention; None where nothing is known."""
    config = model.config
    if reason := document_mask.mixes_tokens(model):
        return reason
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return "its chunked attention needs a mask"
    if not document_mask.maskless(model):
        return "its attention does not go through Hugging Face's attention functions without a mask"
    if not document_mask.takes_positions(model):
        return "it takes no position_ids, so that every part would begin at position 0"
    if rope := document_mask.moving_rope(config, length):
        return f'its rope_type "{rope[0]}" turns by the largest position of a part, once that is over {rope[1]}'
    if getattr(config, "output_router_logits", False):
        return "the experts' auxiliary loss is defined over whole windows (output_router_logits)"
    return None


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)


def probe(nll: Callable[[MicroBatch, bool], float], plan: Any) -> None:
    """Raise SequenceParallelError unless the live engine gives a window in parts the likelihood that it has whole.

    `nll(window, in_parts)`: summed negative log-likelihood. All ranks take part, each with the same window.
    """
    ranks = plan.topology.sequence
    size = min(plan.batch.sequence_length, max(PROBED // ranks, 1) * ranks)
    random = np.random.default_rng(plan.config.run.seed)
    tokens = torch.from_numpy(random.integers(plan.hf_config.vocab_size, size=(1, size + 1)))
    window = MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    whole, parts = nll(window, False), nll(window, True)
    if not abs(parts - whole) <= TOLERANCE[plan.precision] * abs(whole):
        raise SequenceParallelError(
            f'parallel.sequence {ranks}: a "{plan.hf_config.model_type}" model gives a window of {size} tokens another '
            f"negative log-likelihood in parts ({parts:.6g}) than whole ({whole:.6g}): something in it, other than attention, "
            f"needs the whole window. Set parallel.sequence to 1; and choose another run.folder, or remove this one."
        )
