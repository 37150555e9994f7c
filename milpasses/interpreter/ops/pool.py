"""Pooling."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, Context, op
from milpasses.program.padding import explicit_pads, ints

Pads = list[tuple[int, int]]


def _geometry(
    x: Array,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    ceil_mode: Any = False,
) -> tuple[list[int], list[int], Pads, Pads]:
    """Kernel, strides, the declared pads, and the pads with what ``ceil_mode`` adds after (may be negative).

    From the parameters that all pooling ops have. In ceil mode a last window that would start in the padding
    after the input does not exist.
    """
    rank = x.ndim - 2
    kernel, stride = ints(kernel_sizes, 1, rank), ints(strides, 1, rank)
    pads = explicit_pads(pad_type.lower(), pad, x.shape[2:], kernel, stride)
    if not bool(ceil_mode):
        return kernel, stride, pads, pads
    extended: Pads = []
    for size, k, s, (before, after) in zip(x.shape[2:], kernel, stride, pads, strict=True):
        count = -(-(size + before + after - k) // s) + 1
        if (count - 1) * s >= size + before:
            count -= 1
        extended.append((before, (count - 1) * s + k - size - before))
    return kernel, stride, pads, extended


def _cut(x: Array, pads: Pads) -> tuple[Array, Pads]:
    """Turn negative padding, input that no window reaches, into a slice."""
    if all(after >= 0 for _, after in pads):
        return x, pads
    window = tuple(slice(0, n + min(0, after)) for n, (_, after) in zip(x.shape[2:], pads, strict=True))
    return x[(slice(None), slice(None), *window)], [(before, max(0, after)) for before, after in pads]


def _divisor(
    size: int, kernel: int, stride: int, declared: tuple[int, int], count: int, exclude: bool
) -> Array:
    """How many elements each window averages over along one dimension.

    Padding counts unless excluded; what lies beyond the padding, reached in ceil mode only, never counts.
    """
    starts = np.arange(count) * stride - declared[0]
    ends = np.minimum(starts + kernel, size + declared[1])
    if exclude:
        return np.minimum(ends, size) - np.maximum(starts, 0)
    return ends - starts


@op("max_pool", moves=True)
def max_pool(ctx: Context, x: Array, **window: Any) -> Array:
    """Maximum over windows; padding never wins."""
    kernel, stride, _, pads = _geometry(x, **window)
    source, positive = _cut(x, pads)
    return ctx.backend.max_pool(source, kernel, stride, positive)


@op("avg_pool")
def avg_pool(ctx: Context, x: Array, exclude_padding_from_average: Any = False, **window: Any) -> Array:
    """Mean over windows; zero padding counts unless excluded."""
    kernel, stride, declared, pads = _geometry(x, **window)
    source, positive = _cut(x, pads)
    total = ctx.backend.sum_pool(source, kernel, stride, positive)
    for axis, (k, s, pair) in enumerate(zip(kernel, stride, declared, strict=True)):
        exclude = bool(exclude_padding_from_average)
        divisor = _divisor(x.shape[2 + axis], k, s, pair, total.shape[2 + axis], exclude)
        total = total / divisor.astype(np.float32).reshape(_axis_shape(total.ndim, 2 + axis))
    return total


def _axis_shape(rank: int, axis: int) -> Sequence[int]:
    return [-1 if i == axis else 1 for i in range(rank)]


@op("l2_pool")
def l2_pool(ctx: Context, x: Array, **window: Any) -> Array:
    """Root of the sum of squares over windows."""
    kernel, stride, _, pads = _geometry(x, **window)
    source, positive = _cut(np.square(x), pads)
    return np.sqrt(ctx.backend.sum_pool(source, kernel, stride, positive))
