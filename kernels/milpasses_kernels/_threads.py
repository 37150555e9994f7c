"""Plain threads over independent groups: the kernels release the interpreter lock.

Each group is computed by one thread from its own input alone, so the bits that come out do not depend on
how many threads there are.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def thread_count() -> int:
    """Threads to use: ``MILPASSES_NUM_THREADS`` if set, else the processors this process may run on."""
    wanted = os.environ.get("MILPASSES_NUM_THREADS")
    if wanted:
        return max(1, int(wanted))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def for_ranges(count: int, work: Callable[[int, int], None], grain: int = 1) -> None:
    """Call ``work(start, stop)`` over ranges that cover ``range(count)``, on several threads.

    Ranges hold at least ``grain`` items; several a thread, so that uneven groups balance. The first
    exception is raised.
    """
    threads = thread_count()
    step = max(grain, -(-count // (threads * 8)))
    if threads == 1 or count <= step:
        if count:
            work(0, count)
        return
    with ThreadPoolExecutor(threads) as pool:
        ranges = [(start, min(start + step, count)) for start in range(0, count, step)]
        for done in [pool.submit(work, *span) for span in ranges]:
            done.result()
