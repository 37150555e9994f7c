"""Plain threads over independent groups: the kernels release the interpreter lock.

Each group is computed by one thread from its own input alone, so the bits that come out do not depend on
how many threads there are.
"""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait


def thread_count() -> int:
    """Threads to use: ``MILPASSES_NUM_THREADS`` if set, else the processors this process may run on."""
    wanted = os.environ.get("MILPASSES_NUM_THREADS")
    if wanted:
        return max(1, int(wanted))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_pools: dict[int, ThreadPoolExecutor] = {}  # by their number of threads, kept: starting one costs 0.1 ms
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not outlive a fork


def for_ranges(count: int, work: Callable[[int, int], None], grain: int = 1) -> None:
    """Call ``work(start, stop)`` over ranges that cover ``range(count)``, on several threads.

    Ranges hold at least ``grain`` items; several a thread, so that uneven groups balance. The first
    exception is raised. ``work`` may call ``for_ranges``: the caller's thread works, too, so that no thread
    waits for one that never comes.
    """
    threads = thread_count()
    step = max(grain, -(-count // (threads * 8)))
    if threads == 1 or count <= step:
        if count:
            work(0, count)
        return
    starts = deque(range(0, count, step))

    def next_start() -> int | None:
        try:
            return starts.popleft()
        except IndexError:
            return None

    def take() -> None:
        try:
            while (start := next_start()) is not None:
                work(start, min(start + step, count))
        except BaseException:
            starts.clear()
            raise

    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads - 1)
    helpers = [_pools[threads].submit(take) for _ in range(min(threads, len(starts)) - 1)]
    try:
        take()
    finally:
        wait([helper for helper in helpers if not helper.cancel()])
    for helper in helpers:
        if not helper.cancelled():
            helper.result()
