"""NaN and infinities in weights: counted before anything is computed from them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import bits, for_blocks, weights_array
from ._jit import njit

_BLOCK = 1 << 18


def nonfinite(values: NDArray[Any]) -> tuple[int, int]:
    """Return (number of NaN, number of infinities) in a float16 or float32 array of any shape.

    Raises TypeError for another dtype.
    """
    flat = weights_array(values).reshape(-1)
    patterns = bits(flat)
    infinity = patterns.dtype.type(0x7C00 if flat.dtype == np.float16 else 0x7F800000)
    sign = patterns.dtype.type(1 << 8 * flat.dtype.itemsize - 1)
    found: list[tuple[int, int]] = []

    def run(_: slice, part: slice) -> None:
        if _any_from(patterns[part], sign, infinity):
            found.append(_count_from(patterns[part], sign, infinity))

    for_blocks(1, patterns.size, run, _BLOCK)
    return sum(nans for nans, _ in found), sum(infs for _, infs in found)


@njit
def _any_from(patterns: NDArray[Any], sign: Any, infinity: Any) -> bool:
    """Return whether any magnitude reaches infinity's: the quick look that nearly all blocks end with."""
    top = patterns.dtype.type(0)
    for i in range(patterns.size):
        top = max(top, patterns[i] & ~sign)
    return top >= infinity


@njit
def _count_from(patterns: NDArray[Any], sign: Any, infinity: Any) -> tuple[int, int]:
    nans = infs = 0
    for i in range(patterns.size):
        magnitude = patterns[i] & ~sign
        nans += magnitude > infinity
        infs += magnitude == infinity
    return nans, infs
