"""Where embedding, blocks, norm and head live in each Hugging Face model type, for taking a model apart.

ZeRO runs any causal language model as it is. The pipeline needs to know the parts, and may only run the types whose
forward pass is exactly: embed tokens, add what `positions` says, run the blocks, norm, head.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Anatomy:
    """Dotted names of a causal LM's submodules."""

    token_embedding: str
    blocks: str
    final_norm: str
    head: str
    position_embedding: str | None = None
    """Learned absolute positions, added to the token embedding."""
    embedding_dropout: str | None = None
    """Dropout on the embedded tokens."""
    rotary: str | None = None
    """Module that yields the rotary cosines and sines which every block receives."""


ANATOMIES = {
    "gpt2": Anatomy(
        token_embedding="transformer.wte",
        position_embedding="transformer.wpe",
        embedding_dropout="transformer.drop",
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        head="lm_head",
    ),
    "gpt_neox": Anatomy(
        token_embedding="gpt_neox.embed_in",
        embedding_dropout="gpt_neox.emb_dropout",
        rotary="gpt_neox.rotary_emb",
        blocks="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        head="lm_head",
    ),
    "llama": Anatomy(
        token_embedding="model.embed_tokens",
        rotary="model.rotary_emb",
        blocks="model.layers",
        final_norm="model.norm",
        head="lm_head",
    ),
}


class UnsupportedModelError(ValueError):
    """This model type cannot be split the way the run file asks."""


def anatomy(model_type: str) -> Anatomy:
    """The parts of a model type. Raises UnsupportedModelError for one that the pipeline cannot take apart."""
    if model_type not in ANATOMIES:
        raise UnsupportedModelError(
            f'model_type "{model_type}" cannot run in pipeline stages yet; these can: {", ".join(sorted(ANATOMIES))}. '
            f"Set parallel.pipeline_stages to 1 and parallel.zero_stage to 1, 2 or 3: ZeRO runs any causal LM."
        )
    return ANATOMIES[model_type]
