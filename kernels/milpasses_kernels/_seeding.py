"""Where Lloyd's iterations start: a sample of the points, and some of the points as centres."""

from math import inf

import numpy as np
from numpy.typing import NDArray

from ._jit import njit, njit_sums
from ._nearest import STRIP, Codes, Floats, Points, error, nearest, total

_SEEDS = 8  # centres chosen already, for each one that a round of seeding adds


@njit
def sample(points: Points, mass: Points, draws: Floats, chosen: NDArray[np.int64], shares: Points) -> int:
    """Choose points by ``draws`` (size,) uniform in [0, 1), so that the tails are kept; return their number.

    Half of a point's odds are even, half go with its squared distance from the mean; ``shares`` are what
    the masses of the ``chosen`` are to be multiplied by, one over the odds (a lightweight coreset: Bachem,
    Lucic and Krause, 2018). Draws are one from each of as many equal shares of the odds.
    """
    n = points.shape[1]
    away = np.zeros(n, np.float32)
    whole = _away(points, mass, away)
    even, scale = 0.5 / n, 0.5 / whole if whole > 0.0 else 0.0
    size, passed, drawn, found = len(draws), 0.0, 0, 0
    for i in range(n):
        odds = even + scale * away[i]
        passed += odds
        before = drawn
        while drawn < size and drawn + draws[drawn] < passed * size:
            drawn += 1
        if drawn > before:
            chosen[found], shares[found] = i, (drawn - before) / (odds * n)
            found += 1
    return found


@njit_sums
def _away(points: Points, mass: Points, away: Points) -> float:
    """Add the distances of points from their mean to ``away``; return their sum."""
    dims, n = points.shape
    for t in range(dims):
        row, counts = points[t], mass[min(t, len(mass) - 1)]
        whole = 0.0
        for i in range(n):
            whole += row[i]
        mean = np.float32(whole / n)
        for i in range(n):
            away[i] += counts[i] * ((row[i] - mean) * (row[i] - mean))
    whole = 0.0
    for i in range(n):
        whole += away[i]
    return whole


@njit
def seed(points: Points, mass: Points, draws: Floats, centres: Floats, best: Points, codes: Codes) -> None:
    """Choose k points as centres, each with odds of its distance from those of earlier rounds.

    ``draws`` (k,) uniform in [0, 1). A round adds an eighth of the centres there are, at least one, drawn
    from as many equal shares of the error: k-means++ (Arthur and Vassilvitskii, 2007) in the rounds of
    k-means|| (Bahmani et al., 2012). Stops short, repeating the first centre, once all points are centres.
    """
    dims, n = points.shape
    best[:] = inf
    choice = int(draws[0] * n)
    for t in range(dims):
        centres[:, t] = points[t, choice]
    chosen, done = 1, 0
    strips = np.empty(-(-n // STRIP))
    while chosen < len(centres):
        nearest(points, mass, centres, done, chosen, best, codes)
        done = chosen
        for number in range(len(strips)):
            strips[number] = total(best, mass, number * STRIP, min((number + 1) * STRIP, n))
        cost = strips.sum()
        if not cost > 0.0:
            return
        count = min(max(1, chosen // _SEEDS), len(centres) - chosen)
        chosen += _draw(
            points, mass, best, strips, cost / count, draws[chosen : chosen + count], centres[chosen:]
        )
        if chosen == done:  # rounding kept the sum below the last draw
            return


@njit
def _draw(
    points: Points,
    mass: Points,
    best: Points,
    strips: Floats,
    share: float,
    draws: Floats,
    centres: Floats,
) -> int:
    """Set ``centres`` to a point from each share of the error, as far as there are; return their number."""
    n = best.size
    passed, drawn, chosen = 0.0, 0, 0
    for number in range(len(strips)):
        after = passed + strips[number]
        if after > (drawn + draws[chosen]) * share:
            for i in range(number * STRIP, min((number + 1) * STRIP, n)):
                step = error(best, mass, i)
                passed += step
                if step > 0.0 and passed > (drawn + draws[chosen]) * share:
                    for t in range(len(points)):
                        centres[chosen, t] = points[t, i]
                    chosen += 1
                    drawn = max(drawn + 1, int(passed / share))
                    if chosen == len(draws) or drawn >= len(draws):
                        return chosen
        passed = after
    return chosen
