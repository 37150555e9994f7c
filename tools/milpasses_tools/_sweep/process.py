"""How a worker process of a sweep begins. Imports nothing heavy: the rest comes with the first task."""

import logging
import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def start_worker() -> None:
    """Make this process quiet, and end it with the one that started it, however that ended."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
