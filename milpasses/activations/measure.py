"""The ranges of activations from data or statistics, refused with one line where they say too little."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from milpasses.activations.quantize import ActivationQuantizer, Ranges
from milpasses.data.collect import statistics as collect_statistics
from milpasses.data.moments import Statistics
from milpasses.data.norms import is_norms
from milpasses.errors import MilpassesError, SampleError
from milpasses.program.opset import check_activations
from milpasses.program.saved import SavedProgram
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report

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
    if data is None or is_norms(data):
        raise MilpassesError(
            "8-bit activations need data: pass calibration=data (samples to run the model on) or statistics="
        )
    found = collect_statistics(program, data, function=function)
    if found.samples < fewest:
        raise SampleError(
            f"{found.data}: {found.samples} sample: 8-bit activations need at least {fewest}, as the range "
            "of one holds for nothing else"
        )
    return found.ranges


def activations_of(
    program: SavedProgram,
    recipe: Recipe,
    statistics: Any,
    data: Any,
    function: str | None = None,
    strict: bool = False,
) -> Callable[[Any, Report], None] | None:
    """What puts the activations of ``recipe`` into the new specification, None where they stay float.

    As ``finish`` of ``write_rewritten``. ``strict``: a rule that is for no op is an error then. Raises
    ``TargetError``, and as ``ranges_of``.
    """
    if not recipe.wants_activations:
        return None
    check_activations(program.target)
    quantizer = ActivationQuantizer(recipe, ranges_of(program, statistics, data, function), strict=strict)

    def finish(spec: Any, report: Report) -> None:
        quantizer.quantize_saved(program, spec, report)

    return finish
