"""Locks that killed builds of DeepSpeed's compiled operations leave behind: every later start would wait for them, for ever
and without a word."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepspeed.ops.op_builder import AsyncIOBuilder

from trainer import offload

QUIET_S = 600
"""On a disk that other machines share a build may be theirs; one that has written nothing for so long is dead."""
_SHARED = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "9p", "afs", "fuse", "pvfs", "wekafs")


class CompiledOpError(ValueError):
    """An operation that this run needs cannot be compiled."""


class BuildLockError(ValueError):
    """An operation that this run needs would wait for a build that nobody does."""


def check(ds_config: dict[str, Any]) -> None:
    """Say which builds are waited for. Raises BuildLockError when an operation that `ds_config` needs has a stale lock,
    CompiledOpError when it cannot be compiled."""
    needed = set(needed_ops(ds_config))
    for lock in locks():
        name, holder = lock.parent.name, _holder(lock)
        if holder is not None:
            print(f"moenda: process {holder} compiles DeepSpeed's {name} ({lock.parent}); who needs it waits.", flush=True)
        elif not _is_stale(lock):
            print(f"moenda: {lock}: another machine seems to compile {name}. If none does: rm {lock}", flush=True)
        elif name in needed:
            raise BuildLockError(
                f"{lock} was left by a build that was killed; DeepSpeed would wait for it for ever. No process holds it. "
                f"Remove it and start again (the build goes on where it was):\n  rm {lock}"
            )
        else:
            print(f"moenda: {lock} is stale: whatever needs {name} waits for ever. Remove it: rm {lock}", flush=True)
    if "async_io" in needed:
        _require_async_io()


def _require_async_io() -> None:
    """Raise CompiledOpError when DeepSpeed's reader and writer of disks cannot be compiled here, as it is at its first use."""
    builder, keys = AsyncIOBuilder(), "deepspeed.zero_optimization with the device nvme"
    way_out = 'Or set the device to "cpu".'
    if not builder.is_compatible(verbose=False):
        raise CompiledOpError(
            f"{keys} needs a C++ compiler and libaio with its headers, which are not found: apt-get install g++ libaio-dev "
            f"(yum: libaio-devel), or say in CFLAGS and LDFLAGS where they are. {way_out}"
        )
    try:
        builder.load(verbose=False)
    except (RuntimeError, ImportError, subprocess.CalledProcessError) as error:
        raise CompiledOpError(f"{keys}: DeepSpeed's async_io cannot be compiled: {error}. Mend that. {way_out}") from None


def needed_ops(ds_config: dict[str, Any]) -> Iterator[str]:
    """Operations that the configuration makes DeepSpeed compile."""
    if offload.device(ds_config, "offload_optimizer") != "none":
        yield "cpu_adam"
    if offload.disk_paths(ds_config):
        yield from ("pin_memory", "async_io")


def locks() -> list[Path]:
    """Lock files in torch's folders of compiled extensions, for any Python and device."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    return sorted({*root.glob("*/lock"), *root.glob("*/*/lock")})


def _holder(lock: Path) -> int | None:
    """The process on this machine that has the lock open, as a build has to its end; None when there is none."""
    wanted = str(lock.resolve())
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = list((process / "fd").iterdir())
        except OSError:
            continue  # it has ended, or is another user's, who could not build here
        if any(_target(file) == wanted for file in files):
            return int(process.name)
    return None


def _target(file: Path) -> str | None:
    try:
        return os.readlink(file)
    except OSError:
        return None  # closed meanwhile


def _is_stale(lock: Path) -> bool:
    """Whether nobody on any machine can be at work, given that nobody on this one is."""
    if not _on_shared_disk(lock):
        return True
    newest = max((file.stat().st_mtime for file in lock.parent.iterdir()), default=0.0)
    return time.time() - newest > QUIET_S


def _on_shared_disk(path: Path) -> bool:
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        mounts.append((before.split()[4], after.split()[0]))
    point = max((mount for mount in mounts if path.resolve().is_relative_to(mount[0])), key=lambda mount: len(mount[0]))
    return point[1].startswith(_SHARED)
