"""Folders on the hosts' disks for what ZeRO-3 takes out of memory: `nvme_path` of DeepSpeed's offload_optimizer, offload_param.

DeepSpeed would write under names that any other run there uses, too, and leave all behind. So each rank has a folder of its own
in nvme_path, which it locks while it lives and removes at its end; those of killed ranks are removed by the next start.
"""

from __future__ import annotations

import copy
import errno
import mmap
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from data_prep.shards import locks
from trainer import offload

PREFIX = "moenda-swap-"


class SwapFolderError(ValueError):
    """An nvme_path cannot be used."""


def require_usable(path: Path, dotted: str) -> None:
    """Raise SwapFolderError when a folder cannot be written as DeepSpeed writes: past the page cache (O_DIRECT)."""
    where = f"{dotted} {path}"
    if not path.is_dir():
        raise SwapFolderError(f"{where}: there is no such folder. Mount the disk, or make it (mkdir -p {path}) on every host.")
    try:
        with own_folder(path) as folder, mmap.mmap(-1, mmap.PAGESIZE) as block:  # its address is aligned
            file = os.open(folder / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
            try:
                os.write(file, block)
            finally:
                os.close(file)
    except OSError as error:
        reason = "its file system has no direct I/O (O_DIRECT)" if error.errno == errno.EINVAL else error.strerror
        raise SwapFolderError(f"{where} cannot be used: {reason}. Name a folder on a local disk that you can write.") from None


@contextmanager
def own_folders(ds_config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The configuration with folders of this rank's own for each nvme_path, which are removed at the end."""
    result = copy.deepcopy(ds_config)
    with ExitStack() as folders:
        for key, path in offload.disk_paths(ds_config).items():
            result["zero_optimization"][key]["nvme_path"] = str(folders.enter_context(own_folder(Path(path))))
        yield result


@contextmanager
def own_folder(path: Path) -> Iterator[Path]:
    """A new folder in `path`, locked for the length of a `with` block, then removed."""
    with _locked(path):  # or another rank's clear_stale might find it between its making and its lock
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{socket.gethostname()}-{os.getpid()}-", dir=path))
        lock = _open(folder)
        locks.flock(lock, True, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear_stale(path: Path) -> None:
    """Remove the folders of ranks that live no more."""
    with _locked(path):
        for folder in path.glob(f"{PREFIX}*"):
            try:
                lock = _open(folder)
            except OSError:
                continue  # another user's, or it has just been removed
            try:
                if locks.flock(lock, False, folder):  # without locks nobody knows whether it is at work
                    shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                continue  # at work
            finally:
                os.close(lock)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _open(path)
    try:
        locks.flock(descriptor, True, path)
        yield
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
