"""Exact weighted k-means of scalar weights: look-up tables of least squared error."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._blocks import bits, frozen
from ._codes import encode, half_codes, half_stops, paint
from ._groups import check_k, checked_groups, checked_importance, for_groups, is_long
from ._jit import njit
from ._partition import optimal_partition, partition_cost, refined_partition, set_means
from ._ranks import PATTERNS, VALUE_OF_RANK, nearest_rank
from .histogram import count_halves, distinct_values, drain_halves

Floats = NDArray[np.float64]


class KMeans(NamedTuple):
    """Groups of weights by look-up table: weight = lut[group, code].

    ``lut`` (G, k) in the weights' dtype, ascending, its last entry repeated where a group has fewer distinct
    values than k; ``codes`` (G, n) uint8; ``cost`` (G,) float64, the (importance-weighted) squared error of
    what is stored.
    """

    lut: NDArray[Any]
    codes: NDArray[np.uint8]
    cost: Floats


def solve(distinct: Floats, weights: Floats, k: int) -> tuple[NDArray[np.int64], float]:
    """Cut ascending points on a line into the k clusters of least weighted squared deviation.

    ``distinct`` (m,) strictly ascending and ``weights`` (m,) non-negative, finite, both within the range of
    float32. Returns (bounds, cost): cluster c is ``distinct[bounds[c]:bounds[c + 1]]``. There are k clusters,
    or as many as there are points of positive weight. The cost is the optimum, to 1e-9 of itself for up to a
    million points, to rounding of the total deviation for more. Time is O(m) for each of a few trial
    penalties; ``_partition`` names the sources.

    Raises ValueError for k < 1, or points that are not finite and ascending, or weights that are not
    finite and non-negative.
    """
    distinct, weights = distinct.astype(np.float64), weights.astype(np.float64)
    if distinct.ndim != 1 or distinct.shape != weights.shape:
        raise ValueError(f"distinct and weights must be 1-D, but got {distinct.shape} and {weights.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, but got {k}")
    if not (np.isfinite(distinct).all() and (np.diff(distinct) > 0).all()):
        raise ValueError("distinct values must be finite and strictly ascending")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights must be finite and non-negative")
    counted = np.flatnonzero(weights)
    k = min(k, counted.size)
    cuts = np.arange(k + 1, dtype=np.int32)
    cost = 0.0
    if k < counted.size:
        points = distinct[counted], weights[counted]
        _cut(*points, cuts)
        cost = float(partition_cost(*points, cuts))
    bounds = np.full(k + 1, distinct.size)
    bounds[:k] = counted[cuts[:k]]
    bounds[0] = 0
    return bounds, cost


def kmeans(
    groups: NDArray[Any], k: int, importance: NDArray[np.float32] | None = None, ignore_zeros: bool = False
) -> KMeans:
    """Find the look-up table of k entries of least squared error for each group of weights.

    ``groups`` (G, n) float16 or float32, ``importance`` (G, n) non-negative float32: what the squared error
    of each weight counts. 1 <= k <= 256. The table is the optimum of ``solve``, computed in float64 and
    rounded once to the weights' dtype; codes are the nearest entries after rounding, the lower of two as
    near. A group of at most k distinct values is stored without loss. A group without any importance counts
    each distinct value once. With ``ignore_zeros`` zeros do not count, and their codes are 0.

    float16 is counted by bit pattern, and no float32 copy is made; float32 is sorted: a copy of one group
    a thread, and about 80 bytes for each distinct value.

    Raises TypeError for another dtype, ValueError for another rank, k, or importance, and for NaN or
    infinities.
    """
    check_k(k)
    groups = checked_groups(groups)
    importance = checked_importance(importance, groups.shape)
    patterns, importance = bits(groups), frozen(importance)
    count, n = groups.shape
    lut, codes, cost = np.empty((count, k), np.float32), np.empty((count, n), np.uint8), np.empty(count)

    def run(start: int, stop: int) -> None:
        for g in range(start, stop):
            part = importance[g * n : (g + 1) * n]
            lut[g], cost[g] = _cluster(groups[g], part, k, ignore_zeros, codes[g])

    def run_halves(start: int, stop: int) -> None:
        counts, sums = np.zeros(PATTERNS, np.uint32), np.zeros(PATTERNS if importance.size else 0)
        while start < stop:
            start = _cluster_halves(
                patterns, importance, ignore_zeros, start, stop, VALUE_OF_RANK, counts, sums, lut, codes, cost
            )
            if start < stop:  # a range of values or weights that needs the refined solver
                run(start, start + 1)
                start += 1

    short_halves = groups.dtype == np.float16 and not is_long(groups)
    for_groups(groups, run_halves if short_halves else run)
    return KMeans(lut.astype(groups.dtype), codes, cost)


def _cluster(
    flat: NDArray[Any],
    importance: NDArray[np.float32],
    k: int,
    ignore_zeros: bool,
    codes: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], float]:
    """One group (n,): write its codes, return (table (k,), cost)."""
    distinct, weights = distinct_values(flat, importance, ignore_zeros)
    points = _counted(distinct, weights, k)
    entries, bounds = np.zeros(k), np.empty(k + 1, np.int32)
    used = _cut(*points, bounds)
    set_means(*points, bounds[: used + 1], entries)
    used = max(used, 1)
    entries = entries[:used].astype(flat.dtype).astype(np.float64)
    encode(flat, entries, codes)
    if ignore_zeros:
        codes[flat == 0] = 0
    lut = np.pad(entries, (0, k - used), "edge")
    return lut.astype(np.float32), _stored_cost(distinct, weights, entries)


def _cut(distinct: Floats, weights: Floats, bounds: NDArray[np.int32]) -> int:
    """The optimal bounds for any range of values and weights; return the number of clusters."""
    used = optimal_partition(distinct, weights, bounds)
    if used < 0:
        refined_partition(distinct, weights, bounds)
    return used if used >= 0 else bounds.size - 1


@njit
def _cluster_halves(
    patterns: NDArray[np.uint16],
    importance: NDArray[np.float32],
    ignore_zeros: bool,
    start: int,
    stop: int,
    values: NDArray[np.float32],
    counts: NDArray[np.uint32],
    sums: Floats,
    lut: NDArray[np.float32],
    codes: NDArray[np.uint8],
    cost: Floats,
) -> int:
    """``_cluster`` of rows ``start`` to ``stop`` - 1 of float16 patterns (G, n), in one call for many rows.

    ``importance`` (G * n,) or empty; ``counts`` (65536,) zeros, ``sums`` as many or empty. Returns the first
    row that is not done, because it needs the refined solver, else ``stop``.
    """
    n, k = codes.shape[1], lut.shape[1]
    distinct, weights = np.empty(min(n, PATTERNS) + 1), np.empty(min(n, PATTERNS) + 1)
    entries, bounds = np.empty(k), np.empty(k + 1, np.int32)
    stops, table = np.empty(k, np.int64), np.empty(PATTERNS, np.uint8)
    for g in range(start, stop):
        count_halves(patterns[g], importance[g * n : (g + 1) * n], counts, sums)
        m = drain_halves(counts, sums, values, ignore_zeros, distinct, weights)
        values_counted, weights_counted = _counted(distinct[:m], weights[:m], k)
        used = optimal_partition(values_counted, weights_counted, bounds)
        if used < 0:
            return g
        entries[0] = 0.0
        set_means(values_counted, weights_counted, bounds[: used + 1], entries)
        used = max(used, 1)
        for c in range(used):
            entries[c] = values[nearest_rank(entries[c], values)]
        for c in range(k):
            lut[g, c] = entries[min(c, used - 1)]
        half_stops(entries[:used], values, stops[:used])
        paint(stops[:used], table)
        if ignore_zeros:
            table[0] = table[0x8000] = 0
        half_codes(patterns[g], table, codes[g])
        cost[g] = _stored_cost(distinct[:m], weights[:m], entries[:used])
    return stop


@njit
def _counted(distinct: Floats, weights: Floats, k: int) -> tuple[Floats, Floats]:
    """The values of positive weight; all, of weight 1, where they are at most k or none has any weight."""
    values, kept = np.empty(distinct.size), np.empty(distinct.size)
    m = 0
    for i in range(distinct.size):
        kept[i] = 1.0
        values[m] = distinct[i]
        if weights[i] > 0 and distinct.size > k:
            kept[m] = weights[i]
            m += 1
    if m == 0:
        return distinct, kept
    return values[:m], kept[:m]


@njit
def _stored_cost(distinct: Floats, weights: Floats, entries: Floats) -> float:
    """Weighted squared distance to the nearest of ascending ``entries``."""
    cost = 0.0
    code = 0
    for i in range(distinct.size):
        while code + 1 < entries.size and abs(entries[code + 1] - distinct[i]) < abs(
            distinct[i] - entries[code]
        ):
            code += 1
        cost += weights[i] * (distinct[i] - entries[code]) ** 2
    return cost
