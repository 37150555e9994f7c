"""Slow, obvious versions of the clustering kernels: the oracles of the tests."""

from fractions import Fraction
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray


def histogram(
    values: Any, importance: Any = None, ignore_zeros: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Distinct values and the count, or the sum of importance, of each."""
    sums: dict[float, float] = {}
    importance = np.ones(values.shape) if importance is None else importance
    for value, weight in zip(values.ravel(), importance.ravel(), strict=True):
        if value != 0 or not ignore_zeros:
            sums[float(value)] = sums.get(float(value), 0.0) + float(weight)
    distinct = sorted(sums)
    return np.array(distinct, np.float32), np.array([sums[value] for value in distinct])


def run_costs(values: Any, weights: Any) -> list[list[float]]:
    """Weighted squared deviation of every run [i, j) from its mean, each rounded once from the exact one."""
    points = [(Fraction(float(w)), Fraction(float(x))) for w, x in zip(weights, values, strict=True)]
    costs = [[0.0] * (len(points) + 1) for _ in range(len(points))]
    for i in range(len(points)):
        total = moment = square = Fraction(0)
        for j in range(i, len(points)):
            w, x = points[j]
            total, moment, square = total + w, moment + w * x, square + w * x * x
            costs[i][j + 1] = float(square - moment * moment / total) if total else 0.0
    return costs


def least_cost(values: Any, weights: Any, k: int) -> float:
    """Cost of the best k or fewer clusters of ascending values: the O(k m^2) dynamic program."""
    m = len(values)
    costs = run_costs(values, weights)
    best = [0.0] + [inf] * m
    for _ in range(min(k, m)):
        best = [0.0] + [min(best[i] + costs[i][j] for i in range(j)) for j in range(1, m + 1)]
    return best[m]


def nearest(values: Any, lut: Any) -> NDArray[np.uint8]:
    """Code of the nearest entry, in exact arithmetic; the lower of two as near, the first of equals."""
    order = np.argsort(lut, kind="stable")
    entries = np.array([whole(lut[c]) for c in order], object)
    return np.array([order[np.abs(entries - whole(value)).argmin()] for value in values], np.uint8)


def whole(value: Any) -> int:
    """A finite float32 in units of the smallest one."""
    return int(Fraction(float(value)) * 2**149)


def distances(vectors: Any, lut: Any, importance: Any = None) -> NDArray[np.float64]:
    """(n, k) weighted squared distances of vectors (n, d) from entries (k, d)."""
    away = (vectors.astype(np.float64)[:, None] - lut.astype(np.float64)[None]) ** 2
    return (away if importance is None else importance[:, None] * away).sum(axis=2)


def lloyd_step(vectors: Any, lut: Any, importance: Any = None) -> NDArray[np.float64]:
    """The weighted means of the vectors nearest to each entry; entries without any stay."""
    codes = distances(vectors, lut, importance).argmin(axis=1)
    moved = lut.astype(np.float64)
    for c in range(len(lut)):
        inside = vectors[codes == c].astype(np.float64)
        weights = np.ones(inside.shape) if importance is None else importance[codes == c].astype(np.float64)
        some = weights.sum(axis=0) > 0
        moved[c, some] = (weights * inside).sum(axis=0)[some] / weights.sum(axis=0)[some]
    return moved


def decoded(lut: Any, codes: Any) -> NDArray[Any]:
    """The weights that look-up tables (G, k) or (G, k, d) and codes (G, n) stand for."""
    return np.stack([table[row] for table, row in zip(lut, codes, strict=True)])
