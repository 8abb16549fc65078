"""This machine's devices and the process group that joins them: what DeepSpeed's accelerator and torch.distributed need."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import distributed as dist

from trainer.ds_config import QUANTIZED
from trainer.hosts.launch_env import Process, find_first_process

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MALLOC = {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**30}
"""mallopt(3) on CPUs, bytes: larger blocks are mapped and given back each for itself (at most this, by the default too); of the
heap's free end, this much is kept."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GPU_KEYS = (*QUANTIZED, "super_offload")
"""Of zero_optimization, or of offload_optimizer in it: what DeepSpeed's kernels for GPUs do."""


class DeviceError(ValueError):
    """This machine's devices cannot run what is asked."""


def check_device(precision: str, ds_config: dict[str, Any]) -> None:
    """Raise DeviceError when the devices of this machine cannot compute in "fp16" or "bf16", or are CPUs and DeepSpeed's
    configuration is for GPUs alone."""
    accelerator = get_accelerator()
    zero = ds_config["zero_optimization"]
    wanted = [key for key in GPU_KEYS if zero.get(key) or (zero.get("offload_optimizer") or {}).get(key)]
    if wanted and accelerator.device_name() == "cpu":
        raise DeviceError(
            f"deepspeed.zero_optimization has {wanted[0]}, which needs a GPU; there are CPUs here. Remove the key."
        )
    supported = {"fp16": accelerator.is_fp16_supported, "bf16": accelerator.is_bf16_supported}
    if precision in supported and not supported[precision]():
        others = [name for name, test in supported.items() if test()] + ["fp32"]
        raise DeviceError(
            f"deepspeed.{precision}: {accelerator.device_name()} devices here cannot train in {precision}. They can in "
            f"{' or '.join(others)}: enable that key, or neither for fp32."
        )


def init_distributed(process: Process) -> torch.device:
    """Join the job's process group and choose this process's device."""
    # DeepSpeed's to mend; a line per collective and rank would bury the progress lines
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    find_first_process(process)
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        # DeepSpeed would compile its shared-memory collective, which only inference uses: a minute at the first start,
        # and for ever when a killed build has left its lock file behind.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        _keep_freed_memory()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // process.local_world_size))
    else:
        accelerator.set_device(process.local_rank)
    deepspeed.init_distributed(dist_backend=accelerator.communication_backend_name(), auto_mpi_discovery=False)
    return torch.device(accelerator.current_device_name())


def _keep_freed_memory() -> None:
    """Let glibc's malloc keep what tensors free for the next ones, and the peak of memory stay. By its defaults it gives pages
    back in every step, which the system then fills with zeros again."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and not any(name.startswith("MALLOC_") for name in os.environ):
        for parameter, size in MALLOC.items():
            libc.mallopt(parameter, size)


def device_type() -> str:
    """Kind of this machine's devices: "cpu", "cuda", ..."""
    return get_accelerator().device_name()


def device_name(device: torch.device) -> str:
    """The accelerator's marketing name, or "cpu"."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


@contextmanager
def process_group(process: Process) -> Iterator[torch.device]:
    """The job's process group for the length of a `with` block; yields this process's device."""
    device = init_distributed(process)
    try:
        yield device
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
