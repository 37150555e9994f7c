"""The distinct values of weights and how much each of them counts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import bits, weights_array
from ._jit import njit
from ._ranks import PATTERNS, VALUE_OF_RANK, rank_of_bits
from ._threads import for_ranges

_PARTS = 16  # partial histograms of one long tensor, whatever the number of threads
_SHORTEST_PART = 1 << 20
_CELL = 64  # bins skipped together where nothing was counted

Histogram = tuple[NDArray[np.float32], NDArray[np.float64]]


def histogram(
    values: NDArray[Any], importance: NDArray[np.float32] | None = None, ignore_zeros: bool = False
) -> Histogram:
    """Count the distinct values of a float16 or float32 array of any shape.

    Returns (distinct, weights), both (m,): the values ascending, as float32, -0 counted as +0, and for each
    its count or, given ``importance`` (non-negative float32, shaped as ``values``), the sum of its importance.
    With ``ignore_zeros`` zero is left out. float16 is counted by bit pattern, without a sort. The sums do
    not depend on the number of threads.

    Raises TypeError for another dtype, ValueError for NaN or infinities, or for an importance of another
    shape, negative or not finite.
    """
    flat = weights_array(values).reshape(-1)
    importance = checked_importance(importance, values.shape).reshape(-1)
    distinct, weights = distinct_values(flat, importance, ignore_zeros)
    return distinct.astype(np.float32), weights


def distinct_values(
    flat: NDArray[Any], importance: NDArray[np.float32], ignore_zeros: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``histogram`` of contiguous 1-D weights and checked importance (empty for none), in float64."""
    if flat.dtype == np.float16:
        return _distinct_halves(flat, importance, ignore_zeros)
    return _distinct_floats(flat, importance, ignore_zeros)


def checked_importance(
    importance: NDArray[np.float32] | None, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return contiguous importance, empty (0, 0) for none; raise ValueError unless it fits, is finite and >= 0."""
    if importance is None:
        return np.empty((0, 0), np.float32)
    if importance.dtype != np.float32:
        raise TypeError(f"importance must be float32, but got {importance.dtype}")
    if importance.shape != shape:
        raise ValueError(f"importance must have the weights' shape {shape}, but got {importance.shape}")
    if importance.size and not (importance.min() >= 0 and importance.max() < np.inf):
        raise ValueError("importance must be finite and non-negative")
    return np.ascontiguousarray(importance)


def not_finite(group: int | None = None) -> ValueError:
    """The error of all clustering fronts for weights that hold NaN or an infinity."""
    where = "" if group is None else f" in group {group}"
    return ValueError(f"weights hold NaN or infinities{where}: they cannot be clustered")


def _distinct_halves(
    flat: NDArray[Any], importance: NDArray[np.float32], ignore_zeros: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    patterns = bits(flat)
    part = max(_SHORTEST_PART, -(-flat.size // _PARTS))
    parts = max(1, -(-flat.size // part))
    counts = np.zeros((parts, PATTERNS), np.uint32)
    sums = np.zeros((parts, PATTERNS if importance.size else 0))

    def run(first: int, last: int) -> None:
        for index in range(first, last):
            span = slice(index * part, (index + 1) * part)
            count_halves(patterns[span], importance[span], counts[index], sums[index])

    for_ranges(parts, run)
    # In the order of the parts: the same sums whoever counted them.
    for index in range(1, parts):
        counts[0] += counts[index]
        sums[0] += sums[index]
    room = min(flat.size, PATTERNS) + 1
    distinct, weights = np.empty(room), np.empty(room)
    m = drain_halves(counts[0], sums[0], VALUE_OF_RANK, ignore_zeros, distinct, weights)
    if m < 0:
        raise not_finite()
    return distinct[:m], weights[:m]


def _distinct_floats(
    flat: NDArray[Any], importance: NDArray[np.float32], ignore_zeros: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if importance.size:
        order = np.argsort(flat, kind="stable")  # of equal values the first is added first
        ordered = flat[order]
    else:
        ordered = np.sort(flat)
    if flat.size and not (np.isfinite(ordered[0]) and np.isfinite(ordered[-1])):  # NaN sorts last
        raise not_finite()
    starts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)
    if importance.size:
        weights = np.add.reduceat(importance[order].astype(np.float64), starts)
    else:
        weights = np.diff(starts, append=flat.size).astype(np.float64)
    distinct = ordered[starts].astype(np.float64) + 0.0  # -0 becomes +0
    kept = distinct != 0 if ignore_zeros else slice(None)
    return distinct[kept], weights[kept]


@njit
def count_halves(
    patterns: NDArray[np.uint16],
    importance: NDArray[np.float32],
    counts: NDArray[np.uint32],
    sums: NDArray[np.float64],
) -> None:
    """Add float16 bit patterns (n,) to ``counts`` (65536,), and importance (n,), if any, to ``sums``."""
    for i in range(patterns.size):
        counts[patterns[i]] += 1
    for i in range(importance.size):
        sums[patterns[i]] += importance[i]


@njit
def drain_halves(
    counts: NDArray[np.uint32],
    sums: NDArray[np.float64],
    values: NDArray[np.float32],
    ignore_zeros: bool,
    distinct: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> int:
    """Empty the bins, in order of value, into ``distinct`` and ``weights``, one longer than needed.

    Returns how many values there are, or -1 where NaN or an infinity was counted (its bins stay).
    """
    outside = _any(counts[0x7C00:0x8000]) or _any(counts[0xFC00:])
    counts[0] += counts[0x8000]
    counts[0x8000] = 0
    if ignore_zeros:
        counts[0] = 0
    if sums.size:
        sums[0] += sums[0x8000]
        sums[0x8000] = 0.0
    counted = np.empty(distinct.size, np.uint16)
    m = 0
    for cell in range(0xFC00 - _CELL, 0x7FFF, -_CELL):
        if _any(counts[cell : cell + _CELL]):
            for pattern in range(cell + _CELL - 1, cell - 1, -1):
                counted[m] = pattern
                m += counts[pattern] != 0
    for cell in range(0, 0x7C00, _CELL):
        if _any(counts[cell : cell + _CELL]):
            for pattern in range(cell, cell + _CELL):
                counted[m] = pattern
                m += counts[pattern] != 0
    for i in range(m):
        pattern = counted[i]
        distinct[i] = values[rank_of_bits(pattern)]
        weights[i] = counts[pattern]
        counts[pattern] = 0
        if sums.size:
            weights[i] = sums[pattern]
            sums[pattern] = 0.0
    return -1 if outside else m


@njit
def _any(counts: NDArray[np.uint32]) -> bool:
    found = np.uint32(0)
    for i in range(counts.size):
        found |= counts[i]
    return found != 0
