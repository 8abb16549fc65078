"""Model FLOPs and MFU.

    FLOPs per token = 6 N + 12 layers x attention_width x sequence_length
    MFU = tokens/s x FLOPs per token / (devices x peak FLOP/s)

N: parameters in matrix products: all but the embedding and position tables, the output head counted also when tied.
As PaLM, appendix B (arXiv 2204.02311): forward and backward, attention without the saving of the causal mask, and without
what activation checkpointing computes again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PEAK_FLOPS = {
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835.5e12,
    "H100": 989.4e12,
    "GH200": 989.4e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "H800": 989.4e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A40": 149.7e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "MI300X": 1307.4e12,
    "MI250X": 383e12,
}
"""Dense bf16 peak (V100: fp16) by a part of the device's name, the first that matches; from the makers' data sheets."""


@dataclass(frozen=True)
class ModelShape:
    """What decides a model's FLOPs."""

    parameters_in_matmuls: int
    num_layers: int
    attention_width: int
    """Heads times head dimension."""
    sequence_length: int


def training_flops_per_token(shape: ModelShape) -> float:
    """FLOPs of forward and backward for one token."""
    attention = 12 * shape.num_layers * shape.attention_width * shape.sequence_length
    return 6 * shape.parameters_in_matmuls + attention


def mfu(tokens_per_second: float, flops_per_token: float, devices: int, peak: float) -> float:
    """Model FLOPs utilisation, 0 to 1. `peak`: FLOP/s of one device."""
    return tokens_per_second * flops_per_token / (devices * peak)


def peak_flops(device_name: str) -> float | None:
    """Peak FLOP/s by name, or None when unknown: then no MFU is reported rather than a wrong one."""
    for part, peak in PEAK_FLOPS.items():
        if re.search(rf"\b{part}\b", device_name, re.IGNORECASE):  # an L40 is no L4
            return peak
    return None
