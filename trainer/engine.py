"""The engine: the only place that knows ZeRO from pipeline at run time.

Both kinds offer the same: train_step, eval_sum, set_learning_rate, and DeepSpeed's own engine as `.deepspeed` for
checkpoints.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from deepspeed.utils.bwc import bwc_tensor_model_parallel_rank
from pydantic import BaseModel
from torch import nn

from trainer import finite, offload
from trainer.config import OptimizerSection
from trainer.data.loader import MicroBatch, StepBatch
from trainer.devices import DTYPES
from trainer.finite import SkippingAdamW
from trainer.flops import ModelShape
from trainer.lr_schedule import ScheduleSection, learning_rate
from trainer.model import (
    build,
    document_mask,
    document_probe,
    fused_loss,
    partition,
    recompute,
    routing,
    sequence_parallel,
    tensor_probe,
)
from trainer.model.loss import Loss, compiled_nll_sum, micro_batch_weight, nll_sum
from trainer.model.sequence_parallel import SequenceParallel
from trainer.model.tensor_parallel import Slices, keep_products
from trainer.optimizer import adamw, parameter_groups
from trainer.parallel.groups import ParallelGroups, add_up, adding_up
from trainer.preflight import RunPlan


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did; tensors are still on the device, so that only logging waits for them."""

    loss: torch.Tensor
    """Mean negative log-likelihood per real target of the global batch, nats."""
    consumed: torch.Tensor
    """int64 [2]: real targets of the global batch, and the ledger's digest of its windows, modulo 2^64."""
    grad_norm: torch.Tensor | float | None
    """Global L2 norm of the gradient before clipping."""


class _Engine:
    """What both kinds share: DeepSpeed's engine around the model, the batch's numbers, the learning rate."""

    def __init__(self, model: nn.Module, shape: ModelShape, plan: RunPlan, groups: ParallelGroups | None = None):
        section = plan.config.optimizer
        parameters = parameter_groups(model.named_parameters(), section.weight_decay)
        optimizer = _optimizer(parameters, section, plan.ds_config)
        # kept in globals by an engine before this one in the process, which would count as this one's
        deepspeed.utils.groups.mpu = deepspeed.utils.groups._TENSOR_MODEL_PARALLEL_GROUP = None
        self.deepspeed, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=plan.ds_config, mpu=groups)
        _forget_dry_step(optimizer)
        self.deepspeed.clip_fp32_gradients = self._clip_fp32_gradients
        if isinstance(optimizer, SkippingAdamW):
            clips = self.deepspeed.gradient_clipping() > 0  # and has the norm from there
            optimizer.gradient_norm = self.deepspeed.get_global_grad_norm if clips else self._fp32_gradient_norm
        self.batch, self.shape, self._peak_rate = plan.batch, shape, section.learning_rate
        self._data_group = groups.data if groups else None
        """The ranks whose batches differ; None: all."""

    def set_learning_rate(self, schedule: ScheduleSection, tokens: int) -> float:
        """Set the rate of the step that ends after `tokens` tokens, and return it."""
        rate = learning_rate(schedule, self._peak_rate, tokens)
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def resolved_config(self) -> dict[str, Any]:
        """DeepSpeed's whole configuration as it runs, its defaults included, as JSON values."""
        known = {name: value for name, value in vars(self.deepspeed._config).items() if not name.startswith("_")}
        return {name: _plain(value) for name, value in sorted(known.items())}

    def _clip_fp32_gradients(self) -> None:
        """Clip without ZeRO in fp32. DeepSpeed's own counts a tied embedding once per stage and keeps the norm to itself."""
        engine = self.deepspeed
        engine._global_grad_norm = self._fp32_gradient_norm()
        shrink = (engine.gradient_clipping() / (engine._global_grad_norm + 1e-6)).clamp(max=1.0)
        for parameter in self._with_gradient():
            parameter.grad.mul_(shrink)

    def _fp32_gradient_norm(self) -> torch.Tensor:
        """float32 []: the global L2 norm of the gradient, without ZeRO."""
        engine = self.deepspeed
        first = bwc_tensor_model_parallel_rank(engine.mpu) == 0
        counted = [p.grad.norm() for p in self._with_gradient() if _counts(p, first)]
        squares = torch.stack([*counted, torch.zeros((), device=engine.device)]).square().sum()
        if engine.mpu is not None:
            add_up(squares, engine.mpu.get_model_parallel_group())
        return squares.sqrt()

    def _with_gradient(self) -> list[nn.Parameter]:
        return [p for p in self.deepspeed.module.parameters() if p.grad is not None]

    def _begin(self, batch: StepBatch) -> Callable[[], torch.Tensor]:
        """Tell DeepSpeed the step's accumulation; returns what gives int64 [2], the targets and digests of all ranks' batches
        added up, which is under way beside the first forward pass."""
        engine, plan = self.deepspeed, batch.plan
        if engine.gradient_accumulation_steps() != plan.gradient_accumulation_steps:
            engine.set_train_batch_size(plan.windows_per_rank * engine.dp_world_size)
            engine.micro_steps = 0  # it is taken modulo the accumulation
            if hasattr(engine.optimizer, "gradient_accumulation_steps"):
                engine.optimizer.gradient_accumulation_steps = plan.gradient_accumulation_steps
        signed = batch.digest - 2**64 if batch.digest >= 2**63 else batch.digest
        return adding_up(torch.tensor([batch.targets, signed], device=engine.device), self._data_group)


def _counts(parameter: nn.Parameter, first_slice: bool) -> bool:
    """Whether this rank's copy of a parameter counts in the norm over pipeline stages or slices: what several hold, once."""
    if getattr(parameter, "ds_pipe_replicated", False):
        return False
    return first_slice or getattr(parameter, "tensor_model_parallel", False)


class ZeroEngine(_Engine):
    """Data parallel: every rank runs the whole stock model; ZeRO shards its states (and, in stage 3, its parameters)."""

    def __init__(
        self, model: nn.Module, shape: ModelShape, plan: RunPlan, groups: ParallelGroups | None, parts: SequenceParallel | None
    ):
        super().__init__(model, shape, plan, groups)
        self._document_masks = document_mask.DocumentMasks(model)
        self._auxiliary = functools.partial(routing.auxiliary_loss, model)
        self._parts = parts
        self._token_group = groups.sharding if groups else None
        """The ranks whose losses are of different tokens; None: all."""

    def train_step(self, batch: StepBatch) -> StepResult:
        """Forward and backward over the step's micro-batches, one optimizer step."""
        engine = self.deepspeed
        engine.train()
        consumed, weight = self._begin(batch), None
        total = torch.zeros((), device=engine.device)
        for place, micro_batch in enumerate(batch.micro_batches, 1):
            with self._own(micro_batch) as (mine, options):
                loss, auxiliary = self._losses(mine, options)
                total += loss.detach()
                if place == len(batch.micro_batches):
                    nll = adding_up(total, self._token_group)
                if weight is None:  # what was consumed is added up beside the first forward pass
                    weight = micro_batch_weight(consumed()[0], batch.plan, self._parts.ranks if self._parts else 1)
                weighted = loss * finite.unless_finite(weight, loss, auxiliary)
                engine.backward(weighted if auxiliary is None else weighted + auxiliary)
            engine.step()
        if not engine.was_step_applied():
            finite.forget_gradients(engine.optimizer)
        return StepResult(nll() / consumed()[0].clamp(min=1), consumed(), engine.get_global_grad_norm())

    @torch.no_grad()
    def eval_sum(self, micro_batches: Iterable[MicroBatch]) -> tuple[float, int]:
        """(summed negative log-likelihood, real targets) over the micro-batches of all ranks; each rank brings equally many."""
        engine = self.deepspeed
        engine.eval()
        total = torch.zeros(2, dtype=torch.float64, device=engine.device)
        for micro_batch in micro_batches:
            with self._own(micro_batch) as (mine, options):
                total[0] += self._losses(mine, options)[0].double()
            total[1] += mine.real_targets
        nll, targets = add_up(total, self._token_group).tolist()
        return nll, int(targets)

    @torch.no_grad()
    def window_nll(self, window: MicroBatch, in_parts: bool) -> float:
        """Summed negative log-likelihood of a window that all ranks of the window's group give alike, in parts or whole."""
        engine = self.deepspeed
        engine.eval()
        if not in_parts:
            return self._losses(window, {})[0].item()
        with self._parts(window, engine.device) as (mine, options):
            return add_up(self._losses(mine, options)[0], self._parts.group).item()

    @contextmanager
    def _own(self, micro_batch: MicroBatch) -> Iterator[tuple[MicroBatch, dict[str, torch.Tensor]]]:
        """Around forward and backward: what of a micro-batch this rank computes, and more arguments of the forward pass."""
        if self._parts:
            with self._parts(micro_batch, self.deepspeed.device) as mine_and_options:
                yield mine_and_options
        else:
            with self._document_masks(micro_batch.positions, self.deepspeed.device) as options:
                yield micro_batch, options

    def _losses(self, micro_batch: MicroBatch, options: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Summed negative log-likelihood, and the experts' auxiliary loss (trainer.model.routing), where the model has one."""
        inputs, targets = micro_batch.on(self.deepspeed.device)
        output = self.deepspeed(input_ids=inputs, targets=targets, use_cache=False, **options)
        return output.loss, self._auxiliary(output)


class PipelineEngine(_Engine):
    """Model parallel: the blocks in stages, micro-batches in flight between them; ZeRO-1 may shard optimizer states."""

    def __init__(
        self, model: nn.Module, shape: ModelShape, plan: RunPlan, groups: ParallelGroups | None, parts: SequenceParallel | None
    ):
        super().__init__(model, shape, plan)
        grid = self.deepspeed.grid
        self._is_first, self._is_last = grid.get_stage_id() == 0, grid.get_stage_id() == grid.pipe_parallel_size - 1
        self._data_group = groups.data if groups else grid.get_data_parallel_group()
        self._stock, self._parts, self._ranks = model.stock, parts, grid.data_parallel_size
        if model.stock.wiring.last:  # slices differ in what travels beside hidden states: each sends its own, not a share of it
            self.deepspeed.is_pipe_partitioned = self.deepspeed.is_grad_partitioned = False
        self._sent: tuple[torch.Size, bool] | None = None
        self._loss_of_logits = loss_of_logits(plan)
        self.deepspeed.module.loss_fn = self._loss

    def _loss(self, output: Any, labels: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        loss = pipeline_loss(output, labels, self._loss_of_logits)
        if isinstance(output, fused_loss.DeferredLogits) and loss.requires_grad:
            # DeepSpeed begins a backward pass (with the last one's bf16 gradients cleared) by hooks on the output's tensors
            loss.register_hook(lambda _gradient: self.deepspeed._backward_prologue())
        return loss

    def train_step(self, batch: StepBatch) -> StepResult:
        """One pipeline schedule over the step's micro-batches, one optimizer step."""
        consumed = self._begin(batch)
        weight = micro_batch_weight(consumed()[0], batch.plan, self._parts.ranks if self._parts else 1)
        loss = self.deepspeed.train_batch(data_iter=self._weighted(batch.micro_batches, weight))
        return StepResult(loss.squeeze(), consumed(), self.deepspeed.get_global_grad_norm())

    def eval_sum(self, micro_batches: Iterable[MicroBatch]) -> tuple[float, int]:
        """(summed negative log-likelihood, real targets) over the micro-batches of all ranks; each rank brings equally many."""
        micro_batches = list(micro_batches)
        total = 0.0
        one = torch.ones((), device=self.deepspeed.device)
        for start in range(0, len(micro_batches), self.batch.gradient_accumulation_steps):
            group = micro_batches[start : start + self.batch.gradient_accumulation_steps]
            mean = self.deepspeed.eval_batch(self._weighted(group, one), num_micro_batches=len(group))
            total += mean.item() * len(group) * self._ranks
        targets = torch.tensor(sum(batch.real_targets for batch in micro_batches), device=one.device)
        return total, int(add_up(targets, self._data_group))

    def window_nll(self, window: MicroBatch, in_parts: bool) -> float:
        """Summed negative log-likelihood of a window that all ranks give alike, in parts or whole."""
        self._stock.sequence = self._parts if in_parts else None
        total, _ = self.eval_sum([window])
        self._stock.sequence = self._parts
        return total / (self.batch.data_parallel_size if in_parts else self._ranks)

    def _weighted(self, micro_batches: list[MicroBatch], weight: torch.Tensor) -> Iterator[tuple[Any, Any]] | None:
        """DeepSpeed's form (inputs, labels): positions travel with the inputs, the weight with the labels to the last stage."""
        if self._stock.sequence:
            micro_batches = [self._stock.sequence.own(batch) for batch in micro_batches]
        sent = (micro_batches[0].inputs.shape, micro_batches[0].positions is None)
        if sent != self._sent:
            self.deepspeed.reset_activation_shape()  # its buffers between stages have the shape of the first micro-batch
            self._sent = sent
        if not (self._is_first or self._is_last):
            return None
        return (self._sendable(batch, weight) for batch in micro_batches)

    def _sendable(self, batch: MicroBatch, weight: torch.Tensor) -> tuple[Any, Any]:
        """What this end of the pipeline takes of a micro-batch, in its place; DeepSpeed looks at no other."""
        device, inputs, labels = self.deepspeed.device, None, None
        if self._is_first:
            ids = batch.inputs_on(device)
            inputs = ids if batch.positions is None else (ids, batch.positions)
        if self._is_last:
            labels = batch.targets_on(device), weight
        return inputs, labels


def loss_of_logits(plan: RunPlan) -> Loss:
    """`nll_sum`, compiled where the blocks are."""
    return compiled_nll_sum() if plan.config.model.compile else nll_sum


def pipeline_loss(output: Any, labels: tuple[torch.Tensor, torch.Tensor], loss: Loss = nll_sum) -> torch.Tensor:
    """The loss of one micro-batch as the pipeline's last stage computes it, from the last layer's output
    (trainer.model.layers.Output): of logits, or logits and an auxiliary loss."""
    targets, weight = labels
    if isinstance(output, fused_loss.DeferredLogits):
        nll, auxiliary = output.nll_sum(targets, loss), output.auxiliary
    else:
        logits, auxiliary = output if isinstance(output, tuple) else (output, None)
        nll = loss(logits, targets)
    weighted = nll * finite.unless_finite(weight, nll, auxiliary)
    return weighted if auxiliary is None else weighted + routing.without_value(auxiliary)


def build_engine(plan: RunPlan, device: torch.device) -> ZeroEngine | PipelineEngine:
    """Model on its device(s), optimizer, DeepSpeed engine; with document masks, slices or parts of windows, the proof that they
    hold.

    Raises DocumentMaskError, TensorParallelError, SequenceParallelError when they do not.
    """
    if plan.topology.sequence > 1:
        sequence_parallel.install()
    elif plan.config.data.document_mask:
        document_mask.install()
    worker = _build(plan, device)
    if plan.topology.sequence > 1:
        sequence_parallel.probe(worker.window_nll, plan)
    if plan.config.data.document_mask:
        document_probe.check(worker.eval_sum, plan)
    return worker


def _build(plan: RunPlan, device: torch.device) -> ZeroEngine | PipelineEngine:
    """ZeRO and pipeline branch here, once."""
    model = plan.config.model
    skeleton = build.skeleton(plan.hf_config, model.attention)
    shape = build.shape(skeleton, plan.batch.sequence_length)
    if model.compile:
        build.compile_blocks(skeleton)
    weights = build.Weights(model.init_from, skeleton) if model.init_from else None
    filling = {"device": device, "dtype": DTYPES[plan.precision], "seed": plan.config.run.seed, "weights": weights}
    groups = ParallelGroups(plan.topology) if plan.topology.splits_replicas else None
    if plan.topology.tensor > 1:
        tensor_probe.check(plan.hf_config, model.attention, groups.tensor, device)
        if model.activation_checkpointing == "selective":
            keep_products()
    slices = Slices(skeleton, groups.tensor) if plan.topology.tensor > 1 else None
    parts = SequenceParallel(groups.sequence) if plan.topology.sequence > 1 else None
    if plan.topology.pipeline_stages > 1:
        from trainer.model.pipeline import CausalLMPipeline

        costs = partition.weigher(plan, pipeline_loss, DTYPES[plan.precision], device)
        again = model.activation_checkpointing
        fused = plan.whole_logits is None
        module = CausalLMPipeline(
            skeleton, plan.topology, slices, parts, pipeline_loss, fused, activation_checkpointing=again, costs=costs, **filling
        )
        return PipelineEngine(module, shape, plan, groups, parts)
    install_loss = fused_loss.installer(skeleton, plan.whole_logits is None, loss_of_logits(plan))
    module = _whole_model(skeleton, plan.ds_config, filling, groups, slices)
    install_loss()
    recompute.enable(module, model.activation_checkpointing)
    return ZeroEngine(module, shape, plan, groups, parts)


def _whole_model(
    skeleton: nn.Module,
    ds_config: dict[str, Any],
    filling: dict[str, Any],
    groups: ParallelGroups | None,
    slices: Slices | None,
) -> nn.Module:
    """The stock model filled chunk by chunk; under ZeRO-3 each chunk is sharded before the next is filled."""
    sharded = ds_config["zero_optimization"]["stage"] == 3
    options = {"mpu": groups, "data_parallel_group": groups.sharding} if groups else {}
    sharding = None  # one for all chunks: each would make groups of ranks, and remove what the last has put on disks
    for chunk in build.materialise(skeleton, dict(build.chunks(skeleton)), **filling):
        if slices:
            slices.cut(chunk)
        if sharded and sharding is None:
            sharding = deepspeed.zero.Init(module=chunk, config_dict_or_path=ds_config, dtype=filling["dtype"], **options)
            if sharding.param_swapper:
                _mend_prefetch(sharding.param_swapper)
        elif sharded:
            sharding._convert_to_zero_parameters(chunk.parameters())
    skeleton.tie_weights()
    if slices:
        slices.finish()
    return skeleton


def _mend_prefetch(swapper: Any) -> None:
    """Let DeepSpeed's swapper of parameters on disks prefetch none: they take buffers that the next forward pass may lack
    (after an evaluation), and one that is used twice in a row (tied, or a head whose loss is made part by part) fails it."""
    swap_in = swapper.swap_in

    def asked_for(parameters: list[nn.Parameter], async_op: bool = True, swap_in_buffers: Any = None) -> None:
        if not async_op:  # all others wait for what they ask for
            swap_in(parameters, async_op, swap_in_buffers)

    swapper.swap_in = asked_for


def _optimizer(groups: list[dict[str, Any]], section: OptimizerSection, ds_config: dict[str, Any]) -> torch.optim.Optimizer:
    if offload.device(ds_config, "offload_optimizer") == "none":
        wrapped = ds_config["zero_optimization"]["stage"] or any(ds_config.get(kind, {}).get("enabled") for kind in DTYPES)
        return adamw(groups, section) if wrapped else adamw(groups, section, SkippingAdamW)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam(groups, lr=0.0, betas=section.betas, eps=section.eps, adamw_mode=True)


def _forget_dry_step(optimizer: torch.optim.Optimizer) -> None:
    """Undo the step with zero gradients by which DeepSpeed's optimizer without ZeRO (bf16, fp16) allocates its states: it
    would count in Adam's bias correction. At a rate of 0 it changes nothing else."""
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] *= 0


def _plain(value: Any) -> Any:
    """JSON values of a setting; what is none is shown by its type."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return {key: _plain(inner) for key, inner in vars(value).items()} if hasattr(value, "__dict__") else str(type(value))
