"""The range of each 8-bit tensor that costs the outputs least, on samples that did not suggest it.

Samples are counted into histograms, in one run each. From three of four follow a range by each method of
``candidates.METHODS``; the others, held out, decide: first one method for all tensors, then for each of at
most ``GROUPS`` stretches of the program another, where the outputs clearly gain. The methods chosen then give
the ranges of all samples. The number of held-out runs does not depend on the number of tensors.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from milpasses.activations.altered import AlteredRuns
from milpasses.activations.candidates import METHODS, Candidates
from milpasses.activations.grid import ActivationRange, Grid, grid_of
from milpasses.activations.points import Point
from milpasses.data.collect import statistics as collect_statistics
from milpasses.data.histograms import Histogram, joined
from milpasses.data.moments import Range, Statistics
from milpasses.data.samples import Samples
from milpasses.interpreter import Interpreter
from milpasses.recipe.activations import Activations
from milpasses.report import decibels

HELD_OUT = 4  # every so many-th sample
GROUPS = 8
MOST, FEWEST = 32, 2  # held-out samples that decide
ENOUGH = 8  # samples
_WORK = 2_000_000_000  # values that held-out runs may compute, so that a large network has fewer samples
_CLEARLY = 0.98  # of the error: few samples differ by chance
_ALTERNATIVES = 2
_RUNS = len(METHODS) + GROUPS * _ALTERNATIVES  # of each held-out sample


@attrs.frozen(eq=False)
class Unit:
    """Points that share one range, all tensors that have it counted together, and what the recipe asks."""

    points: tuple[Point, ...]
    histogram: Histogram
    mode: str
    dtype: str

    @property
    def half(self) -> bool:
        """The scales are float16."""
        return any(point.dtype == "float16" for point in self.points)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that share the range."""
        return self.points[0].tensors

    @property
    def candidates(self) -> Candidates:
        """Its ranges by each method."""
        return Candidates(self.histogram, self.mode, self.dtype, self.half)

    def grids(self, span: ActivationRange) -> dict[str, Grid]:
        """The grid of each point."""
        return {
            point.name: grid_of(span.low, span.high, self.mode, self.dtype, half=point.dtype == "float16")
            for point in self.points
        }


@attrs.frozen(eq=False)
class ChosenRanges:
    """Ranges by tensor; ``statistics`` of the run; ``output_sqnr_db`` of the held-out outputs with them.

    ``methods``: the same of each method, had it been taken for every tensor, in dB. Both are empty where
    nothing could be held out: then each tensor has the range that loses least by its histogram.
    """

    ranges: Mapping[str, "ActivationRange | Range"]
    statistics: Statistics
    output_sqnr_db: float | None = None
    methods: Mapping[str, float] = attrs.field(factory=dict)


def choose_ranges(
    program: Any,
    data: Any,
    points: Sequence[tuple[Point, Activations]],
    *,
    function: str | None = None,
) -> ChosenRanges:
    """Run ``program`` over ``data`` and choose a range for every tensor of ``points``.

    Args:
        program: whatever ``Interpreter`` takes.
        data: whatever ``Samples.of`` takes, but an iterator: it is read twice.
        points: as ``find_points`` gives them, each with the ``dtype`` and ``mode`` of its grid.
        function: the one that runs, its default unless given.

    Raises:
        MilpassesError: as ``statistics`` does.
    """
    interpreter = Interpreter(program, function)
    samples = Samples.of(data, interpreter)
    found = collect_statistics(interpreter, samples, held_out=HELD_OUT)
    inputs: list[Any] = []
    if found.samples < ENOUGH:  # too few to hold some back: all of them are counted
        found = collect_statistics(interpreter, samples)
    else:
        limit = held_out_limit(found, _RUNS)
        held_out = Samples.of(samples.apart(HELD_OUT), interpreter, limit=limit)
        inputs = [sample.inputs for sample in held_out]
    units = units_of(points, found, found.histograms)
    altered = AlteredRuns(interpreter, [point for unit in units for point in unit.points], inputs)
    search = _Search(units, altered)
    chosen = dict(zip([unit.tensors for unit in units], search.chosen(), strict=True))
    ranges: dict[str, ActivationRange | Range] = dict(found.ranges)
    for unit in units_of(points, found, joined(found.histograms, found.held_out_histograms)):
        span = unit.candidates.ranges()[chosen.get(unit.tensors, METHODS[0])]
        ranges.update(dict.fromkeys(unit.tensors, span))
    methods = {method: decibels(1.0, error) for method, error in search.families.items()}
    sqnr = decibels(1.0, search.best) if methods else None
    return ChosenRanges(ranges, found, sqnr, methods)


def held_out_limit(found: Statistics, runs: int) -> int:
    """How many held-out samples may run ``runs`` times each, by what a run computes."""
    computed = sum(histogram.total for histogram in found.histograms.values()) / found.samples
    return min(max(int(_WORK / max(computed * runs, 1)), FEWEST), MOST)


def units_of(
    points: Sequence[tuple[Point, Activations]], found: Statistics, histograms: Mapping[str, Histogram]
) -> list[Unit]:
    """Points by the tensors that share their range; none where that is a point, or not all are finite."""
    by_tensors: dict[tuple[str, ...], list[tuple[Point, Activations]]] = {}
    for point, settings in points:
        by_tensors.setdefault(point.tensors, []).append((point, settings))
    units: list[Unit] = []
    for tensors, members in by_tensors.items():
        known = [histograms[name] for name in tensors if name in histograms]
        spans = [found.ranges[name] for name in tensors if name in found.ranges]
        if not known or any(span.nonfinite for span in spans):
            continue
        histogram = known[0]
        for other in known[1:]:
            histogram |= other
        if histogram.low < histogram.high:
            settings = members[0][1]
            own = tuple(point for point, _ in members)
            units.append(Unit(own, histogram, settings.mode, settings.dtype))
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
            return [max(ranges, key=lambda method: _sqnr_db(ranges[method])) for ranges in self._ranges]
        self.families = {method: self._error([method] * len(self._units)) for method in METHODS}
        order = sorted(METHODS, key=self.families.__getitem__)
        methods, self.best = [order[0]] * len(self._units), self.families[order[0]]
        for group in stretches(len(self._units)):
            for method in order[1 : 1 + _ALTERNATIVES]:
                tried = [method if index in group else known for index, known in enumerate(methods)]
                error = self._error(tried)
                if error < _CLEARLY * self.best:
                    methods, self.best = tried, error
        return methods

    def _error(self, methods: Sequence[str]) -> float:
        grids: dict[str, Grid] = {}
        for unit, ranges, method in zip(self._units, self._ranges, methods, strict=True):
            grids |= unit.grids(ranges[method])
        return self._altered.error(grids)


def _sqnr_db(span: ActivationRange) -> float:
    return -math.inf if span.sqnr_db is None else span.sqnr_db


def stretches(count: int) -> list[range]:
    """``count`` units as at most ``GROUPS`` stretches."""
    parts = min(GROUPS, count)
    return [range(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
