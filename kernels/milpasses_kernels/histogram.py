"""The distinct values of weights and how much each of them counts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import bits, frozen, weights_array
from ._groups import check_finite, checked_importance
from ._jit import njit
from ._ranks import PATTERNS, VALUE_OF_RANK, rank_of_bits
from ._threads import for_ranges

_PARTS = 16  # partial histograms of one long tensor, whatever the number of threads
_SHORTEST_PART = 1 << 20
_CELL = 64  # bins skipped together where nothing was counted

Floats = NDArray[np.float64]


def histogram(
    values: NDArray[Any], importance: NDArray[np.float32] | None = None, ignore_zeros: bool = False
) -> tuple[NDArray[np.float32], Floats]:
    """Count the distinct values of a float16 or float32 array of any shape.

    Returns (distinct, weights), both (m,): the values ascending, as float32, -0 counted as +0, and for each
    its count or, given ``importance`` (non-negative float32, shaped as ``values``), the sum of its
    importance. With ``ignore_zeros`` zero is left out. float16 is counted by bit pattern, without a sort.
    The sums do not depend on the number of threads.

    Raises TypeError for another dtype, ValueError for NaN or infinities, and for an importance of another
    shape, negative or not finite.
    """
    values = weights_array(values)
    check_finite(values)
    importance = checked_importance(importance, values.shape)
    distinct, weights = distinct_values(values.reshape(-1), importance, ignore_zeros)
    return distinct.astype(np.float32), weights


def distinct_values(
    flat: NDArray[Any], importance: NDArray[np.float32], ignore_zeros: bool
) -> tuple[Floats, Floats]:
    """Return ``histogram`` of finite 1-D weights and checked importance (empty for none), in float64."""
    if flat.dtype == np.float16:
        return _distinct_halves(flat, importance, ignore_zeros)
    return _distinct_floats(flat, importance, ignore_zeros)


def _distinct_halves(
    flat: NDArray[Any], importance: NDArray[np.float32], ignore_zeros: bool
) -> tuple[Floats, Floats]:
    patterns, importance = bits(flat), frozen(importance)
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
    return distinct[:m], weights[:m]


def _distinct_floats(
    flat: NDArray[Any], importance: NDArray[np.float32], ignore_zeros: bool
) -> tuple[Floats, Floats]:
    if importance.size:
        order = np.argsort(flat, kind="stable")  # of equal values the first is added first
        ordered, added = flat[order], importance[order].astype(np.float64)
        starts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)
        weights = np.add.reduceat(added, starts) if flat.size else added
    else:
        ordered = np.sort(flat)
        starts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)
        weights = np.diff(starts, append=flat.size).astype(np.float64)
    distinct = ordered[starts].astype(np.float64) + 0.0  # -0 becomes +0
    if ignore_zeros:
        return distinct[distinct != 0], weights[distinct != 0]
    return distinct, weights


@njit
def count_halves(
    patterns: NDArray[np.uint16],
    importance: NDArray[np.float32],
    counts: NDArray[np.uint32],
    sums: Floats,
) -> None:
    """Add float16 bit patterns (n,) to ``counts`` (65536,), and importance (n,), if any, to ``sums``."""
    for i in range(patterns.size):
        counts[patterns[i]] += 1
    for i in range(importance.size):
        sums[patterns[i]] += importance[i]


@njit
def drain_halves(
    counts: NDArray[np.uint32],
    sums: Floats,
    values: NDArray[np.float32],
    ignore_zeros: bool,
    distinct: Floats,
    weights: Floats,
) -> int:
    """Move the bins of finite values, in order of value, to ``distinct`` and ``weights``; return how many.

    Both are one longer than needed. The bins are left empty.
    """
    counts[0] += counts[0x8000]
    counts[0x8000] = 0
    if sums.size:
        sums[0] += sums[0x8000]
        sums[0x8000] = 0.0
    if ignore_zeros:
        counts[0] = 0
        sums[:1] = 0.0
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
    return m


@njit
def _any(counts: NDArray[np.uint32]) -> bool:
    found = np.uint32(0)
    for i in range(counts.size):
        found |= counts[i]
    return found != 0
