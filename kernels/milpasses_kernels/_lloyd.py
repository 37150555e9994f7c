"""Lloyd's iterations on weighted vectors: means of the nearest points, and moving centres that are idle.

Points, masses and centres are as in ``_nearest``.
"""

from math import inf, pi

import numpy as np
from numpy.typing import NDArray

from ._jit import njit
from ._nearest import Codes, Floats, Points, error, nearest, total

_MOVED = 1e-4  # relative gain that a move of centres must bring
_SETTLED = 1e-2  # relative gain of a pass below which centres that were moved have shown what they bring
_STEP = 1.7  # how far a pass moves centres, in ways to their means: past them, as they will move on
_LIKELY = 3  # single moves tried before giving up


@njit
def moments(points: Points, mass: Points, codes: Codes, sums: Floats, weights: Floats) -> None:
    """Fill ``sums`` of mass * point and ``weights`` of mass (k, d) of each centre's points.

    Where a point has one mass, all that it adds is added at once: with few centres this takes longer than
    finding the nearest.
    """
    sums[:] = 0.0
    weights[:] = 0.0
    dims = len(points)
    if len(mass) == 1 and dims == 2:
        _pair_moments(points[0], points[1], mass[0], codes, sums, weights[:, 0])
    elif len(mass) == 1 and dims == 4:
        _quad_moments(points[0], points[1], points[2], points[3], mass[0], codes, sums, weights[:, 0])
    else:
        for t in range(dims):
            row, counts = points[t], mass[min(t, len(mass) - 1)]
            for i in range(codes.size):
                sums[codes[i], t] += np.float64(counts[i]) * row[i]
                weights[codes[i], t] += counts[i]
        return
    for t in range(1, dims):
        weights[:, t] = weights[:, 0]


@njit
def _pair_moments(x: Points, y: Points, mass: Points, codes: Codes, sums: Floats, weights: Floats) -> None:
    for i in range(codes.size):
        c, counts = codes[i], np.float64(mass[i])
        # All read before any is written: then they are one vector operation.
        first, second = sums[c, 0] + counts * x[i], sums[c, 1] + counts * y[i]
        sums[c, 0], sums[c, 1] = first, second
        weights[c] += counts


@njit
def _quad_moments(
    x: Points, y: Points, z: Points, w: Points, mass: Points, codes: Codes, sums: Floats, weights: Floats
) -> None:
    for i in range(codes.size):
        c, counts = codes[i], np.float64(mass[i])
        first, second = sums[c, 0] + counts * x[i], sums[c, 1] + counts * y[i]
        third, fourth = sums[c, 2] + counts * z[i], sums[c, 3] + counts * w[i]
        sums[c, 0], sums[c, 1], sums[c, 2], sums[c, 3] = first, second, third, fourth
        weights[c] += counts


@njit
def assign(
    points: Points, mass: Points, centres: Floats, best: Points, codes: Codes, sums: Floats, weights: Floats
) -> float:
    """Find the nearest centres and their moments; return the cost."""
    best[:] = inf
    nearest(points, mass, centres, 0, len(centres), best, codes)
    moments(points, mass, codes, sums, weights)
    return total(best, mass, 0, best.size)


@njit
def set_means(sums: Floats, weights: Floats, centres: Floats, last: bool) -> None:
    """Move ``centres`` to the means, where there is any mass; beyond them unless it is the ``last`` move."""
    step = 1.0 if last else _STEP
    for c in range(centres.shape[0]):
        for t in range(centres.shape[1]):
            if weights[c, t] > 0.0:
                centres[c, t] += step * (sums[c, t] / weights[c, t] - centres[c, t])


@njit
def idle(weights: Floats) -> NDArray[np.bool_]:
    """Which centres have no mass."""
    return weights.sum(axis=1) == 0.0


@njit
def lloyd(
    points: Points,
    mass: Points,
    centres: Floats,
    passes: int,
    settled: float,
    best: Points,
    codes: Codes,
    sums: Floats,
    weights: Floats,
) -> tuple[float, int]:
    """Improve ``centres`` until they settle, in at most ``passes`` over the points; return cost and passes.

    Fills ``best``, ``codes``, ``sums`` and ``weights``. A centre without points moves to the point farthest
    from its own.
    """
    cost, before, done = inf, inf, 0
    while True:
        done += 1
        before, cost = cost, assign(points, mass, centres, best, codes, sums, weights)
        if done < passes and _move_idle(points, mass, centres, idle(weights), best, codes):
            moments(points, mass, codes, sums, weights)
            cost = inf
        elif done == passes or before - cost <= settled * cost:
            return cost, done
        set_means(sums, weights, centres, done + 1 == passes)


@njit
def _move_idle(
    points: Points, mass: Points, centres: Floats, spare: NDArray[np.bool_], best: Points, codes: Codes
) -> bool:
    moved = False
    for c in range(len(centres)):
        if spare[c]:
            worst, most = 0, 0.0
            for i in range(best.size):
                own = error(best, mass, i)
                if own > most:
                    worst, most = i, own
            if most == 0.0:
                break
            for t in range(len(points)):
                centres[c, t] = points[t, worst]
            nearest(points, mass, centres, c, c + 1, best, codes)
            moved = True
    return moved


@njit
def train(
    points: Points, mass: Points, centres: Floats, passes: int, settled: float, best: Points, codes: Codes
) -> float:
    """``lloyd``, then move centres to where the error is largest, while that helps; return the cost.

    In the spirit of Fritzke, "The breathing k-means algorithm" (2020): first a quarter of the centres at a
    time, half as many after each failure, at last one by one, the next likely ones too; in at most ``passes``
    over the points in all, and as many once more until a pass gains less than ``settled`` of the cost,
    if that is below 1.
    """
    k = len(centres)
    sums, weights = np.empty(centres.shape), np.empty(centres.shape)
    cost, left = lloyd(points, mass, centres, passes, _SETTLED, best, codes, sums, weights)
    left = passes - left
    moves, skip = max(1, k // 4), 0
    apart, busy = _splits(points, mass, centres, weights, best, codes)
    neighbour, spare = _spares(centres, weights)
    while cost > 0.0 and skip < min(_LIKELY, k) and left > 1:
        trial = _moved(centres, apart, busy, neighbour, spare, moves, skip)
        trial_cost, done = lloyd(points, mass, trial, left, _SETTLED, best, codes, sums, weights)
        left -= done
        if trial_cost < cost * (1.0 - _MOVED):
            cost, skip = trial_cost, 0
            centres[:] = trial
            apart, busy = _splits(points, mass, centres, weights, best, codes)
            neighbour, spare = _spares(centres, weights)
        elif moves > 1:
            moves //= 2
        else:
            skip += 1
    more = passes if settled < 1.0 else 1
    cost, _ = lloyd(points, mass, centres, more, settled, best, codes, sums, weights)
    set_means(sums, weights, centres, True)
    return cost


@njit
def _splits(
    points: Points, mass: Points, centres: Floats, weights: Floats, best: Points, codes: Codes
) -> tuple[Floats, NDArray[np.int64]]:
    """How far ``apart`` (2, k, d) to split each centre in two, and the centres in the order of the gain.

    Either by its standard deviation along the axis of its largest error, which gains two parts in pi of a
    normal distribution's; or, where that gains more, to the point that counts most.
    """
    k, dims = centres.shape
    errors, most, farthest = np.zeros((k, dims)), np.zeros(k), np.zeros(k, np.int64)
    for t in range(dims):
        row, counts = points[t], mass[min(t, len(mass) - 1)]
        for i in range(codes.size):
            away = row[i] - centres[codes[i], t]
            errors[codes[i], t] += counts[i] * away * away
    for i in range(codes.size):
        own = error(best, mass, i)
        if own > most[codes[i]]:
            most[codes[i]], farthest[codes[i]] = own, i
    apart, gains = np.zeros((2, k, dims)), np.zeros(k)
    for c in range(k):
        along = errors[c].argmax()
        gains[c] = 2.0 / pi * errors[c, along]
        if most[c] > gains[c]:
            gains[c] = most[c]
            for t in range(dims):
                apart[0, c, t] = points[t, farthest[c]] - centres[c, t]
        else:
            step = np.sqrt(errors[c, along] / max(weights[c, along], 1e-300))
            apart[0, c, along], apart[1, c, along] = step, -step
    return apart, np.argsort(-gains, kind="mergesort")


@njit
def _spares(centres: Floats, weights: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The nearest neighbour of each centre, and the centres in the order in which they are missed.

    A centre is missed by its mass times the squared distance from its nearest neighbour, which takes over
    its points.
    """
    k, dims = centres.shape
    missed, neighbour = np.full(k, inf), np.zeros(k, np.int64)
    for c in range(k):
        for other in range(k):
            loss = 0.0
            for t in range(dims):
                loss += weights[c, t] * (centres[c, t] - centres[other, t]) ** 2
            if other != c and loss < missed[c]:
                missed[c], neighbour[c] = loss, other
    return neighbour, np.argsort(missed, kind="mergesort")


@njit
def _moved(
    centres: Floats,
    apart: Floats,
    busy: NDArray[np.int64],
    neighbour: NDArray[np.int64],
    spare: NDArray[np.int64],
    moves: int,
    skip: int,
) -> Floats:
    """Split the ``busy`` centres at the expense of the ``spare`` ones, whose neighbours therefore stay.

    ``skip`` passes over every other of the first.
    """
    k = len(centres)
    moved, settled = centres.copy(), np.zeros(k, np.bool_)
    at = skip % 2
    for unused in spare[skip // 2 :]:
        if moves == 0 or settled[unused]:
            continue
        while at < k and (busy[at] == unused or settled[busy[at]]):
            at += 1
        if at == k:
            break
        split = busy[at]
        settled[unused] = settled[split] = settled[neighbour[unused]] = True
        moved[unused] = centres[split] + apart[0, split]
        moved[split] = centres[split] + apart[1, split]
        moves -= 1
    return moved
