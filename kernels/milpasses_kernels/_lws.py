"""Least-weight subsequence: the cheapest way to cut m items in a row when each piece costs extra.

The cost of a piece of weighted points on a line, its squared deviation from its mean, satisfies the
quadrangle inequality. So of two places to start a piece, the later one, once it is the better, stays the
better for all later ends, and a monotone queue of starts solves the problem (Hirschberg and Larmore, 1987;
Galil and Park, 1992). Neighbouring starts are overtaken at neighbouring ends, so the end at which one start
overtakes another is found within a few steps of the last such end.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._jit import njit

Floats = NDArray[np.float64]


class Merges(NamedTuple):
    """A disjoint sparse table over m weighted points, for ``run_cost`` without cancellation.

    ``triples`` (levels, m, 3) float64: at level l, blocks of 2 << l items hold total weight, mean and squared
    deviation of the runs that start or end at the block's middle. A run [i, j) crosses one middle at the
    level of the top bit of i ^ (j - 1), ``level[i ^ (j - 1)]``.
    """

    triples: Floats
    level: NDArray[np.uint8]


@njit
def merged(wi: float, mi: float, si: float, wj: float, mj: float, sj: float) -> Any:
    """Weight, mean and squared deviation of two groups together (Chan, Golub and LeVeque, 1983).

    Only positive terms are added, and the mean starts from the heavier group: nothing cancels.
    """
    total = wi + wj
    away = mj - mi
    if wi > wj:
        mean = mi + wj / total * away
    else:
        mean = mj - wi / total * away
    return total, mean, si + sj + wi * (wj / total) * away * away


@njit
def merges_of(values: Floats, weights: Floats) -> Merges:
    """The table of ``values`` and ``weights`` (m,), m >= 2, in O(m log m)."""
    m = values.size
    levels = 1
    while (1 << levels) < m:
        levels += 1
    level = np.zeros(1 << levels, np.uint8)
    for i in range(2, 1 << levels):
        level[i] = level[i >> 1] + 1
    triples = np.empty((levels, m, 3))
    for depth in range(levels):
        half = 1 << depth
        for middle in range(half, m + half, 2 * half):
            _runs_from(values, weights, middle, min(m, middle + half), 1, triples[depth])
            _runs_from(values, weights, min(middle, m) - 1, middle - half - 1, -1, triples[depth])
    return Merges(triples, level)


@njit
def _runs_from(values: Floats, weights: Floats, start: int, stop: int, step: int, out: Floats) -> None:
    """Triples of the runs from ``start`` to each item before ``stop``, into ``out[item]``."""
    w, mean, squares = 0.0, 0.0, 0.0
    for i in range(start, stop, step):
        w, mean, squares = merged(w, mean, squares, weights[i], values[i], 0.0)
        out[i, 0], out[i, 1], out[i, 2] = w, mean, squares


@njit
def _triple(merges: Merges, i: int, j: int) -> Any:
    """Weight, mean and squared deviation of the run [i, j), j > i."""
    last = j - 1
    t = merges.triples[merges.level[i ^ last]]
    if i == last:
        return t[i, 0], t[i, 1], 0.0
    return merged(t[i, 0], t[i, 1], t[i, 2], t[last, 0], t[last, 1], t[last, 2])


@njit
def run_cost(weight: Floats, moment: Floats, merges: Merges | None, i: int, j: int) -> Any:
    """Squared deviation of the run [i, j).

    ``weight`` and ``moment`` (m + 1,) are prefix sums of the weights and of weight times value. Without
    ``merges`` the result lacks the run's sum of weight times squared value, the same for every cut.
    """
    if merges is not None:
        return _triple(merges, i, j)[2]
    inside = moment[j] - moment[i]
    return -inside * (inside / (weight[j] - weight[i]))


@njit
def _overtakes(
    weight: Floats, moment: Floats, merges: Merges | None, best: Floats, new: int, old: int, end: int
) -> Any:
    """Whether a last piece [new, end) is at least as good as [old, end)."""
    if merges is not None:
        # What the run [old, new) adds to [new, end), without a difference of costs.
        w, mean, squares = _triple(merges, old, new)
        new_w, new_mean, _ = _triple(merges, new, end)
        return best[new] - best[old] <= merged(w, mean, squares, new_w, new_mean, 0.0)[2]
    # Multiplied by both weights: two divisions less in the innermost step.
    a, b = moment[end] - moment[new], weight[end] - weight[new]
    c, d = moment[end] - moment[old], weight[end] - weight[old]
    return (best[new] - best[old]) * b * d <= a * a * d - c * c * b


@njit
def cheapest_cut(
    weight: Floats,
    moment: Floats,
    merges: Merges | None,
    penalty: float,
    best: Floats,
    parent: Any,
    queue: Any,
    since: Any,
) -> int:
    """Cut all m items into pieces of least total ``run_cost`` + ``penalty``; return the number of pieces.

    ``parent[j]`` (m + 1,) becomes the start of the last piece of the best cut of the first j items, and
    ``best[j]`` its cost. ``queue`` and ``since`` are scratch of the same size.
    """
    m = weight.size - 1
    best[0] = 0.0
    # queue[head..tail] are starts; queue[q] is the best one for ends since[q] .. since[q + 1] - 1.
    head, tail = 0, 0
    queue[0], since[0] = 0, 1
    for j in range(1, m + 1):
        head += (head < tail) & (since[head + 1] <= j)  # since ascends: one step at most
        parent[j] = queue[head]
        best[j] = best[queue[head]] + run_cost(weight, moment, merges, queue[head], j) + penalty
        if j == m:
            break
        # A start that j overtakes before its turn never has one.
        while tail > head and _overtakes(weight, moment, merges, best, j, queue[tail], since[tail]):
            tail -= 1
        old = queue[tail]
        low = max(since[tail], j + 1)
        if tail == head and _overtakes(weight, moment, merges, best, j, old, low):
            queue[tail], since[tail] = j, low
            continue
        # Mostly at one of the next four ends: counted, as a branch on each would be mispredicted.
        misses = 0
        for ahead in range(1, 5):
            misses += not _overtakes(weight, moment, merges, best, j, old, min(low + ahead, m))
        low += misses
        high = low + 1
        if misses == 4:
            step, high = 4, low + 4
            while high < m and not _overtakes(weight, moment, merges, best, j, old, high):
                step *= 2
                low, high = high, high + step
            high = min(high, m)
            if low >= m or (high == m and not _overtakes(weight, moment, merges, best, j, old, m)):
                continue
            while high - low > 1:
                middle = (low + high) >> 1
                if _overtakes(weight, moment, merges, best, j, old, middle):
                    high = middle
                else:
                    low = middle
        elif high > m:
            continue  # rounding: ahead at an end before the last, but not at the last
        tail += 1
        queue[tail], since[tail] = j, high
    pieces, j = 0, m
    while j > 0:
        j = parent[j]
        pieces += 1
    return pieces
