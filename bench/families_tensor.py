"""Which architectures run in slices of matrices as Hugging Face's own model does, and why the others don't.

    deepspeed --num_accelerators 2 bench/families_tensor.py [KIND ...]

Every causal LM in transformers with a plan for slices (`base_model_tp_plan`): what the check before a launch says of a small
model of its default configuration, and, where it lets it pass, how far the ranks' slices are from the whole model: the proof
that every run makes before its first step.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import distributed as dist
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from bench.families import UNSET, architectures
from trainer.devices import process_group
from trainer.hosts.launch_env import current_process
from trainer.model import build, tensor_parallel, tensor_probe


def compared(kind: str, device: torch.device) -> str:
    """What comes of it, on every rank alike."""
    size = dist.get_world_size()
    try:
        config = CONFIG_MAPPING[kind](**UNSET.get(kind, {}))
        attention = "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa else "eager"
        small = tensor_probe.small_config(config, size, attention)
        model = build.skeleton(small, attention)
    except Exception as error:
        return f"no small model: {type(error).__name__}: {error}"
    try:
        tensor_parallel.check(model, size)
    except tensor_parallel.TensorParallelError as error:
        return f"refused before the launch: {str(error).partition(' model: ')[2].partition('. Set')[0]}"
    try:
        apart = tensor_probe.compare(small, attention, dist.group.WORLD, device)
    except Exception as error:
        return f"refused by the proof: {type(error).__name__}: {error}"
    return f"{'equal' if apart <= tensor_probe.TOLERANCE else 'refused by the proof'}: {apart:.1e} ({attention})"


def main() -> int:
    """Print a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--local_rank", type=int)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    kinds = parser.parse_args().kinds
    kinds = kinds or [kind for kind in architectures() if getattr(CONFIG_MAPPING[kind], "base_model_tp_plan", None)]
    process, equal = current_process(), 0
    with process_group(process) as device:
        for kind in kinds:
            outcome = " ".join(compared(kind, device).split())
            equal += outcome.startswith("equal")
            if process.is_first:
                print(f"{kind:<22} {outcome[:200]}", flush=True)
    if process.is_first:
        print(f"{equal} of {len(kinds)} equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
