"""The ranges of activations from data or statistics, refused with one line where they say too little."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milpasses.activations.quantize import Ranges, wanted_points
from milpasses.activations.ranges import choose_ranges
from milpasses.data.collect import statistics as collect_statistics
from milpasses.data.moments import Statistics
from milpasses.data.norms import is_norms
from milpasses.errors import MilpassesError, SampleError
from milpasses.program.saved import SavedProgram
from milpasses.recipe.recipe import Recipe

FEWEST = 2


def repeatable(data: Any) -> Any:
    """Data that may be read twice: for ranges and for weights."""
    return list(data) if isinstance(data, Iterator) else data


def known_ranges(statistics: Any) -> Ranges:
    """The ranges that ``statistics`` (``Statistics``, or the path of their file) hold."""
    if isinstance(statistics, str | os.PathLike) and not is_norms(statistics):
        statistics = Statistics.load(Path(statistics))
    if not isinstance(statistics, Statistics) or not statistics.ranges:
        raise MilpassesError(
            "8-bit activations need ranges: statistics must be milpasses.statistics(model, data), or the "
            "path of their file"
        )
    return statistics.ranges


def ranges_of(
    program: Any, statistics: Any, data: Any, function: str | None = None, fewest: int = FEWEST
) -> Ranges:
    """The range of every activation of ``program``: of ``statistics``, or of a run over ``data``.

    Raises ``MilpassesError`` where neither is given, or ``data`` has fewer than ``fewest`` samples.
    """
    if statistics is not None:
        return known_ranges(statistics)
    _check_data(data)
    found = collect_statistics(program, data, function=function)
    _check_enough(found, fewest)
    return found.ranges


def chosen_ranges(
    program: SavedProgram, recipe: Recipe, statistics: Any, data: Any, function: str | None = None
) -> Ranges:
    """The range of every activation that ``recipe`` makes 8-bit: of ``statistics``, or chosen on ``data``.

    Raises ``MilpassesError`` where neither is given, or ``data`` has fewer than ``FEWEST`` samples.
    """
    if statistics is not None:
        return known_ranges(statistics)
    _check_data(data)
    name = program.function_name(function)
    points = wanted_points(recipe, next(each for each in program.functions if each.name == name))
    found = choose_ranges(program, data, points, function=name)
    _check_enough(found.statistics, FEWEST)
    return found.ranges


def _check_data(data: Any) -> None:
    if data is None or is_norms(data):
        raise MilpassesError(
            "8-bit activations need data: pass calibration=data (samples to run the model on) or statistics="
        )


def _check_enough(found: Statistics, fewest: int) -> None:
    if found.samples < fewest:
        raise SampleError(
            f"{found.data}: {found.samples} sample: 8-bit activations need at least {fewest}, as the range "
            "of one holds for nothing else"
        )
