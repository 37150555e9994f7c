"""Lloyd's iterations on weighted vectors: seeding, nearest centres, means, and moving idle centres.

Points are (d, n) float32, one row a component, so that one component of many points is a vector operation.
``mass`` is what the squared error counts: (1, n) float32 for each point, which does not change the nearest
centre, or (d, n) for each component of each point: the distance of a point from a centre is then the sum over
components of mass * difference^2. Centres are (k, d) float64. ``best`` (n,) holds distances, with the mass of
components but without that of points.
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
_MOVED = 1e-4  # relative gain that a move of centres must bring
_SETTLED = 1e-2  # relative gain of a pass below which centres that were moved have shown what they bring
_STEP = 1.7  # how far a pass moves centres, in ways to their means: past them, as they will move on
_LIKELY = 3  # single moves tried before giving up
_SEEDS = 8  # centres chosen already, for each one that a round of seeding adds


@njit
def nearest(
    points: Points, mass: Points, centres: Floats, first: int, last: int, best: Points, codes: Codes
) -> None:
    """Lower ``best`` and set ``codes`` (n,) where one of centres ``first`` to ``last`` - 1 is closer."""
    dims, n = points.shape
    scratch = np.empty(_STRIP, np.float32)
    small = centres.astype(np.float32)
    for start in range(0, n, _STRIP):
        stop = min(start + _STRIP, n)
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
def _error(best: Points, mass: Points, i: Any) -> Any:
    """What the distance of point ``i`` counts."""
    return best[i] * mass[0, i] if len(mass) == 1 else best[i]


@njit
def total(best: Points, mass: Points) -> float:
    """The squared error of all points."""
    cost = 0.0
    for i in range(best.size):
        cost += _error(best, mass, i)
    return cost


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
    while chosen < len(centres):
        nearest(points, mass, centres, done, chosen, best, codes)
        done = chosen
        error = total(best, mass)
        if not error > 0.0:
            return
        count = min(max(1, chosen // _SEEDS), len(centres) - chosen)
        share = error / count
        passed, drawn = 0.0, 0
        for i in range(n):
            step = _error(best, mass, i)
            passed += step
            if step > 0.0 and passed > (drawn + draws[chosen]) * share:
                for t in range(dims):
                    centres[chosen, t] = points[t, i]
                chosen += 1
                drawn = max(drawn + 1, int(passed / share))
                if chosen == done + count or drawn >= count:
                    break
        if chosen == done:  # rounding kept the sum below the last draw
            return


@njit
def moments(
    points: Points,
    mass: Points,
    best: Points,
    codes: Codes,
    sums: Floats,
    weights: Floats,
    used: NDArray[np.int64],
) -> float:
    """Fill ``sums`` of mass * point and ``weights`` of mass (k, d), and ``used`` (k,): points of each centre.

    Return the cost. Where a point has one mass, all that it adds is added at once: with few centres this
    takes longer than finding the nearest.
    """
    sums[:] = 0.0
    weights[:] = 0.0
    used[:] = 0
    dims = len(points)
    if len(mass) == 1 and dims == 2:
        cost = _pair_moments(points[0], points[1], mass[0], best, codes, sums, weights[:, 0], used)
    elif len(mass) == 1 and dims == 4:
        cost = _quad_moments(
            points[0], points[1], points[2], points[3], mass[0], best, codes, sums, weights[:, 0], used
        )
    else:
        for i in range(codes.size):
            used[codes[i]] += 1
        for t in range(dims):
            row, counts = points[t], mass[min(t, len(mass) - 1)]
            for i in range(codes.size):
                sums[codes[i], t] += np.float64(counts[i]) * row[i]
                weights[codes[i], t] += counts[i]
        return total(best, mass)
    for t in range(1, dims):
        weights[:, t] = weights[:, 0]
    return cost


@njit
def _pair_moments(
    x: Points,
    y: Points,
    mass: Points,
    best: Points,
    codes: Codes,
    sums: Floats,
    weights: Floats,
    used: NDArray[np.int64],
) -> float:
    cost = 0.0
    for i in range(codes.size):
        c, counts = codes[i], np.float64(mass[i])
        used[c] += 1
        weights[c] += counts
        sums[c, 0] += counts * x[i]
        sums[c, 1] += counts * y[i]
        cost += counts * best[i]
    return cost


@njit
def _quad_moments(
    x: Points,
    y: Points,
    z: Points,
    w: Points,
    mass: Points,
    best: Points,
    codes: Codes,
    sums: Floats,
    weights: Floats,
    used: NDArray[np.int64],
) -> float:
    cost = 0.0
    for i in range(codes.size):
        c, counts = codes[i], np.float64(mass[i])
        used[c] += 1
        weights[c] += counts
        sums[c, 0] += counts * x[i]
        sums[c, 1] += counts * y[i]
        sums[c, 2] += counts * z[i]
        sums[c, 3] += counts * w[i]
        cost += counts * best[i]
    return cost


@njit
def assign(
    points: Points,
    mass: Points,
    centres: Floats,
    best: Points,
    codes: Codes,
    sums: Floats,
    weights: Floats,
    used: NDArray[np.int64],
) -> float:
    """Find the nearest centres and their moments; return the cost."""
    best[:] = inf
    nearest(points, mass, centres, 0, len(centres), best, codes)
    return moments(points, mass, best, codes, sums, weights, used)


@njit
def set_means(sums: Floats, weights: Floats, centres: Floats, last: bool) -> None:
    """Move ``centres`` to the means, where there is any mass; beyond them unless it is the ``last`` move."""
    step = 1.0 if last else _STEP
    for c in range(centres.shape[0]):
        for t in range(centres.shape[1]):
            if weights[c, t] > 0.0:
                centres[c, t] += step * (sums[c, t] / weights[c, t] - centres[c, t])


@njit
def lloyd(
    points: Points,
    mass: Points,
    centres: Floats,
    passes: int,
    settled: float,
    best: Points,
    codes: Codes,
    errors: Floats,
    weights: Floats,
) -> tuple[float, int]:
    """Improve ``centres`` until they settle, in at most ``passes`` over the points; return cost and passes.

    Fills ``errors`` and ``weights`` (k, d): the error and mass of each centre. A centre without points moves
    to the point farthest from its own.
    """
    sums, used = np.empty(centres.shape), np.empty(len(centres), np.int64)
    cost, before, done = inf, inf, 0
    while True:
        done += 1
        before, cost = cost, assign(points, mass, centres, best, codes, sums, weights, used)
        if done < passes and _move_idle(points, mass, centres, used, best, codes):
            moments(points, mass, best, codes, sums, weights, used)
            cost = inf
        elif done == passes or before - cost <= settled * cost:
            break
        set_means(sums, weights, centres, done + 1 == passes)
    errors[:] = 0.0
    for t in range(len(points)):
        counts = mass[min(t, len(mass) - 1)]
        for i in range(codes.size):
            away = points[t, i] - centres[codes[i], t]
            errors[codes[i], t] += counts[i] * away * away
    return cost, done


@njit
def _move_idle(
    points: Points, mass: Points, centres: Floats, used: NDArray[np.int64], best: Points, codes: Codes
) -> bool:
    moved = False
    for c in range(len(centres)):
        if used[c] == 0:
            worst = 0
            for i in range(best.size):
                if _error(best, mass, i) > _error(best, mass, worst):
                    worst = i
            if _error(best, mass, worst) == 0.0:
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
    over the points in all, and as many once more until a pass gains less than ``settled`` of the cost.
    """
    k = len(centres)
    errors, weights = np.empty(centres.shape), np.empty(centres.shape)
    trial_errors, trial_weights = np.empty(centres.shape), np.empty(centres.shape)
    cost, left = lloyd(points, mass, centres, passes, _SETTLED, best, codes, errors, weights)
    left = passes - left
    moves, skip = max(1, k // 4), 0
    while cost > 0.0 and skip < min(_LIKELY, k) and left > 1:
        trial = _moved(centres, errors, weights, moves, skip)
        trial_cost, done = lloyd(
            points, mass, trial, left, _SETTLED, best, codes, trial_errors, trial_weights
        )
        left -= done
        if trial_cost < cost * (1.0 - _MOVED):
            cost, skip = trial_cost, 0
            centres[:] = trial
            errors[:] = trial_errors
            weights[:] = trial_weights
        elif moves > 1:
            moves //= 2
        else:
            skip += 1
    return lloyd(points, mass, centres, passes, settled, best, codes, errors, weights)[0]


@njit
def _moved(centres: Floats, errors: Floats, weights: Floats, moves: int, skip: int) -> Floats:
    """Split the centres of largest error in two, at the expense of those that are missed least.

    A centre is missed by its mass times the squared distance from its nearest neighbour, which takes over
    its points and therefore stays. ``skip`` passes over every other of the first.
    """
    k, dims = centres.shape
    missed, neighbour, negative = np.full(k, inf), np.zeros(k, np.int64), np.zeros(k)
    for c in range(k):
        for t in range(dims):
            negative[c] -= errors[c, t]
        for other in range(k):
            loss = 0.0
            for t in range(dims):
                loss += weights[c, t] * (centres[c, t] - centres[other, t]) ** 2
            if other != c and loss < missed[c]:
                missed[c], neighbour[c] = loss, other
    busy, spare = np.argsort(negative, kind="mergesort"), np.argsort(missed, kind="mergesort")
    moved, settled = centres.copy(), np.zeros(k, np.bool_)
    at = skip % 2
    for idle in spare[skip // 2 :]:
        if moves == 0 or settled[idle]:
            continue
        while at < k and (busy[at] == idle or settled[busy[at]]):
            at += 1
        if at == k:
            break
        split = busy[at]
        settled[idle] = settled[split] = settled[neighbour[idle]] = True
        along = errors[split].argmax()
        step = np.sqrt(errors[split, along] / max(weights[split, along], 1e-300))
        moved[idle] = moved[split]
        moved[idle, along] += step
        moved[split, along] -= step
        moves -= 1
    return moved
