"""Codes of weights: which entry of a sorted look-up table is nearest, the lower one of two as near.

The sixteen high bits of a weight, all of a float16, pick a code from a table; a float32 then steps up over
the limits that its table cell holds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._jit import njit
from ._ranks import PATTERNS, last_rank_at_most, rank_of_bits


@njit
def half_table(
    entries: NDArray[np.float64], ignore_zeros: bool, values: NDArray[np.float32], table: NDArray[np.uint8]
) -> None:
    """Write the code of every finite float16 bit pattern into ``table`` (65536,).

    ``entries`` (k,) 1 <= k <= 256, ascending and distinct. With ``ignore_zeros`` the code of zero is 0.
    """
    start = 0
    for code in range(entries.size):
        stop = PATTERNS
        if code + 1 < entries.size:
            stop = last_rank_at_most(0.5 * (entries[code] + entries[code + 1]), values) + 1
        _paint(table, start, stop, code)
        start = stop
    if ignore_zeros:
        table[0] = table[0x8000] = 0


@njit
def float_table(entries: NDArray[np.float64], limits: NDArray[np.float32], table: NDArray[np.uint8]) -> None:
    """Write the lowest code of every float32's sixteen high bits into ``table`` (65536,).

    ``limits`` (k,) become the largest float32 of each code; the last is infinite.
    """
    start = 0
    for code in range(entries.size):
        stop = PATTERNS
        limits[code] = np.inf
        if code + 1 < entries.size:
            middle = 0.5 * (entries[code] + entries[code + 1])
            limit = np.float32(middle)
            if limit > middle:
                limit = np.nextafter(limit, np.float32(-np.inf))
            limits[code] = limit
            stop = rank_of_bits(limits[code : code + 1].view(np.uint32)[0] >> 16) + 1
        _paint(table, start, stop, code)
        start = stop


@njit
def _paint(table: NDArray[np.uint8], start: int, stop: int, code: int) -> None:
    """Set the entries of ranks ``start`` to ``stop`` - 1: one run of bit patterns on each side of zero."""
    if start < 0x8000:
        _fill(table[0x10000 - min(stop, 0x8000) : 0x10000 - start], code)
    if stop > 0x8000:
        _fill(table[max(start, 0x8000) - 0x8000 : stop - 0x8000], code)


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
