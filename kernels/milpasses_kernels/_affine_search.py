"""The search for a group's affine grid: rounds of candidates, scored by what is left after a refit.

A *candidate* is (inverse scale, low, high), not stored yet. With its codes k fixed the least-squares scale
is sum(m w k) / sum(m k^2), in closed form; the importances m are 1 where there are none.
"""

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
from ._jit import njit, njit_sums

CANDIDATES = 16  # a round of the search


@njit
def coarse_candidates(
    form: Form, lowest: float, highest: float, mean_square: float, candidates: NDArray[np.float64]
) -> float:
    """Fill a first round of ``candidates`` and return the ratio of neighbouring inverse scales.

    The largest step leaves the outermost codes unused, the smallest clips a little more than the best
    quantizer of a Gaussian: the best grid of longer tails is coarser. Asymmetric: both ends shrink on
    their own.
    """
    clip = form.clip * np.sqrt(mean_square)
    if form.symmetric:
        half_codes = form.codes / 2
        low = -half_codes if form.first else 1 - half_codes
        top = max(-lowest, highest)
        inverse = 0.7 * half_codes / top
        ratio = (half_codes / min(top / 1.3, clip) / inverse) ** (1 / (CANDIDATES - 1))
        for i in range(CANDIDATES):
            candidates[i, 0] = inverse
            candidates[i, 1] = low
            candidates[i, 2] = low + form.codes - 1
            inverse *= ratio
        return ratio
    below, above = -1.05 * lowest, 1.05 * highest
    shrink_below = np.cbrt(min(0.75, clip / max(below, 1e-300)))
    shrink_above = np.cbrt(min(0.75, clip / max(above, 1e-300)))
    reach_below = below
    for i in range(4):
        reach_above = above
        for j in range(4):
            scale = (reach_below + reach_above) / (form.codes - 1)
            low = -min(np.rint(reach_below / scale), form.codes - 1.0)
            candidates[4 * i + j, 0] = 1 / scale
            candidates[4 * i + j, 1] = low
            candidates[4 * i + j, 2] = low + form.codes - 1
            reach_above *= shrink_above
        reach_below *= shrink_below
    return (below + above) / (below * shrink_below + above * shrink_above)


@njit
def fine_candidates(
    form: Form, best: NDArray[np.float64], ratio: float, candidates: NDArray[np.float64]
) -> float:
    """Fill the next round around the best so far and return its finer ratio of inverse scales."""
    if form.symmetric:
        finer = np.sqrt(np.sqrt(np.sqrt(ratio)))
        inverse = best[1] / ratio * np.sqrt(finer)
        for i in range(CANDIDATES):
            candidates[i, 0] = inverse
            inverse *= finer
        return finer
    finer = np.cbrt(ratio)
    for i in range(CANDIDATES):
        # Five inverse scales for each of three zero points; the sixteenth repeats the first.
        low = min(max(best[2] + (i // 5 % 3) - 1, 1.0 - form.codes), 0.0)
        candidates[i, 0] = best[1] * finer ** (i % 5 - 2)
        candidates[i, 1] = low
        candidates[i, 2] = low + form.codes - 1
    return finer


@njit_sums
def _products(
    row: Row, inverse: np.float32, low: np.float32, high: np.float32
) -> tuple[np.float32, np.float32]:
    wk = kk = np.float32(0)
    for j in range(row.size):
        k = min(max(np.rint(row[j] * inverse), low), high)
        wk += row[j] * k
        kk += k * k
    return wk, kk


@njit_sums
def _weighted_products(
    row: Row, importance: Row, inverse: np.float32, low: np.float32, high: np.float32
) -> tuple[np.float32, np.float32]:
    wk = kk = np.float32(0)
    for j in range(row.size):
        k = min(max(np.rint(row[j] * inverse), low), high)
        mk = importance[j] * k
        wk += row[j] * mk
        kk += k * mk
    return wk, kk


@njit
def add_products(
    row: Row, importance: Row, candidates: NDArray[np.float64], sums: NDArray[np.float64]
) -> None:
    """Add (sum of m w k, sum of m k^2) of each candidate's codes k to ``sums`` (CANDIDATES, 2)."""
    for c in range(CANDIDATES):
        inverse = np.float32(candidates[c, 0])
        low, high = np.float32(candidates[c, 1]), np.float32(candidates[c, 2])
        for start in range(0, row.size, SUM_BLOCK):
            part = slice(start, start + SUM_BLOCK)
            if importance.size:
                wk, kk = _weighted_products(row[part], importance[part], inverse, low, high)
            else:
                wk, kk = _products(row[part], inverse, low, high)
            sums[c, 0] += wk
            sums[c, 1] += kk


@njit
def take_best(candidates: NDArray[np.float64], sums: NDArray[np.float64], best: NDArray[np.float64]) -> None:
    """Keep in ``best`` (score, inverse, low, high, scale) the candidate that fits best, its scale refitted.

    With its codes fixed, the least-squares scale is wk / kk and lowers the error by wk^2 / kk, the score.
    Sums that left the float32 range (weights near its limits) never win.
    """
    winner = -1
    for c in range(CANDIDATES):
        score = sums[c, 0] * sums[c, 0] / sums[c, 1] if sums[c, 1] > 0 else 0.0
        if score > best[0] and score < np.inf:
            best[0] = score
            winner = c
    if winner >= 0:
        for i in range(3):
            best[1 + i] = candidates[winner, i]
        best[4] = sums[winner, 0] / sums[winner, 1]


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
    candidates = np.empty((CANDIDATES, 3))
    sums = np.empty((CANDIDATES, 2))
    grids = np.empty((GRIDS, 3))
    errors = np.empty(GRIDS)
    scratch = np.empty(SUM_BLOCK, np.float32)
    best = np.empty(5)
    for r in range(rows.shape[0]):
        row = rows[r]
        weight = importance[(first_row + r) % max(importance.shape[0], 1)] if importance.size else row[:0]
        lowest, highest = extremes(row)
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            return r
        if lowest == highest:
            scales[r] = 1
            zeros[r] = zero_point(form, float(form.first))
            codes[r] = np.uint8(zeros[r] & 0xFF)
            continue
        range_grid(form, lowest, highest, best)
        count = add_grids(best, form.half, grids)
        total, mass = squares(row, weight) if form.rounds else (0.0, 0.0)
        if total > 0:  # else no weight that is not 0 has any importance
            ratio = coarse_candidates(form, lowest, highest, total / mass, candidates)
            for i in range(form.rounds):
                if i:
                    ratio = fine_candidates(form, best, ratio, candidates)
                sums[:] = 0
                add_products(row, weight, candidates, sums)
                take_best(candidates, sums, best)
                if best[0] <= 0:
                    break
            if best[0] > 0:
                count += add_grids(best, form.half, grids[count:])
        errors[:] = 0
        if count > 1:
            add_errors(form, row, weight, grids, count, scratch, errors)
        least = 0
        for c in range(1, count):
            if errors[c] < errors[least]:
                least = c
        grid = grids[least]
        scales[r] = grid[0]
        zeros[r] = zero_point(form, grid[1])
        encode(row, grid, zeros[r], codes[r])
    return -1
