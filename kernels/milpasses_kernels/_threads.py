"""Plain threads over independent groups: the kernels release the interpreter lock.

Each group is computed by one thread from its own input alone, so the bits that come out do not depend on
how many threads there are. Where kernels multiply matrices, BLAS has one thread and ours share the rows.
"""

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from threading import Lock

from threadpoolctl import ThreadpoolController


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


_limiting = Lock()  # held by whoever limits BLAS at the moment


@contextmanager
def one_blas_thread() -> Generator[None]:
    """NumPy's matrix products take one thread inside.

    BLAS' own threads keep looking for work for a while after a product, on the processors that ours need; and
    how they share a product may change its last bits. The limit holds for the whole process, until the
    outermost call that set it returns.
    """
    if not _limiting.acquire(blocking=False):  # by a call around this one, or in another thread
        yield
        return
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        _limiting.release()


@cache
def _controller() -> ThreadpoolController:
    """What controls NumPy's BLAS, which is loaded by now: finding it costs a millisecond."""
    return ThreadpoolController()


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
