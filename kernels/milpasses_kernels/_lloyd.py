"""Lloyd's iterations on weighted vectors: seeding, nearest centres, means, and moving idle centres.

Points are (d, n) float32, one row a component, so that one component of many points is a vector operation.
``mass`` (d, n) float32 is what each component of each point counts: the distance of a point from a centre is
the sum over components of mass * difference^2. Centres are (k, d) float64.
"""

from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._jit import njit

Points = NDArray[np.float32]
Floats = NDArray[np.float64]
Codes = NDArray[np.int32]

_STRIP = 512  # points whose distances stay in the first-level cache
_SETTLED = 1e-4  # relative gain of an iteration below which a start, or a move of centres, has converged
_LIKELY = 6  # single moves tried before giving up


@njit
def nearest(
    points: Points, mass: Points, centres: Floats, first: int, last: int, best: Points, codes: Codes
) -> None:
    """Lower ``best`` and set ``codes`` (n,) where one of centres ``first`` to ``last`` - 1 is closer."""
    dims, n = points.shape
    scratch = np.empty(_STRIP, np.float32)
    for start in range(0, n, _STRIP):
        stop = min(start + _STRIP, n)
        distance = scratch[: stop - start]
        for c in range(first, last):
            distance[:] = 0.0
            for t in range(dims):
                _add_squares(points[t, start:stop], mass[t, start:stop], np.float32(centres[c, t]), distance)
            _take_closer(distance, np.int32(c), best[start:stop], codes[start:stop])


@njit
def _add_squares(row: Points, mass: Points, at: Any, distance: Points) -> None:
    for i in range(distance.size):
        distance[i] += mass[i] * ((row[i] - at) * (row[i] - at))


@njit
def _take_closer(distance: Points, c: Any, best: Points, codes: Codes) -> None:
    for i in range(distance.size):
        # Stored whether or not it changes: then it is a select, and a vector operation.
        least, code = best[i], codes[i]
        if distance[i] < least:
            least, code = distance[i], c
        best[i], codes[i] = least, code


@njit
def seed(points: Points, mass: Points, draws: Floats, centres: Floats, best: Points, codes: Codes) -> None:
    """Choose k points as centres, each with odds of its distance from those before it (k-means++).

    ``draws`` (k,) uniform in [0, 1). Stops short, repeating the last centre, once all points are centres
    (Arthur and Vassilvitskii, 2007).
    """
    n = best.size
    best[:] = inf
    choice = int(draws[0] * n)
    for c in range(len(centres)):
        for t in range(len(points)):
            centres[c, t] = points[t, choice]
        nearest(points, mass, centres, c, c + 1, best, codes)
        total = 0.0
        for i in range(n):
            total += best[i]
        if c + 1 < len(centres) and total > 0.0:
            target = draws[c + 1] * total
            for i in range(n):
                if best[i] > 0.0:
                    choice = i
                    target -= best[i]
                    if target < 0.0:
                        break


@njit
def add_moments(points: Points, mass: Points, codes: Codes, sums: Floats, weights: Floats) -> None:
    """Add mass * point and mass to ``sums`` and ``weights`` (k, d) of each point's centre."""
    for t in range(len(points)):
        for i in range(codes.size):
            c = codes[i]
            sums[c, t] += np.float64(mass[t, i]) * points[t, i]
            weights[c, t] += mass[t, i]


@njit
def set_means(sums: Floats, weights: Floats, centres: Floats) -> None:
    """Move ``centres`` to the means, where there is any mass."""
    for c in range(centres.shape[0]):
        for t in range(centres.shape[1]):
            if weights[c, t] > 0.0:
                centres[c, t] = sums[c, t] / weights[c, t]


@njit
def lloyd(
    points: Points, mass: Points, centres: Floats, iterations: int, best: Points, codes: Codes
) -> tuple[float, Floats, Floats]:
    """Improve ``centres`` until they settle; return the cost, and error and mass (k, d) of each.

    A centre without points moves to the point farthest from its own.
    """
    k, dims = centres.shape
    cost, before = inf, inf
    sums, weights = np.zeros((k, dims)), np.zeros((k, dims))
    for iteration in range(iterations + 1):
        best[:] = inf
        nearest(points, mass, centres, 0, k, best, codes)
        moved = False
        if iteration < iterations:
            moved = _move_idle(points, mass, centres, best, codes)
        before, cost = cost, 0.0
        for i in range(best.size):
            cost += best[i]
        sums[:] = 0.0
        weights[:] = 0.0
        add_moments(points, mass, codes, sums, weights)
        if iteration == iterations or (not moved and before - cost <= _SETTLED * cost):
            break
        set_means(sums, weights, centres)
    errors = np.zeros((k, dims))
    for t in range(dims):
        for i in range(codes.size):
            away = points[t, i] - centres[codes[i], t]
            errors[codes[i], t] += mass[t, i] * away * away
    return cost, errors, weights


@njit
def _move_idle(points: Points, mass: Points, centres: Floats, best: Points, codes: Codes) -> bool:
    used = np.zeros(len(centres), np.int64)
    for i in range(codes.size):
        used[codes[i]] += 1
    moved = False
    for c in range(len(centres)):
        if used[c] == 0:
            worst = 0
            for i in range(best.size):
                if best[i] > best[worst]:
                    worst = i
            if best[worst] == 0.0:
                break
            for t in range(len(points)):
                centres[c, t] = points[t, worst]
            nearest(points, mass, centres, c, c + 1, best, codes)
            moved = True
    return moved


def train(
    points: Points, mass: Points, centres: Floats, iterations: int, best: Points, codes: Codes
) -> float:
    """``lloyd``, then move centres to where the error is largest, while that helps; return the cost.

    In the spirit of Fritzke, "The breathing k-means algorithm" (2020): first a quarter of the centres at a
    time, half as many after each failure, at last one by one, the next likely ones too.
    """
    cost, errors, weights = lloyd(points, mass, centres, iterations, best, codes)
    moves, skip = max(1, len(centres) // 4), 0
    while cost > 0.0 and skip < min(_LIKELY, len(centres)):
        trial = _moved(centres, errors, weights, moves, skip)
        trial_cost, trial_errors, trial_weights = lloyd(points, mass, trial, iterations, best, codes)
        if trial_cost < cost * (1.0 - _SETTLED):
            cost, errors, weights, skip = trial_cost, trial_errors, trial_weights, 0
            centres[:] = trial
        elif moves > 1:
            moves //= 2
        else:
            skip += 1
    return cost


def _moved(centres: Floats, errors: Floats, weights: Floats, moves: int, skip: int) -> Floats:
    """Split the centres of largest error in two, at the expense of those that are missed least.

    A centre is missed by its mass times the squared distance from its nearest neighbour, which takes over
    its points and therefore stays. ``skip`` passes over every other of the first.
    """
    missed = (weights[:, None] * (centres[:, None] - centres) ** 2).sum(axis=2)
    np.fill_diagonal(missed, inf)
    neighbour = missed.argmin(axis=1)
    busy = iter(np.argsort(-errors.sum(axis=1), kind="stable")[skip % 2 :])
    moved = centres.copy()
    settled: set[int] = set()
    for idle in np.argsort(missed.min(axis=1), kind="stable")[skip // 2 :]:
        if moves == 0 or idle in settled:
            continue
        split = next((c for c in busy if c != idle and c not in settled), None)
        if split is None:
            break
        settled.update((idle, split, neighbour[idle]))
        along = errors[split].argmax()
        step = np.sqrt(errors[split, along] / max(weights[split, along], np.finfo(float).tiny))
        moved[idle] = moved[split]
        moved[idle, along] += step
        moved[split, along] -= step
        moves -= 1
    return moved
