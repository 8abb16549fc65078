"""Fetching what will be read soon, in a few threads, while something else is at work."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from data_prep.shards.format import ShardError

THREADS = 8
MOST_WAITING = 256
"""Hints beyond these are dropped: what they name is fetched when it is read."""


class Prefetcher:
    """Runs hints. An error of one is kept silent, since it comes again, with its message, when the bytes are read."""

    def __init__(self) -> None:
        self._hints: queue.Queue[Callable[[], None]] = queue.Queue(MOST_WAITING)
        for number in range(THREADS):  # daemons: a process that ends waits for none of them
            Thread(target=self._work, name=f"prefetch-{number}", daemon=True).start()

    def hint(self, fetch: Callable[[], None]) -> None:
        """Run `fetch` soon, or never; returns at once."""
        with suppress(queue.Full):
            self._hints.put_nowait(fetch)

    def _work(self) -> None:
        while True:
            fetch = self._hints.get()
            with suppress(ShardError):
                fetch()
            self._hints.task_done()
