"""Fetching what will be read soon, in a few threads, while something else is at work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import BoundedSemaphore

from data_prep.shards.format import ShardError

THREADS = 8
MOST_WAITING = 256
"""Hints beyond these are dropped: what they name is fetched when it is read."""


class Prefetcher:
    """Runs hints. An error of one is kept silent, since it comes again, with its message, when the bytes are read."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prefetch")
        self._room = BoundedSemaphore(MOST_WAITING)

    def hint(self, fetch: Callable[[], None]) -> None:
        """Run `fetch` soon, or never; returns at once."""
        if self._room.acquire(blocking=False):
            self._pool.submit(self._run, fetch)

    def _run(self, fetch: Callable[[], None]) -> None:
        try:
            with suppress(ShardError):
                fetch()
        finally:
            self._room.release()
