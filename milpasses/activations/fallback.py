"""Which activations stay float, where 8 bits cost too much: those that cost held-out outputs most.

Each is measured alone; of many, stretches of the program are, and the one that costs most is halved again and
again, so the number of runs does not grow with that of ops. Then as few of the costliest stay float as the
limit needs. Without a pair on its input an op runs in float, and what is computed before it is not rounded.
"""

import heapq
import re
from collections.abc import Sequence
from typing import Any

import attrs

from milpasses.activations.altered import AlteredRuns
from milpasses.activations.observed import ENOUGH, Observed
from milpasses.activations.pairs import Placed
from milpasses.activations.quantize import Ranges, range_of
from milpasses.activations.ranges import GROUPS, Points, units_of
from milpasses.errors import MilpassesError, Refusal
from milpasses.report import decibels

_PROBES = 64
FALLBACK = (
    '"35 dB" of the outputs at least, "1 %" of their energy as error at most, or how many stay float (3)'
)


@attrs.frozen
class Fallback:
    """``loss``: the share of the outputs' energy that may be lost. ``count``: how many stay float."""

    loss: float | None = None
    count: int | None = None

    @classmethod
    def of(cls, value: Any) -> "Fallback | None":
        """Read ``FALLBACK``; raises ``MilpassesError``."""
        if value is None or isinstance(value, Fallback):
            return value
        number = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(db|%|)\s*", str(value).lower())
        if number and not isinstance(value, bool):
            size, unit = float(number[1]), number[2]
            if unit == "db":
                return cls(loss=10 ** (-size / 10))
            if unit == "%" and 0 < size < 100:
                return cls(loss=size / 100)
            if not unit and size.is_integer() and size > 0:
                return cls(count=int(size))
        raise MilpassesError(f"fallback=: expected {FALLBACK}, not {value!r}")


def activations_kept_float(
    observed: Observed, points: Points, ranges: Ranges, fallback: Fallback
) -> dict[str, Refusal]:
    """The tensors of ``points`` that stay float, each with the reason; those that share a range do together.

    Raises ``MilpassesError`` where too few samples were there to hold some out, or the limit cannot be kept.
    """
    trial = _Trial(observed, points, ranges)
    if not trial.runs.comparable:
        raise MilpassesError(
            f"fallback=: {observed.count} samples: it needs {ENOUGH} or more, as some are held out, and "
            "outputs in numbers that are not all 0"
        )
    costly = trial.costliest()
    if fallback.count is not None:
        chosen = costly[: trial.places(costly, fallback.count)]
    else:
        assert fallback.loss is not None
        chosen = trial.fewest(costly, fallback.loss)
    return {
        each.point.name: Refusal("costs-outputs", snr_db=decibels(1.0, error), tensors=len(group))
        for group, error in chosen
        for unit in group
        for each in unit
    }


Unit = list[Placed]  # the pairs of tensors that share a range
Group = tuple[Sequence[Unit], float]  # and the error of the outputs if they alone are 8-bit


class _Trial:
    def __init__(self, observed: Observed, points: Points, ranges: Ranges) -> None:
        units = units_of(points, observed.ranges, observed.histograms)
        spans = [(unit, range_of(unit.points[0], ranges)) for unit in units]
        self._units = [unit.placed(span) for unit, span in spans if not isinstance(span, Refusal)]
        self.runs = AlteredRuns(observed.interpreter, observed.deciding(_PROBES + 8))

    def costliest(self) -> list[Group]:
        """All units, those first that cost most; where they were not told apart, several together."""
        found: list[Group] = []
        waiting: list[tuple[float, int, Sequence[Unit]]] = []
        probes = 0

        def measure(group: Sequence[Unit]) -> None:
            nonlocal probes
            probes += 1
            heapq.heappush(waiting, (-self._error(group), probes, group))

        count = len(self._units)
        for part in _parts(self._units, count if count <= _PROBES else GROUPS):
            measure(part)
        while waiting and (len(waiting[0][2]) == 1 or probes + 2 <= _PROBES):
            error, _, group = heapq.heappop(waiting)
            if len(group) == 1:
                found.append((group, -error))
                continue
            for part in _parts(group, 2):
                measure(part)
        rest = [(group, -error) for error, _, group in waiting]
        return found + sorted(rest, key=lambda each: -each[1] / len(each[0]))

    def fewest(self, costly: Sequence[Group], loss: float) -> list[Group]:
        """As many of the first as keep the loss."""
        every = self._without(costly, 0)
        if every <= loss:
            return []
        low, high = 0, len(costly)  # low fails, high keeps it: with nothing in 8 bits nothing is lost
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._without(costly, middle) <= loss else (middle, high)
        if high == len(costly):
            raise MilpassesError(
                f"fallback=: {decibels(1.0, loss):.1f} dB cannot be kept while any activation is 8-bit; all "
                f"together leave {decibels(1.0, every):.1f} dB"
            )
        return list(costly[:high])

    def places(self, costly: Sequence[Group], count: int) -> int:
        """How many of the first hold ``count`` units."""
        held = 0
        for place, (group, _) in enumerate(costly):
            if held >= count:
                return place
            held += len(group)
        raise MilpassesError(f"fallback=: {count} of {held} 8-bit activations cannot stay float: say fewer")

    def _without(self, costly: Sequence[Group], count: int) -> float:
        return self._error([unit for group, _ in costly[count:] for unit in group])

    def _error(self, units: Sequence[Unit]) -> float:
        return self.runs.error(each for unit in units for each in unit)


def _parts(units: Sequence[Unit], count: int) -> list[Sequence[Unit]]:
    count = min(count, len(units))
    return [units[len(units) * i // count : len(units) * (i + 1) // count] for i in range(count)]
