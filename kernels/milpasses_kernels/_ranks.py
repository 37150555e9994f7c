"""float16 values in numeric order: the rank of a bit pattern, and searches by rank.

Rank 0x0400 is -65504, 0x7FFF is -0, 0x8000 is +0 and 0xFBFF is 65504; infinities and NaN lie outside.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._jit import njit

PATTERNS = 1 << 16
FIRST_RANK = 0x0400
LAST_RANK = 0xFBFF


def _value_of_rank() -> NDArray[np.float32]:
    values = np.full(PATTERNS, np.inf, np.float32)
    positive = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
    values[0x8000 : LAST_RANK + 1] = positive
    values[FIRST_RANK:0x8000] = -positive[::-1]
    values[:FIRST_RANK] = -np.inf
    return values


# Kernels take it as an argument: Numba would bake a global array into each of them.
VALUE_OF_RANK = _value_of_rank()


@njit
def rank_of_bits(pattern: Any) -> int:
    """Return the rank of a bit pattern."""
    return 0xFFFF - pattern if pattern >= 0x8000 else 0x8000 + pattern


@njit
def last_rank_at_most(x: float, values: NDArray[np.float32]) -> int:
    """Return the largest finite rank whose value is <= ``x``, x >= -65504."""
    low, high = FIRST_RANK, LAST_RANK + 1
    while high - low > 1:
        middle = (low + high) >> 1
        if values[middle] <= x:
            low = middle
        else:
            high = middle
    return low


@njit
def nearest_rank(x: float, values: NDArray[np.float32]) -> int:
    """Return the rank of ``x`` (float64, |x| <= 65504) rounded once to float16, ties to even."""
    below = last_rank_at_most(x, values)
    if below == LAST_RANK or values[below] == x:
        return below
    middle = 0.5 * (np.float64(values[below]) + np.float64(values[below + 1]))
    # A rank and its bit pattern are even together above zero, and not below it.
    even = (below % 2 == 0) == (below >= 0x8000)
    return below if x < middle or (x == middle and even) else below + 1
