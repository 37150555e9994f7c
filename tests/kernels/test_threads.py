"""Ranges over threads: each index once, nested calls, exceptions, forks."""

import os
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milpasses_kernels._threads import for_ranges, one_blas_thread
from threadpoolctl import threadpool_info, threadpool_limits


@given(st.integers(0, 300), st.integers(1, 50), st.integers(1, 5))
def test_every_index_is_met_once(count: int, grain: int, threads: int) -> None:
    met: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILPASSES_NUM_THREADS", str(threads))
        for_ranges(count, lambda start, stop: met.append((start, stop)), grain)
    assert sorted(index for start, stop in met for index in range(start, stop)) == list(range(count))
    assert all(stop - start >= grain for start, stop in sorted(met)[:-1])


def test_work_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPASSES_NUM_THREADS", "2")
    both = threading.Barrier(2, timeout=600)  # passes only where two threads are in it at once

    def meet(start: int, stop: int) -> None:
        both.wait()

    for_ranges(2, meet)


def test_nested_calls_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPASSES_NUM_THREADS", "3")
    met: list[int] = []

    def outer(start: int, stop: int) -> None:
        for _ in range(start, stop):
            for_ranges(7, lambda first, last: met.extend(range(first, last)))

    for_ranges(40, outer)
    assert sorted(met) == sorted([*range(7)] * 40)


def test_the_first_exception_is_raised_when_no_thread_works_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPASSES_NUM_THREADS", "2")
    working: set[Any] = set()

    def work(start: int, stop: int) -> None:
        working.add((start, threading.get_ident()))
        try:
            if start == 8:
                raise IndexError("eight")
        finally:
            working.discard((start, threading.get_ident()))

    for _ in range(50):
        with pytest.raises(IndexError, match="eight"):
            for_ranges(64, work)
        assert not working


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_blas_has_one_thread_inside() -> None:
    if not blas_threads():
        pytest.skip("a BLAS that threadpoolctl does not know")
    seen: list[set[int]] = []

    @one_blas_thread()
    def look() -> None:
        seen.append(blas_threads())

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with one_blas_thread():
            look()  # nested, and in another thread
            other = threading.Thread(target=look)
            other.start()
            other.join()
            look()
        assert seen == [{1}] * 3
        assert blas_threads() == before
        with pytest.raises(IndexError), one_blas_thread():
            raise IndexError
        assert blas_threads() == before
    other = threading.Thread(target=look)  # whichever thread comes first
    other.start()
    other.join()
    assert seen[-1] == {1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPASSES_NUM_THREADS", "2")
    for_ranges(8, lambda start, stop: None)
    child = os.fork()
    if not child:
        try:
            test_work_is_shared(monkeypatch)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
