"""Compressed weights (constexpr ops of iOS16 and iOS18) and run-time quantization.

Weights are decoded in float32 and rounded once, by the engine, to the type that the op declares.
"""

import math
from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, op


def _along(parameter: Array, axis: Any, rank: int) -> Array:
    """A vector laid along ``axis`` of a tensor of ``rank``; a scalar as it is."""
    if parameter.ndim == 0 or axis is None:
        return parameter
    shape = [1] * rank
    shape[int(axis)] = -1
    return parameter.reshape(shape)


def unpack_bits(packed: Array, nbits: int, count: int) -> Array:
    """``count`` codes of ``nbits`` each, packed from the least significant bit on, across bytes."""
    if nbits == 8:
        return packed[:count]
    weights = (1 << np.arange(nbits)).astype(np.uint8)
    codes = np.empty(-(-count // 8) * 8, np.uint8)
    step = nbits << 14  # whole codes in each piece, so that no code is split
    for start in range(0, packed.size, step):
        bits = np.unpackbits(packed[start : start + step], bitorder="little")
        whole = bits[: bits.size // nbits * nbits].reshape(-1, nbits)
        first = start * 8 // nbits
        piece = (whole * weights).sum(axis=1, dtype=np.uint8)[: codes.size - first]
        codes[first : first + piece.size] = piece
    return codes[:count]


@op("constexpr_affine_dequantize")
def constexpr_affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Any) -> Array:
    """scale * (data - zero_point), by channel along ``axis`` if they are vectors."""
    rank = quantized_data.ndim
    offset = _along(zero_point, axis, rank).astype(np.float32)
    return _along(scale, axis, rank) * (quantized_data.astype(np.float32) - offset)


@op("constexpr_cast")
def constexpr_cast(source_val: Array, output_dtype: str) -> Array:
    """float16 to float32."""
    return source_val


def shift_scale(data: Array, scale: Array, offset: Array | None) -> Array:
    """scale * (data - offset) with one scale and offset for each block; blocks divide each dimension
    evenly.
    """
    blocks = [n for count, size in zip(scale.shape, data.shape, strict=True) for n in (count, size // count)]
    ones = [n for count in scale.shape for n in (count, 1)]
    out = data.astype(np.float32).reshape(blocks)
    if offset is not None:
        out -= offset.astype(np.float32).reshape(ones)
    out *= scale.reshape(ones)
    return out.reshape(data.shape)


@op("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """scale * (data - offset) by block."""
    return shift_scale(data, scale, offset)


def look_up(indices: Array, lut: Array, vector_axis: Any) -> Array:
    """Replace each index by the entry, or the vector along ``vector_axis``, of its group's table.

    lut is [groups of each dimension..., entries, vector]. Indexing one flat table needs the memory of the
    result and of one index a value, whatever the number of entries.
    """
    groups, entries, width = lut.shape[:-2], lut.shape[-2], lut.shape[-1]
    table = lut.reshape(-1, width)
    if math.prod(groups) == 1:
        position: Array = indices
    else:
        position = np.zeros(indices.shape, np.int32)
        for axis, (size, count) in enumerate(zip(indices.shape, groups, strict=True)):
            position *= count
            shape = [1] * indices.ndim
            shape[axis] = -1
            position += (np.arange(size) // (size // count)).astype(np.int32).reshape(shape)
        position *= entries
        position += indices
    if width == 1:
        return table[:, 0][position]
    axis = int(vector_axis) % indices.ndim
    shape = [n * width if i == axis else n for i, n in enumerate(indices.shape)]
    return np.moveaxis(table[position], -1, axis + 1).reshape(shape)


@op("constexpr_lut_to_dense")
def constexpr_lut_to_dense(
    indices: Array, lut: Array, shape: Array | None = None, vector_axis: Any = None
) -> Array:
    """Palettized weights: packed indices with a ``shape`` up to iOS17, tables by group from iOS18."""
    if shape is None:
        return look_up(indices, lut, vector_axis)
    sizes = [int(n) for n in shape]
    nbits = int(lut.size).bit_length() - 1
    return lut[unpack_bits(indices, nbits, math.prod(sizes))].reshape(sizes)


def _scatter_mask(values: Array, mask: Array) -> Array:
    """Values at the set positions of ``mask``, in row-major order, zeros elsewhere."""
    out = np.zeros(mask.shape, values.dtype)
    out[mask != 0] = values
    return out


@op("constexpr_sparse_to_dense")
def constexpr_sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """Pruned weights: a packed bit mask with a ``shape`` up to iOS17, a mask tensor from iOS18."""
    if shape is None:
        return _scatter_mask(nonzero_data, mask)
    sizes = [int(n) for n in shape]
    bits = np.unpackbits(mask, bitorder="little")[: math.prod(sizes)]
    return _scatter_mask(nonzero_data, bits.reshape(sizes))


@op("constexpr_lut_to_sparse")
def constexpr_lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Any = None
) -> tuple[Array, Array]:
    """The mask, widened along ``vector_axis`` by vectors, and the entries looked up for its set positions."""
    mask = indices_mask
    if lut.shape[-1] > 1:
        mask = np.repeat(indices_mask, lut.shape[-1], axis=int(vector_axis))
    dense = look_up(_scatter_mask(indices_nonzero_data, indices_mask), lut, vector_axis)
    return mask, dense[mask != 0]


@op("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, Array]:
    """The mask, and scale * (data - offset) by block for its set positions."""
    dense = shift_scale(_scatter_mask(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


@op("quantize")
def quantize(
    input: Array,  # MIL's own name
    scale: Array,
    output_dtype: str,
    zero_point: Array | None = None,
    axis: Any = None,
) -> Array:
    """clip(round(input / scale) + zero_point), ties to even."""
    info = np.iinfo(output_dtype)
    codes = np.rint(input / _along(scale, axis, input.ndim))
    if zero_point is not None:
        codes = codes + _along(zero_point, axis, input.ndim).astype(np.float32)
    return np.clip(codes, info.min, info.max)


@op("dequantize")
def dequantize(
    input: Array,  # MIL's own name
    scale: Array,
    zero_point: Array | None = None,
    axis: Any = None,
) -> Array:
    """scale * (input - zero_point)."""
    values = input.astype(np.float32)
    if zero_point is not None:
        values -= _along(zero_point, axis, input.ndim).astype(np.float32)
    return _along(scale, axis, input.ndim) * values
