"""Products with a square matrix: rows in parts of one size, each by one thread of ours and one of BLAS."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._threads import for_ranges, one_blas_thread

_ROWS = 256  # fixed, so that the bits do not depend on the number of threads
Floats = NDArray[np.float32]


@one_blas_thread()
def product(rows: Floats, matrix: Floats) -> Floats:
    """``rows`` (R, K) @ ``matrix`` (K, B): float32 (R, B)."""
    out = np.empty((len(rows), matrix.shape[1]), np.float32)

    def run(start: int, stop: int) -> None:
        for part in _parts(start, stop):
            np.matmul(rows[part], matrix, out=out[part])

    for_ranges(-(-len(rows) // _ROWS), run)
    return out


@one_blas_thread()
def energy(
    errors: Floats,
    matrix: NDArray[Any],
    sums: NDArray[np.float64] | None = None,
    mean: NDArray[np.float64] | None = None,
) -> float:
    """tr(E H E') of E (R, K) and H (K, K), which is ``matrix``, less sums mean' if given.

    Products in float32, sums in float64; no second (R, K) or (K, K) is made.
    """
    found = np.zeros(-(-len(matrix) // _ROWS))

    def run(start: int, stop: int) -> None:
        for index, part in enumerate(_parts(start, stop), start):
            rows = matrix[part]
            if sums is not None and mean is not None:
                rows = rows - sums[part, None] * mean
            rows = rows.astype(np.float32, copy=False)
            for first in range(0, len(errors), _ROWS):
                own = errors[first : first + _ROWS]
                image = np.ascontiguousarray(own[:, part]) @ rows
                found[index] += np.einsum("ij,ij->i", image, own).sum(dtype=np.float64)

    for_ranges(found.size, run)
    return float(found.sum())


def _parts(start: int, stop: int) -> list[slice]:
    return [slice(index * _ROWS, (index + 1) * _ROWS) for index in range(start, stop)]
