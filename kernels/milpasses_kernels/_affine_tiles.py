"""Short groups side by side, each a column of a tile: their search, the errors of stored grids, their codes.

What is done once a group, or once a group and a candidate, takes longer than the arithmetic on a group's few
weights unless it is a vector operation over groups.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._affine import Form, Row, is_plain, nearest_code, range_grid, stored_scale, zero_point
from ._affine_search import Search, new_search, search_tile
from ._float16 import round_to_half
from ._jit import njit

_TILE = 4096  # weights: with their sums they stay in a first-level cache
_LONGEST = 256  # weights of a group


class Tile(NamedTuple):
    """``lanes`` groups of n weights, their ``search``, and the grids that are measured, by row: (2, lanes).

    The first grid of a lane is its range's own, the second what the search found.
    """

    weights: NDArray[np.float32]  # (n, lanes)
    ends: NDArray[np.float64]  # (3, lanes): lowest, highest, mean square
    search: Search
    scale: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    errors: NDArray[np.float64]
    scratch: NDArray[np.float32]  # (5, lanes)


@njit
def lanes_of(count: int, length: int) -> int:
    """How many of ``count`` groups of ``length`` weights lie side by side; 0 where each is fitted alone."""
    return min(max(_TILE // max(length, 1), 1), count) if length <= _LONGEST else 0


@njit
def new_tile(lanes: int, length: int) -> Tile:
    """A tile without weights."""
    scale, low, high = np.ones((3, 2, lanes), np.float32)
    return Tile(
        np.zeros((length, lanes), np.float32), np.ones((3, lanes)), new_search(lanes),
        scale, low, high, np.zeros((2, lanes)), np.empty((5, lanes), np.float32),
    )  # fmt: skip


@njit
def fit_tile(
    form: Form,
    rows: NDArray[np.float32],
    ends: NDArray[np.float64],
    tile: Tile,
    scales: NDArray[np.float32],
    zeros: NDArray[np.int16],
    codes: NDArray[np.uint8],
    special: NDArray[np.bool_],
) -> None:
    """Fit and encode rows (R, n), of which ``ends`` (3, R) has lowest, highest and mean square.

    ``special`` (R,) says which are left: groups of zeros, and those of scales at the ends of their range.
    """
    if form.rounds:
        _fill(rows, ends, tile)
        search_tile(form, tile.weights, tile.ends, tile.search, tile.scratch)
    _set_grids(form, ends, tile.search.best, tile.scale, tile.low, tile.high, special)
    if form.rounds:
        for c in range(2):
            grid = tile.scale[c], tile.low[c], tile.high[c]
            _add_errors(tile.weights, *grid, form.half, tile.scratch[0], tile.errors[c])
    _choose(form, tile.search.best[0], tile.errors, tile.scale, tile.low, tile.high, scales, zeros)
    _encode(rows, scales, tile.low[0], tile.high[0], zeros, codes)


@njit
def _fill(rows: NDArray[np.float32], ends: NDArray[np.float64], tile: Tile) -> None:
    """Put ``rows`` (R, n) into the columns of a tile, the last of them into all that are left."""
    last, weights = len(rows) - 1, tile.weights
    for g in range(weights.shape[1]):
        r = min(g, last)
        for j in range(weights.shape[0]):
            weights[j, g] = rows[r, j]
        empty = ends[2, r] <= 0  # nothing wins in a group of zeros, whatever its ends
        tile.ends[0, g] = -1.0 if empty else ends[0, r]
        tile.ends[1, g] = 1.0 if empty else ends[1, r]
        tile.ends[2, g] = 1.0 if empty else ends[2, r]


@njit
def _set_grids(
    form: Form,
    ends: NDArray[np.float64],
    best: NDArray[np.float64],
    scale: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    special: NDArray[np.bool_],
) -> None:
    """Store the grids of each lane; ``special``: there are others to measure."""
    for g in range(special.size):
        if ends[0, g] == ends[1, g]:
            special[g] = True
            continue
        exact, lowest, highest = range_grid(form, ends[0, g], ends[1, g])
        stored = stored_scale(exact, form.half)
        scale[0, g], low[0, g], high[0, g] = stored, lowest, highest
        plain = is_plain(stored, lowest, highest, form.half)
        if best[0, g] > 0:
            lowest, highest = best[2, g], best[3, g]
            stored = stored_scale(best[4, g], form.half)
            plain &= is_plain(stored, lowest, highest, form.half)
        scale[1, g], low[1, g], high[1, g] = stored, lowest, highest
        special[g] = not plain


@njit
def _choose(
    form: Form,
    score: NDArray[np.float64],
    errors: NDArray[np.float64],
    scale: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    scales: NDArray[np.float32],
    zeros: NDArray[np.int16],
) -> None:
    """Take the better grid of each lane: its scale and zero point, and low and high as those of the first."""
    for g in range(scales.size):
        c = 1 if score[g] > 0 and errors[1, g] < errors[0, g] else 0
        scales[g] = scale[c, g]
        zeros[g] = zero_point(form, low[c, g])
        low[0, g], high[0, g] = low[c, g], high[c, g]


@njit
def _add_errors(
    weights: NDArray[np.float32],
    scale: Row,
    low: Row,
    high: Row,
    half: bool,
    decoded: Row,
    errors: NDArray[np.float64],
) -> None:
    """Set ``errors`` (lanes,) to the squared error of a grid, decoded as Core ML decodes it."""
    errors[:] = 0.0
    for j in range(len(weights)):
        row = weights[j]
        for g in range(row.size):
            decoded[g] = nearest_code(row[g], scale[g], low[g], high[g]) * scale[g]
        if half:
            for g in range(row.size):
                decoded[g] = round_to_half(decoded[g])
        for g in range(row.size):
            difference = np.float64(row[g] - decoded[g])
            errors[g] += difference * difference


@njit
def _encode(
    rows: NDArray[np.float32],
    scales: Row,
    low: Row,
    high: Row,
    zeros: NDArray[np.int16],
    codes: NDArray[np.uint8],
) -> None:
    for r in range(rows.shape[0]):
        scale, lowest, highest, zero = scales[r], low[r], high[r], np.int32(zeros[r])
        for j in range(rows.shape[1]):
            codes[r, j] = np.uint8((np.int32(nearest_code(rows[r, j], scale, lowest, highest)) + zero) & 0xFF)
