"""Exact weighted 1-D k-means as a search for the penalty at which the cheapest cut has k pieces.

The least cost D(k) of k clusters is convex in k (the cost of a run satisfies the quadrangle inequality), so
every k is reached by some penalty for a cluster, or lies on a straight edge of D between two that are; there
the two cuts are spliced (Aggarwal, Schieber and Tokuyama, 1994). The first penalty comes from the
companding rule for scalar quantizers, D(k) = (sum of w^1/3 dx^2/3)^3 / 12 k^2 (Panter and Dite, 1951), and
is refined on a few evenly spaced boundaries before all of them are allowed.
"""

from math import inf, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._jit import njit
from ._lws import Floats, Merges, cheapest_cut, merged, merges_of, run_cost

Bounds = NDArray[np.int32]

# Relative excess over the optimum that rounding may cause before costs are computed by merging.
_TOLERANCE = 4e-10
_ROUNDING = 2.0**-50
_BETTER = 1.0 - 1e-12  # less of a gain than this is rounding
_CELLS = 12  # boundaries a cluster that make a first penalty good enough
# Merging needs 24 log2(m) bytes an item: beyond this m the optimum is to rounding of the total deviation.
_MOST_MERGED = 1 << 20


@njit
def optimal_partition(values: Floats, weights: Floats, bounds: Bounds) -> int:
    """Write the ``bounds`` (k + 1,) of the optimal clusters of ascending values; return how many they are.

    ``values`` and ``weights`` (m,), weights > 0. Cluster c is ``values[bounds[c]:bounds[c + 1]]``, of
    min(k, m) clusters. Returns -1 where the range of values or weights is too large for differences of
    prefix sums to tell the optimum: ask ``refined_partition`` then.
    """
    m, k = values.size, bounds.size - 1
    if m <= k:
        for i in range(m + 1):
            bounds[i] = i
        return m
    total, mean = 0.0, 0.0
    whole = True
    for i in range(m):
        total += weights[i]
        mean += weights[i] * values[i]
        whole = whole and weights[i] == np.floor(weights[i])
    mean /= total
    # Too many items to merge: weights below the rounding of the total count as much as that.
    least = total * _ROUNDING if m > _MOST_MERGED else 0.0
    # Centred on a value, differences of float16 values stay exact, and so do their sums.
    middle = 0
    while middle < m - 1 and values[middle] < mean:
        middle += 1
    centre, square = values[middle], 0.0
    weight, moment = np.empty(m + 1), np.empty(m + 1)
    weight[0] = moment[0] = 0.0
    for i in range(m):
        w, away = max(weights[i], least), values[i] - centre
        weight[i + 1] = weight[i] + w
        moment[i + 1] = moment[i] + w * away
        square += w * away * away
        if weight[i + 1] == weight[i]:
            return -1

    coarse = np.empty(m + 1, np.int32)
    cells, penalty = _companding(values, weight, k, coarse)
    if k < cells and 2 * cells < m:
        coarse_weight, coarse_moment = np.empty(cells + 1), np.empty(cells + 1)
        for i in range(cells + 1):
            coarse_weight[i], coarse_moment[i] = weight[coarse[i]], moment[coarse[i]]
        penalty, _ = _search(coarse_weight, coarse_moment, None, penalty, bounds)
    penalty, cost = _search(weight, moment, None, penalty, bounds)
    # Differences of whole weights are exact; of others they are wrong by rounding of the total.
    slack = _ROUNDING * (square + k * penalty)
    if not whole or total > 2.0**53:
        slack += 0.25 * _ROUNDING * total * max(values[m - 1] - centre, centre - values[0]) ** 2
    return k if slack <= _TOLERANCE * (square + cost) or m > _MOST_MERGED else -1


@njit
def refined_partition(values: Floats, weights: Floats, bounds: Bounds) -> None:
    """``optimal_partition`` of m > k values of any range and weights: slower, in O(m log m) memory."""
    unused = np.empty(values.size + 1)
    _search(unused, unused, merges_of(values, weights), 0.0, bounds)


@njit
def partition_cost(values: Floats, weights: Floats, bounds: Bounds) -> Any:
    """Weighted squared deviation of all clusters from their means."""
    cost = 0.0
    for c in range(bounds.size - 1):
        w, mean, squares = 0.0, 0.0, 0.0
        for i in range(bounds[c], bounds[c + 1]):
            w, mean, squares = merged(w, mean, squares, weights[i], values[i], 0.0)
        cost += squares
    return cost


@njit
def set_means(values: Floats, weights: Floats, bounds: Bounds, means: Floats) -> None:
    """Write the weighted mean of each cluster, within its range, into ``means`` (k,)."""
    for c in range(bounds.size - 1):
        total, moment = 0.0, 0.0
        for i in range(bounds[c], bounds[c + 1]):
            total += weights[i]
            moment += weights[i] * values[i]
        means[c] = min(max(moment / total, values[bounds[c]]), values[bounds[c + 1] - 1])


@njit
def _companding(values: Floats, weight: Floats, k: int, coarse: Bounds) -> Any:
    """Where k clusters lie closer, so do the bounds in ``coarse`` (m + 1,), about ``_CELLS`` a cluster.

    Returns (number of cells, about D(k - 1) - D(k)), from at most 512 blocks of the distribution.
    """
    m = values.size
    step = m // 512 + 1
    density = np.empty(m // step + 1)
    total = 0.0
    for start in range(0, m, step):
        stop = min(start + step, m)
        width = values[min(stop, m - 1)] - values[start]
        density[start // step] = ((weight[stop] - weight[start]) * width * width) ** (1.0 / 3.0)
        total += density[start // step]
    cells = 0
    for start in range(0, m, step):
        size = min(step, m - start)
        wanted = min(size, 1 + int(_CELLS * k * density[start // step] / total))
        for i in range(wanted):
            coarse[cells] = start + i * size // wanted
            cells += 1
    coarse[cells] = m
    return cells, total**3 / (6.0 * k**3)


@njit
def _search(weight: Floats, moment: Floats, merges: Merges | None, penalty: float, bounds: Bounds) -> Any:
    """Write the bounds of the best k clusters; return a penalty at which they win, and their cost.

    Two cuts close in on k, one of too few and one of too many clusters. The chord between them is a penalty
    that either finds a cut below the chord or proves that D is straight there.
    """
    m, k = weight.size - 1, bounds.size - 1
    best = np.empty(m + 1)
    parent, queue, since = np.empty(m + 1, np.int32), np.empty(m + 1, np.int32), np.empty(m + 1, np.int32)
    few, many, cut = np.empty(k + 1, np.int32), np.empty(m + 1, np.int32), np.empty(m + 1, np.int32)
    few[0], few[1] = 0, m
    for i in range(m + 1):
        many[i] = i
    few_k, many_k = 1, m
    few_cost = _cut_cost(weight, moment, merges, few, 1)
    many_cost = _cut_cost(weight, moment, merges, many, m)
    # The nearest penalties known to cut into more, and into at most, k clusters, and how many they cut.
    lowest, lowest_k, highest, highest_k = 0.0, m, inf, 1
    few_penalty = inf
    trial, count = 0, k
    # Rounding hides costs far below the penalty: with merges, a cut may improve at a lower one.
    refining = merges is not None
    while few_k < k or (refining and k * few_penalty * _ROUNDING > _TOLERANCE * few_cost):
        if lowest > 0.0 and highest < inf:
            penalty = highest * (lowest / highest) ** (log(k / highest_k) / log(lowest_k / highest_k))
        else:
            penalty *= (count / k) ** 3
        on_chord = trial > 4 and trial % 2 == 0
        on_chord = on_chord or few_k == k or many_k - few_k < 5 or not lowest < penalty < highest
        if on_chord:
            penalty = (few_cost - many_cost) / (many_k - few_k)
            if not penalty > 0.0:
                break
        trial += 1
        count = cheapest_cut(weight, moment, merges, penalty, best, parent, queue, since)
        _trace(parent, cut, count)
        cost = _cut_cost(weight, moment, merges, cut, count)
        if count > k:
            lowest, lowest_k = penalty, count
            closer = count < many_k or (refining and count == many_k and cost < many_cost * _BETTER)
            if closer:
                many_k, many_cost = count, cost
                _copy(cut, 0, count + 1, many, 0)
        else:
            highest, highest_k = penalty, count
            closer = count > few_k or (refining and count == few_k and cost < few_cost * _BETTER)
            if closer:
                few_k, few_cost, few_penalty = count, cost, penalty
                _copy(cut, 0, count + 1, few, 0)
        if on_chord and not closer:
            break
    _splice(few, few_k, many, bounds)
    return penalty, _cut_cost(weight, moment, merges, bounds, k)


@njit
def _trace(parent: NDArray[np.int32], cut: NDArray[np.int32], count: int) -> None:
    """The bounds of the cut that ends at the last item."""
    cut[count] = parent.size - 1
    for c in range(count - 1, -1, -1):
        cut[c] = parent[cut[c + 1]]


@njit
def _cut_cost(
    weight: Floats, moment: Floats, merges: Merges | None, cut: NDArray[np.int32], count: int
) -> Any:
    cost = 0.0
    for c in range(count):
        cost += run_cost(weight, moment, merges, cut[c], cut[c + 1])
    return cost


@njit
def _copy(source: NDArray[np.int32], start: int, stop: int, target: NDArray[np.int32], at: int) -> None:
    for i in range(start, stop):
        target[at + i - start] = source[i]


@njit
def _splice(few: NDArray[np.int32], few_k: int, many: NDArray[np.int32], bounds: Bounds) -> None:
    """The first clusters of ``many`` and the last of ``few``, k in all.

    They meet inside a cluster [few[t], few[t + 1]) that holds [many[s], many[s + 1]), s = t + k - few_k: by
    the quadrangle inequality both ways to cross over there are as cheap as the cuts they are made of.
    """
    k = bounds.size - 1
    shift = k - few_k
    if shift == 0:
        _copy(few, 0, k + 1, bounds, 0)
        return
    t = few_k - 1
    while many[t + shift] < few[t]:
        t -= 1
    _copy(many, 0, t + shift + 1, bounds, 0)
    _copy(few, t + 1, few_k + 1, bounds, t + shift + 1)
