"""One group's affine grid: decoded = scale * k, where k = code - zero point runs over [low, high].

Everything works on float32 rows and in terms of k, so that signed, unsigned, symmetric and asymmetric
codes are one case. A *grid* is (scale, low, high) with the scale as the file will hold it and with low
and high drawn in where scale * k would decode to infinity.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._float16 import float_to_half, half_to_float, round_to_half
from ._jit import njit, njit_sums

GRIDS = 6  # that are stored and measured: the range's own and the best fit, each with its two neighbours
SUM_BLOCK = 1024  # float32 sums stay short, and are carried on in float64

Row = NDArray[np.float32]


class Form(NamedTuple):
    """What is common to all groups of a tensor."""

    codes: int  # 2^nbits
    first: int  # the smallest code: 0, or -2^(nbits - 1)
    symmetric: bool
    half: bool  # scales and decoded weights are float16, else float32
    rounds: int  # of the search; 0 takes the range as it is
    clip: float  # the narrowest half range worth trying, in standard deviations


@njit
def extremes(row: Row) -> tuple[float, float]:
    """Return the smallest and the largest of 0 and the row; NaN counts as beyond infinity."""
    lowest = highest = 0
    for j in range(row.size):
        bits = np.float32(row[j]).view(np.int32)
        ordered = np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))  # orders as the floats do
        lowest = min(lowest, ordered)
        highest = max(highest, ordered)
    lowest ^= (lowest >> 31) & 0x7FFFFFFF
    return np.float64(np.int32(lowest).view(np.float32)), np.float64(np.int32(highest).view(np.float32))


@njit_sums
def squares(row: Row, importance: Row) -> tuple[float, float]:
    """Return (sum of m w^2, sum of m); an empty importance is 1 everywhere."""
    total = 0.0
    if importance.size == 0:
        for j in range(row.size):
            total += np.float64(row[j]) * np.float64(row[j])
        return total, float(row.size)
    mass = 0.0
    for j in range(row.size):
        total += np.float64(importance[j]) * np.float64(row[j]) * np.float64(row[j])
        mass += np.float64(importance[j])
    return total, mass


@njit
def _neighbour(scale: float, step: int, half: bool) -> float:
    """Return the stored scale that is ``step`` representable values away, positive and finite."""
    if half:
        bits = np.int64(float_to_half(np.float32(scale))) + step
        return float(half_to_float(np.uint16(min(max(bits, 1), 0x7BFF))))
    bits = np.int64(np.float32(scale).view(np.int32)) + step
    return float(np.int32(min(max(bits, 1), 0x7F7FFFFF)).view(np.float32))


@njit
def add_grids(scale: float, low: float, high: float, half: bool, grids: NDArray[np.float64]) -> int:
    """Store the grid as the first of ``grids`` and return how many of them were filled.

    One, but three in two cases in which only measuring tells which scale is best. Where the nearest stored
    scale is subnormal (coarse): its neighbours. Where it draws in low or high: the next below, and the
    largest that draws in neither.
    """
    limit = _limit(half)
    subnormal = False
    for i in range(3):
        step = (0, -1, 1)[i]
        if i == 2 and not subnormal:
            scale, step = limit / max(-low, high), -1
        stored = _neighbour(scale, step, half)
        reach = np.floor(limit / stored)
        grids[i, 0] = stored
        grids[i, 1] = max(low, -reach)
        grids[i, 2] = min(high, reach)
        if i == 0:
            if is_plain(stored, low, high, half):
                return 1
            subnormal = stored < _smallest_normal(half)
    return 3


@njit
def _limit(half: bool) -> float:
    # The largest float32 that decodes to a finite weight: what is below 65,520 rounds to a finite float16.
    return 65519.996 if half else 3.4028234663852886e38


@njit
def _smallest_normal(half: bool) -> float:
    return 2.0**-14 if half else 2.0**-126


@njit
def stored_scale(scale: float, half: bool) -> float:
    """Return the nearest stored scale, positive and finite."""
    return _neighbour(scale, 0, half)


@njit
def is_plain(stored: float, low: float, high: float, half: bool) -> bool:
    """Whether a stored scale is normal, and decodes low and high to finite weights."""
    return stored >= _smallest_normal(half) and stored * max(-low, high) <= _limit(half)


@njit
def range_grid(form: Form, lowest: float, highest: float) -> tuple[float, float, float]:
    """Return the range's own grid, as in coremltools, its scale not stored yet."""
    if form.symmetric:
        high = float(form.codes // 2 - 1)
        return max(-lowest, highest) / high, -high, high
    first, last = float(form.first), float(form.first + form.codes - 1)
    zero = np.rint((first * highest - last * lowest) / (highest - lowest))
    low = first - min(max(zero, first), last)
    return (highest - lowest) / (last - first), low, low + last - first


@njit
def nearest_code(value: np.float32, scale: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """Return the k of a weight on a stored grid: half to even."""
    return min(max(np.rint(value / scale), low), high)


@njit
def _differences(
    row: Row, scale: np.float32, low: np.float32, high: np.float32, half: bool, differences: Row
) -> None:
    # Apart from the sum of their squares: what is measured are the weights that will be decoded, to the bit.
    for j in range(row.size):
        differences[j] = nearest_code(row[j], scale, low, high) * scale
    if half:
        for j in range(row.size):
            differences[j] = round_to_half(differences[j])
    for j in range(row.size):
        differences[j] = row[j] - differences[j]


@njit
def add_errors(
    form: Form,
    row: Row,
    importance: Row,
    grids: NDArray[np.float64],
    count: int,
    scratch: Row,
    errors: NDArray[np.float64],
) -> None:
    """Add the squared error of the first ``count`` grids, decoded as Core ML decodes them, to ``errors``.

    ``scratch`` holds SUM_BLOCK float32.
    """
    for c in range(count):
        scale = np.float32(grids[c, 0])
        low, high = np.float32(grids[c, 1]), np.float32(grids[c, 2])
        for start in range(0, row.size, SUM_BLOCK):
            part = row[start : start + SUM_BLOCK]
            differences = scratch[: part.size]
            _differences(part, scale, low, high, form.half, differences)
            errors[c] += squares(differences, importance[start : start + SUM_BLOCK])[0]


@njit
def zero_point(form: Form, low: float) -> int:
    """Return a grid's zero point: coremltools' middle code if symmetric, else what puts ``first`` at low."""
    if form.symmetric:
        return 0 if form.first else form.codes // 2 - 1
    return form.first - int(low)


@njit
def encode(row: Row, grid: NDArray[np.float64], zero: int, codes: NDArray[np.uint8]) -> None:
    """Write the codes of a row, as bytes: round half to even with the scale as stored."""
    scale, low, high = np.float32(grid[0]), np.float32(grid[1]), np.float32(grid[2])
    for j in range(row.size):
        codes[j] = np.uint8((np.int32(nearest_code(row[j], scale, low, high)) + zero) & 0xFF)
