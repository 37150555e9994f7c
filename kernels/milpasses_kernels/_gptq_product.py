"""Products with a square matrix, rows shared among threads in fixed pieces: the same bits however many."""

import numpy as np
from numpy.typing import NDArray

from ._threads import for_ranges

_ROWS = 256
Floats = NDArray[np.float32]


def times(values: Floats, matrix: Floats) -> Floats:
    """``values`` (R, K) times ``matrix`` (K, K)."""
    product = np.empty_like(values)

    def run(start: int, stop: int) -> None:
        for first in range(start * _ROWS, min(stop * _ROWS, len(values)), _ROWS):
            part = slice(first, first + _ROWS)
            np.matmul(values[part], matrix, out=product[part])

    for_ranges(-(-len(values) // _ROWS), run)
    return product


def energy(errors: Floats, matrix: Floats) -> float:
    """tr(E H E'): products in float32, sums in float64."""
    sums = np.zeros(-(-len(errors) // _ROWS))

    def run(start: int, stop: int) -> None:
        for index in range(start, stop):
            part = errors[index * _ROWS : (index + 1) * _ROWS]
            rows = np.einsum("ij,ij->i", part @ matrix, part)
            sums[index] = rows.sum(dtype=np.float64)

    for_ranges(len(sums), run)
    return float(sums.sum())
