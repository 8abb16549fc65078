"""A Hugging Face causal LM as a DeepSpeed PipelineModule: the stock modules, taken apart and put in a row.

Every rank holds the skeleton on the meta device; a stage fills only its own layers. Layers know the Hugging Face names of
what they wrap, so that a pipeline checkpoint can be read back into the stock model.

With document masks, positions travel with the hidden states from layer to layer: (hidden states, positions), until the norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from deepspeed.pipe import PipelineModule, TiedLayerSpec
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask

from trainer.model import document_mask
from trainer.model.build import Weights, materialise
from trainer.model.families import Anatomy, anatomy

EMBEDDING_KEY = "token_embedding"
"""DeepSpeed's key of the weight that first and last stage share in a tied model."""


Carried = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""What goes from layer to layer: float [batch, sequence, width], or that with positions, int64 [batch, sequence]."""


def _unpack(carried: Carried) -> tuple[torch.Tensor, torch.Tensor | None]:
    return carried if isinstance(carried, tuple) else (carried, None)


def _pack(hidden_states: torch.Tensor, positions: torch.Tensor | None) -> Carried:
    return hidden_states if positions is None else (hidden_states, positions)


class Layer(nn.Module):
    """One pipeline layer around stock modules; `parts` maps its attribute names to Hugging Face names."""

    def __init__(self, model: PreTrainedModel, parts: dict[str, str]):
        super().__init__()
        self.parts = parts
        for attribute, name in parts.items():
            setattr(self, attribute, model.get_submodule(name))

    def hugging_face_name(self, parameter: str) -> str:
        """Name in the stock model of one of this layer's parameters."""
        attribute, _, rest = parameter.partition(".")
        return f"{self.parts[attribute]}.{rest}"


class TokenEmbedding(Layer):
    """Token ids int64 [batch, sequence] -> hidden states [batch, sequence, width]."""

    def forward(self, carried: Carried) -> Carried:
        input_ids, positions = _unpack(carried)
        return _pack(self.embedding(input_ids), positions)


class Positions(Layer):
    """Adds learned positions and dropout to the embedded tokens, where the model has them."""

    def forward(self, carried: Carried) -> Carried:
        hidden_states, positions = _unpack(carried)
        if "positions" in self.parts:
            position_ids = torch.arange(hidden_states.size(1), device=hidden_states.device) if positions is None else positions
            hidden_states = hidden_states + self.positions(position_ids)
        return _pack(self.dropout(hidden_states) if "dropout" in self.parts else hidden_states, positions)


class Block(Layer):
    """One transformer block with its causal mask and, for rotary models, its position embeddings."""

    def __init__(self, model: PreTrainedModel, parts: dict[str, str]):
        super().__init__(model, parts)
        self.config, self.maskless = model.config, document_mask.maskless(model)

    def forward(self, carried: Carried) -> Carried:
        hidden_states, positions = _unpack(carried)
        if positions is None:
            position_ids = torch.arange(hidden_states.size(1), device=hidden_states.device).unsqueeze(0)
            return self._run(hidden_states, position_ids)
        # here and not around the step: other micro-batches pass before this one's activations are recomputed
        with document_mask.within(document_mask.documents_of(positions, self.maskless)):
            return self._run(hidden_states, positions), positions

    def _run(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        inputs = {"position_ids": position_ids, "use_cache": False}
        inputs["attention_mask"] = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=None,
            past_key_values=None,  # nor positions, in which documents would be looked for once more
        )
        if "rotary" in self.parts:
            inputs["position_embeddings"] = self.rotary(hidden_states, position_ids=position_ids)
        return self.block(hidden_states, **inputs)


class FinalNorm(Layer):
    """The norm before the head."""

    def forward(self, carried: Carried) -> torch.Tensor:
        hidden_states, _ = _unpack(carried)
        return self.norm(hidden_states)


class Head(Layer):
    """Hidden states -> logits [batch, sequence, vocabulary]."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.head(hidden_states)


def _tied_head(embedding: TokenEmbedding, hidden_states: torch.Tensor) -> torch.Tensor:
    return functional.linear(hidden_states, embedding.embedding.weight)


def layers(model: PreTrainedModel) -> list[Layer | TiedLayerSpec]:
    """The model as a row of layers; a tied head is a second use of the embedding layer."""
    parts: Anatomy = anatomy(model.config.model_type)
    tied = f"{parts.head}.weight" in model.all_tied_weights_keys
    embedding = {"embedding": parts.token_embedding}
    attribute = "embedding.weight"
    row: list[Layer | TiedLayerSpec] = [
        TiedLayerSpec(EMBEDDING_KEY, TokenEmbedding, model, embedding, tied_weight_attr=attribute)
        if tied
        else TokenEmbedding(model, embedding)
    ]
    positions = {"positions": parts.position_embedding, "dropout": parts.embedding_dropout}
    if any(positions.values()):
        row.append(Positions(model, {key: name for key, name in positions.items() if name}))
    rotary = {"rotary": parts.rotary} if parts.rotary else {}
    for index in range(len(model.get_submodule(parts.blocks))):
        row.append(Block(model, {"block": f"{parts.blocks}.{index}", **rotary}))
    row.append(FinalNorm(model, {"norm": parts.final_norm}))
    row.append(
        TiedLayerSpec(EMBEDDING_KEY, TokenEmbedding, model, embedding, tied_weight_attr=attribute, forward_fn=_tied_head)
        if tied
        else Head(model, {"head": parts.head})
    )
    return row


def local_layers(row: list[Layer | TiedLayerSpec]) -> Iterator[tuple[int, Layer]]:
    """(index, layer) of every entry that owns parameters of its own, a shared embedding once."""
    seen = set()
    for index, entry in enumerate(row):
        if isinstance(entry, TiedLayerSpec):
            if entry.key not in seen:
                seen.add(entry.key)
                yield index, entry.build()
        else:
            yield index, entry


class CausalLMPipeline(PipelineModule):
    """PipelineModule whose stages fill their own part of a meta-device skeleton."""

    def __init__(
        self,
        skeleton: PreTrainedModel,
        stages: int,
        loss: Callable[[torch.Tensor, tuple[torch.Tensor, ...]], torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
        weights: Weights | None,
        checkpoint_activations: bool,
    ):
        self._skeleton = [skeleton]  # in a list: not to be registered as a submodule
        self._fill = lambda names: list(materialise(skeleton, names, device, dtype, seed, weights))
        super().__init__(
            layers=layers(skeleton),
            num_stages=stages,
            loss_fn=loss,
            partition_method="parameters",
            activation_checkpoint_interval=1 if checkpoint_activations else 0,
            checkpointable_layers=["Block"],
        )

    def _build(self) -> None:
        """Choose this stage's layers (DeepSpeed), then give them memory, before they are moved to the device."""
        super()._build()
        local = [m for m in self.modules() if isinstance(m, Layer)]
        self._fill({name: m.get_submodule(attribute) for m in local for attribute, name in m.parts.items()})
        for parameter in self.parameters():
            parameter.ds_pipe_replicated = False  # as DeepSpeed marked the parameters that these replace
