"""Time of forward and backward with document masks, beside no masks and beside Hugging Face's own quadratic mask.

    python bench/document_mask_speed.py [--lengths 2048 4096] [--documents 4 32] [--rounds 5]

A Llama of 4 layers and width 256, "sdpa", fp32, micro-batches of two windows, one thread; on a GPU 8 layers of width 1024,
bf16, micro-batches of 16,384 tokens. Each round has other documents; the three take turns. Medians, the first round left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from trainer.model import document_mask

SIZES = {
    "cpu": {
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "cuda": {"num_hidden_layers": 8, "hidden_size": 1024, "intermediate_size": 2048, "num_attention_heads": 16},
}


def positions(length: int, documents: int, seed: int) -> torch.Tensor:
    """int64 [1, length] of documents cut at random places."""
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, length), documents - 1, replace=False))
    return torch.cat([torch.arange(size) for size in np.diff([0, *cuts, length]).tolist()])[None]


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(model: torch.nn.Module, tokens: torch.Tensor, places: torch.Tensor, way: str) -> float:
    """Of one forward and backward."""
    synchronize()
    start = time.perf_counter()
    if way == "document masks":
        with document_mask.DocumentMasks(model)(places, tokens.device) as options:
            model(tokens, use_cache=False, **options).logits.mean().backward()
    else:  # given positions that restart, Hugging Face builds a mask of [batch, 1, length, length]
        options = {"position_ids": places.to(tokens.device)} if way == "quadratic mask" else {}
        model(tokens, use_cache=False, **options).logits.mean().backward()
    synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print a line for each length and number of documents."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--documents", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    document_mask.install()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = LlamaConfig(vocab_size=512, max_position_embeddings=max(options.lengths), **SIZES[device.type])
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    for length, documents in ((length, documents) for length in options.lengths for documents in options.documents):
        times: dict[str, list[float]] = {"no masks": [], "quadratic mask": [], "document masks": []}
        rows = 2 if device.type == "cpu" else max(1, 2**14 // length)
        for index in range(options.rounds + 1):
            places = torch.cat([positions(length, documents, index * rows + row) for row in range(rows)])
            tokens = torch.randint(0, config.vocab_size, places.shape, device=device)
            for way, taken in times.items():
                taken.append(seconds(model, tokens, places, way))
        medians = {way: statistics.median(taken[1:]) for way, taken in times.items()}
        shown = ", ".join(f"{way} {value:.3f} s" for way, value in medians.items())
        print(f"{length} tokens, {documents} documents: {shown}", flush=True)


if __name__ == "__main__":
    main()
