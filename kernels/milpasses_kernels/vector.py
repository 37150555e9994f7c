"""k-means of vectors of weights: look-up tables whose entries are ``cluster_dim`` weights each.

Several starts (k-means++, Arthur and Vassilvitskii 2007) are refined by Lloyd's iteration on a sample, the
best one on all vectors. A cluster that runs empty takes the vector that is worst off. Sums go over fixed
chunks in a fixed order, so the result does not depend on the number of threads.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._jit import njit, njit_sums
from ._threads import for_ranges
from .histogram import not_finite

_CHUNK = 1 << 15
_SAMPLE = 256  # vectors a cluster to train on

Floats = NDArray[np.float32]


class VectorKMeans(NamedTuple):
    """``lut`` (G, k, d) in the dtype given, ``codes`` (G, n) uint8, ``cost`` (G,): the stored squared error."""

    lut: NDArray[Any]
    codes: NDArray[np.uint8]
    cost: NDArray[np.float64]


def vector_kmeans(
    vectors: NDArray[Any],
    k: int,
    importance: NDArray[np.float32] | None = None,
    seed: int = 0,
    starts: int = 4,
    iterations: int = 20,
) -> VectorKMeans:
    """Find k vectors of small squared error for each group of vectors.

    ``vectors`` (G, n, d) float16 or float32, ``importance`` (G, n) non-negative float32 or None,
    1 <= k <= 256. The table is rounded once to the vectors' dtype and codes are chosen after that. With
    fewer distinct vectors than k the result is lossless and the last entry repeats.

    Raises TypeError for another dtype, ValueError for other shapes or k, NaN or infinities.
    """
    if vectors.dtype.name not in ("float16", "float32"):
        raise TypeError(f"vectors must be float16 or float32, but got {vectors.dtype}")
    if vectors.ndim != 3 or not vectors.size:
        raise ValueError(f"vectors must be (G, n, d) and not empty, but got shape {vectors.shape}")
    if not 1 <= k <= 256:
        raise ValueError(f"k must be in 1..256, but got {k}")
    if importance is not None and importance.shape != vectors.shape[:2]:
        raise ValueError(f"importance must be {vectors.shape[:2]}, but got {importance.shape}")
    if not np.isfinite(vectors).all():
        raise not_finite()
    groups, n, d = vectors.shape
    lut = np.empty((groups, k, d), vectors.dtype)
    codes, cost = np.empty((groups, n), np.uint8), np.empty(groups)
    for g in range(groups):
        points = np.ascontiguousarray(vectors[g], np.float32)
        weights = np.ones(n, np.float32) if importance is None else np.ascontiguousarray(importance[g])
        centers = _train(points, weights, k, np.random.default_rng([seed, g]), starts, iterations)
        lut[g] = centers.astype(vectors.dtype)
        cost[g] = _pass(points, weights, lut[g].astype(np.float32), codes[g])[0]
    return VectorKMeans(lut, codes, cost)


def _train(
    points: Floats, weights: Floats, k: int, rng: np.random.Generator, starts: int, iterations: int
) -> Floats:
    """Centers (k, d) of one group: the best start on a sample, then a few passes over everything."""
    n = points.shape[0]
    if n <= 4096 or n <= 4 * k:
        distinct = np.unique(points[weights > 0] if weights.any() else points, axis=0)
        if len(distinct) <= k:
            return np.pad(distinct, ((0, k - len(distinct)), (0, 0)), mode="edge")
    size = max(_SAMPLE * k, 16384)
    chosen = np.arange(n) if n <= size else np.sort(rng.choice(n, size, replace=False))
    sample, sample_weights = points[chosen], weights[chosen]
    best, best_cost = np.empty((0, 0), np.float32), np.inf
    for _ in range(starts):
        centers = np.empty((k, points.shape[1]), np.float32)
        _spread(sample, sample_weights, rng.random(k), centers)
        cost, centers = _lloyd(sample, sample_weights, centers, iterations)
        if cost < best_cost:
            best, best_cost = centers, cost
    if n > size:
        _, best = _lloyd(points, weights, best, 10)
    return best


def _lloyd(points: Floats, weights: Floats, centers: Floats, iterations: int) -> tuple[float, Floats]:
    """(cost, centers) after at most ``iterations`` steps; stops when the cost falls by less than 1e-5."""
    codes = np.empty(points.shape[0], np.uint8)
    previous, best = np.inf, centers
    for _ in range(iterations):
        cost, sums, counts, worst = _pass(points, weights, centers, codes)
        if cost < previous:
            best = centers
        if cost >= previous * (1 - 1e-5):
            break
        previous = cost
        filled = counts > 0
        moved = centers.copy()
        moved[filled] = (sums[filled] / counts[filled, None]).astype(np.float32)
        empty = np.flatnonzero(~filled)
        moved[empty] = points[worst[: empty.size]]
        centers = moved
    cost = _pass(points, weights, centers, codes)[0]
    return (cost, centers) if cost <= previous else (previous, best)


def _pass(
    points: Floats, weights: Floats, centers: Floats, codes: NDArray[np.uint8]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Assign every point; (cost, sums (k, d), counts (k,), the worst-off points, worst first)."""
    n, d = points.shape
    k = centers.shape[0]
    parts = -(-n // _CHUNK)
    sums, counts, costs = np.zeros((parts, k, d)), np.zeros((parts, k)), np.zeros(parts)
    errors = np.empty(n, np.float32)
    columns = np.ascontiguousarray(centers.T)
    norms = (centers.astype(np.float64) ** 2).sum(axis=1).astype(np.float32)

    def run(start: int, stop: int) -> None:
        for part in range(start, stop):
            span = slice(part * _CHUNK, min((part + 1) * _CHUNK, n))
            _nearest(points[span], columns, norms, codes[span])
            costs[part] = _gather(
                points[span], weights[span], centers, codes[span], errors[span], sums[part], counts[part]
            )

    for_ranges(parts, run)
    total = counts.sum(axis=0)
    empty = int(np.count_nonzero(total == 0))
    worst = np.argsort(-errors, kind="stable")[:empty] if empty else np.empty(0, np.int64)
    return float(costs.sum()), sums.sum(axis=0), total, worst


@njit_sums
def _nearest(points: Floats, columns: Floats, norms: Floats, codes: NDArray[np.uint8]) -> None:
    """Write the nearest center of each point: least |c|^2 - 2 x.c, the lower index of two as near."""
    d, k = columns.shape
    scores = np.empty(k, np.float32)
    for i in range(points.shape[0]):
        for c in range(k):
            scores[c] = norms[c]
        for j in range(d):
            twice = np.float32(2) * points[i, j]
            for c in range(k):
                scores[c] -= twice * columns[j, c]
        best, least = 0, scores[0]
        for c in range(1, k):
            if scores[c] < least:
                best, least = c, scores[c]
        codes[i] = best


@njit
def _gather(
    points: Floats,
    weights: Floats,
    centers: Floats,
    codes: NDArray[np.uint8],
    errors: Floats,
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> float:
    """Add up each cluster's points and their errors; returns the weighted cost."""
    cost = 0.0
    for i in range(points.shape[0]):
        code, weight, error = codes[i], np.float64(weights[i]), 0.0
        for j in range(points.shape[1]):
            value = np.float64(points[i, j])
            difference = value - centers[code, j]
            error += difference * difference
            sums[code, j] += weight * value
        counts[code] += weight
        errors[i] = weight * error
        cost += weight * error
    return cost


@njit
def _spread(points: Floats, weights: Floats, draws: NDArray[np.float64], centers: Floats) -> None:
    """k-means++: each next center is a point drawn by its weighted squared distance to the nearest so far."""
    n, d = points.shape
    distance = np.full(n, np.inf)
    total = 0.0
    for i in range(n):
        total += weights[i]
    for c in range(centers.shape[0]):
        target, chosen, so_far = draws[c] * total, n - 1, 0.0
        for i in range(n):
            so_far += weights[i] * (1.0 if c == 0 else distance[i])
            if so_far >= target and so_far > 0.0:
                chosen = i
                break
        total = 0.0
        for j in range(d):
            centers[c, j] = points[chosen, j]
        for i in range(n):
            squared = 0.0
            for j in range(d):
                difference = np.float64(points[i, j]) - centers[c, j]
                squared += difference * difference
            distance[i] = min(distance[i], squared)
            total += weights[i] * distance[i]
