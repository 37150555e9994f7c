"""Encodings chosen by what flows into a weight, so that the outputs of its op change least.

``sources`` gives a weight's statistics, ``ahead`` collects those of several recipes at once, ``encode``
chooses among a weight's encodings, ``feedback`` chooses codes and tables anew, ``outputs`` says what that
does to the outputs and corrects biases, ``matrices`` shows a weight as the matrices that its inputs meet.
"""

from milpasses.calibration.outputs import damage
from milpasses.calibration.sources import (
    HELD_OUT,
    MEMORY,
    NORMS,
    WAVES,
    Given,
    Inputs,
    Live,
    Source,
    is_norms,
)

__all__ = ["HELD_OUT", "MEMORY", "NORMS", "WAVES", "Given", "Inputs", "Live", "Source", "damage", "is_norms"]
