"""What Core ML computes from compressed weights, bit for bit, and how far that is from the weights."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import BLOCK, bits, float32_block, for_blocks, weights_array
from ._float16 import float_to_half, half_to_float
from ._jit import njit, njit_sums


def decode_affine(
    codes: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return float32(code - zero point) * float32(scale), rounded once to the scale's dtype, (G, n).

    ``codes`` (G, n) int8 or uint8, ``scale`` (G,) float16 or float32, ``zero_point`` (G,) in the codes'
    dtype or None for 0: ``dequantize_by_scale_and_zp`` of coremltools. Raises TypeError for other dtypes
    and ValueError for shapes that do not match.
    """
    if codes.dtype.type not in (np.int8, np.uint8):
        raise TypeError(f"codes must be int8 or uint8, but got {codes.dtype}")
    scales = weights_array(scale, "scale").astype(np.float32)
    zeros = np.zeros(scales.shape, np.int16) if zero_point is None else zero_point.astype(np.int16)
    if codes.ndim != 2 or scales.shape != codes.shape[:1] or zeros.shape != scales.shape:
        raise ValueError(
            "codes (G, n), scale (G,) and zero_point (G,) do not match: "
            f"got {codes.shape}, {scales.shape} and {zeros.shape}"
        )
    raw = bits(np.ascontiguousarray(codes))
    # A signed byte is its bits with the sign flipped, less 128.
    flip = 128 if codes.dtype == np.int8 else 0
    decoded = np.empty(codes.shape, scale.dtype.type)

    def run(rows: slice, columns: slice) -> None:
        block, out = raw[rows, columns], decoded[rows, columns]
        if out.dtype == np.float16:
            _affine_half(block, flip, scales[rows], zeros[rows], out.view(np.uint16))
        else:
            _affine_float(block, flip, scales[rows], zeros[rows], out)

    for_blocks(codes.shape[0], codes.shape[1], run)
    return decoded


def decode_lut(lut: NDArray[Any], codes: NDArray[np.uint8]) -> NDArray[Any]:
    """Return ``lut[g, codes[g, i]]``, (G, n), for ``lut`` (G, k) and ``codes`` (G, n) uint8.

    Any table dtype of 1, 2, 4 or 8 bytes. Raises TypeError for other codes, ValueError for shapes that do
    not match and for a code >= k.
    """
    if codes.dtype != np.uint8:
        raise TypeError(f"codes must be uint8, but got {codes.dtype}")
    if lut.ndim != 2 or codes.ndim != 2 or len(lut) != len(codes):
        raise ValueError(f"lut (G, k) and codes (G, n) do not match: got {lut.shape} and {codes.shape}")
    tables = bits(np.ascontiguousarray(lut))
    raw = bits(np.ascontiguousarray(codes))
    decoded = np.empty(codes.shape, tables.dtype)

    def run(rows: slice, columns: slice) -> None:
        top = _look_up(tables[rows], raw[rows, columns], decoded[rows, columns])
        if top >= lut.shape[1]:
            raise ValueError(f"codes must be below {lut.shape[1]}, the entries of a table, but got {top}")

    for_blocks(codes.shape[0], codes.shape[1], run)
    return decoded.view(lut.dtype)


def decode_vectors(lut: NDArray[Any], codes: NDArray[np.uint8]) -> NDArray[Any]:
    """Return ``lut[g, codes[g, i]]``, (G, n, d), for ``lut`` (G, k, d) and ``codes`` (G, n) uint8.

    Errors as ``decode_lut``.
    """
    if lut.ndim != 3:
        raise ValueError(f"lut must have shape (G, k, d), but got {lut.shape}")
    width = lut.shape[2]
    decoded = np.empty((*codes.shape, width), lut.dtype)
    # A vector of up to 8 bytes is one entry of a table; a wider one is looked up column by column.
    step = max(s for s in (1, 2, 4, 8) if width % s == 0 and s * lut.dtype.itemsize <= 8)
    whole = np.dtype(f"u{step * lut.dtype.itemsize}")
    columns = np.ascontiguousarray(lut).view(whole)
    for column in range(width // step):
        decoded.view(whole)[..., column] = decode_lut(columns[:, :, column], codes)
    return decoded


def error_sums(original: NDArray[Any], decoded: NDArray[Any]) -> tuple[float, float, float]:
    """Return (sum of w^2, sum of (w - d)^2, largest |w - d|) in float64, of arrays of one shape.

    float16 or float32 each. Sums run over fixed blocks and then in order: the same for any number of
    threads. Raises TypeError for another dtype and ValueError where the shapes differ.
    """
    if original.shape != decoded.shape:
        raise ValueError(f"original {original.shape} and decoded {decoded.shape} must have one shape")
    first = weights_array(original, "original").reshape(-1)
    second = weights_array(decoded, "decoded").reshape(-1)
    sums = np.zeros((-(-first.size // BLOCK), 3))

    halves = first.dtype == second.dtype == np.float16
    patterns = bits(first), bits(second)

    def run(_: slice, part: slice) -> None:
        if halves:
            found = _half_error_sums(patterns[0][part], patterns[1][part])
        else:
            found = _error_sums(float32_block(first[part]), float32_block(second[part]))
        sums[part.start // BLOCK] = found

    for_blocks(1, first.size, run)
    signal, noise, _ = sums.sum(axis=0)
    return float(signal), float(noise), float(sums[:, 2].max(initial=0.0))


@njit
def _affine_float(
    codes: NDArray[np.uint8],
    flip: int,
    scales: NDArray[np.float32],
    zeros: NDArray[np.int16],
    decoded: NDArray[np.float32],
) -> None:
    for g in range(codes.shape[0]):
        zero, scale = zeros[g] + flip, scales[g]
        for j in range(codes.shape[1]):
            decoded[g, j] = np.float32(np.int32(codes[g, j] ^ flip) - zero) * scale


@njit
def _affine_half(
    codes: NDArray[np.uint8],
    flip: int,
    scales: NDArray[np.float32],
    zeros: NDArray[np.int16],
    decoded: NDArray[np.uint16],
) -> None:
    for g in range(codes.shape[0]):
        zero, scale = zeros[g] + flip, scales[g]
        for j in range(codes.shape[1]):
            decoded[g, j] = float_to_half(np.float32(np.int32(codes[g, j] ^ flip) - zero) * scale)


@njit
def _look_up(tables: NDArray[Any], codes: NDArray[np.uint8], decoded: NDArray[Any]) -> int:
    """Look codes up, as far as they are within their table, and return the largest."""
    top = 0
    for g in range(codes.shape[0]):
        table, row, out = tables[g], codes[g], decoded[g]
        for j in range(row.size):
            top = max(top, np.int64(row[j]))
        if top >= table.size:
            break
        for j in range(row.size):
            out[j] = table[row[j]]
    return int(top)


@njit_sums
def _half_error_sums(original: NDArray[np.uint16], decoded: NDArray[np.uint16]) -> tuple[float, float, float]:
    """``_error_sums`` of float16 bit patterns, which are read once and never stored as float32."""
    signal = noise = 0.0
    largest = 0
    for i in range(original.size):
        w, d = half_to_float(original[i]), half_to_float(decoded[i])
        error = np.float64(w) - np.float64(d)
        signal += np.float64(w) * np.float64(w)
        noise += error * error
        largest = max(largest, np.float32(w - d).view(np.int32) & 0x7FFFFFFF)
    return signal, noise, float(np.int32(largest).view(np.float32))


@njit_sums
def _error_sums(original: NDArray[np.float32], decoded: NDArray[np.float32]) -> tuple[float, float, float]:
    signal = noise = 0.0
    largest = 0
    for i in range(original.size):
        w = np.float64(original[i])
        error = w - np.float64(decoded[i])
        signal += w * w
        noise += error * error
        # Magnitudes order as their bit patterns do, NaN last: an integer maximum vectorises.
        largest = max(largest, np.float32(original[i] - decoded[i]).view(np.int32) & 0x7FFFFFFF)
    return signal, noise, float(np.int32(largest).view(np.float32))
