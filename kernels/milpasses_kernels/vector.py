"""Weighted k-means of short vectors of weights: look-up tables whose entries are vectors."""

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _lloyd
from ._blocks import float32_block
from ._groups import check_k, checked_groups, checked_importance, extremes, for_groups
from ._nearest import Floats, Points, nearest, total
from ._seeding import sample, seed
from ._threads import for_ranges

_SAMPLE = 32  # training vectors for each entry
_LEAST_SAMPLE = 2048
_SHARE = 8  # vectors there are for each training vector, where that gives more, up to _MOST_SAMPLE
_MOST_SAMPLE = 1 << 16
_SMALL_PART = 2  # vectors for each training vector, above which further starts cost little
_POOL = 8  # vectors looked at for each one sampled
_FIRST = 6  # passes from each start, before the best is chosen
_STARTS = 4
_STARTED = 2e-2  # relative gain of a pass below which a start has shown what it is worth
_PASSES = 32  # over the training vectors, for each start: the least
_WORK = 4  # passes over all vectors that passes over few training vectors may cost in all
_MOST_PASSES = 200
_SHORT = 1 << 18  # entries times training weights, up to which a start is too short for a thread of its own
_CHUNK = 1 << 14  # vectors: fixed, so that sums over chunks do not depend on the number of threads
_KEPT = 1 << 22  # weights of a group that are kept as float32 from one pass to the next
_SETTLED = 2e-3  # relative gain of a pass below which entries have converged: 16 of them, or fewer

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
    starts: int | None = None,
    iterations: int = 30,
) -> VectorKMeans:
    """Find a look-up table of k vectors of small squared error for each group of vectors.

    ``vectors`` (G, n, d) float16 or float32, ``importance`` (G, n, d) non-negative float32: what the squared
    error of each component counts. 1 <= k <= 256. On a sample of 32 vectors an entry, at least 2048 and an
    eighth of all up to 65,536, Lloyd's algorithm takes a few passes from each of ``starts`` k-means++
    seedings (unless said, four where the sample is a small part, else one). The best goes on, with entries
    moved to where the error is largest; then Lloyd's algorithm runs on all vectors, in at most
    ``iterations`` passes. Entries are rounded once to the weights' dtype; codes are the nearest after
    rounding, the first of equals. Entries may repeat: a group of at most k distinct vectors is stored without
    loss where all components have importance. The result depends on ``seed``, not on the number of threads.

    Raises TypeError for another dtype, ValueError for another rank, k, starts, iterations or importance, and
    for NaN or infinities.
    """
    check_k(k)
    if (starts is not None and starts < 1) or iterations < 1:
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
            few = _STARTS if n > _SMALL_PART * _sample_size(n, k) else 1
            centres = _trained(group, k, np.random.default_rng([seed, g]), starts or few)
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
    nearest(points, mass, centres, 0, len(centres), best, codes)
    return best, codes


def _trained(group: _Group, k: int, random: np.random.Generator, starts: int) -> Floats:
    """The best of several starts on a sample, trained on; starts run on several threads."""
    n = len(group.vectors)
    points, mass = _sample(group, _sample_size(n, k), random)
    draws = random.random((starts, k))
    centres, costs = np.empty((starts, k, len(points))), np.empty(starts)
    passes = max(_PASSES, k // 6, min(_MOST_PASSES, _WORK * n // points.shape[1]))
    settled = _settled(k) if _whole(n, k) else 1.0

    def run(start: int, stop: int) -> None:
        best, codes = np.empty(points.shape[1], np.float32), np.empty(points.shape[1], np.int32)
        sums, weights = np.empty(centres.shape[1:]), np.empty(centres.shape[1:])
        for index in range(start, stop):
            seed(points, mass, draws[index], centres[index], best, codes)
            costs[index], _ = _lloyd.lloyd(
                points, mass, centres[index], _FIRST, _STARTED, best, codes, sums, weights
            )

    for_ranges(starts, run, grain=1 if k * points.size > _SHORT else starts)
    best, codes = np.empty(points.shape[1], np.float32), np.empty(points.shape[1], np.int32)
    chosen = centres[costs.argmin()]
    _lloyd.train(points, mass, chosen, passes, settled, best, codes)
    return chosen


def _settled(k: int) -> float:
    """Many entries settle slowly, each pass a little."""
    return _SETTLED * min(1.0, 16 / k)


def _sample_size(n: int, k: int) -> int:
    return max(_SAMPLE * k, _LEAST_SAMPLE, min(n // _SHARE, _MOST_SAMPLE))


def _whole(n: int, k: int) -> bool:
    """Training sees all vectors, in one chunk, and settles on them."""
    return n <= min(_sample_size(n, k), _CHUNK)


def _sample(group: _Group, size: int, random: np.random.Generator) -> tuple[Points, Points]:
    """All vectors, or a weighted sample of at most ``size`` of them, from a pool where there are many."""
    n = len(group.vectors)
    if n <= size:
        return group.chunk(0) if n <= _CHUNK else group.read(slice(None))
    if n > _POOL * size:
        starts = np.linspace(0, n, _POOL * size + 1).astype(np.int64)
        drawn = starts[:-1] + (random.random(len(starts) - 1) * np.diff(starts)).astype(np.int64)
        points, mass = group.read(drawn)
    else:
        points, mass = group.chunk(0) if n <= _CHUNK else group.read(slice(None))
    chosen, shares = np.empty(size, np.int64), np.empty(size, np.float32)
    found = sample(points, mass, random.random(size), chosen, shares)
    return points.take(chosen[:found], 1), mass.take(chosen[:found], 1) * shares[:found]


def _refine(group: _Group, centres: Floats, iterations: int) -> None:
    """Lloyd's algorithm on all vectors, in place."""
    k = len(centres)

    def moments(part: slice, points: Points, mass: Points) -> tuple[Floats, Floats, float]:
        sums, weights = np.empty(centres.shape), np.empty(centres.shape)
        best, codes = np.empty(points.shape[1], np.float32), np.empty(points.shape[1], np.int32)
        if len(group.vectors) <= _CHUNK:
            cost, _ = _lloyd.lloyd(points, mass, centres, iterations, _settled(k), best, codes, sums, weights)
        else:
            cost = _lloyd.assign(points, mass, centres, best, codes, sums, weights)
        return sums, weights, cost

    if len(group.vectors) <= _CHUNK:
        [(sums, weights, _)] = group.map(moments)
        _lloyd.set_means(sums, weights, centres, True)
        return
    before = inf
    for left in reversed(range(iterations)):
        all_sums, all_weights, costs = zip(*group.map(moments), strict=True)
        cost, weights = sum(costs), np.sum(all_weights, axis=0)
        idle = np.flatnonzero(_lloyd.idle(weights))
        settled = not left or (not idle.size and before - cost <= _settled(k) * cost)
        _lloyd.set_means(np.sum(all_sums, axis=0), weights, centres, settled)
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
            nearest(points, mass, centres, c, c + 1, best, codes)
    return len(left) < len(idle)


def _encode(group: _Group, lut: NDArray[Any], codes: NDArray[np.uint8]) -> float:
    """Write the codes of the nearest entries; return the squared error."""
    centres = lut.astype(np.float64) * group.scale

    def store(part: slice, points: Points, mass: Points) -> float:
        best, codes[part] = _nearest(points, mass, centres)
        return total(best, mass, 0, best.size)

    return sum(group.map(store)) / (group.scale**2 * group.mass_scale)
