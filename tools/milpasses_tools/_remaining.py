"""How long a step of a command will still take, by what of it is done."""

import time
from collections.abc import Callable

import attrs


@attrs.define
class Remaining:
    """Estimates the seconds left of a step from the speed since it began.

    A step ends where another total is given, or less is done than before: the estimate then starts anew, for
    one step says nothing of the next.
    """

    clock: Callable[[], float] = time.monotonic
    _total: int = 0
    _first: tuple[float, int] | None = None
    _done: int = 0
    _until: float | None = None

    def update(self, done: int, total: int) -> None:
        """Take note of progress; ``total`` is 0 where it is not known."""
        now = self.clock()
        if self._first is None or total != self._total or done < self._done:
            self._total, self._first = total, (now, done)
        began, before = self._first
        self._done = done
        pace = (now - began) / (done - before) if done > before else None
        self._until = now + pace * (total - done) if pace is not None and total else None

    def text(self) -> str:
        """``about 1:05 left``; empty where nothing is known yet."""
        if self._until is None:
            return ""
        seconds = max(0, round(self._until - self.clock()))
        return f"about {seconds // 60}:{seconds % 60:02d} left"
