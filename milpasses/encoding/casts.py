"""Float32 weights stored as float16."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.encodings import Cast
from milpasses.errors import Refusal

# What rounding to float16 costs at most, relative to a value in its normal range.
_HALF_ULP = 2.0**-11


def cast_half(value: NDArray[Any]) -> Cast:
    """``value`` (float32) as float16, each element rounded to the nearest.

    Raises ``Refusal`` for other types, for values that become infinite, and where the relative error of the
    whole, the root of sum (w - w')^2 / sum w^2, is above 2^-11: such a weight lies in float16's subnormals
    or below. Single values there do no harm beside larger ones.
    """
    if value.dtype != np.float32:
        raise Refusal("half-already", dtype=value.dtype.name)
    with np.errstate(over="ignore"):
        halves = value.astype(np.float16)
    largest = float(np.abs(value).max(initial=0))
    overflowed = int(np.count_nonzero(np.isinf(halves)))
    if overflowed:
        raise Refusal("half-overflow", count=overflowed, largest=largest)
    wide = value.astype(np.float64)
    signal, noise = float(np.sum(wide**2)), float(np.sum((wide - halves) ** 2))
    if noise > _HALF_ULP**2 * signal:
        raise Refusal("half-underflow", error=(noise / signal) ** 0.5, largest=largest)
    return Cast(halves)
