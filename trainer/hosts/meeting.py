"""Where the ranks of a job meet before they form a process group: what one of them cannot do, all of them hear.

A process group is no place for that: its members wait half an hour for one that has ended with a message on another host. The
meeting is a torch TCPStore on the job's own port, which the process group uses afterwards. Rank 0 collects what every rank
says, decides, and tells all; so it can also name the ranks that never came.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from torch.distributed import DistBackendError, DistError, DistNetworkError, TCPStore

from trainer.hosts.launch_env import Process, connects, find_first_process, named_ranks, places
from trainer.hosts.port import holders

PATIENCE_S = float(os.environ.get("MOENDA_MEETING_S", "600"))
"""How long ranks wait for the others: imports and preflight on a slow shared disk take minutes."""
_REMIND_S, _GRACE_S = 30.0, 3.0
_FAREWELL_S = 15.0
"""How long a job that cannot start stays for ranks that are still importing, so that they hear why."""


class MeetingError(ValueError):
    """Some rank cannot go on, so none can; rank 0 says why."""


class UnreachableError(MeetingError):
    """Rank 0 could not be asked, so each host has to speak for itself."""


class Meeting:
    """The ranks' conversation; with one process it is silent."""

    def __init__(self, process: Process, patience: float = PATIENCE_S):
        """Say that this rank has come. Raises LaunchError, or UnreachableError when rank 0 does not answer."""
        self.process, self._patience, self._round, self._store = process, patience, 0, None
        # torchrun's store outlives the processes that it starts again
        self._prefix = f"moenda/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        find_first_process(process)
        if process.world_size > 1:
            self._store = self._open()
            self._store.set(f"{self._prefix}/came/{process.rank}", socket.gethostname())

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all ranks enter. A ValueError in it on some is a MeetingError after it on all, with their texts."""
        try:
            yield
        except ValueError as error:
            if self._store is None:
                raise
            self._converse(str(error), _errors, failed=True)
        except Exception as error:
            if self._store is not None and not self.process.is_first:  # of rank 0 the others notice that its store is gone
                self._round += 1
                self._say(f"{type(error).__name__}: {_short(error)} (its own output says where)", failed=True)
                self._store.add(self._key("read"), 1)
            raise
        else:
            self._converse(None, _errors)

    def decide(self, mine: Any, judge: Callable[[list[Any], list[str]], Any]) -> Any:
        """What `judge` makes of the JSON values and the hosts of all ranks, in their order; it runs on rank 0 alone. A
        ValueError of its own is a MeetingError on all ranks."""

        def of_all(values: list[Any], hosts: list[str], silence: str) -> Any:
            if silence:
                raise MeetingError(silence)
            return judge(values, hosts)

        return self._converse(mine, of_all)

    def _converse(self, mine: Any, conclude: Callable[[list[Any], list[str], str], Any], failed: bool = False) -> Any:
        """Tell `mine`, and hear what rank 0 concludes from the values (None: not heard), the hosts and who was silent."""
        if self._store is None:
            return conclude([mine], [socket.gethostname()], "")
        self._round += 1
        try:
            verdict = self._collect(mine, conclude, failed) if self.process.is_first else self._ask(mine, failed)
        except (DistError, RuntimeError) as error:  # the store's connection, as every kind of failure of it is typed
            own = f" Before that, on this host: {mine}" if failed else ""
            raise UnreachableError(f"{self._me()}: rank 0 ended, or its host is gone ({_short(error)}).{own}") from None
        if "error" in verdict:
            raise MeetingError(verdict["error"])
        return verdict["value"]

    def _collect(self, mine: Any, conclude: Callable[..., Any], failed: bool) -> dict[str, Any]:
        start, said = time.monotonic(), self._wait_for_all(failed)
        ranks = range(self.process.world_size)
        values = [mine, *(said.get(rank) for rank in ranks[1:])]
        absent = [rank for rank in ranks[1:] if rank not in said]
        try:
            hosts = [self._host(rank) or "an unknown host" for rank in ranks]
            verdict = {"value": conclude(values, hosts, self._silence(absent) if absent else "")}
        except ValueError as error:
            verdict = {"error": str(error)}
        self._store.set(self._key("verdict"), json.dumps(verdict))
        readers = len(said) if time.monotonic() - start > self._patience else len(ranks) - 1
        self._wait_until(lambda: self._count("read") >= readers, _FAREWELL_S)
        self._store.set(self._key("closed"), "")
        return verdict

    def _wait_for_all(self, failed: bool) -> dict[int, Any]:
        """What the other ranks say: all of it, or what has come shortly after one has failed, or in the end."""
        others = range(1, self.process.world_size)
        started = reminded = time.monotonic()
        first_failure = started if failed else None
        while self._count("said") < len(others):
            now = time.monotonic()
            if first_failure is None and self._count("failed"):
                first_failure = now
            if now - started > self._patience or (first_failure is not None and now - first_failure > _GRACE_S):
                break
            if now - reminded > _REMIND_S:
                reminded = now
                absent = [rank for rank in others if not self._store.check([self._key(rank)])]
                print(f"waiting: {self._silence(absent)}", flush=True)
            time.sleep(0.02)
        return {rank: json.loads(self._store.get(self._key(rank))) for rank in others if self._store.check([self._key(rank)])}

    def _ask(self, mine: Any, failed: bool) -> dict[str, Any]:
        self._say(mine, failed)
        self._store.wait([self._key("verdict")], timedelta(seconds=self._patience + _FAREWELL_S))
        verdict = json.loads(self._store.get(self._key("verdict")))
        with suppress(DistError, RuntimeError):  # rank 0 may be gone as soon as it knows that all have heard
            self._store.add(self._key("read"), 1)
            if "error" in verdict:  # a launcher ends all ranks of a host with the first: rank 0 must have told everyone by then
                self._store.wait([self._key("closed")], timedelta(seconds=2 * _FAREWELL_S))
        return verdict

    def _say(self, mine: Any, failed: bool) -> None:
        self._store.set(self._key(self.process.rank), json.dumps(mine))
        if failed:
            self._store.add(self._key("failed"), 1)
        self._store.add(self._key("said"), 1)

    def _open(self) -> TCPStore:
        """Rank 0's store. Its own retries would fill the screen, so its port is tried first."""
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        serves = self.process.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        if not serves and not self._wait_until(lambda: connects(address, port, 5), self._patience, pause=0.2):
            raise UnreachableError(
                f"{self._me()}: rank 0 does not answer at {address}, port {port}, for {self._patience:.0f} s. See what its "
                f"host says; if it runs, a firewall or a wrong MASTER_ADDR (deepspeed --master_addr) lies between."
            )
        try:
            return TCPStore(
                address, port, self.process.world_size, serves, timedelta(seconds=self._patience),
                wait_for_workers=False, multi_tenant=True,
            )  # fmt: skip
        except (DistError, RuntimeError) as error:
            reason = _taken(port) if serves and "EADDRINUSE" in str(error) else f"cannot be used: {_short(error)}"
            raise UnreachableError(f"{self._me()}: {address}, port {port}, {reason}") from None

    @staticmethod
    def _wait_until(ready: Callable[[], bool], seconds: float, pause: float = 0.01) -> bool:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                return False
            time.sleep(pause)
        return True

    def _count(self, what: str) -> int:
        return self._store.add(self._key(what), 0)

    def _key(self, name: str | int) -> str:
        return f"{self._prefix}/{self._round}/{name}"

    def _host(self, rank: int) -> str | None:
        """Where a rank runs; None when it has never come."""
        key = f"{self._prefix}/came/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else None

    def _silence(self, absent: list[int]) -> str:
        """Which ranks have not spoken, for a person."""
        hosts = {rank: self._host(rank) for rank in absent}
        parts = []
        if never := [rank for rank, host in hosts.items() if host is None]:
            parts.append(f"{named_ranks(never)} of {self.process.world_size} never came: see what their hosts say")
        for host in sorted({host for host in hosts.values() if host}):
            ranks = [rank for rank in absent if hosts[rank] == host]
            parts.append(f"{named_ranks(ranks)} on {host} came, but are not through the preflight yet")
        return "; ".join(parts) + "."

    def _me(self) -> str:
        return f"rank {self.process.rank} on {socket.gethostname()}"


def lost_contact(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank is gone, or the way to it, and not for what this rank did."""
    return isinstance(error, (DistBackendError, DistNetworkError)) or "/gloo/transport/" in str(error)


def _errors(texts: list[str | None], hosts: list[str], silence: str) -> None:
    """Raise MeetingError when there are texts: one that all share as it is, others with their hosts."""
    groups: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        if text is not None:
            groups.setdefault(text, []).append(rank)
    if not groups and not silence:
        return
    if len(groups) == 1 and len(next(iter(groups.values()))) == len(texts):
        raise MeetingError(next(iter(groups)))
    lines = [f"on {places(ranks, hosts)}: {text}" for text, ranks in groups.items()] + ([silence] if silence else [])
    raise MeetingError("\n".join(lines) + "\nNo rank has started.")


def _taken(port: int) -> str:
    """What to do about a port of this host that something else holds."""
    found = holders(port)
    held = (
        f"is held by {' and '.join(found)}" if found else "is held by a process that this user may not see (as root: ss -ltnp)"
    )
    return (
        f"{held}. It may be a job that still trains, also one whose launcher was killed. Wait for it; or end it (kill, with "
        f"its other ranks); or, to run beside it, choose another port: deepspeed --master_port, torchrun --master-port, "
        f"accelerate launch --main_process_port, or MASTER_PORT."
    )


def _short(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300]
