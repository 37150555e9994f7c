"""Slow, obvious versions of every kernel: the oracles of the tests."""

import os
from fractions import Fraction
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Without the JIT a kernel takes a microsecond a step: the tests then work on fewer weights.
JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


def few(size: int, without_jit: int) -> int:
    """Return a size to test with, depending on whether kernels are compiled."""
    return size if JIT else without_jit


def half_scales() -> NDArray[np.float32]:
    """All positive finite float16 values."""
    return np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)


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


def decode(codes: Any, scale: Any, zero_point: Any = None) -> NDArray[Any]:
    """float32(code - zero point) * float32(scale), rounded once, one weight after the other."""
    decoded = np.empty(codes.shape, scale.dtype)
    for g, i in np.ndindex(codes.shape):
        k = int(codes[g, i]) - (0 if zero_point is None else int(zero_point[g]))
        with np.errstate(over="ignore"):
            decoded[g, i] = scale.dtype.type(np.float32(k) * np.float32(scale[g]))
    return decoded


def errors(groups: Any, decoded: Any, importance: Any = 1.0) -> NDArray[np.float64]:
    """The (weighted) squared error of each group."""
    difference = groups.astype(np.float64) - decoded.astype(np.float64)
    return (importance * difference**2).sum(axis=1)


def least_error(row: Any, low: int, high: int) -> float:
    """The least squared error of a float16 row over every float16 scale, for k in low..high."""
    top = float(np.abs(row.astype(np.float64)).max())
    scales = half_scales()
    scales = scales[(scales >= top / max(-low, high) / 32) & (scales <= 2 * top)]
    k = np.clip(np.rint(row.astype(np.float32) / scales[:, None]), low, high)
    with np.errstate(over="ignore"):
        decoded = (k * scales[:, None]).astype(np.float16).astype(np.float64)
    return float(((row.astype(np.float64) - decoded) ** 2).sum(axis=1).min())


def output_loss(weights: Any, variance: Any, mean: Any, decoded: Any = None) -> tuple[float, Any]:
    """E|V (x - E[x])|^2 over all outputs and V E[x] of each, V the float32 change, one output at a time."""
    groups, outputs, width = weights.shape
    change = weights.astype(np.float32) - (0 if decoded is None else decoded.astype(np.float32))
    spread, lost = 0.0, np.zeros((groups, outputs))
    for g in range(groups):
        for o in range(outputs):
            for k in range(width):
                spread += float(change[g, o, k]) ** 2 * variance[g, k]
                lost[g, o] += float(change[g, o, k]) * mean[g, k]
    return spread, lost


def pack(codes: Any, nbits: int) -> NDArray[np.uint8]:
    """The codes as the digits, base 2^nbits, of one long integer."""
    number = sum((int(code) % 2**nbits) << (nbits * i) for i, code in enumerate(codes.flat))
    return np.frombuffer(number.to_bytes(-(-codes.size * nbits // 8), "little"), np.uint8)


def smallest(magnitudes: Any, count: int) -> set[int]:
    """The indices of the ``count`` smallest magnitudes, ties by index."""
    return set(sorted(range(len(magnitudes)), key=lambda i: (float(magnitudes[i]), i))[:count])


def magnitude_mask(values: Any, count: int) -> NDArray[np.uint8]:
    """Prune the ``count`` smallest magnitudes, and zeros."""
    flat = np.abs(values.astype(np.float64)).ravel()
    pruned = smallest(flat, count)
    kept = [i not in pruned and flat[i] != 0 for i in range(flat.size)]
    return np.array(kept, np.uint8).reshape(values.shape)


def n_m_mask(values: Any, n: int, m: int, dim: int) -> NDArray[np.uint8]:
    """Prune n of every m along dim, the axis filled up with zeros, and zeros."""
    lines = np.abs(np.moveaxis(values.astype(np.float64), dim, -1))
    mask = np.zeros(lines.shape, np.uint8)
    for index in np.ndindex(lines.shape[:-1]):
        for start in range(0, lines.shape[-1], m):
            run = lines[index][start : start + m]
            # What fills up is as small as a zero weight; zeros are pruned whatever the order among them.
            pruned = smallest([*run, *[0.0] * (m - len(run))], n)
            pruned_here = {i for i in pruned if i < len(run)}
            for i, magnitude in enumerate(run):
                mask[index][start + i] = i not in pruned_here and magnitude != 0
    return np.moveaxis(mask, -1, dim)


def block_mask(values: Any, count: int, block_size: int, dim: int) -> NDArray[np.uint8]:
    """Prune blocks along dim by l2 norm until ``count`` weights are gone; ties by index; and zeros."""
    length = values.shape[dim]
    lines = np.moveaxis(values.astype(np.float64), dim, 0).reshape(length, -1)
    before = int(np.prod(values.shape[:dim]))
    inner = lines.shape[1] // before
    blocks = []
    for outer in range(before):
        for start in range(0, length, block_size):
            for column in range(outer * inner, (outer + 1) * inner):
                block = lines[start : start + block_size, column]
                blocks.append((float((block**2).sum()), len(blocks), start, column, len(block)))
    mask = (lines != 0).astype(np.uint8)
    gone = 0
    for _, _, start, column, size in sorted(blocks):
        if gone >= count:
            break
        mask[start : start + block_size, column] = 0
        gone += size
    shape = (length, *values.shape[:dim], *values.shape[dim + 1 :])
    return np.moveaxis(mask.reshape(shape), 0, dim)


def count_in_bins(values: Any, exponent: int, first: int, bins: int) -> list[int]:
    """How many finite values are in [(first + i) 2^exponent, (first + i + 1) 2^exponent)."""
    width = Fraction(2) ** exponent
    finite = [Fraction(float(value)) for value in values.reshape(-1) if np.isfinite(value)]
    return [sum((first + i) * width <= x < (first + i + 1) * width for x in finite) for i in range(bins)]
