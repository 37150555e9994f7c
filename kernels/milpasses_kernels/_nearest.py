"""The nearest of a few centres to each of many weighted points, and what that leaves of error.

Points are (d, n) float32, one row a component, so that one component of many points is a vector operation.
``mass`` is what the squared error counts: (1, n) float32 for each point, which does not change the nearest
centre, or (d, n) for each component of each point: the distance of a point from a centre is then the sum over
components of mass * difference^2. Centres are (k, d) float64. ``best`` (n,) holds distances, with the mass of
components but without that of points.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._jit import njit, njit_sums

Points = NDArray[np.float32]
Floats = NDArray[np.float64]
Codes = NDArray[np.int32]

STRIP = 512  # points whose distances stay in the first-level cache


@njit
def nearest(
    points: Points, mass: Points, centres: Floats, first: int, last: int, best: Points, codes: Codes
) -> None:
    """Lower ``best`` and set ``codes`` (n,) where one of centres ``first`` to ``last`` - 1 is closer."""
    dims, n = points.shape
    scratch = np.empty(STRIP, np.float32)
    small = centres.astype(np.float32)
    for start in range(0, n, STRIP):
        stop = min(start + STRIP, n)
        least, nearest_codes = best[start:stop], codes[start:stop]
        c = first
        if len(mass) == 1 and dims == 2:
            x, y = points[0, start:stop], points[1, start:stop]
            while c + 4 <= last:
                _four_pairs(x, y, small[c : c + 4], np.int32(c), least, nearest_codes)
                c += 4
        elif len(mass) == 1 and dims == 4:
            x, y, z, w = (
                points[0, start:stop],
                points[1, start:stop],
                points[2, start:stop],
                points[3, start:stop],
            )
            while c + 2 <= last:
                _two_quads(x, y, z, w, small[c : c + 2], np.int32(c), least, nearest_codes)
                c += 2
        distance = scratch[: stop - start]
        for other in range(c, last):
            distance[:] = 0.0
            for t in range(dims):
                row = points[t, start:stop]
                if len(mass) == 1:
                    _add_squares(row, small[other, t], distance)
                else:
                    _add_weighted_squares(row, mass[t, start:stop], small[other, t], distance)
            _take_closer(distance, np.int32(other), least, nearest_codes)


@njit
def _four_pairs(x: Points, y: Points, centres: Points, c: Any, best: Points, codes: Codes) -> None:
    """``nearest`` for four centres of two components: each point is read once."""
    (ax, ay), (bx, by) = (centres[0, 0], centres[0, 1]), (centres[1, 0], centres[1, 1])
    (cx, cy), (dx, dy) = (centres[2, 0], centres[2, 1]), (centres[3, 0], centres[3, 1])
    one, two, three = np.int32(c + 1), np.int32(c + 2), np.int32(c + 3)
    for i in range(best.size):
        first = (x[i] - ax) * (x[i] - ax) + (y[i] - ay) * (y[i] - ay)
        second = (x[i] - bx) * (x[i] - bx) + (y[i] - by) * (y[i] - by)
        third = (x[i] - cx) * (x[i] - cx) + (y[i] - cy) * (y[i] - cy)
        fourth = (x[i] - dx) * (x[i] - dx) + (y[i] - dy) * (y[i] - dy)
        # Selects, the first of equals, so that the loop is a vector operation.
        least, code = best[i], codes[i]
        code = c if first < least else code
        least = first if first < least else least
        code = one if second < least else code
        least = second if second < least else least
        code = two if third < least else code
        least = third if third < least else least
        code = three if fourth < least else code
        least = fourth if fourth < least else least
        best[i], codes[i] = least, code


@njit
def _two_quads(
    x: Points, y: Points, z: Points, w: Points, centres: Points, c: Any, best: Points, codes: Codes
) -> None:
    """``nearest`` for two centres of four components: each point is read once."""
    ax, ay, az, aw = centres[0, 0], centres[0, 1], centres[0, 2], centres[0, 3]
    bx, by, bz, bw = centres[1, 0], centres[1, 1], centres[1, 2], centres[1, 3]
    one = np.int32(c + 1)
    for i in range(best.size):
        first = (x[i] - ax) * (x[i] - ax) + (y[i] - ay) * (y[i] - ay)
        first += (z[i] - az) * (z[i] - az) + (w[i] - aw) * (w[i] - aw)
        second = (x[i] - bx) * (x[i] - bx) + (y[i] - by) * (y[i] - by)
        second += (z[i] - bz) * (z[i] - bz) + (w[i] - bw) * (w[i] - bw)
        least, code = best[i], codes[i]
        code = c if first < least else code
        least = first if first < least else least
        code = one if second < least else code
        least = second if second < least else least
        best[i], codes[i] = least, code


@njit
def _add_squares(row: Points, at: Any, distance: Points) -> None:
    for i in range(distance.size):
        distance[i] += (row[i] - at) * (row[i] - at)


@njit
def _add_weighted_squares(row: Points, mass: Points, at: Any, distance: Points) -> None:
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
def error(best: Points, mass: Points, i: Any) -> Any:
    """What the distance of point ``i`` counts."""
    return best[i] * mass[0, i] if len(mass) == 1 else best[i]


@njit_sums
def total(best: Points, mass: Points, start: int, stop: int) -> float:
    """The squared error of points ``start`` to ``stop`` - 1."""
    cost = 0.0
    if len(mass) == 1:
        for i in range(start, stop):
            cost += best[i] * mass[0, i]
    else:
        for i in range(start, stop):
            cost += best[i]
    return cost
