"""Head and loss in one, a few tokens at a time: logits of [batch, sequence, vocabulary] never exist as a whole.

The gradients of a chunk of tokens are taken as soon as its loss is known, in the forward pass, so that nothing is computed
twice and memory doesn't grow with the vocabulary times the window (the order of work of fused kernels: Liger, arXiv
2410.10989; Cut Your Losses, arXiv 2411.09009). What is computed for a chunk is the model's own head, whatever the stock forward
pass does to its output, and `nll_sum`.

torch.nn.functional.linear_cross_entropy works alike, but it adds up a bfloat16 model's loss in bfloat16, off by up to several
per cent (bench/long_windows.py), and knows no caps and scales on logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from trainer.model import stand_in
from trainer.model.loss import Loss, nll_sum
from trainer.model.stand_in import BaseOutput, StandIn

CHUNK_LOGITS = {"cpu": 2**24}
"""Logits computed at a time, by type of device: 64 MiB in fp32 on CPUs, whose caches gain nothing by more."""
CHUNK_LOGITS_OTHER = 2**26
"""The same for accelerators, whose matrix products want more rows: 1.5 GB with all that their loss needs in bf16."""
CHUNK_LOGITS_COMPILED = 2**28
"""The same for accelerators and a compiled loss, which makes no copies of them in float32: 1.5 GB, too."""

Projection = Callable[[torch.Tensor], torch.Tensor]
"""Hidden states [tokens, width] -> logits [tokens, vocabulary]."""


class FusedLossError(ValueError):
    """This model's head and loss cannot be computed a few tokens at a time."""


def chunk_tokens(vocabulary: int, device: torch.device, loss: Loss = nll_sum) -> int:
    """Tokens per chunk: a multiple of 64, whatever the window."""
    logits = CHUNK_LOGITS.get(device.type, CHUNK_LOGITS_OTHER if loss is nll_sum else CHUNK_LOGITS_COMPILED)
    return max(64, logits // vocabulary // 64 * 64)


def chunked_nll_sum(
    project: Projection,
    parameters: Sequence[nn.Parameter],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    chunk: int,
    loss: Loss = nll_sum,
) -> torch.Tensor:
    """`loss(project(hidden), targets)`, a float32 scalar, from `chunk` tokens at a time.

    hidden: [batch, sequence, width]; targets: int64 [batch, sequence]; `parameters`: those of `project`. Gradients reach
    `hidden` and `parameters`, once (the graph cannot be retained); those of parameters are added up in float32 at least.
    """
    flat, targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    if torch.is_grad_enabled() and len(flat) > chunk:  # the logits of one chunk are as well left to autograd
        return _ChunkedNLL.apply(project, loss, chunk, targets, flat, *parameters)
    parts = zip(flat.split(chunk), targets.split(chunk), strict=True)
    return torch.stack([loss(project(part), wanted) for part, wanted in parts]).sum()


@dataclass(frozen=True)
class DeferredLogits:
    """Logits that are made a few tokens at a time, and only for their loss: what a pipeline's last layer gives for them."""

    hidden: torch.Tensor
    """float [batch, sequence, width]"""
    project: Projection
    parameters: Sequence[nn.Parameter]
    """Of `project`: the head's."""
    vocabulary: int
    """Logits of a token."""
    auxiliary: torch.Tensor | None = None
    """Experts' auxiliary loss, which comes along: DeepSpeed puts hooks on an output's tensors, and must find none here."""

    def nll_sum(self, targets: torch.Tensor, loss: Loss = nll_sum) -> torch.Tensor:
        """`loss` of the logits, a float32 scalar."""
        chunk = chunk_tokens(self.vocabulary, self.hidden.device, loss)
        return chunked_nll_sum(self.project, self.parameters, self.hidden, targets, chunk, loss)


class _ChunkedNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        project: Projection,
        loss: Loss,
        chunk: int,
        targets: torch.Tensor,
        hidden: torch.Tensor,
        *parameters: nn.Parameter,
    ) -> torch.Tensor:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in trained]
        total = torch.zeros((), device=hidden.device)
        of_hidden = torch.empty_like(hidden)
        for part, wanted, place in zip(hidden.split(chunk), targets.split(chunk), of_hidden.split(chunk), strict=True):
            with torch.enable_grad():
                part = part.detach().requires_grad_()
                nll = loss(project(part), wanted)
            of_part, *of_parameters = torch.autograd.grad(nll, [part, *trained])
            place.copy_(of_part)
            for total_of_one, of_one in zip(sums, of_parameters, strict=True):
                total_of_one += of_one
            total += nll.detach()
        ctx.gradients = of_hidden, sums
        ctx.trained = [parameter.requires_grad for parameter in parameters]
        ctx.dtypes = [parameter.dtype for parameter in trained]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, sums = ctx.gradients
        ctx.gradients = None  # they are scaled where they lie
        scaled = iter([one.mul_(upstream).to(dtype) for one, dtype in zip(sums, ctx.dtypes, strict=True)])
        return None, None, None, None, of_hidden.mul_(upstream), *(next(scaled) if trained else None for trained in ctx.trained)


def head_name(model: PreTrainedModel) -> str:
    """Dotted name of the module that yields the logits. Raises FusedLossError without one."""
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is head]
    if not names:
        raise FusedLossError(f'a "{model.config.model_type}" model names no head')
    return names[0]


def after_head(model: PreTrainedModel) -> Projection | None:
    """What the stock forward pass makes of the head's output [tokens, vocabulary], such as a cap or a scale; None: nothing.

    Found by running that forward pass with the base model and the head replaced; a skeleton will do. Raises FusedLossError
    where that fails, or where a token's logits depend on other tokens.
    """
    stock = type(model).forward
    name, head = head_name(model), model.get_output_embeddings()
    vocabulary, width = head.weight.shape

    def finish(logits: torch.Tensor) -> torch.Tensor:
        hidden = logits.new_zeros(1, len(logits), width)
        base = StandIn(model.base_model, lambda *_, **__: BaseOutput(hidden))
        base.decoder = base  # some forward passes call this part of their base model
        twin = stand_in.twin(model, {model.base_model_prefix: base, name: StandIn(head, lambda _hidden: logits[None])})
        tokens = torch.zeros((1, len(logits)), dtype=torch.int64, device=logits.device)
        return stock(twin, input_ids=tokens, use_cache=False).logits[0]

    logits = torch.randn((3, vocabulary), generator=torch.Generator().manual_seed(0)) * 30
    try:
        finished = finish(logits)
        apart = torch.cat([finish(rows) for rows in (logits[:0], logits[:1], logits[1:])])
    except Exception as error:  # a forward pass of any shape: whatever it raises, it cannot be used
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise FusedLossError(f'what a "{model.config.model_type}" model does after its head is not known ({reason})') from None
    if finished.shape != logits.shape or not torch.equal(finished, apart):
        raise FusedLossError(f'a "{model.config.model_type}" model mixes tokens after its head')
    return None if torch.equal(finished, logits) else finish


def obstacle(model: PreTrainedModel) -> str | None:
    """Why a model's head and loss cannot be computed a few tokens at a time; None: they can. A skeleton will do."""
    try:
        after_head(model)
    except FusedLossError as error:
        return str(error)
    return None


def install(model: PreTrainedModel, fused: bool, loss: Loss = nll_sum) -> None:
    """Give the stock model's forward pass the argument `targets`: its output's `loss` is then `loss` of its logits and them.

    fused: logits are never made (in the output, there are those of no tokens). The head is called as before, but after the
    rest of the forward pass, so that hooks on it, as ZeRO-3 has them, gather its parameters. Raises FusedLossError.
    """
    installer(model, fused, loss)()


def installer(model: PreTrainedModel, fused: bool, loss: Loss = nll_sum) -> Callable[[], None]:
    """`install` in two steps: what a skeleton can tell is found now, and what this returns does the rest, once another head,
    of a slice of the vocabulary, may have taken the place of the first. Raises FusedLossError."""
    return functools.partial(_install, model, fused, loss, head_name(model), after_head(model) if fused else None)


def _install(model: PreTrainedModel, fused: bool, loss: Loss, name: str, finish: Projection | None) -> None:
    stock, head = type(model).forward, model.get_submodule(name)
    plain = head.forward

    def project(hidden: torch.Tensor) -> torch.Tensor:
        return plain(hidden) if finish is None else finish(plain(hidden))

    @functools.wraps(plain)
    def head_forward(hidden: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        if targets is None:
            return plain(hidden)
        chunk = chunk_tokens(model.config.vocab_size, hidden.device, loss)
        return chunked_nll_sum(project, list(head.parameters()), hidden, targets, chunk, loss)

    @functools.wraps(model.forward)
    def forward(*arguments: Any, targets: torch.Tensor | None = None, **options: Any) -> Any:
        if targets is None or not fused:
            outputs = stock(model, *arguments, **options)
            if targets is not None:
                outputs.loss = loss(outputs.logits, targets)
            return outputs
        received: list[torch.Tensor] = []

        def no_logits(hidden: torch.Tensor) -> torch.Tensor:
            received.append(hidden)
            return hidden[:, :0]

        outputs = stock(stand_in.twin(model, {name: StandIn(head, no_logits)}), *arguments, **options)
        outputs.loss = head(*received, targets=targets)
        return outputs

    head.forward, model.forward = head_forward, forward
