"""Slow, obvious versions of the rounding, packing, sparsity and decoding kernels: oracles of the tests."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Without the JIT a kernel takes a microsecond a step: the tests then work on fewer weights.
JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


def few(size: int, without_jit: int) -> int:
    """Return a size to test with, depending on whether kernels are compiled."""
    return size if JIT else without_jit


def half_scales() -> NDArray[np.float32]:
    """All positive finite float16 values."""
    return np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)


def decode(codes: Any, scale: Any, zero_point: Any = None) -> NDArray[Any]:
    """float32(code - zero point) * float32(scale), rounded once, one weight after the other."""
    decoded = np.empty(codes.shape, scale.dtype)
    for g, i in np.ndindex(codes.shape):
        k = int(codes[g, i]) - (0 if zero_point is None else int(zero_point[g]))
        with np.errstate(over="ignore"):
            decoded[g, i] = scale.dtype.type(np.float32(k) * np.float32(scale[g]))
    return decoded


def errors(groups: Any, decoded: Any, importance: Any = 1.0) -> NDArray[np.float64]:
    """The (weighted) squared error of each group."""
    difference = groups.astype(np.float64) - decoded.astype(np.float64)
    return (importance * difference**2).sum(axis=1)


def least_error(row: Any, low: int, high: int) -> float:
    """The least squared error of a float16 row over every float16 scale, for k in low..high."""
    top = float(np.abs(row.astype(np.float64)).max())
    scales = half_scales()
    scales = scales[(scales >= top / max(-low, high) / 32) & (scales <= 2 * top)]
    k = np.clip(np.rint(row.astype(np.float32) / scales[:, None]), low, high)
    with np.errstate(over="ignore"):
        decoded = (k * scales[:, None]).astype(np.float16).astype(np.float64)
    return float(((row.astype(np.float64) - decoded) ** 2).sum(axis=1).min())


def pack(codes: Any, nbits: int) -> NDArray[np.uint8]:
    """The codes as the digits, base 2^nbits, of one long integer."""
    number = sum((int(code) % 2**nbits) << (nbits * i) for i, code in enumerate(codes.flat))
    return np.frombuffer(number.to_bytes(-(-codes.size * nbits // 8), "little"), np.uint8)


def smallest(magnitudes: Any, count: int) -> set[int]:
    """The indices of the ``count`` smallest magnitudes, ties by index."""
    return set(sorted(range(len(magnitudes)), key=lambda i: (float(magnitudes[i]), i))[:count])


def magnitude_mask(values: Any, count: int) -> NDArray[np.uint8]:
    """Prune the ``count`` smallest magnitudes, and zeros."""
    flat = np.abs(values.astype(np.float64)).ravel()
    pruned = smallest(flat, count)
    kept = [i not in pruned and flat[i] != 0 for i in range(flat.size)]
    return np.array(kept, np.uint8).reshape(values.shape)


def n_m_mask(values: Any, n: int, m: int, dim: int) -> NDArray[np.uint8]:
    """Prune n of every m along dim, the axis filled up with zeros, and zeros."""
    lines = np.abs(np.moveaxis(values.astype(np.float64), dim, -1))
    mask = np.zeros(lines.shape, np.uint8)
    for index in np.ndindex(lines.shape[:-1]):
        for start in range(0, lines.shape[-1], m):
            run = lines[index][start : start + m]
            # What fills up is as small as a zero weight; zeros are pruned whatever the order among them.
            pruned = smallest([*run, *[0.0] * (m - len(run))], n)
            pruned_here = {i for i in pruned if i < len(run)}
            for i, magnitude in enumerate(run):
                mask[index][start + i] = i not in pruned_here and magnitude != 0
    return np.moveaxis(mask, -1, dim)


def block_mask(values: Any, count: int, block_size: int, dim: int) -> NDArray[np.uint8]:
    """Prune blocks along dim by l2 norm until ``count`` weights are gone; ties by index; and zeros."""
    length = values.shape[dim]
    lines = np.moveaxis(values.astype(np.float64), dim, 0).reshape(length, -1)
    before = int(np.prod(values.shape[:dim]))
    inner = lines.shape[1] // before
    blocks = []
    for outer in range(before):
        for start in range(0, length, block_size):
            for column in range(outer * inner, (outer + 1) * inner):
                block = lines[start : start + block_size, column]
                blocks.append((float((block**2).sum()), len(blocks), start, column, len(block)))
    mask = (lines != 0).astype(np.uint8)
    gone = 0
    for _, _, start, column, size in sorted(blocks):
        if gone >= count:
            break
        mask[start : start + block_size, column] = 0
        gone += size
    shape = (length, *values.shape[:dim], *values.shape[dim + 1 :])
    return np.moveaxis(mask.reshape(shape), 0, dim)
