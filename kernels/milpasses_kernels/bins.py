"""Counts of activations in bins whose width is a power of two."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import frozen
from ._jit import njit


def count_in_bins(values: NDArray[Any], exponent: int, first: int, counts: NDArray[np.int64]) -> None:
    """Add each finite value x of a float32 array of any shape to ``counts[floor(x / 2**exponent) - first]``.

    The division is exact. NaN and infinities are left out. Raises ``ValueError`` where a value falls into no
    bin; ``counts`` (bins,) may then hold some of them.
    """
    flat = frozen(np.ascontiguousarray(values, np.float32).reshape(-1))
    if not _count(flat, np.ldexp(1.0, -exponent), first, counts):
        raise ValueError(f"a value is outside of bins {first} to {first + counts.size - 1}")


@njit
def _count(values: NDArray[np.float32], scale: float, first: int, counts: NDArray[np.int64]) -> bool:
    for i in range(values.size):
        value = np.float64(values[i])
        if np.isfinite(value):
            place = np.floor(value * scale) - first
            if place < 0 or place >= counts.size:
                return False
            counts[np.int64(place)] += 1
    return True
