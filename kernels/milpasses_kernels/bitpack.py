"""Codes of 1 to 8 bits packed end to end, as ``pack_elements_into_bits`` of coremltools: little-endian bits.

Eight codes are one 64-bit word. Packing squeezes a word to its 8 nbits low bits in three steps (bytes to
pairs, pairs to fours, fours to eight), then joins the squeezed words; unpacking is the way back. Words of
8, 16 and 32 bits are joined by a narrowing cast, the others through a 64-bit accumulator.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import for_blocks, frozen
from ._jit import njit

_PAIRS = np.uint64(0x00FF00FF00FF00FF)
_FOURS = np.uint64(0x0000FFFF0000FFFF)
_EIGHT = np.uint64(0x00000000FFFFFFFF)
_ONES = np.uint64(0x0101010101010101)
_UNIT = 64  # codes: they fill whole 64-bit words before and after
_BLOCK = 1 << 18  # codes: the words and their squeezed form stay in a second-level cache
_NARROW = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def pack(codes: NDArray[Any], nbits: int) -> NDArray[np.uint8]:
    """Pack ``codes``, uint8 or int8 of any shape in C order, into ceil(size * nbits / 8) bytes.

    The first code takes the least significant bits; int8 codes keep their low bits (two's complement).
    Raises TypeError for another dtype, ValueError for nbits outside 1..8 and for a code that needs more.
    """
    _check(codes, nbits)
    flat = np.ascontiguousarray(codes).reshape(-1)
    if nbits == 8:
        return flat.view(np.uint8).copy()
    signed = codes.dtype == np.int8
    keep = np.uint64((1 << nbits) - 1) * _ONES
    # A signed code fits if its bits nbits - 1 .. 7 are all equal, an unsigned one if nbits .. 7 are all zero.
    excess = np.uint64((0x7F if signed else 0xFF) >> (nbits - signed) << (nbits - signed)) * _ONES
    equal = np.uint64(2**64 - 1 if signed else 0)
    units = -(-flat.size // _UNIT)
    packed = np.empty(units * nbits, np.uint64)
    raw = flat.view(np.uint8)

    def run(_: slice, part: slice) -> None:
        words = _words(raw[part])
        squeezed = np.empty(words.size, np.uint64)
        if _squeeze(words, np.uint64(nbits), keep, excess, equal, squeezed):
            raise _too_wide(flat[part], nbits)
        out = packed[part.start // _UNIT * nbits :][: words.size * nbits // 8]
        if nbits in _NARROW:
            out.view(_NARROW[nbits])[:] = squeezed
        else:
            _join(squeezed, np.uint64(8 * nbits), out)

    for_blocks(1, flat.size, run, _BLOCK)
    return packed.view(np.uint8)[: -(-flat.size * nbits // 8)]


def unpack(packed: NDArray[np.uint8], nbits: int, count: int, signed: bool = False) -> NDArray[Any]:
    """Return the ``count`` codes, (count,) uint8 or int8, that ``pack`` made ``packed`` (bytes, 1-D) from.

    Raises TypeError for another dtype, ValueError for nbits outside 1..8 and for a wrong number of bytes.
    """
    _check(packed, nbits)
    expected = -(-count * nbits // 8)
    if packed.shape != (expected,):
        raise ValueError(f"{count} codes of {nbits} bits take ({expected},) bytes, but got {packed.shape}")
    dtype = np.int8 if signed else np.uint8
    if nbits == 8:
        return packed.astype(np.uint8).view(dtype)
    raw = np.ascontiguousarray(packed).view(np.uint8)
    extend = np.uint64(0xFF >> nbits << nbits if signed else 0)
    codes = np.empty(-(-count // _UNIT) * _UNIT, np.uint8)

    def run(_: slice, part: slice) -> None:
        joined = _words(raw[part.start * nbits // 8 : -(-part.stop * nbits // 8)], nbits)
        squeezed = np.empty(joined.size * 8 // nbits, np.uint64)
        if nbits in _NARROW:
            squeezed[:] = joined.view(_NARROW[nbits])
        else:
            _split(joined, np.uint64(8 * nbits), squeezed)
        words = codes[part.start : part.start + 8 * squeezed.size].view(np.uint64)
        _spread(frozen(squeezed), np.uint64(nbits), extend, words)

    for_blocks(1, count, run, _BLOCK)
    return codes.view(dtype)[:count]


def _check(array: NDArray[Any], nbits: int) -> None:
    if array.dtype.type not in (np.uint8, np.int8):
        raise TypeError(f"packing takes uint8 or int8, but got {array.dtype}")
    if not 1 <= nbits <= 8:
        raise ValueError(f"nbits must be within 1..8, but got {nbits}")


def _too_wide(codes: NDArray[Any], nbits: int) -> ValueError:
    low, high = (-(1 << nbits - 1), (1 << nbits - 1) - 1) if codes.dtype == np.int8 else (0, (1 << nbits) - 1)
    value = codes[(codes < low) | (codes > high)][0]
    return ValueError(f"{codes.dtype} codes of {nbits} bits must be within {low}..{high}, but got {value}")


def _words(raw: NDArray[np.uint8], unit: int = 8) -> NDArray[np.uint64]:
    """Return bytes as 64-bit words, a multiple of ``unit`` of them: a padded or aligned copy if need be."""
    if raw.size % (8 * unit) == 0 and raw.ctypes.data % 8 == 0:
        return frozen(raw.view(np.uint64))
    words = np.zeros(-(-raw.size // (8 * unit)) * unit, np.uint64)
    words.view(np.uint8)[: raw.size] = raw
    return frozen(words)


@njit
def _squeeze(
    words: NDArray[np.uint64],
    nbits: np.uint64,
    keep: np.uint64,
    excess: np.uint64,
    equal: np.uint64,
    squeezed: NDArray[np.uint64],
) -> bool:
    """Move the ``keep`` bits of each byte to the low end of its word; return whether any code is too wide."""
    by1 = np.uint64(8) - nbits
    by2 = by1 + by1
    by4 = by2 + by2
    wide = np.uint64(0)
    for i in range(words.size):
        word = words[i]
        wide |= (word ^ ((word >> np.uint64(1)) & equal)) & excess
        word &= keep
        word = (word & _PAIRS) | ((word & ~_PAIRS) >> by1)
        word = (word & _FOURS) | ((word & ~_FOURS) >> by2)
        squeezed[i] = (word & _EIGHT) | ((word & ~_EIGHT) >> by4)
    return wide != np.uint64(0)


@njit
def _spread(
    squeezed: NDArray[np.uint64], nbits: np.uint64, extend: np.uint64, words: NDArray[np.uint64]
) -> None:
    """Undo ``_squeeze``; ``extend`` holds the bits of a byte that repeat its sign."""
    one = np.uint64(1)
    by1 = np.uint64(8) - nbits
    by2 = by1 + by1
    by4 = by2 + by2
    keep1 = ((one << nbits) - one) * np.uint64(0x0001000100010001)
    keep2 = ((one << (nbits + nbits)) - one) * np.uint64(0x0000000100000001)
    keep4 = (one << (np.uint64(4) * nbits)) - one
    for i in range(squeezed.size):
        word = squeezed[i]
        word = (word & keep4) | ((word & ~keep4) << by4)
        word = (word & keep2) | ((word & ~keep2) << by2)
        word = (word & keep1) | ((word & ~keep1) << by1)
        words[i] = word | (((word >> (nbits - one)) & _ONES) * extend)


@njit
def _join(squeezed: NDArray[np.uint64], width: np.uint64, joined: NDArray[np.uint64]) -> None:
    """Write the low ``width`` bits of each word end to end."""
    word = filled = np.uint64(0)
    j = 0
    for i in range(squeezed.size):
        value = squeezed[i]
        word |= value << filled
        filled += width
        if filled >= np.uint64(64):
            joined[j] = word
            j += 1
            filled -= np.uint64(64)
            word = value >> (width - filled) if filled else np.uint64(0)


@njit
def _split(joined: NDArray[np.uint64], width: np.uint64, squeezed: NDArray[np.uint64]) -> None:
    """Undo ``_join``."""
    keep = (np.uint64(1) << width) - np.uint64(1)
    position = np.uint64(0)
    for i in range(squeezed.size):
        at, offset = position >> np.uint64(6), position & np.uint64(63)
        word = joined[at] >> offset
        if offset + width > np.uint64(64):
            word |= joined[at + np.uint64(1)] << (np.uint64(64) - offset)
        squeezed[i] = word & keep
        position += width
