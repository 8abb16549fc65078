"""Worker processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor


def new_pool(workers: int) -> ProcessPoolExecutor:
    """Worker processes that end with this one."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _die_with_parent, (os.getpid(),))


def _die_with_parent(parent: int) -> None:
    """End this worker soon after its parent is gone: nothing else would, and the next run would meet it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
