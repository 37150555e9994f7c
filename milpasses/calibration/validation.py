"""Which of the calibrated weights the outputs of the whole model bear out, on samples held out.

Each weight that is calibrated gains in its own op's outputs, and the model can still lose: errors that
calibration leaves add up, or samples were too few. So the model runs on the held-out samples with the weights
as they would be without data, and with the calibrated ones. Where an output is worse, all go back, and
stretches of the program are tried, halved as when bisecting: one stays calibrated where no output is worse
than without data, and all outputs together gain.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.data.held_out import HeldOutRuns

Array = NDArray[Any]
_RUNS = 256  # of them, in search of what goes back
_FEWEST = 7  # trials
_TOLERANCE = 1 + 1e-9  # sums of floats
_SMALLEST, _LARGEST = 1e-30, 1e30  # errors


@attrs.frozen(eq=False)
class Decoded:
    """A weight's values, decoded when they are asked for; to NumPy an array."""

    shape: tuple[int, ...]
    decode: Callable[[], Array]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self.decode(), dtype)


Values = Mapping[str, Decoded]  # by variable


@attrs.frozen(eq=False)
class Alternatives:
    """A weight, with its bias if that is corrected for it: ``calibrated``, and ``plain``, without data."""

    calibrated: Values
    plain: Values


@attrs.frozen(eq=False)
class Validation:
    """What was found on ``samples`` held-out samples.

    ``borne_out``: the places of the alternatives that stay calibrated. Of each output the error as in
    ``HeldOutRuns.errors``: ``plain``, without data, and ``chosen``, of what stays.
    """

    samples: int
    borne_out: frozenset[int]
    plain: Mapping[str, float]
    chosen: Mapping[str, float]


def validate(
    runs: HeldOutRuns,
    fixed: Values,
    alternatives: Sequence[Alternatives],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Validation:
    """Choose between the ``alternatives``, with ``fixed`` for the other weights.

    No output of the choice has a larger error than without data. ``progress``: trials done, and at most to
    do.
    """
    trials = max(_RUNS // max(len(runs), 1), _FEWEST)

    def errors_of(calibrated: frozenset[int]) -> dict[str, float]:
        values = dict(fixed)
        for place, weight in enumerate(alternatives):
            values |= weight.calibrated if place in calibrated else weight.plain
        runs.interpreter.override(values)
        return runs.errors()

    try:
        plain = chosen = errors_of(frozenset())
        borne_out: frozenset[int] = frozenset()
        stretches = [range(len(alternatives))]
        for trial in range(trials):
            if not stretches:
                break
            progress(trial, trials)
            stretch = stretches.pop(0)
            errors = errors_of(borne_out | set(stretch))
            if _no_worse(errors, plain) and _loss(errors, plain) <= _loss(chosen, plain):
                borne_out, chosen = borne_out | set(stretch), errors
            elif len(stretch) > 1:
                half = len(stretch) // 2
                stretches += [stretch[:half], stretch[half:]]
    finally:
        runs.interpreter.override({})
    progress(trials, trials)
    return Validation(len(runs), borne_out, plain, chosen)


def _no_worse(errors: Mapping[str, float], plain: Mapping[str, float]) -> bool:
    return all(errors[name] <= plain[name] * _TOLERANCE for name in plain)


def _loss(errors: Mapping[str, float], plain: Mapping[str, float]) -> float:
    """The mean logarithm, over the outputs, of the errors' ratio to those without data."""
    ratios = [_log(errors[name]) - _log(plain[name]) for name in plain]
    return sum(ratios) / len(ratios) if ratios else 0.0


def _log(error: float) -> float:
    return math.log(min(max(error, _SMALLEST), _LARGEST))
