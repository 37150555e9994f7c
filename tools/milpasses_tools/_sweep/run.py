"""Running the tasks of a sweep on any executor: progress with an estimate, and workers that die."""

import os
import time
from collections.abc import Generator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from contextlib import contextmanager
from typing import Any

import attrs

from milpasses.errors import MilpassesError
from milpasses_tools._progress import Progress
from milpasses_tools._sweep.process import start_worker
from milpasses_tools._sweep.work import Task, evaluate

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_DIED = "its process died"


class Inline(Executor):
    """Runs each call at once, in this process and thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future, done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@attrs.define
class Estimate:
    """How long the rest takes, by what the finished ones took: no more is known."""

    left: int
    began: float = attrs.field(factory=time.monotonic)
    done: int = 0

    def text(self) -> str:
        """``about 2:10 left``; nothing before the first has finished, and nothing after the last."""
        if not self.done or not self.left:
            return ""
        seconds = round((time.monotonic() - self.began) / self.done * self.left)
        minutes, rest = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
        return f"about {clock} left"


@attrs.define
class Board:
    """Tells of progress: how many of all variants are done, the last one's name, the time that is left."""

    progress: Progress | None
    total: int
    finished: int
    estimate: Estimate

    def tell(self, name: str) -> None:
        """One more is done."""
        self.finished += 1
        self.estimate.done += 1
        self.estimate.left -= 1
        if self.progress is not None:
            words = [name, self.estimate.text()]
            self.progress(self.finished, self.total, ", ".join(filter(None, words)))


def run(
    stages: Sequence[Sequence[Task]],
    executor: Executor | None,
    jobs: int,
    progress: Progress | None,
    finished: int,
) -> dict[str, dict[str, Any]]:
    """The result of each task by its variant's name; those done before count as ``finished``.

    A stage begins when the one before it is done, and not at all where one of that failed. Without
    ``executor`` ``jobs`` processes do the work, or this one. A worker that dies takes nothing with it: what
    it had not finished runs again, alone, and what kills its worker then is a failed variant.

    Raises ``MilpassesError`` when a disk is full; what is finished stays.
    """
    tasks = [task for stage in stages for task in stage]
    board = Board(progress, finished + len(tasks), finished, Estimate(len(tasks)))
    found: dict[str, dict[str, Any]] = {}
    if not tasks:
        return found
    if progress is not None:
        progress(finished, board.total, tasks[0].variant.name)
    if executor is not None or jobs == 1:
        for stage in stages:
            if not _failures(found):
                _gather(executor or Inline(), stage, board, found)
        return found
    with _pool(min(jobs, len(tasks))) as pool:
        for stage in stages:
            if not _failures(found):
                _gather(pool, stage, board, found, again=True)
                _alone(stage, board, found)
    return found


def _failures(found: dict[str, dict[str, Any]]) -> bool:
    return any(row["status"] == "failed" for row in found.values())


def _alone(stage: Sequence[Task], board: Board, found: dict[str, dict[str, Any]]) -> None:
    """Run what was lost when a worker died one by one, so that it is plain which of them kills its worker."""
    rest = [task for task in stage if task.variant.name not in found]
    while rest:
        with _pool(1) as pool:
            alive = True
            while rest and alive:
                task = rest.pop(0)
                _gather(pool, [task], board, found)
                alive = not found[task.variant.name].get("error", "").startswith(_DIED)


def _gather(
    executor: Executor,
    tasks: Sequence[Task],
    board: Board,
    found: dict[str, dict[str, Any]],
    again: bool = False,
) -> None:
    """Run ``tasks``; with ``again``, those whose worker died are left out of ``found``."""
    futures: dict[Future[Any], Task] = {}
    try:
        if isinstance(executor, Inline):
            for task in tasks:
                _take(executor.submit(evaluate, task), task, board, found, again)
            return
        for task in tasks:
            futures[executor.submit(evaluate, task)] = task
        for future in as_completed(futures):
            _take(future, futures[future], board, found, again)
    except BrokenExecutor:  # while they were handed in
        if not again:
            raise
    finally:
        for future in futures:
            future.cancel()


def _take(
    future: Future[Any], task: Task, board: Board, found: dict[str, dict[str, Any]], again: bool
) -> None:
    name = task.variant.name
    try:
        row = future.result()
    except (BrokenExecutor, CancelledError) as error:
        if again:
            return
        row = _failed(task, f"{_DIED} ({type(error).__name__}): killed, or out of memory")
    except Exception as error:  # what the executor itself could not do: pickle a recipe, keep a worker
        row = _failed(task, f"{type(error).__name__}: {' '.join(str(error).split())}")
    if row.get("disk_full"):
        raise MilpassesError(
            f"{name}: {row['error']}; the disk is full: {len(found):,} variants of this run are kept, make "
            "room and go on with resume=True"
        )
    found[name] = row
    board.tell(name if row["status"] == "done" else f"{name} failed")


def _failed(task: Task, error: str) -> dict[str, Any]:
    return {"name": task.variant.name, "text": task.variant.text, "status": "failed", "error": error}


@contextmanager
def _pool(jobs: int) -> Generator[ProcessPoolExecutor]:
    """New processes, of one thread each; ended at once if this is left by an error."""
    import multiprocessing

    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    pool = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker
    )
    try:
        yield pool
    except BaseException:
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
