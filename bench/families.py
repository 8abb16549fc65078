"""Which architectures run in pipeline stages exactly as in Hugging Face's own forward pass, and why the others don't.

    python bench/families.py [KIND ...]

Every causal LM in transformers whose configuration declares a plan (`base_model_pp_plan`), and those in the trainer's own
table: a small model of its default configuration, with experts' auxiliary loss where it has one, as a row of layers in one
process, against the stock model: logits and gradients.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from trainer.model import layers, pipeline_probe

UNSET = {
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 8},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 8, "head_dim": 128},
}
"""Values without which a default configuration is none of a model."""


def architectures() -> list[str]:
    """Causal language models that transformers knows."""
    causal = [kind for kind in CONFIG_MAPPING if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    return sorted(causal)


def compared(kind: str) -> str:
    """What comes of it."""
    try:
        config = CONFIG_MAPPING[kind](**UNSET.get(kind, {}))
    except Exception as error:
        return f"no default configuration: {' '.join(str(error).split())[:160]}"
    if hasattr(config, "output_router_logits"):
        config.output_router_logits = True
    attention = "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa else "eager"
    try:
        model = pipeline_probe.small_model(config, attention)
    except Exception as error:
        return f"no small model: {type(error).__name__}: {str(error)[:160]}"
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(pipeline_probe.SHAPE, dtype=torch.int64), use_cache=False)
    except Exception as error:
        return f"the stock model itself fails: {type(error).__name__}: {str(error)[:160]}"
    try:
        logits, gradients = pipeline_probe.compare(model, layers.row(model))
    except Exception as error:
        return f"refused: {type(error).__name__}: {str(error)[:160]}"
    exact = max(logits, gradients) <= pipeline_probe.TOLERANCE
    auxiliary = ", with auxiliary loss" if layers.Stock(model).experts else ""
    return f"{'equal' if exact else 'refused'}: logits {logits:.1e}, gradients {gradients:.1e} ({attention}{auxiliary})"


def main() -> int:
    """Print a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    kinds, equal = parser.parse_args().kinds or architectures(), 0
    for kind in kinds:
        begin = time.perf_counter()
        outcome = " ".join(compared(kind).split())
        equal += outcome.startswith("equal")
        print(f"{kind:<22} {time.perf_counter() - begin:5.1f} s  {outcome}", flush=True)
    print(f"{equal} of {len(kinds)} equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
