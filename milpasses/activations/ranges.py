"""The range of each 8-bit tensor that costs the outputs least, on samples that did not suggest it.

Samples are counted into histograms, in one run each. From three of four follow a range by each method of
``candidates.METHODS``; the others, held out, decide: first one method for all tensors, then another for one
after the other, with the rest as they are by then, where the outputs gain. Beyond ``_STRETCHES`` tensors
stretches of the program change at a time, so the number of held-out runs has a limit. The methods chosen then
give the ranges of all samples.
"""

import functools
import math
import operator
from collections.abc import Mapping, Sequence

import attrs

from milpasses.activations.altered import AlteredRuns
from milpasses.activations.candidates import METHODS, Candidates
from milpasses.activations.grid import ActivationRange
from milpasses.activations.observed import Observed
from milpasses.activations.pairs import Placed
from milpasses.activations.points import Point
from milpasses.data.histograms import Histogram
from milpasses.data.moments import Range
from milpasses.recipe.activations import Activations
from milpasses.report import decibels

GROUPS = 8
_STRETCHES = 24
_CLEARLY, _ONE = 0.98, 0.995  # of the error: few samples differ by chance; one tensor matters less than all
_ALTERNATIVES = 2
_RUNS = len(METHODS) + _STRETCHES * _ALTERNATIVES  # of each held-out sample
Points = Sequence[tuple[Point, Activations]]


@attrs.frozen(eq=False)
class Unit:
    """Points that share one range, the tensors that have it, and what the recipe asks.

    They must, or ops between them make no new values: then a second rounding on the same grid loses nothing.
    ``parts``: the histogram of each tensor; ``histogram``: all counted together.
    """

    points: tuple[Point, ...]
    parts: Mapping[str, Histogram]
    histogram: Histogram
    asked: Activations

    @property
    def half(self) -> bool:
        """The scales are float16."""
        return any(point.dtype == "float16" for point in self.points)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that share the range."""
        return tuple(dict.fromkeys(name for point in self.points for name in point.tensors))

    @property
    def candidates(self) -> Candidates:
        """Its ranges by each method."""
        return Candidates(self.histogram, self.asked.mode, self.asked.dtype, self.half)

    def placed(self, span: ActivationRange) -> list[Placed]:
        """The points, each with its grid."""
        return [Placed.of(point, span, self.asked) for point in self.points]


@attrs.frozen(eq=False)
class ChosenRanges:
    """Ranges by tensor; ``output_sqnr_db`` of the held-out outputs with them, before weights change.

    ``methods``: the same of each method, had it been taken for every tensor, in dB. Both are empty where
    nothing could be held out: then each tensor has the range that loses least by its histogram.
    """

    ranges: Mapping[str, "ActivationRange | Range"]
    output_sqnr_db: float | None = None
    methods: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def notes(self) -> list[str]:
        """What a report says of them."""
        if self.output_sqnr_db is None:
            return []
        return [
            f"8-bit activations: held-out outputs {self.output_sqnr_db:.1f} dB before weights change, "
            f"{self.methods[METHODS[0]]:.1f} dB with min/max ranges"
        ]


def choose_ranges(observed: Observed, points: Points) -> ChosenRanges:
    """A range for every tensor of ``points``, as ``wanted_points`` gives them, by what the outputs lose."""
    units = units_of(points, observed.ranges, observed.fit)
    inputs = observed.deciding(_RUNS) if units else []
    search = _Search(units, AlteredRuns(observed.interpreter, inputs))
    chosen = dict(zip([unit.tensors for unit in units], search.chosen(), strict=True))
    ranges: dict[str, ActivationRange | Range] = dict(observed.ranges)
    for unit in units_of(points, observed.ranges, observed.histograms):
        span = unit.candidates.ranges()[chosen.get(unit.tensors, METHODS[0])]
        ranges.update(dict.fromkeys(unit.tensors, span))
    methods = {method: decibels(1.0, error) for method, error in search.families.items()}
    return ChosenRanges(ranges, decibels(1.0, search.best) if methods else None, methods)


def least_ranges(
    points: Points, ranges: Mapping[str, Range], histograms: Mapping[str, Histogram]
) -> dict[str, "ActivationRange | Range"]:
    """For every tensor the range that loses least by its histogram, where nothing can be run."""
    found: dict[str, ActivationRange | Range] = dict(ranges)
    for unit in units_of(points, ranges, histograms):
        spans = unit.candidates.ranges()
        found.update(dict.fromkeys(unit.tensors, spans[_least(spans)]))
    return found


def units_of(points: Points, ranges: Mapping[str, Range], histograms: Mapping[str, Histogram]) -> list[Unit]:
    """Points by the tensors that share their range; none where that is a point, or not all are finite."""
    groups: dict[str, list[tuple[Point, Activations]]] = {}  # by each tensor
    for point, settings in points:
        followed = groups.get(point.follows, []) if len(point.tensors) == 1 else []
        group = groups.get(point.name) or (followed if followed and followed[0][1] == settings else [])
        group.append((point, settings))
        groups.update(dict.fromkeys(point.tensors, group))
    units: list[Unit] = []
    for members in {id(group): group for group in groups.values()}.values():
        tensors = dict.fromkeys(name for point, _ in members for name in point.tensors)
        parts = {name: histograms[name] for name in tensors if name in histograms}
        spans = [ranges[name] for name in tensors if name in ranges]
        if not parts or any(span.nonfinite for span in spans):
            continue
        histogram = functools.reduce(operator.or_, parts.values())
        if histogram.low < histogram.high:
            units.append(Unit(tuple(point for point, _ in members), parts, histogram, members[0][1]))
    return units


class _Search:
    """``families``: the error of each method; ``best``: of what was chosen."""

    def __init__(self, units: Sequence[Unit], altered: AlteredRuns) -> None:
        self._units, self._altered = units, altered
        self._ranges = [unit.candidates.ranges() for unit in units]
        self.families: dict[str, float] = {}
        self.best = math.inf

    def chosen(self) -> list[str]:
        """A method for each unit: the one that loses least by its histogram, where no outputs tell."""
        if not self._altered.comparable or not self._units:
            return [_least(ranges) for ranges in self._ranges]
        self.families = {method: self._error([method] * len(self._units)) for method in METHODS}
        least = min(self.families.values())
        # of those that are as good as the best the first: clipping must be worth it
        order = sorted(METHODS, key=lambda method: max(self.families[method], least / _CLEARLY))
        methods, self.best = [order[0]] * len(self._units), self.families[order[0]]
        for group in stretches(len(self._units), _STRETCHES):
            for method in order[1 : 1 + _ALTERNATIVES]:
                tried = [method if index in group else known for index, known in enumerate(methods)]
                error = self._error(tried)
                if error < _ONE * self.best:
                    methods, self.best = tried, error
        return methods

    def _error(self, methods: Sequence[str]) -> float:
        placed: list[Placed] = []
        for unit, ranges, method in zip(self._units, self._ranges, methods, strict=True):
            placed += unit.placed(ranges[method])
        return self._altered.error(placed)


def _least(ranges: Mapping[str, ActivationRange]) -> str:
    """The method that loses least by the histogram."""
    known = {method: span.sqnr_db for method, span in ranges.items() if span.sqnr_db is not None}
    return max(known, key=known.__getitem__)


def stretches(count: int, most: int = GROUPS) -> list[range]:
    """``count`` things in order as at most ``most`` stretches."""
    parts = min(most, count)
    return [range(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
