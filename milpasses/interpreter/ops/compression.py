"""Compressed weights (constexpr ops of iOS16 and iOS18) and run-time quantization.

Compressed weights are decoded by ``milpasses.encoding``, as everywhere: here stands only what an op's outputs
are.
"""

from functools import partial
from typing import Any

import numpy as np

from milpasses.encoding.encodings import Palettized, Sparse
from milpasses.encoding.lowering import lift
from milpasses.interpreter.registry import Array, op


def decode_weight(op_type: str, **inputs: Any) -> Array | tuple[Array, Array]:
    """The outputs of a constexpr op, in the type of its scale, table or values.

    ``inputs``: its parameters as stored, codes below a byte unpacked to one a byte (those of iOS16, which MIL
    itself has packed, stay so). The ops for sparse weights give the mask, widened along ``vector_axis`` where
    an index stands for a vector, and the values of its set positions, flat.
    """
    from milpasses_kernels.sparsity import gather

    encoding = lift(op_type, inputs, output=1)
    decoded: Array = encoding.decode()
    if op_type in _SPARSE:
        mask = _value_mask(encoding)
        return mask, gather(decoded, mask)
    return decoded


def _value_mask(encoding: Sparse) -> Array:
    """The mask of a sparse weight's values: where an index stands for a vector, of all its elements."""
    values = encoding.values
    if isinstance(values, Palettized) and values.vector_axis is not None:
        return np.repeat(encoding.mask, values.cluster_dim, values.vector_axis)
    return encoding.mask


_SPARSE = ("constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale")
_DENSE = (
    "constexpr_affine_dequantize",
    "constexpr_blockwise_shift_scale",
    "constexpr_cast",
    "constexpr_lut_to_dense",
    "constexpr_sparse_to_dense",
)
for _name in (*_SPARSE, *_DENSE):
    op(_name)(partial(decode_weight, _name))


def _along(parameter: Array, axis: Any, rank: int) -> Array:
    """A vector laid along ``axis`` of a tensor of ``rank``; a scalar as it is."""
    if parameter.ndim == 0 or axis is None:
        return parameter
    shape = [1] * rank
    shape[int(axis)] = -1
    return parameter.reshape(shape)


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
        values = values - _along(zero_point, axis, input.ndim).astype(np.float32)
    return _along(scale, axis, input.ndim) * values
