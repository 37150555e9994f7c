"""Products with a square matrix. In NumPy's own threads, which do not go well with ours."""

import numpy as np
from numpy.typing import NDArray

_ROWS = 256
Floats = NDArray[np.float32]


def energy(errors: Floats, matrix: Floats) -> float:
    """tr(E H E') of E (R, K) and H (K, K): products in float32, sums in float64; no second (R, K) is made."""
    total = 0.0
    for first in range(0, len(errors), _ROWS):
        part = errors[first : first + _ROWS]
        total += float(np.einsum("ij,ij->i", part @ matrix, part).sum(dtype=np.float64))
    return total
