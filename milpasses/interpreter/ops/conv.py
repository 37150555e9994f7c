"""Convolutions of one to three spatial dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from milpasses.interpreter.backend import Windows
from milpasses.interpreter.registry import Array, Context, InterpreterError, contiguous, op
from milpasses.program.padding import explicit_pads, ints


def _add_bias(out: Array, bias: Array | None) -> Array:
    if bias is not None and np.any(bias):
        out += bias.reshape(1, -1, *(1,) * (out.ndim - 2))
    return out


@op("conv")
def conv(
    ctx: Context,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Any = 1,
) -> Array:
    """Cross-correlation: x [N, C, *D], weight [O, C / groups, *K]."""
    rank = x.ndim - 2
    stride, dilation = ints(strides, 1, rank), ints(dilations, 1, rank)
    extents = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    pads = explicit_pads(pad_type, pad, x.shape[2:], extents, stride)
    windows = Windows(stride, pads, dilation)
    return _add_bias(ctx.backend.conv(x, weight, windows, int(groups)), bias)


@op("conv_quantized")
def conv_quantized(
    ctx: Context,
    x: Array,
    weight: Array,
    quantization_type: str,
    quant_scale: Array,
    quant_bias: Array,
    bias: Array | None = None,
    nbits: Any = 8,
    **options: Any,
) -> Array:
    """``conv`` with the weight scale * codes + offset, by output channel."""
    if quantization_type != "linear":
        raise InterpreterError(
            f"conv_quantized runs quantization_type 'linear' only, got {quantization_type!r}"
        )
    ones = (1,) * (weight.ndim - 1)
    decoded = weight * quant_scale.reshape(-1, *ones) + quant_bias.reshape(-1, *ones)
    return conv(
        ctx, x, decoded.astype(np.float32), None if bias is None else bias.astype(np.float32), **options
    )


@op("conv_transpose")
def conv_transpose(
    ctx: Context,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    pad: Array | None = None,
    output_shape: Array | None = None,
    pad_type: str = "valid",
    strides: Array | None = None,
    dilations: Array | None = None,
    groups: Any = 1,
) -> Array:
    """Adjoint of ``conv``: weight [C, O / groups, *K].

    The full output is cropped by the padding. ``output_shape`` beyond it, torch's output padding, continues
    with zeros plus bias at the end.
    """
    rank = x.ndim - 2
    stride, dilation = ints(strides, 1, rank), ints(dilations, 1, rank)
    full = ctx.backend.conv_transpose(x, weight, stride, dilation, int(groups))
    wanted = None if output_shape is None else [int(n) for n in output_shape[2:]]
    starts, sizes = _crop(pad_type, pad, x.shape[2:], full.shape[2:], stride, wanted)
    window = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    out = full[(slice(None), slice(None), *window)]
    if list(out.shape[2:]) != sizes:
        missing = [(0, size - got) for size, got in zip(sizes, out.shape[2:], strict=True)]
        out = np.pad(out, [(0, 0), (0, 0), *missing])
    return _add_bias(contiguous(out), bias)


def _crop(
    pad_type: str,
    pad: Any,
    sizes: Sequence[int],
    full: Sequence[int],
    strides: Sequence[int],
    wanted: list[int] | None,
) -> tuple[list[int], list[int]]:
    """First kept element and number of them for each dimension of the full output."""
    if pad_type == "custom":
        flat = ints(pad, 0, 2 * len(full))
        starts = flat[::2]
        left = [n - before - after for n, before, after in zip(full, flat[::2], flat[1::2], strict=True)]
        return starts, wanted or left
    if pad_type == "valid":
        return [0] * len(full), wanted or list(full)
    out = wanted or [size * stride for size, stride in zip(sizes, strides, strict=True)]
    excess = [max(0, n - size) for n, size in zip(full, out, strict=True)]
    return [e // 2 if pad_type == "same" else e - e // 2 for e in excess], out
