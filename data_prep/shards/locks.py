"""Locks between processes and hosts: flock where the file system has it, else a file that one process alone can make.

Lustre mounted without -o flock, some FUSE and NFS mounts have no flock: it fails with ENOSYS, ENOLCK or EOPNOTSUPP. There a
lock LOCK stands as LOCK.held beside it, with the process that holds it. One that a killed process of this host left is taken
over; of other hosts nothing can be known, so that the message says which file to remove.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import time
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

UNSUPPORTED = frozenset((errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP))
HELD = ".held"
"""Ending of the files that stand for locks."""
LONGEST_WAIT = 0.05
"""Seconds between two looks at a lock that is waited for."""
TOLD_AFTER = 60.0
"""Seconds after which a process says what it waits for."""
_warned: set[str] = set()


class InUse(Exception):
    """Another process holds the lock; the text says which, and what to do where it may be gone."""


class Lock:
    """A lock that is held until `close`, the end of a `with` block, or the end of the process, however it ends."""

    def __init__(self, file: IO[str], held: Path | None):
        self._file = file
        self._release = weakref.finalize(self, _remove, held, os.getpid()) if held else None

    def close(self) -> None:
        """Let go."""
        if self._release:
            self._release()
        self._file.close()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(path: Path, owner: str = "", wait: bool = False) -> Lock:
    """Hold the lock at `path`, a file that is made where there is none. Unless it is waited for, which is for short times, the
    file says who holds it: this process, and `owner`.

    Raises InUse when another process has it and `wait` is false, and OSError when the file cannot be written.
    """
    says = f"process {os.getpid()} on {socket.gethostname()}" + (f", {owner}" if owner else "")
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (the lock keeps it)
    try:
        held = None if flock(file.fileno(), wait, path) else _make(Path(f"{path}{HELD}"), says, wait)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise InUse(f"{holder}. Wait for it") from None
    except BaseException:
        file.close()
        raise
    if not wait:
        file.truncate(0)
        file.write(says)
        file.flush()
        os.fsync(file.fileno())  # hosts that share the disk read it
    return Lock(file, held)


def flock(descriptor: int, wait: bool, path: Path) -> bool:
    """Lock an open file or folder. False where its file system has no locks, which is told once for each.

    Raises BlockingIOError when another process has the lock and `wait` is false.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _warn(path, error)
        return False
    return True


def file_system(path: Path) -> str:
    """The kind of file system that a path lies on and where that is mounted, as "lustre at /scratch"."""
    place, found = f"{os.path.realpath(path)}/", ("unknown", "/")
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
            _, mount, kind, *_ = line.split(" ")
            mount = mount.replace("\\040", " ")
            if place.startswith(f"{mount.rstrip('/')}/") and len(mount) >= len(found[1]):
                found = (kind, mount)
    return f"{found[0]} at {found[1]}"


def _make(held: Path, says: str, wait: bool) -> Path:
    """Make the file that stands for the lock. Raises InUse when another process made it, lives, and is not waited for."""
    pause, told, since = 0.001, False, time.monotonic()
    while True:
        try:
            descriptor = os.open(held, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            pass
        else:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{says}\n{os.getpid()} {_where()}")
            return held
        holder = _read(held)
        if _is_stale(holder):
            _take_away(held, holder)
            continue
        advice = f"{holder.partition(chr(10))[0] or 'another process'}. Wait for it; when that process is gone, remove {held}"
        if not wait:
            raise InUse(advice)
        if not told and time.monotonic() - since > TOLD_AFTER:
            _tell(f"waiting for a lock that is held by {advice}.")
            told = True
        time.sleep(pause)
        pause = min(LONGEST_WAIT, 2 * pause)


def _read(held: Path) -> str:
    with suppress(OSError):
        return held.read_text(encoding="utf-8").strip()
    return ""


def _is_stale(holder: str) -> bool:
    """Whether a holder's process is known to be gone: it was one of those that this process can see."""
    pid, _, where = holder.rpartition("\n")[2].partition(" ")
    if where != _where() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        pass
    return False


@cache
def _where() -> str:
    """The boot and the process namespace (each container has one) within which a process id means one process."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown {os.getpid()}"


def _take_away(held: Path, holder: str) -> None:
    """Remove what a dead process left, and nothing that another one has made meanwhile in its place."""
    aside = held.with_name(f"{held.name}.{socket.gethostname()}-{os.getpid()}-{time.monotonic_ns()}")
    with suppress(FileNotFoundError):
        os.rename(held, aside)
        if _read(aside) != holder:
            with suppress(FileExistsError):
                os.link(aside, held)
        aside.unlink()


def _remove(held: Path, pid: int) -> None:
    if os.getpid() == pid:  # a forked child does not hold it
        held.unlink(missing_ok=True)


def _warn(path: Path, error: OSError) -> None:
    where = file_system(path)
    if where not in _warned:
        _warned.add(where)
        _tell(
            f"the lock {path} cannot be taken: its file system, {where}, has no flock ({error.strerror}). Files named *{HELD} "
            f"stand for locks there; what a killed process of another host leaves has to be removed by hand. Better mount it "
            f"with locks (Lustre: -o flock), or use another folder."
        )


def _tell(message: str) -> None:
    print(f"moenda: {message}", file=sys.stderr, flush=True)
