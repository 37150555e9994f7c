"""Codes of weights: which entry of a sorted look-up table is nearest, the lower one of two as near.

The sixteen high bits of a weight, all of a float16, pick a code from a table; a float32 then steps up over
the limits that its table cell holds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import bits, for_blocks, frozen
from ._jit import njit
from ._ranks import PATTERNS, VALUE_OF_RANK, last_rank_at_most

_PIECE = 1 << 18


def encode(flat: NDArray[Any], entries: NDArray[np.float64], codes: NDArray[np.uint8]) -> None:
    """Write the ``codes`` (n,) of finite float16 or float32 weights; several threads share long ones.

    ``entries`` (k,) float64, 1 <= k <= 256, ascending and distinct.
    """
    patterns = bits(flat)
    table, stops = np.empty(PATTERNS, np.uint8), np.full(entries.size, PATTERNS)
    limits = np.full(entries.size, np.inf, np.float32)
    if flat.dtype == np.float16:
        half_stops(entries, VALUE_OF_RANK, stops)
    else:
        # The largest float32 up to the middle. What float64 drops of the sum of two float32 (Knuth's two-sum)
        # decides where the middle is a float32 itself.
        total = entries[:-1] + entries[1:]
        second = total - entries[:-1]
        dropped = (entries[:-1] - (total - second)) + (entries[1:] - second)
        limits[:-1] = 0.5 * total
        above = (limits[:-1] > 0.5 * total) | ((limits[:-1] == 0.5 * total) & (dropped < 0))
        limits[:-1][above] = np.nextafter(limits[:-1][above], np.float32(-np.inf))
        cells = (limits[:-1].view(np.uint32) >> 16).astype(np.int64)
        stops[:-1] = np.where(cells >= 0x8000, 0xFFFF - cells, 0x8000 + cells) + 1
    paint(stops, table)

    def run(_: slice, part: slice) -> None:
        if flat.dtype == np.float16:
            half_codes(patterns[part], table, codes[part])
        else:
            float_codes(frozen(flat[part]), patterns[part], limits, table, codes[part])

    for_blocks(1, flat.size, run, _PIECE)


@njit
def half_stops(entries: NDArray[np.float64], values: NDArray[np.float32], stops: NDArray[np.int64]) -> None:
    """Write the first rank beyond each entry's weights, halfway to the next entry, into ``stops`` (k,)."""
    last = entries.size - 1
    for c in range(last):
        stops[c] = last_rank_at_most(0.5 * (entries[c] + entries[c + 1]), values) + 1
    stops[last] = PATTERNS


@njit
def paint(stops: NDArray[np.int64], table: NDArray[np.uint8]) -> None:
    """Write into ``table`` (65536,), by bit pattern, the code of each rank: how many ``stops`` it reaches."""
    start = 0
    for code in range(stops.size):
        stop = stops[code]
        # A run of ranks is one run of bit patterns on each side of zero.
        if start < 0x8000:
            _fill(table[0x10000 - min(stop, 0x8000) : 0x10000 - start], code)
        if stop > 0x8000:
            _fill(table[max(start, 0x8000) - 0x8000 : stop - 0x8000], code)
        start = stop


@njit
def _fill(table: NDArray[np.uint8], code: int) -> None:
    for i in range(table.size):
        table[i] = code


@njit
def half_codes(patterns: NDArray[np.uint16], table: NDArray[np.uint8], codes: NDArray[np.uint8]) -> None:
    """Look the codes of float16 bit patterns (n,) up."""
    for i in range(codes.size):
        codes[i] = table[patterns[i]]


@njit
def float_codes(
    floats: NDArray[np.float32],
    patterns: NDArray[np.uint32],
    limits: NDArray[np.float32],
    table: NDArray[np.uint8],
    codes: NDArray[np.uint8],
) -> None:
    """Find the codes of finite ``floats`` (n,), whose bit patterns are ``patterns``."""
    for i in range(codes.size):
        code = table[patterns[i] >> 16]
        while floats[i] > limits[code]:
            code += 1
        codes[i] = code
