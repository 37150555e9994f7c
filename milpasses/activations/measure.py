"""The ranges of activations from data or statistics, refused with one line where they say too little."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milpasses.activations.quantize import Ranges
from milpasses.data.collect import statistics as collect_statistics
from milpasses.data.moments import Statistics
from milpasses.data.norms import is_norms
from milpasses.errors import MilpassesError, SampleError

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
