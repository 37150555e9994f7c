"""Timing two ways of doing the same thing, in turns."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def best(call: Callable[[], Any], repeats: int = 3, budget: float = 20.0) -> float:
    """The shortest of several runs in seconds, after a warm one; stops once ``budget`` is spent."""
    spent, fastest = 0.0, float("inf")
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    if first > budget:
        return first
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        fastest = min(fastest, took)
        spent += took
        if spent > budget:
            break
    return fastest


def processors(*calls: Callable[[], Any], repeats: int = 5) -> list[float]:
    """The median processor time in seconds, of all threads, of each of ``calls``, in turns, one ahead."""
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, seconds in zip(calls, taken, strict=True):
            start = time.process_time()
            call()
            if turn:
                seconds.append(time.process_time() - start)
    return [statistics.median(seconds) for seconds in taken]
