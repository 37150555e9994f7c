"""Look-up tables that need no search: given entries, evenly spaced ones, or every value there is."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._blocks import bits, weights_array
from ._codes import encode
from ._groups import check_finite, check_k, checked_groups, extremes, for_groups
from ._jit import njit

_SLOTS = 1024  # of the hash table: a quarter full at most


class Coded(NamedTuple):
    """Groups of weights by look-up table: weight = lut[group, code].

    ``lut`` (G, k) in the weights' dtype, ascending; ``codes`` (G, n) uint8.
    """

    lut: NDArray[Any]
    codes: NDArray[np.uint8]


def assign(groups: NDArray[Any], lut: NDArray[Any]) -> NDArray[np.uint8]:
    """Find the nearest entry of each group's table for each weight; return codes (G, n) uint8.

    ``groups`` (G, n) and ``lut`` (G, k), 1 <= k <= 256, float16 or float32, entries in any order. Of two
    entries as near the lower wins, of equal entries the first.

    Raises TypeError for another dtype, ValueError for other shapes, and for NaN or infinities.
    """
    groups, lut = checked_groups(groups), weights_array(lut, "lut")
    if lut.ndim != 2 or len(lut) != len(groups) or not 1 <= lut.shape[1] <= 256:
        raise ValueError(f"lut must be ({len(groups)}, 1..256), but got shape {lut.shape}")
    check_finite(lut)
    codes = np.empty(groups.shape, np.uint8)

    def run(start: int, stop: int) -> None:
        for g in range(start, stop):
            entries, first = np.unique(lut[g], return_index=True)
            encode(groups[g], entries.astype(np.float64), codes[g])
            if not np.array_equal(first, np.arange(entries.size)):
                codes[g] = first.astype(np.uint8)[codes[g]]

    for_groups(groups, run)
    return codes


def uniform(groups: NDArray[Any], k: int) -> Coded:
    """Space k entries evenly from each group's smallest to its largest weight: coremltools' mode "uniform".

    ``groups`` (G, n) float16 or float32, 1 <= k <= 256. Entries are computed in float64 and rounded once;
    codes are the nearest entries after rounding. In a group of equal weights all codes are 0.

    Raises TypeError for another dtype, ValueError for another rank or k, and for NaN or infinities.
    """
    check_k(k)
    groups = checked_groups(groups)
    lowest, highest = extremes(groups)
    share = np.arange(k) / max(k - 1, 1)
    lut = lowest[:, None] * (1 - share) + highest[:, None] * share
    lut = lut.astype(groups.dtype)
    return Coded(lut, assign(groups, lut))


def unique(groups: NDArray[Any], max_k: int = 256) -> Coded | None:
    """List the distinct values of each group, bit for bit but for -0, which becomes +0.

    ``groups`` (G, n) float16 or float32, 1 <= max_k <= 256. The table is as wide as the group of most values
    needs, the last value repeated in the others: its width tells how many bits will do. Returns None where
    a group has more than ``max_k`` values, mostly after a look at its first few hundred weights.

    Raises TypeError for another dtype, ValueError for another rank or max_k, and for NaN or infinities.
    """
    check_k(max_k)
    groups = checked_groups(groups)
    patterns = bits(groups)
    sign = patterns.dtype.type(1 << 8 * groups.dtype.itemsize - 1)
    found, codes = np.empty((len(groups), max_k), patterns.dtype), np.empty(groups.shape, np.uint8)
    counts = np.zeros(len(groups), np.int64)

    def run(start: int, stop: int) -> None:
        for g in range(start, stop):
            if counts.min() < 0:
                return
            counts[g] = _collect(patterns[g], sign, found[g], codes[g])
            if counts[g] < 0:
                return
            order = np.argsort(found[g, : counts[g]].view(groups.dtype))
            found[g] = np.pad(found[g, order], (0, max_k - order.size), "edge")
            codes[g] = np.argsort(order).astype(np.uint8)[codes[g]]

    for_groups(groups, run)
    if counts.min() < 0:
        return None
    return Coded(found[:, : counts.max()].view(groups.dtype), codes)


@njit
def _collect(patterns: NDArray[Any], sign: Any, found: NDArray[Any], codes: NDArray[np.uint8]) -> int:
    """Number the distinct bit patterns in order of appearance, by hashing.

    Writes them into ``found`` (max_k,) and the number of each of ``patterns`` (n,) into ``codes``. Returns
    how many there are, or -1 as soon as they are too many. ``sign`` is the pattern of -0, taken for +0.
    """
    slots = np.empty(_SLOTS, np.int64)
    slots[:] = -1
    count = 0
    for i in range(patterns.size):
        pattern = patterns[i]
        if pattern == sign:
            pattern = patterns.dtype.type(0)
        slot = (np.int64(pattern) * 0x9E3779B1 >> 16) % _SLOTS
        while slots[slot] >= 0 and found[slots[slot]] != pattern:
            slot = (slot + 1) % _SLOTS
        if slots[slot] < 0:
            if count == found.size:
                return -1
            slots[slot] = count
            found[count] = pattern
            count += 1
        codes[i] = slots[slot]
    return count
