"""Exact weighted k-means of scalar weights: look-up tables of least squared error."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._blocks import bits, frozen, weights_array
from ._codes import float_codes, float_table, half_codes, half_table
from ._jit import njit
from ._partition import cluster_mean, optimal_partition, partition_cost
from ._ranks import PATTERNS, VALUE_OF_RANK, nearest_rank
from ._threads import for_ranges
from .histogram import checked_importance, count_halves, distinct_values, drain_halves, not_finite

_LONG = 1 << 20  # from this size on, threads share a group
_PIECE = 1 << 18

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

    ``distinct`` (m,) strictly ascending and ``weights`` (m,) non-negative, finite, within the range of
    float32 and its products. Returns (bounds, cost): cluster c is ``distinct[bounds[c]:bounds[c + 1]]``, of
    min(k, m) clusters, and the cost is the optimum to about 1e-9 of itself. O(m) a trial penalty, of which a
    few are needed; see ``_partition`` for the sources.

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
    bounds = np.arange(k + 1)
    cost = 0.0
    if k < counted.size:
        optimal_partition(distinct[counted], weights[counted], k, bounds)
        cost = float(partition_cost(distinct[counted], weights[counted], bounds))
    bounds[1:k] = counted[bounds[1:k]]
    bounds[k] = distinct.size
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
    groups = checked_groups(groups, k)
    importance = checked_importance(importance, groups.shape).reshape(-1)
    count, n = groups.shape
    lut, codes, cost = np.empty((count, k), np.float32), np.empty((count, n), np.uint8), np.empty(count)

    def run(start: int, stop: int) -> None:
        for g in range(start, stop):
            part = importance[g * n : (g + 1) * n]
            lut[g], cost[g] = _cluster(groups[g], part, k, ignore_zeros, codes[g])

    def run_halves(start: int, stop: int) -> None:
        bad = _cluster_halves(
            bits(groups), frozen(importance), ignore_zeros, start, stop, VALUE_OF_RANK, lut, codes, cost
        )
        if bad >= 0:
            raise not_finite(bad)

    if n >= _LONG:
        run(0, count)
    else:
        for_ranges(count, run_halves if groups.dtype == np.float16 else run)
    return KMeans(lut.astype(groups.dtype), codes, cost)


def checked_groups(groups: NDArray[Any], k: int) -> NDArray[Any]:
    """Return contiguous (G, n) float16 or float32 weights, or raise what the fronts promise."""
    if groups.ndim != 2:
        raise ValueError(f"groups must be (G, n), but got shape {groups.shape}")
    if not 1 <= k <= 256:
        raise ValueError(f"k must be in 1..256, but got {k}")
    return weights_array(groups, "groups")


def _cluster(
    flat: NDArray[Any],
    importance: NDArray[np.float32],
    k: int,
    ignore_zeros: bool,
    codes: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], float]:
    """One group (n,): write its codes, return (table (k,), cost)."""
    distinct, weights = distinct_values(flat, importance, ignore_zeros)
    entries = np.empty(k)
    entries = entries[: _fit(distinct, weights, entries)].astype(flat.dtype).astype(np.float64)
    encode(flat, entries, codes)
    if ignore_zeros:
        codes[flat == 0] = 0
    lut = np.pad(entries, (0, k - entries.size), "edge")
    return lut.astype(np.float32), _stored_cost(distinct, weights, entries)


@njit
def _cluster_halves(
    patterns: NDArray[np.uint16],
    importance: NDArray[np.float32],
    ignore_zeros: bool,
    start: int,
    stop: int,
    values: NDArray[np.float32],
    lut: NDArray[np.float32],
    codes: NDArray[np.uint8],
    cost: Floats,
) -> int:
    """``_cluster`` for the rows ``start`` to ``stop`` - 1 of float16 patterns; return a row that is not finite.

    ``importance`` (G * n,) or empty. Returns -1 where all rows are finite.
    """
    n, k = codes.shape[1], lut.shape[1]
    counts = np.zeros(PATTERNS, np.uint32)
    sums = np.zeros(PATTERNS if importance.size else 0)
    distinct, weights = np.empty(min(n, PATTERNS) + 1), np.empty(min(n, PATTERNS) + 1)
    entries = np.empty(k)
    table = np.empty(PATTERNS, np.uint8)
    for g in range(start, stop):
        count_halves(patterns[g], importance[g * n : (g + 1) * n], counts, sums)
        m = drain_halves(counts, sums, values, ignore_zeros, distinct, weights)
        if m < 0:
            return g
        used = _fit(distinct[:m], weights[:m], entries)
        for c in range(k):
            if c < used:
                entries[c] = values[nearest_rank(entries[c], values)]
            lut[g, c] = entries[min(c, used - 1)]
        half_table(entries[:used], ignore_zeros, values, table)
        half_codes(patterns[g], table, codes[g])
        cost[g] = _stored_cost(distinct[:m], weights[:m], entries[:used])
    return -1


@njit
def _fit(distinct: Floats, weights: Floats, entries: Floats) -> int:
    """Write the centroids of the optimal clusters into ``entries`` (k,), ascending; return how many they are."""
    m, k = distinct.size, entries.size
    counted = 0
    for i in range(m):
        counted += weights[i] > 0
    if counted == 0:
        weights = np.ones(m)
    elif k < counted < m:
        kept_values, kept_weights = np.empty(counted), np.empty(counted)
        at = 0
        for i in range(m):
            if weights[i] > 0:
                kept_values[at], kept_weights[at] = distinct[i], weights[i]
                at += 1
        distinct, weights = kept_values, kept_weights
    ...
