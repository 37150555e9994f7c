"""Weighted k-means of short vectors of weights: look-up tables whose entries are vectors."""

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _lloyd
from ._blocks import float32_block
from ._groups import check_k, checked_groups, checked_importance, extremes, for_groups
from ._threads import for_ranges

_SAMPLE = 32  # training vectors for each entry
_LEAST_SAMPLE = 4096
_SHARE = 8  # vectors there are for each training vector, where that gives more, up to _MOST_SAMPLE
_MOST_SAMPLE = 1 << 16
_POOL = 8  # vectors looked at for each one sampled
_PASSES = 24  # over the training vectors, for each start: the least
_WORK = 4  # passes over all vectors that passes over few training vectors may cost in all
_MOST_PASSES = 200
_CHUNK = 1 << 14  # vectors: fixed, so that sums over chunks do not depend on the number of threads
_KEPT = 1 << 22  # weights of a group that are kept as float32 from one pass to the next
_SETTLED = 1e-3  # relative gain of a pass below which entries have converged: 64 of them, or fewer

Points = NDArray[np.float32]
Floats = NDArray[np.float64]
T = TypeVar("T")


class VectorKMeans(NamedTuple):
    """Groups of vectors by look-up table: vector = lut[group, code].

    ``lut`` (G, k, d) in the weights' dtype; ``codes`` (G, n) uint8; ``cost`` (G,) float64, the
    (importance-weighted) squared error of what is stored, of distances in float32.
    """

    lut: NDArray[Any]
    codes: NDArray[np.uint8]
    cost: Floats


def vector_kmeans(
    vectors: NDArray[Any],
    k: int,
    importance: NDArray[np.float32] | None = None,
    seed: int = 0,
    starts: int = 1,
    iterations: int = 30,
) -> VectorKMeans:
    """Find a look-up table of k vectors of small squared error for each group of vectors.

    ``vectors`` (G, n, d) float16 or float32, ``importance`` (G, n, d) non-negative float32: what the squared
    error of each component counts. 1 <= k <= 256. On up to 64 vectors an entry (at least 4096), Lloyd's
    algorithm runs from ``starts`` k-means++ seedings, each improved by moving entries to where the error is
    largest; from the best it runs on all vectors, in at most ``iterations`` passes. Entries are rounded once
    to the weights' dtype; codes are the nearest after rounding, the first of equals. Entries may repeat: a
    group of at most k distinct vectors is stored without loss where all components have importance. The
    result depends on ``seed``, not on the number of threads.

    Raises TypeError for another dtype, ValueError for another rank, k, starts, iterations or importance, and
    for NaN or infinities.
    """
    check_k(k)
    if starts < 1 or iterations < 1:
        raise ValueError(f"starts and iterations must be at least 1, but got {starts} and {iterations}")
    vectors = checked_groups(vectors, 3)
    weights = checked_importance(importance, vectors.shape)
    groups, n, dims = vectors.shape
    lut, codes = np.empty((groups, k, dims), vectors.dtype), np.empty((groups, n), np.uint8)
    cost = np.empty(groups)
    lowest, highest = extremes(vectors.reshape(groups, -1))
    scales = _to_one(np.maximum(highest, -lowest))

    def run(start: int, stop: int) -> None:
        for g in range(start, stop):
            group = _Group(vectors[g], weights.reshape(vectors.shape)[g] if weights.size else None, scales[g])
            centres = _trained(group, k, np.random.default_rng([seed, g]), starts)
            if not _whole(n, k):
                _refine(group, centres, iterations)
            lut[g] = (centres / group.scale).astype(vectors.dtype)
            cost[g] = _encode(group, lut[g], codes[g])

    for_groups(vectors, run)
    return VectorKMeans(lut, codes, cost)


class _Group:
    """One group of vectors, read as float32 points (d, n) and masses (d or 1, n), a chunk at a time.

    Values and importance are scaled by powers of two to about 1: their products stay within float32. Without
    importance a point has one mass, 1.
    """

    def __init__(self, vectors: NDArray[Any], importance: Points | None, scale: float) -> None:
        self.vectors = vectors
        self.importance = importance
        self.scale = scale
        self.mass_scale = 1.0 if importance is None else _to_one(importance.max())
        self.kept: dict[int, tuple[Points, Points]] = {}

    def read(self, part: Any) -> tuple[Points, Points]:
        """Return the points and masses of a slice or an array of indices."""
        points = float32_block(np.ascontiguousarray(self.vectors[part])).T * np.float32(self.scale)
        points = np.ascontiguousarray(points)
        if self.importance is None:
            return points, np.ones((1, points.shape[1]), np.float32)
        return points, np.ascontiguousarray(self.importance[part].T * np.float32(self.mass_scale))

    def chunks(self) -> list[slice]:
        """Return the slices that cover the group, the same however many threads there are."""
        return [slice(i, i + _CHUNK) for i in range(0, len(self.vectors), _CHUNK)]

    def chunk(self, index: int) -> tuple[Points, Points]:
        """Return the points and masses of a chunk, which a group of moderate size keeps."""
        if index in self.kept:
            return self.kept[index]
        read = self.read(self.chunks()[index])
        if self.vectors.size <= _KEPT:
            self.kept[index] = read
        return read

    def map(self, use: Callable[[slice, Points, Points], T]) -> list[T]:
        """Return ``use(part, points, masses)`` of each chunk, in order; chunks run on several threads."""
        chunks = self.chunks()
        results: dict[int, T] = {}

        def run(start: int, stop: int) -> None:
            for index in range(start, stop):
                results[index] = use(chunks[index], *self.chunk(index))

        for_ranges(len(chunks), run)
        return [results[index] for index in range(len(chunks))]


def _to_one(largest: Any) -> Any:
    """Return the powers of two that bring values into 0.5..1, as far as float32 holds them."""
    return 2.0 ** np.clip(-np.frexp(largest)[1], -120, 120)


def _nearest(points: Points, mass: Points, centres: Floats) -> tuple[Points, NDArray[np.int32]]:
    best, codes = np.full(points.shape[1], inf, np.float32), np.zeros(points.shape[1], np.int32)
    _lloyd.nearest(points, mass, centres, 0, len(centres), best, codes)
    return best, codes


def _trained(group: _Group, k: int, random: np.random.Generator, starts: int) -> Floats:
    """The best of several starts on a sample; starts run on several threads."""
    n = len(group.vectors)
    points, mass = _sample(group, _sample_size(n, k), random)
    draws = random.random((starts, k))
    centres, costs = np.empty((starts, k, len(points))), np.empty(starts)
    passes = max(_PASSES, k // 6, min(_MOST_PASSES, _WORK * n // points.shape[1]))
    settled = _settled(k) if _whole(n, k) else 1.0

    def run(start: int, stop: int) -> None:
        best, codes = np.empty(points.shape[1], np.float32), np.empty(points.shape[1], np.int32)
        for index in range(start, stop):
            _lloyd.seed(points, mass, draws[index], centres[index], best, codes)
            costs[index] = _lloyd.train(points, mass, centres[index], passes, settled, best, codes)

    for_ranges(starts, run)
    return centres[costs.argmin()]


def _settled(k: int) -> float:
    """Many entries settle slowly, each pass a little."""
    return _SETTLED * min(1.0, 64 / k)


def _sample_size(n: int, k: int) -> int:
    return max(_SAMPLE * k, _LEAST_SAMPLE, min(n // _SHARE, _MOST_SAMPLE))


def _whole(n: int, k: int) -> bool:
    """Training sees all vectors, in one chunk, and settles on them."""
    return n <= min(_sample_size(n, k), _CHUNK)


def _sample(group: _Group, size: int, random: np.random.Generator) -> tuple[Points, Points]:
    """All vectors, or a weighted sample of about ``size`` that keeps the tails.

    Half of its odds are even, half go with the squared distance from the mean; masses are divided by the
    odds (a lightweight coreset: Bachem, Lucic and Krause, 2018). Draws are one from each of as many equal
    shares of the odds.
    """
    n = len(group.vectors)
    if n <= size:
        return group.read(slice(None))
    drawn: Any = slice(None)
    if n > _POOL * size:
        starts = np.linspace(0, n, _POOL * size + 1).astype(np.int64)
        drawn = starts[:-1] + (random.random(len(starts) - 1) * np.diff(starts)).astype(np.int64)
    points, mass = group.read(drawn)
    away = (mass * np.square(points - points.mean(axis=1, keepdims=True))).sum(axis=0, dtype=np.float64)
    odds = 0.5 / away.size + 0.5 * away / (away.sum() or 1.0)
    limits = np.cumsum(odds)
    places = np.searchsorted(limits, (np.arange(size) + random.random(size)) / size * limits[-1], "right")
    chosen, times = np.unique(np.minimum(places, away.size - 1), return_counts=True)
    share = (times / (odds[chosen] * away.size)).astype(np.float32)
    return np.ascontiguousarray(points[:, chosen]), np.ascontiguousarray(mass[:, chosen] * share)


def _refine(group: _Group, centres: Floats, iterations: int) -> None:
    """Lloyd's algorithm on all vectors, in place."""

    def moments(part: slice, points: Points, mass: Points) -> tuple[Floats, Floats, NDArray[np.int64], float]:
        sums, weights, used = (
            np.empty(centres.shape),
            np.empty(centres.shape),
            np.empty(len(centres), np.int64),
        )
        best, codes = np.empty(points.shape[1], np.float32), np.empty(points.shape[1], np.int32)
        cost = _lloyd.assign(points, mass, centres, best, codes, sums, weights, used)
        return sums, weights, used, cost

    before = inf
    for left in reversed(range(iterations)):
        sums, weights, used, costs = zip(*group.map(moments), strict=True)
        cost = sum(costs)
        idle = np.flatnonzero(np.sum(used, axis=0) == 0)
        settled = not left or (not idle.size and before - cost <= _settled(len(centres)) * cost)
        _lloyd.set_means(np.sum(sums, axis=0), np.sum(weights, axis=0), centres, settled)
        if not _move_idle(group, centres, idle) and settled:
            return
        before = cost


def _move_idle(group: _Group, centres: Floats, idle: NDArray[np.int64]) -> bool:
    """Move centres without vectors to the vectors farthest from any centre, while there are such."""
    left = list(idle)
    for index in range(len(group.chunks()) if left else 0):
        points, mass = group.chunk(index)
        best, codes = _nearest(points, mass, centres)
        while left and best.max() > 0:
            c = left.pop()
            centres[c] = points[:, best.argmax()]
            _lloyd.nearest(points, mass, centres, c, c + 1, best, codes)
    return len(left) < len(idle)


def _encode(group: _Group, lut: NDArray[Any], codes: NDArray[np.uint8]) -> float:
    """Write the codes of the nearest entries; return the squared error."""
    centres = lut.astype(np.float64) * group.scale

    def store(part: slice, points: Points, mass: Points) -> float:
        best, codes[part] = _nearest(points, mass, centres)
        return _lloyd.total(best, mass)

    return sum(group.map(store)) / (group.scale**2 * group.mass_scale)
