"""float16 through its bit patterns: Numba has no half type, so kernels convert uint16 by integer steps.

Where the processor has instructions for it, kernels use those. The bits are the same but those of NaN.

The scalar functions are for use inside other kernels; they have no branch that a vectoriser cannot turn
into a select, and no subnormal float32 operand (slow on some processors, flushed on others). The steps
are those of Giesen, "Half to float done quick" and "Float to half done quick" (2012).
"""

import numpy as np
from numpy.typing import NDArray

from ._jit import cast_float_to_half, cast_half_to_float, has_half_casts, njit

# Exponent fields, in float32 bits.
_REBIAS = 112 << 23  # the distance between the two exponent biases
_SMALLEST_NORMAL = 113 << 23  # 2^-14, the smallest normal float16
_HALF = 126 << 23  # 0.5: above it the ulp is 2^-24, the grid of the float16 subnormals
_TWO_TO_16 = 143 << 23  # the first power of two that float16 does not hold
_INFINITY = 255 << 23


@njit
def _half_to_float(half: np.uint16) -> np.float32:
    """Return the float32 of a float16 bit pattern: exact, subnormals, infinities and NaN included."""
    magnitude = np.int32(half & 0x7FFF) << 13
    bits = magnitude + _REBIAS
    subnormal = np.int32(magnitude + _SMALLEST_NORMAL).view(np.float32) - np.float32(2.0**-14)
    if magnitude < (1 << 23):
        bits = np.float32(subnormal).view(np.int32)
    if magnitude >= (31 << 23):
        bits |= _INFINITY
    return np.uint32(bits | (np.int64(half & 0x8000) << 16)).view(np.float32)


@njit
def _float_to_half(value: np.float32) -> np.uint16:
    """Return the float16 bit pattern nearest to a float32: half to even, subnormals, overflow to infinity."""
    bits = np.float32(value).view(np.int32)
    magnitude = bits & 0x7FFFFFFF
    # A round-up may carry into the exponent, which is the right neighbour; what passes infinity becomes it.
    half = min((magnitude - _REBIAS + 0xFFF + ((magnitude >> 13) & 1)) >> 13, 0x7C00)
    shifted = np.int32(magnitude).view(np.float32) + np.float32(0.5)
    if magnitude < _SMALLEST_NORMAL:
        half = np.float32(shifted).view(np.int32) - _HALF
    if magnitude > _INFINITY:
        half = 0x7E00
    return np.uint16(half | ((bits >> 16) & 0x8000))


@njit
def _round_to_half(value: np.float32) -> np.float32:
    """Return the float32 that a finite float32 becomes after a trip through float16."""
    # Casts keep the integers at 32 bits: Numba widens them, which halves the lanes.
    bits = np.float32(value).view(np.int32)
    magnitude = np.int32(bits & 0x7FFFFFFF)
    rounded = np.int32((magnitude + 0xFFF + ((magnitude >> 13) & 1)) & ~0x1FFF)
    shifted = np.int32(magnitude).view(np.float32) + np.float32(0.5)
    steps = np.int32(np.float32(shifted).view(np.int32) - _HALF)
    subnormal = np.float32(np.float32(steps) * np.float32(2.0**-24)).view(np.int32)
    rounded = subnormal if magnitude < _SMALLEST_NORMAL else rounded
    rounded = np.int32(_INFINITY) if rounded >= _TWO_TO_16 else rounded
    return np.int32(rounded | (bits & -0x80000000)).view(np.float32)


if has_half_casts():

    @njit
    def half_to_float(half: np.uint16) -> np.float32:
        return cast_half_to_float(np.uint16(half))

    @njit
    def float_to_half(value: np.float32) -> np.uint16:
        return cast_float_to_half(np.float32(value))

    @njit
    def round_to_half(value: np.float32) -> np.float32:
        return cast_half_to_float(cast_float_to_half(np.float32(value)))

else:
    half_to_float, float_to_half, round_to_half = _half_to_float, _float_to_half, _round_to_half


@njit
def halves_to_floats(halves: NDArray[np.uint16], floats: NDArray[np.float32]) -> None:
    """Convert a 1-D uint16 view of float16 values into ``floats`` of the same length."""
    for i in range(halves.size):
        floats[i] = half_to_float(halves[i])
