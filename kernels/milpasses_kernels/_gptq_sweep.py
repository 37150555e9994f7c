"""The inner loop of error feedback: a block of columns, each rounded with what its neighbours lost.

Rows are independent. ``errors`` are W - What, of the columns done (zero, or an earlier sweep's, elsewhere);
``targets`` what each column should become to make up for the errors of the others. When a column's error
changes, the targets of the columns after it in the block follow by ``feedback[column, later]``.
"""

import numpy as np
from numpy.typing import NDArray

from ._float16 import round_to_half
from ._jit import njit

Floats = NDArray[np.float32]
_VECTORS = 32  # float32


@njit
def sweep_floats(
    weights: Floats, targets: Floats, errors: Floats, feedback: Floats, mask: NDArray[np.uint8], half: bool
) -> None:
    """Keep what the mask keeps as a float; the rest becomes zero. All (n, B), ``feedback`` (B, B)."""
    for r in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            kept = np.float32(targets[r, j])
            if half:
                kept = round_to_half(np.float32(min(max(kept, np.float32(-65504)), np.float32(65504))))
            if mask[r, j] == 0:
                kept = np.float32(0)
            _spread(weights[r, j] - kept, r, j, targets, errors, feedback)


@njit
def sweep_affine(
    weights: Floats,
    targets: Floats,
    errors: Floats,
    feedback: Floats,
    mask: NDArray[np.uint8],
    half: bool,
    grids: Floats,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    codes: NDArray[np.int16],
) -> None:
    """Round to grid ``rows[r] + columns[j]``, (scale, low, high) in ``grids``; write code - zero point.

    ``mask`` (n, B), or (0, 0) where nothing is pruned.
    """
    for r in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            g = rows[r] + columns[j]
            scale = grids[g, 0]
            k = min(max(np.rint(targets[r, j] / scale), grids[g, 1]), grids[g, 2])
            codes[r, j] = np.int16(k)
            decoded = np.float32(k * scale)
            if half:
                decoded = round_to_half(decoded)
            if mask.size and mask[r, j] == 0:
                decoded = np.float32(0)
            _spread(weights[r, j] - decoded, r, j, targets, errors, feedback)


@njit
def sweep_tables(
    weights: Floats,
    targets: Floats,
    errors: Floats,
    feedback: Floats,
    mask: NDArray[np.uint8],
    tables: Floats,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    codes: NDArray[np.int16],
) -> None:
    """Take the nearest entry of table ``rows[r] + columns[j]``, ascending, the lower of two as near."""
    for r in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            g = rows[r] + columns[j]
            target = targets[r, j]
            first, last = 0, tables.shape[1] - 1
            while first < last:
                middle = (first + last) >> 1
                if target - tables[g, middle] > tables[g, middle + 1] - target:
                    first = middle + 1
                else:
                    last = middle
            codes[r, j] = first
            decoded = tables[g, first]
            if mask.size and mask[r, j] == 0:
                decoded = np.float32(0)
            _spread(weights[r, j] - decoded, r, j, targets, errors, feedback)


@njit
def sweep_vectors(
    weights: Floats,
    targets: Floats,
    errors: Floats,
    feedback: Floats,
    tables: Floats,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    codes: NDArray[np.int16],
) -> None:
    """Take the nearest vector of a table for each d neighbouring rows: ``tables`` (T, k, d)."""
    entries, dims = tables.shape[1], tables.shape[2]
    for v in range(weights.shape[0] // dims):
        top = v * dims
        for j in range(weights.shape[1]):
            table = tables[rows[top] + columns[j]]
            nearest, least = 0, np.float32(np.inf)
            for c in range(entries):
                distance = np.float32(0)
                for i in range(dims):
                    off = targets[top + i, j] - table[c, i]
                    distance += off * off
                if distance < least:
                    nearest, least = c, distance
            for i in range(dims):
                codes[top + i, j] = nearest
                _spread(weights[top + i, j] - table[nearest, i], top + i, j, targets, errors, feedback)


@njit
def _spread(error: np.float32, r: int, j: int, targets: Floats, errors: Floats, feedback: Floats) -> None:
    change = np.float32(error - errors[r, j])
    errors[r, j] = error
    # By unsigned indices, which may not count from the end: then it is a vector operation. From a multiple of
    # some vectors on, so that none is left over: targets up to j are not read again.
    first = np.uint64((j + 1) // _VECTORS * _VECTORS)
    for c in range(np.uint64(targets.shape[1]) - first):
        place = first + np.uint64(c)
        targets[r, place] += change * feedback[j, place]
