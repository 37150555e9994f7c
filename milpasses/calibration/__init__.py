"""Encodings chosen by what flows into a weight, so that the outputs of its op change least.

``sources`` gives a weight's statistics, ``ahead`` collects those of several recipes at once, ``encode``
chooses among a weight's encodings, ``feedback`` chooses codes and tables anew, ``outputs`` says what that
does to the outputs and corrects biases, ``matrices`` shows a weight as the matrices that its inputs meet.
"""

from milpasses.calibration.outputs import output_error
from milpasses.calibration.sources import (
    BATCHES,
    HELD_OUT,
    MEMORY,
    Inputs,
    KnownStatistics,
    OnlineStatistics,
    StatisticsSource,
)

__all__ = [
    "BATCHES",
    "HELD_OUT",
    "MEMORY",
    "Inputs",
    "KnownStatistics",
    "OnlineStatistics",
    "StatisticsSource",
    "output_error",
]
