"""The search for affine grids: rounds of candidates, scored by what is left after a refit.

A *candidate* is (inverse scale, low, high), not stored yet. With its codes k fixed the least-squares scale
is sum(m w k) / sum(m k^2), in closed form; the importances m are 1 where there are none.

Groups are searched side by side, a *lane* each, so that what is done once a group and a candidate is a vector
operation, too: ``candidates`` (CANDIDATES, 3, lanes), ``sums`` (CANDIDATES, 2, lanes), and of the ``best`` so
far (5, lanes) score, inverse scale, low, high and scale.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._affine import SUM_BLOCK, Form, Row
from ._jit import njit, njit_fused, njit_sums

CANDIDATES = 16  # a round of the search
_WHOLE = np.float32(1.5 * 2**23)  # a float32 that has no fraction, nor have those 2^22 above and below

Lanes = NDArray[np.float64]


class Search(NamedTuple):
    """What the search of some lanes keeps."""

    candidates: NDArray[np.float64]
    ratio: Lanes  # of neighbouring inverse scales
    sums: NDArray[np.float64]
    best: NDArray[np.float64]
    winner: NDArray[np.int64]  # the candidate of the last round that became the best, or -1


@njit
def new_search(lanes: int) -> Search:
    """A search of ``lanes`` groups, not begun."""
    candidates, sums = np.empty((CANDIDATES, 3, lanes)), np.zeros((CANDIDATES, 2, lanes))
    return Search(candidates, np.empty(lanes), sums, np.zeros((5, lanes)), np.empty(lanes, np.int64))


@njit
def coarse_candidates(form: Form, ends: NDArray[np.float64], search: Search) -> None:
    """Fill a first round of candidates for groups of these lowest, highest and mean square, (3, lanes).

    The largest step leaves the outermost codes unused, the smallest clips a little more than the best
    quantizer of a Gaussian: the best grid of longer tails is coarser. Asymmetric: both ends shrink on
    their own.
    """
    candidates, ratio = search.candidates, search.ratio
    lowest, highest, mean_square = ends[0], ends[1], ends[2]
    search.best[:] = 0.0
    if form.symmetric:
        half_codes = form.codes / 2
        low = -half_codes if form.first else 1 - half_codes
        candidates[:, 1] = low
        candidates[:, 2] = low + form.codes - 1
        for g in range(ratio.size):
            top = max(-lowest[g], highest[g])
            inverse = 0.7 * half_codes / top
            clip = form.clip * np.sqrt(mean_square[g])
            candidates[0, 0, g] = inverse
            ratio[g] = (half_codes / min(top / 1.3, clip) / inverse) ** (1 / (CANDIDATES - 1))
        for i in range(1, CANDIDATES):
            for g in range(ratio.size):
                candidates[i, 0, g] = candidates[i - 1, 0, g] * ratio[g]
        return
    for g in range(ratio.size):
        clip = form.clip * np.sqrt(mean_square[g])
        below, above = -1.05 * lowest[g], 1.05 * highest[g]
        shrink_below = np.cbrt(min(0.75, clip / max(below, 1e-300)))
        shrink_above = np.cbrt(min(0.75, clip / max(above, 1e-300)))
        reach_below = below
        for i in range(4):
            reach_above = above
            for j in range(4):
                scale = (reach_below + reach_above) / (form.codes - 1)
                low = -min(np.rint(reach_below / scale), form.codes - 1.0)
                candidates[4 * i + j, 0, g] = 1 / scale
                candidates[4 * i + j, 1, g] = low
                candidates[4 * i + j, 2, g] = low + form.codes - 1
                reach_above *= shrink_above
            reach_below *= shrink_below
        ratio[g] = (below + above) / (below * shrink_below + above * shrink_above)


@njit
def fine_candidates(form: Form, search: Search) -> None:
    """Fill the next round around the best so far, with finer ratios of inverse scales."""
    candidates, ratio, best = search.candidates, search.ratio, search.best
    if form.symmetric:
        for g in range(ratio.size):
            finer = np.sqrt(np.sqrt(np.sqrt(ratio[g])))
            candidates[0, 0, g] = best[1, g] / ratio[g] * np.sqrt(finer)
            ratio[g] = finer
        for i in range(1, CANDIDATES):
            for g in range(ratio.size):
                candidates[i, 0, g] = candidates[i - 1, 0, g] * ratio[g]
        return
    for g in range(ratio.size):
        finer = np.cbrt(ratio[g])
        ratio[g] = finer
        for i in range(CANDIDATES):
            # Five inverse scales for each of three zero points; the sixteenth repeats the first.
            low = min(max(best[2, g] + (i // 5 % 3) - 1, 1.0 - form.codes), 0.0)
            candidates[i, 0, g] = best[1, g] * finer ** (i % 5 - 2)
            candidates[i, 1, g] = low
            candidates[i, 2, g] = low + form.codes - 1


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
    """Add (sum of m w k, sum of m k^2) of each candidate's codes k to ``sums``, of one lane."""
    for c in range(CANDIDATES):
        inverse = np.float32(candidates[c, 0, 0])
        low, high = np.float32(candidates[c, 1, 0]), np.float32(candidates[c, 2, 0])
        for start in range(0, row.size, SUM_BLOCK):
            part = slice(start, start + SUM_BLOCK)
            if importance.size:
                wk, kk = _weighted_products(row[part], importance[part], inverse, low, high)
            else:
                wk, kk = _products(row[part], inverse, low, high)
            sums[c, 0, 0] += wk
            sums[c, 1, 0] += kk


@njit_fused
def _tile_products(tile: NDArray[np.float32], inverse: Row, low: Row, high: Row, wk: Row, kk: Row) -> None:
    """``_products`` of the columns of ``tile`` (n, lanes): sums are read once for four weights of a lane.

    k is rounded by a sum that has no room for a fraction, which takes half the steps of ``rint``.
    """
    wk[:] = np.float32(0)
    kk[:] = np.float32(0)
    whole = len(tile) // 4 * 4
    for j in range(0, whole, 4):
        first, second, third, fourth = tile[j], tile[j + 1], tile[j + 2], tile[j + 3]
        for g in range(wk.size):
            a = min(max((first[g] * inverse[g] + _WHOLE) - _WHOLE, low[g]), high[g])
            b = min(max((second[g] * inverse[g] + _WHOLE) - _WHOLE, low[g]), high[g])
            c = min(max((third[g] * inverse[g] + _WHOLE) - _WHOLE, low[g]), high[g])
            d = min(max((fourth[g] * inverse[g] + _WHOLE) - _WHOLE, low[g]), high[g])
            wk[g] = wk[g] + first[g] * a + second[g] * b + third[g] * c + fourth[g] * d
            kk[g] = kk[g] + a * a + b * b + c * c + d * d
    for j in range(whole, len(tile)):
        row = tile[j]
        for g in range(wk.size):
            k = min(max((row[g] * inverse[g] + _WHOLE) - _WHOLE, low[g]), high[g])
            wk[g] += row[g] * k
            kk[g] += k * k


@njit
def _score_tile(tile: NDArray[np.float32], search: Search, scratch: NDArray[np.float32]) -> None:
    """Set ``search.sums`` of the columns of ``tile`` (n, lanes); ``scratch`` (5, lanes)."""
    for c in range(CANDIDATES):
        for i in range(3):
            for g in range(scratch.shape[1]):
                scratch[i, g] = search.candidates[c, i, g]
        _tile_products(tile, scratch[0], scratch[1], scratch[2], scratch[3], scratch[4])
        for i in range(2):
            for g in range(scratch.shape[1]):
                search.sums[c, i, g] = scratch[3 + i, g]


@njit
def search_tile(
    form: Form,
    tile: NDArray[np.float32],
    ends: NDArray[np.float64],
    search: Search,
    scratch: NDArray[np.float32],
) -> None:
    """Find ``search.best`` of the columns of ``tile`` (n, lanes); the score of a group of zeros stays 0.

    ``ends`` (3, lanes): lowest, highest and mean square of each; ``scratch`` (5, lanes).
    """
    coarse_candidates(form, ends, search)
    for i in range(form.rounds):
        if i:
            fine_candidates(form, search)
        _score_tile(tile, search, scratch)
        take_best(search)


@njit
def take_best(search: Search) -> None:
    """Keep in ``best`` the candidate of each lane that fits best, its scale refitted.

    With its codes fixed, the least-squares scale is wk / kk and lowers the error by wk^2 / kk, the score.
    Sums that left the float32 range (weights near its limits) never win.
    """
    candidates, sums, best, winner = search.candidates, search.sums, search.best, search.winner
    winner[:] = -1
    for c in range(CANDIDATES):
        _take_better(sums[c, 0], sums[c, 1], c, best[0], winner)
    for g in range(winner.size):
        c = winner[g]
        if c >= 0:
            for i in range(3):
                best[1 + i, g] = candidates[c, i, g]
            best[4, g] = sums[c, 0, g] / sums[c, 1, g]


@njit
def _take_better(wk: Lanes, kk: Lanes, c: int, score: Lanes, winner: NDArray[np.int64]) -> None:
    for g in range(wk.size):
        fits = wk[g] * wk[g] / (kk[g] if kk[g] > 0 else 1.0)
        # Selects, each stored whether or not it changes: then it is a vector operation.
        wins = (kk[g] > 0) & (fits > score[g]) & (fits < np.inf)
        score[g] = fits if wins else score[g]
        winner[g] = c if wins else winner[g]
