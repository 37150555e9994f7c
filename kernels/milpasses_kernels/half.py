"""Round float32 arrays to float16 and back, at the speed of memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _float16
from ._jit import njit
from ._threads import for_ranges

_GRAIN = 1 << 20  # values: below it a second thread costs more than it saves


def round_to_half(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return the nearest float16 values of an array of any shape, ties to even, as a new float32 array.

    The bits equal those of ``values.astype(float16).astype(float32)``: subnormal numbers are kept, overflow
    gives infinity; NaN stays NaN, with its float32 payload.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    out = np.empty(flat.size, np.float32)
    for_ranges(flat.size, lambda start, stop: _round(flat[start:stop], out[start:stop]), _GRAIN)
    return out.reshape(values.shape)


@njit
def _round(values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    for i in range(values.size):
        value = values[i]
        out[i] = _float16.round_to_half(value) if value == value else value
