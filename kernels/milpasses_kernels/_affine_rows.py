"""Rows of weights, each to its affine grid: measured among what the search found and what the range gives."""

import numpy as np
from numpy.typing import NDArray

from ._affine import (
    GRIDS,
    SUM_BLOCK,
    Form,
    Row,
    add_errors,
    add_grids,
    encode,
    extremes,
    range_grid,
    squares,
    zero_point,
)
from ._affine_search import (
    Search,
    add_products,
    coarse_candidates,
    fine_candidates,
    new_search,
    take_best,
)
from ._affine_tiles import fit_tile, lanes_of, new_tile
from ._jit import njit, njit_sums


@njit
def fit_rows(
    form: Form,
    rows: NDArray[np.float32],
    importance: NDArray[np.float32],
    first_row: int,
    scales: NDArray[np.float32],
    zeros: NDArray[np.int16],
    codes: NDArray[np.uint8],
) -> int:
    """Fit and encode each row of (R, n); return the first that holds NaN or infinity, or -1.

    Row r takes row (first_row + r) mod P of ``importance`` (P, n); P = 0 for none.
    """
    count, length = rows.shape
    ends = np.zeros((3, count))
    bad = _measure_ends(rows, ends)
    if bad >= 0:
        return bad
    if form.rounds and importance.size:
        for r in range(count):
            total, mass = squares(rows[r], _importance(importance, first_row + r))
            ends[2, r] = total / mass if total > 0 else 0.0
    elif form.rounds:
        _mean_squares(rows, ends[2])
    alone = np.ones(count, np.bool_)
    lanes = 0 if importance.size else lanes_of(count, length)
    if lanes:
        tile = new_tile(lanes, length)
        for first in range(0, count, lanes):
            part = slice(first, min(first + lanes, count))
            fit_tile(
                form, rows[part], ends[:, part], tile, scales[part], zeros[part], codes[part], alone[part]
            )
    search = new_search(1)
    grids, errors, scratch = np.empty((GRIDS, 3)), np.empty(GRIDS), np.empty(SUM_BLOCK, np.float32)
    for r in range(count):
        if alone[r]:
            weight = _importance(importance, first_row + r)
            _search(form, rows[r], weight, ends[:, r : r + 1], search)
            scales[r], zeros[r] = _encode_best(
                form, rows[r], weight, ends[0, r], ends[1, r], search.best, grids, errors, scratch, codes[r]
            )
    return -1


@njit
def _measure_ends(rows: NDArray[np.float32], ends: NDArray[np.float64]) -> int:
    """Set lowest and highest of each row; return the first that holds NaN or infinity, or -1."""
    for r in range(rows.shape[0]):
        lowest, highest = extremes(rows[r])
        ends[0, r], ends[1, r] = lowest, highest
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            return r
    return -1


@njit_sums
def _mean_squares(rows: NDArray[np.float32], mean_square: NDArray[np.float64]) -> None:
    for r in range(rows.shape[0]):
        total = 0.0
        for j in range(rows.shape[1]):
            total += np.float64(rows[r, j]) * np.float64(rows[r, j])
        mean_square[r] = total / max(rows.shape[1], 1)


@njit
def _importance(importance: NDArray[np.float32], row: int) -> Row:
    """The importance of a row: empty for none."""
    return importance[row % len(importance)] if importance.size else importance.reshape(-1)


@njit
def _search(form: Form, row: Row, importance: Row, ends: NDArray[np.float64], search: Search) -> None:
    """Find ``search.best`` of one row; its score stays 0 where nothing is searched."""
    search.best[:] = 0.0
    if ends[2, 0] <= 0:  # no weight that is not 0 has any importance
        return
    coarse_candidates(form, ends, search)
    for i in range(form.rounds):
        if i:
            fine_candidates(form, search)
        search.sums[:] = 0.0
        add_products(row, importance, search.candidates, search.sums)
        take_best(search)
        if search.best[0, 0] <= 0:
            return


@njit
def _encode_best(
    form: Form,
    row: Row,
    importance: Row,
    lowest: float,
    highest: float,
    best: NDArray[np.float64],
    grids: NDArray[np.float64],
    errors: NDArray[np.float64],
    scratch: NDArray[np.float32],
    codes: NDArray[np.uint8],
) -> tuple[float, int]:
    """Write the codes of the best stored grid; return its scale and zero point."""
    if lowest == highest:
        zero = zero_point(form, float(form.first))
        codes[:] = np.uint8(zero & 0xFF)
        return 1.0, zero
    scale, low, high = range_grid(form, lowest, highest)
    count = add_grids(scale, low, high, form.half, grids)
    if best[0, 0] > 0:
        count += add_grids(best[4, 0], best[2, 0], best[3, 0], form.half, grids[count:])
    errors[:] = 0
    if count > 1:
        add_errors(form, row, importance, grids, count, scratch, errors)
    least = 0
    for c in range(1, count):
        if errors[c] < errors[least]:
            least = c
    grid = grids[least]
    zero = zero_point(form, grid[1])
    encode(row, grid, zero, codes)
    return grid[0], zero
