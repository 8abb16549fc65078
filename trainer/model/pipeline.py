"""A Hugging Face causal LM as a DeepSpeed PipelineModule: the row of stock layers, divided over stages.

Every rank holds the skeleton on the meta device; a stage fills only its own layers. Layers know the Hugging Face names of
what they wrap, so that a pipeline checkpoint can be read back into the stock model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from deepspeed.pipe import PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeDataParallelTopology, PipeModelDataParallelTopology, ProcessTopology
from transformers import PreTrainedModel

from trainer.model import build, layers, partition, recompute, wire
from trainer.model.build import Weights
from trainer.model.layers import Block, Head, Inputs, Layer, Output, Stock, TokenEmbedding
from trainer.model.sequence_parallel import SequenceParallel
from trainer.model.tensor_parallel import Slices
from trainer.model.wire import Wire
from trainer.parallel.topology import Topology

EMBEDDING_KEY = "token_embedding"
"""DeepSpeed's key of the weight that first and last stage share in a tied model."""


def specifications(row: list[Layer]) -> list[Layer | TiedLayerSpec]:
    """The row as DeepSpeed takes it; a tied head is a second use of the embedding layer."""
    embedding, *inner, head = row
    assert isinstance(embedding, TokenEmbedding) and isinstance(head, Head)
    if not embedding.stock.tied:
        return row
    shared = (EMBEDDING_KEY, TokenEmbedding, embedding.stock, embedding.parts)
    attribute = "embedding.weight"
    return [
        TiedLayerSpec(*shared, tied_weight_attr=attribute),
        *inner,
        TiedLayerSpec(*shared, tied_weight_attr=attribute, forward_fn=head.tied),
    ]


def saved_layers(row: list[Layer]) -> Iterator[tuple[int, Layer]]:
    """(index in DeepSpeed's checkpoints, layer) of every layer that owns parameters."""
    for index, layer in enumerate(row):
        if any(True for _ in layer.parameters()):
            yield index, layer


def grid_of(topology: Topology) -> ProcessTopology:
    """The ranks as DeepSpeed's pipeline counts them: ranks with parts of a window as replicas. Without slices it has no axis
    for them, which would be in files' names."""
    stages, replicas, slices = topology.pipeline_stages, topology.data_parallel_size * topology.sequence, topology.tensor
    if slices == 1:
        return PipeDataParallelTopology(num_pp=stages, num_dp=replicas)
    return PipeModelDataParallelTopology(num_pp=stages, num_mp=slices, num_dp=replicas)


class CausalLMPipeline(PipelineModule):
    """PipelineModule whose stages fill their own part of a meta-device skeleton, and keep a slice of it where the topology has
    several."""

    def __init__(
        self,
        skeleton: PreTrainedModel,
        topology: Topology,
        slices: Slices | None,
        sequence: SequenceParallel | None,
        loss: Callable[[Output, tuple[torch.Tensor, ...]], torch.Tensor],
        fused_loss: bool,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
        weights: Weights | None,
        activation_checkpointing: recompute.Setting,
        costs: Callable[[list[Layer]], list[float]],
    ):
        """`costs` weighs each layer; the stages' largest sum is as small as can be."""
        row = layers.row(skeleton)
        row[-1].fused, row[-1].stock.sequence = fused_loss, sequence
        for block in row:
            if isinstance(block, Block):
                block.recompute = recompute.of_block(activation_checkpointing, block.index)
        self._plain: dict[str, Any] = {"skeleton": skeleton, "row": row, "costs": costs}  # not to be registered as submodules
        self._slices = slices
        self._filled = lambda names: build.materialise(skeleton, names, device, dtype, seed, weights)
        self._receiver = wire.Receiver()
        build.place_buffers(skeleton, device)  # those outside of the layers too: stock code between the blocks may use them
        super().__init__(layers=specifications(row), topology=grid_of(topology), loss_fn=loss, partition_method="costs")

    @property
    def stock(self) -> Stock:
        """The stock forward passes that all layers share."""
        return self._plain["row"][0].stock

    def _partition_layers(self, method: str) -> None:
        """Which layers each stage has, in place of DeepSpeed's own methods."""
        self.parts = partition.balanced(self._plain["costs"](self._plain["row"]), self.num_stages)
        self._set_bounds(start=self.parts[self.stage_id], stop=self.parts[self.stage_id + 1])

    def _build(self) -> None:
        """Choose this stage's layers (DeepSpeed), then give them memory, before they are moved to the device."""
        super()._build()
        mine = [module for module in self.modules() if isinstance(module, Layer)]
        held = tuple(f"{name}." for layer in mine for name in layer.parts.values())
        chunks = build.chunks(self._plain["skeleton"])
        for chunk in self._filled({name: module for name, module in chunks if f"{name}.".startswith(held)}):
            if self._slices:
                self._slices.cut(chunk)
        if self._slices:
            for layer in mine:
                layer.take_parts()
            self._slices.finish()
        for parameter in self.parameters():
            parameter.ds_pipe_replicated = False  # as DeepSpeed marked the parameters that these replace

    def ckpt_layer_path_list(self, ckpt_dir: str, local_layer_idx: int) -> list[str]:
        """A layer's files, one for each slice: DeepSpeed reads this rank's, and would count those that this disk holds."""
        return [self.ckpt_layer_path(ckpt_dir, local_layer_idx)] * self._grid.get_slice_parallel_world_size()

    def forward(self, inputs: Inputs | Wire) -> Output | Wire:
        """Run this stage's layers: from what the stage before sent, or the batch, to what the next one gets, or the output."""
        output = super().forward(inputs if self.stage_id == 0 else self._receiver.state(inputs))
        return output if self.stage_id == self.num_stages - 1 else wire.sent(output)
