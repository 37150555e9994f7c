"""Loops over masks, and over runs of neighbours along the middle axis of 3-D (outer, axis, inner) weights."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._float16 import half_to_float
from ._jit import njit


@njit
def _kept_end(mask: NDArray[np.uint8]) -> int:
    end = mask.size
    while end > 0 and mask[end - 1] == 0:
        end -= 1
    return end


@njit
def compact(dense: NDArray[Any], mask: NDArray[np.uint8], packed: NDArray[Any]) -> None:
    """Write the values whose mask is 1 to ``packed`` (D,)."""
    # No branch on the mask, which no processor predicts: a pruned value is overwritten by the next kept one.
    position = 0
    for i in range(_kept_end(mask)):
        packed[position] = dense[i]
        position += np.int64(mask[i])


@njit
def expand(packed: NDArray[Any], mask: NDArray[np.uint8], dense: NDArray[Any]) -> None:
    """Write ``packed`` (D,), bit patterns, to where the mask is 1, and 0 elsewhere up to the last of them."""
    position = 0
    for i in range(_kept_end(mask)):
        dense[i] = packed[position] * mask[i]
        position += np.int64(mask[i])


@njit
def mask_runs(patterns: NDArray[Any], n: int, m: int, start: int, stop: int, mask: NDArray[np.uint8]) -> None:
    """Mask runs start..stop of m neighbours along the middle axis: a weight stays if n rank below it."""
    unsigned = (1 << (8 * patterns.itemsize - 1)) - 1
    length, inner = patterns.shape[1], patterns.shape[2]
    runs = -(-length // m)
    for run in range(start, stop):
        outer, first = run // runs, run % runs * m
        end = min(first + m, length)
        for c in range(inner):
            for i in range(first, end):
                magnitude = np.int64(patterns[outer, i, c]) & unsigned
                below = m - (end - first)
                for j in range(first, end):
                    other = np.int64(patterns[outer, j, c]) & unsigned
                    below += other < magnitude or (other == magnitude and j < i)
                mask[outer, i, c] = magnitude > 0 and below >= n


@njit
def add_squares(
    patterns: NDArray[Any], block_size: int, start: int, stop: int, sums: NDArray[np.float64]
) -> None:
    """Add the squares of blocks start..stop along the middle axis to ``sums`` (blocks, inner)."""
    length, inner = patterns.shape[1], patterns.shape[2]
    runs = -(-length // block_size)
    for run in range(start, stop):
        outer, first = run // runs, run % runs * block_size
        for i in range(first, min(first + block_size, length)):
            for c in range(inner):
                if patterns.itemsize == 2:
                    value = np.float64(half_to_float(np.uint16(patterns[outer, i, c])))
                else:
                    value = np.float64(np.uint32(patterns[outer, i, c]).view(np.float32))
                sums[run, c] += value * value


@njit
def mask_blocks(
    patterns: NDArray[Any],
    block_size: int,
    start: int,
    stop: int,
    kept: NDArray[np.uint8],
    mask: NDArray[np.uint8],
) -> None:
    """Spread the verdict on each of blocks start..stop over its weights; zeros are never kept."""
    unsigned = (1 << (8 * patterns.itemsize - 1)) - 1
    length, inner = patterns.shape[1], patterns.shape[2]
    runs = -(-length // block_size)
    for run in range(start, stop):
        outer, first = run // runs, run % runs * block_size
        for i in range(first, min(first + block_size, length)):
            for c in range(inner):
                mask[outer, i, c] = kept[run, c] and (np.int64(patterns[outer, i, c]) & unsigned) > 0
