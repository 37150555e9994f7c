"""Timing two ways of doing the same thing, in turns."""

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


def processor(call: Callable[[], Any], repeats: int = 3) -> float:
    """The least processor time of several runs in seconds, of all threads, after a warm one."""
    call()
    fastest = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        call()
        fastest = min(fastest, time.process_time() - start)
    return fastest
