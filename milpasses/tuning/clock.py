"""The time that tuning may take, shared out among its stages, and told as it goes."""

import time
from collections.abc import Callable

import attrs

Progress = Callable[[int, int, str], None]
_WHOLE = 10_000  # what progress counts to
_TELLS = 0.1  # of the time of a stage: from then on its speed is known


@attrs.define
class Clock:
    """Counts ``seconds`` from when it is made.

    ``progress(done, total, name)`` gets how far tuning is as a share of 10,000: of the time, or of the steps
    of a stage where these end first.
    """

    seconds: float
    progress: Progress | None = None
    _now: Callable[[], float] = time.monotonic
    _began: float = attrs.field(init=False)
    _told: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._began = self._now()

    @property
    def spent(self) -> float:
        """The share of the time that has gone, at most 1."""
        return min(1.0, (self._now() - self._began) / max(self.seconds, 1e-9))

    def tell(self, name: str, at: float | None = None) -> None:
        """Say what is done, ``at`` that share of the whole; else at the share of the time."""
        self._told = max(self._told, self.spent if at is None else at)
        if self.progress is not None:
            self.progress(int(_WHOLE * self._told), _WHOLE, name)

    def stage(self, name: str, steps: int, until: float) -> "Stage":
        """A stage that takes ``steps``, or the time until that share of all is spent."""
        return Stage(self, name, steps, self.spent, max(until, self.spent))


@attrs.define
class Stage:
    """A stage under way, from ``begin`` to ``end``, shares of the time."""

    clock: Clock
    name: str
    steps: int
    begin: float
    end: float

    def done(self, step: int) -> float:
        """The share of the stage that is over before ``step``, counted from 0; 1 ends it.

        That is the share of its steps, the same in every run, unless there is no time for them all.
        """
        room = self.end - self.begin
        time_share = min(1.0, (self.clock.spent - self.begin) / room) if room > 0 else 1.0
        share = min(1.0, step / self.steps if self.steps else 1.0)
        if time_share > max(share, _TELLS):
            share = time_share
        self.clock.tell(self.name, self.begin + share * room)
        return share
