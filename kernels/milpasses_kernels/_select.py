"""The k smallest magnitudes, exactly k, ties by index: radix selection on bit patterns, O(n), no sort.

Without their sign the bit patterns of floats order as the magnitudes do, so histograms find the k-th, 15 or
16 bits at a time from the top: one level for float16, two for float32, four for float64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import for_blocks
from ._jit import njit

_PIECES = 16  # histograms alive at a time
_SHORTEST = 1 << 16  # elements that make a histogram worth clearing

# (shift, width) of the digits of a magnitude.
_LEVELS = {
    np.dtype(np.uint16): ((0, 15),),
    np.dtype(np.uint32): ((15, 16), (0, 15)),
    np.dtype(np.uint64): ((47, 16), (31, 16), (15, 16), (0, 15)),
}


def keep_largest(patterns: NDArray[Any], k: int, mask: NDArray[np.uint8]) -> None:
    """Write 0 to ``mask`` (n,) for the k smallest magnitudes of ``patterns`` (n,), and for all zeros; else 1.

    ``patterns`` are uint16, uint32 or uint64 views of floats. Of equal magnitudes the first are the
    smallest. NaN counts as larger than infinity.
    """
    piece = max(_SHORTEST, -(-patterns.size // _PIECES))
    pieces = -(-patterns.size // piece)
    threshold, rank = 0, k
    ties = np.zeros(pieces, np.int64)
    if k > 0:
        for shift, width in _LEVELS[patterns.dtype]:
            counts = _histograms(patterns, shift, width, threshold, piece)
            upto = counts.sum(axis=0).cumsum()
            digit = int(np.searchsorted(upto, rank))
            ties = counts[:, digit]
            rank -= int(upto[digit] - ties.sum())
            threshold = threshold << width | digit
    # Pieces before the one where the ties run out lose all of theirs, pieces after it none.
    pruned = np.clip(rank - (ties.cumsum() - ties), 0, ties)

    def write(_: slice, part: slice) -> None:
        index = part.start // piece
        count = int(pruned[index])
        if count == ties[index] or threshold == 0:
            mask_above(patterns[part], threshold, mask[part])
        elif count == 0:
            mask_above(patterns[part], threshold - 1, mask[part])
        else:
            _mask_ties(patterns[part], threshold, count, mask[part])

    for_blocks(1, patterns.size, write, piece)


def _histograms(patterns: NDArray[Any], shift: int, width: int, prefix: int, piece: int) -> NDArray[np.int64]:
    """Count, for each piece, the magnitudes that start with ``prefix`` by their next ``width`` bits."""
    counts = np.zeros((-(-patterns.size // piece), 1 << width), np.int64)

    def count(_: slice, part: slice) -> None:
        _count(patterns[part], shift, width, prefix, counts[part.start // piece])

    for_blocks(1, patterns.size, count, piece)
    return counts


@njit
def _count(patterns: NDArray[Any], shift: int, width: int, prefix: int, counts: NDArray[np.int64]) -> None:
    unsigned = (1 << (8 * patterns.itemsize - 1)) - 1
    digits = (1 << width) - 1
    for i in range(patterns.size):
        magnitude = np.int64(patterns[i]) & unsigned
        if magnitude >> (shift + width) == prefix:
            counts[(magnitude >> shift) & digits] += 1


@njit
def mask_above(patterns: NDArray[Any], threshold: int, mask: NDArray[np.uint8]) -> None:
    """Write whether each magnitude is above ``threshold``, both as bit patterns, to ``mask`` (n,)."""
    unsigned = (1 << (8 * patterns.itemsize - 1)) - 1
    for i in range(patterns.size):
        mask[i] = (np.int64(patterns[i]) & unsigned) > threshold


@njit
def _mask_ties(patterns: NDArray[Any], threshold: int, pruned: int, mask: NDArray[np.uint8]) -> None:
    """As ``mask_above``, but of the magnitudes at the threshold only the first ``pruned`` are masked out."""
    unsigned = (1 << (8 * patterns.itemsize - 1)) - 1
    for i in range(patterns.size):
        magnitude = np.int64(patterns[i]) & unsigned
        tie = magnitude == threshold
        mask[i] = magnitude > threshold or (tie and pruned <= 0)
        pruned -= tie
