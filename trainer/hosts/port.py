"""What holds a TCP port of this host, from Linux' /proc: https://docs.kernel.org/networking/proc_net_tcp.html."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_LISTEN = "0A"
_SHOWN = 200
"""Characters of a command line."""


def holders(port: int) -> list[str]:
    """The processes that listen there, as "process 123 (command line)"; none where they may not be seen, as another user's."""
    wanted = {f"socket:[{inode}]" for inode in _listening(port)}
    found = []
    for folder in sorted(PROC.glob("[0-9]*"), key=lambda path: int(path.name)) if wanted else []:
        try:
            if any(str(link.readlink()) in wanted for link in (folder / "fd").iterdir()):
                command = " ".join((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split())
                found.append(f"process {folder.name} ({command[:_SHOWN] or 'command unknown'})")
        except OSError:  # it has ended, or is another user's
            continue
    return found


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen there, over IPv4 or IPv6."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
