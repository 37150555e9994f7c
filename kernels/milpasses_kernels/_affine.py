"""One group's affine grid: decoded = scale * k, where k = code - zero point runs over [low, high].

Everything works on float32 rows and in terms of k, so that signed, unsigned, symmetric and asymmetric
codes are one case. A *candidate* is (inverse scale, low, high), not yet stored; a *grid* is (scale, low,
high) with the scale as the file will hold it and with low and high drawn in where scale * k would decode
to infinity.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._float16 import float_to_half, half_to_float, round_to_half
from ._jit import njit, njit_sums

CANDIDATES = 16  # a round of the search
GRIDS = 6  # that are stored and measured: the range's own and the best fit, each with its two neighbours
SUM_BLOCK = 1024  # float32 sums stay short, and are carried on in float64

Row = NDArray[np.float32]


class Form(NamedTuple):
    """What is common to all groups of a tensor."""

    codes: int  # 2^nbits
    first: int  # the smallest code: 0, or -2^(nbits - 1)
    symmetric: bool
    half: bool  # scales and decoded weights are float16, else float32
    rounds: int  # of the search; 0 takes the range as it is
    clip: float  # the narrowest half range worth trying, in standard deviations


@njit
def extremes(row: Row) -> tuple[float, float]:
    """Return the smallest and the largest of 0 and the row; NaN counts as beyond infinity."""
    lowest = highest = 0
    for j in range(row.size):
        bits = np.float32(row[j]).view(np.int32)
        ordered = np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))  # orders as the floats do
        lowest = min(lowest, ordered)
        highest = max(highest, ordered)
    lowest ^= (lowest >> 31) & 0x7FFFFFFF
    return np.float64(np.int32(lowest).view(np.float32)), np.float64(np.int32(highest).view(np.float32))


@njit_sums
def squares(row: Row, importance: Row) -> tuple[float, float]:
    """Return (sum of m w^2, sum of m); an empty importance is 1 everywhere."""
    total = 0.0
    if importance.size == 0:
        for j in range(row.size):
            total += np.float64(row[j]) * np.float64(row[j])
        return total, float(row.size)
    mass = 0.0
    for j in range(row.size):
        total += np.float64(importance[j]) * np.float64(row[j]) * np.float64(row[j])
        mass += np.float64(importance[j])
    return total, mass


@njit
def _neighbour(scale: float, step: int, half: bool) -> float:
    """Return the stored scale that is ``step`` representable values away, positive and finite."""
    if half:
        bits = np.int64(float_to_half(np.float32(scale))) + step
        return float(half_to_float(np.uint16(min(max(bits, 1), 0x7BFF))))
    bits = np.int64(np.float32(scale).view(np.int32)) + step
    return float(np.int32(min(max(bits, 1), 0x7F7FFFFF)).view(np.float32))


@njit
def add_grids(best: NDArray[np.float64], half: bool, grids: NDArray[np.float64]) -> int:
    """Store the scale of ``best`` as the first of ``grids`` and return how many of them were filled.

    One, but three in two cases in which only measuring tells which scale is best. Where the nearest stored
    scale is subnormal (coarse): its neighbours. Where it draws in low or high: the next below, and the
    largest that draws in neither.
    """
    scale, low, high = best[4], best[2], best[3]
    # The largest float32 that decodes to a finite weight: what is below 65,520 rounds to a finite float16.
    limit = 65519.996 if half else 3.4028234663852886e38
    subnormal = False
    for i in range(3):
        step = (0, -1, 1)[i]
        if i == 2 and not subnormal:
            scale, step = limit / max(-low, high), -1
        stored = _neighbour(scale, step, half)
        reach = np.floor(limit / stored)
        grids[i, 0] = stored
        grids[i, 1] = max(low, -reach)
        grids[i, 2] = min(high, reach)
        if i == 0:
            subnormal = stored < (2.0**-14 if half else 2.0**-126)
            if not subnormal and reach >= max(-low, high):
                return 1
    return 3


@njit
def range_grid(form: Form, lowest: float, highest: float, best: NDArray[np.float64]) -> None:
    """Start ``best`` (score, inverse, low, high, scale) with the range's own grid, as in coremltools."""
    best[0] = 0
    if form.symmetric:
        best[3] = form.codes // 2 - 1
        best[2] = -best[3]
        best[4] = max(-lowest, highest) / best[3]
    else:
        first, last = float(form.first), float(form.first + form.codes - 1)
        zero = np.rint((first * highest - last * lowest) / (highest - lowest))
        best[2] = first - min(max(zero, first), last)
        best[3] = best[2] + last - first
        best[4] = (highest - lowest) / (last - first)


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
def _nearest(value: np.float32, scale: np.float32, low: np.float32, high: np.float32) -> np.float32:
    return min(max(np.rint(value / scale), low), high)


@njit
def _differences(
    row: Row, scale: np.float32, low: np.float32, high: np.float32, half: bool, differences: Row
) -> None:
    # Apart from the sum of their squares: what is measured are the weights that will be decoded, to the bit.
    for j in range(row.size):
        differences[j] = _nearest(row[j], scale, low, high) * scale
    if half:
        for j in range(row.size):
            differences[j] = round_to_half(differences[j])
    for j in range(row.size):
        differences[j] = row[j] - differences[j]


@njit
def add_errors(
    form: Form,
    row: Row,
    importance: Row,
    grids: NDArray[np.float64],
    count: int,
    scratch: Row,
    errors: NDArray[np.float64],
) -> None:
    """Add the squared error of the first ``count`` grids, decoded as Core ML decodes them, to ``errors``.

    ``scratch`` holds SUM_BLOCK float32.
    """
    for c in range(count):
        scale = np.float32(grids[c, 0])
        low, high = np.float32(grids[c, 1]), np.float32(grids[c, 2])
        for start in range(0, row.size, SUM_BLOCK):
            part = row[start : start + SUM_BLOCK]
            differences = scratch[: part.size]
            _differences(part, scale, low, high, form.half, differences)
            errors[c] += squares(differences, importance[start : start + SUM_BLOCK])[0]


@njit
def zero_point(form: Form, low: float) -> int:
    """Return a grid's zero point: coremltools' middle code if symmetric, else what puts ``first`` at low."""
    if form.symmetric:
        return 0 if form.first else form.codes // 2 - 1
    return form.first - int(low)


@njit
def encode(row: Row, grid: NDArray[np.float64], zero: int, codes: NDArray[np.uint8]) -> None:
    """Write the codes of a row, as bytes: round half to even with the scale as stored."""
    scale, low, high = np.float32(grid[0]), np.float32(grid[1]), np.float32(grid[2])
    for j in range(row.size):
        codes[j] = np.uint8((np.int32(_nearest(row[j], scale, low, high)) + zero) & 0xFF)


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
        if form.rounds:
            total, mass = squares(row, weight)
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
