"""Cholesky factors of a damped second moment: in single precision for many inputs, where damping allows it.

Rounding to float32 moves the eigenvalues of a matrix of mean diagonal 1 by less than the damping, so that the
factor exists and tells feedback apart just as well; the pivots, which cannot fall below the damping but by
rounding, say where it went wrong, and double precision is asked.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._gptq_product import Floats, product

_WIDE = 1024  # inputs from which on single precision is tried
_SINGLE = 1e-3  # and the damping
_BLOCK = 256


def damped_factor(
    gram: NDArray[Any], order: NDArray[np.int64], mean: float, damping: float
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return R, H of H = R R', with ``gram`` (K, K) / ``mean`` in ``order`` and ``damping`` on its diagonal.

    R is upper triangular. None where H is not positive.
    """
    single = len(order) > _WIDE and damping >= _SINGLE
    for dtype in (np.float32, np.float64) if single else (np.float64,):
        ordered = np.empty(gram.shape, dtype)
        for first in range(0, len(order), _BLOCK):
            rows = slice(first, first + _BLOCK)
            ordered[rows] = gram[order[rows]][:, order] / mean
        np.fill_diagonal(ordered, np.diagonal(gram)[order] / mean + damping)
        backwards = ordered[::-1, ::-1]
        try:
            lower = np.linalg.cholesky(backwards) if dtype == np.float64 else _single_cholesky(backwards)
        except np.linalg.LinAlgError:
            continue
        if dtype == np.float64 or np.diagonal(lower).min() ** 2 > damping / 2:
            return lower[::-1, ::-1], ordered
    return None


def _single_cholesky(matrix: NDArray[Any]) -> Floats:
    """The lower factor of a positive float32 matrix, by blocks of columns: mostly matrix products.

    Raises ``LinAlgError`` as NumPy's, which takes five times as long.
    """
    lower = matrix.copy()
    for left in range(0, len(lower), _BLOCK):
        own = slice(left, min(left + _BLOCK, len(lower)))
        if left:
            lower[left:, own] -= product(lower[left:, :left], lower[own, :left].T)
        corner = np.linalg.cholesky(lower[own, own].astype(np.float64))
        lower[own, own] = corner
        below = lower[own.stop :, own]
        below[:] = product(below, np.linalg.inv(corner).T.astype(np.float32))
    return np.tril(lower)
