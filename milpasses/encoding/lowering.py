"""Encodings to constexpr ops and back: the only place that knows the two op generations.

iOS16 ops take packed bytes and a shape; iOS18 ops take typed tensors (``uint4``) and can be chained. Names
and inputs are those that coremltools' own passes emit.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.encodings import Cast, Encoding, Palettized, Quantized, Scaled, Sparse
from milpasses.encoding.generation import OpGeneration
from milpasses.encoding.storage import SMALLEST_IN_FILE, packed_bytes
from milpasses.errors import MilpassesError

Array = NDArray[Any]
NOT_DATA = ("shape", "axis", "vector_axis", "output_dtype")  # parameters of the ops that hold no weights
SUFFIXES = ("_quantized", "_palettized", "_sparsified", "_pcs")


@attrs.frozen(eq=False)
class Stored:
    """A constant input of an op: its elements (one a byte where a type is smaller) and its MIL type."""

    values: Array
    dtype: str


@attrs.frozen
class Ref:
    """An input that is an output of an earlier op of the same list."""

    op: int
    output: int = 0


@attrs.frozen(eq=False)
class OpSpec:
    """A constexpr op to emit: type, name, inputs, and (shape, MIL type) of each output."""

    op_type: str
    name: str
    inputs: dict[str, "Stored | Ref"]
    outputs: tuple[tuple[tuple[int, ...], str], ...]


def dense(name: str, value: NDArray[Any]) -> OpSpec:
    """A constant of float16 or float32 values."""
    dtype = value.dtype.name
    return OpSpec("const", name, {"val": Stored(value, dtype)}, ((value.shape, dtype),))


def base_name(name: str) -> str:
    """A compressed weight's name without the suffixes that compression gave it."""
    trimmed = True
    while trimmed:
        trimmed = False
        for suffix in SUFFIXES:
            if name.endswith(suffix):
                name, trimmed = name[: -len(suffix)], True
    return name


def lower(encoding: Encoding, name: str, generation: OpGeneration) -> list[OpSpec]:
    """The ops that hold ``encoding`` of the weight ``name``; the last one's first output is the weight."""
    if not generation.typed:
        return [_lower_ios16(encoding, name)]
    if isinstance(encoding, Quantized):
        return [_shift_scale(encoding, name + "_quantized")]
    if isinstance(encoding, Palettized):
        return _lut_to_dense(encoding, name + "_palettized")
    if isinstance(encoding, Sparse):
        return _sparse(encoding, name + "_sparsified")
    if isinstance(encoding, Scaled):
        inner = lower(encoding.inner, name, generation)
        inputs: dict[str, Stored | Ref] = {"data": Ref(len(inner) - 1), "scale": _stored(encoding.scale)}
        if encoding.zero_point is not None:
            inputs["offset"] = _stored(encoding.zero_point)
        output = (encoding.shape, _mil_name(encoding.scale))
        scale_op = OpSpec("constexpr_blockwise_shift_scale", inner[-1].name + "_pcs", inputs, (output,))
        return [*inner, scale_op]
    return [_lower_ios16(encoding, name)]  # constexpr_cast is the same in both generations


def inline_nbytes(specs: Sequence[OpSpec]) -> int:
    """Bytes of data too few for the weight file: each op that gives the same weight has its own copy."""
    stored = {
        id(source.values): packed_bytes(source.values.size, source.dtype)
        for spec in specs
        for param, source in spec.inputs.items()
        if isinstance(source, Stored) and param not in NOT_DATA and source.values.size < SMALLEST_IN_FILE
    }
    return sum(stored.values())


def _mil_name(values: Array) -> str:
    return values.dtype.name


def _stored(values: Array, dtype: str | None = None) -> Stored:
    return Stored(values, dtype or _mil_name(values))


def _shift_scale(encoding: Quantized, name: str) -> OpSpec:
    inputs: dict[str, Stored | Ref] = {
        "data": _stored(encoding.codes, encoding.dtype),
        "scale": _stored(encoding.scale),
    }
    if encoding.zero_point is not None:
        floating = encoding.zero_point.dtype.kind == "f"
        inputs["offset"] = _stored(encoding.zero_point, None if floating else encoding.dtype)
    output = (encoding.shape, encoding.result_dtype)
    return OpSpec("constexpr_blockwise_shift_scale", name, inputs, (output,))


def _table(encoding: Palettized, name: str) -> tuple[list[OpSpec], "Stored | Ref"]:
    """The ops before a look-up table; a scale of its entries is folded into them."""
    if isinstance(encoding.lut, Quantized):
        return [_shift_scale(encoding.lut, name + "_lut_quantized")], Ref(0)
    return [], _stored(encoding.table)


def _vector_axis(encoding: Palettized) -> dict[str, "Stored | Ref"]:
    if encoding.vector_axis is None:
        return {}
    return {"vector_axis": Stored(np.array(encoding.vector_axis, np.int32), "int32")}


def _lut_to_dense(encoding: Palettized, name: str) -> list[OpSpec]:
    before, lut = _table(encoding, name)
    inputs: dict[str, Stored | Ref] = {
        "indices": _stored(encoding.codes, f"uint{encoding.nbits}"),
        "lut": lut,
        **_vector_axis(encoding),
    }
    output = (encoding.shape, encoding.result_dtype)
    return [*before, OpSpec("constexpr_lut_to_dense", name, inputs, (output,))]


def _sparse(encoding: Sparse, name: str) -> list[OpSpec]:
    from milpasses_kernels.sparsity import gather

    mask, values = encoding.mask, encoding.values
    output = (encoding.shape, encoding.result_dtype)
    if isinstance(values, np.ndarray):
        inputs: dict[str, Stored | Ref] = {
            "nonzero_data": _stored(values),
            "mask": Stored(mask, "uint1"),
        }
        return [OpSpec("constexpr_sparse_to_dense", name, inputs, (output,))]
    kept = gather(values.codes, mask)
    mask_output = (encoding.shape, "uint1")
    if isinstance(values, Quantized):
        inner = _shift_scale(values, name + "_nonzero_data_quantized")
        joint_inputs = {"data_mask": Stored(mask, "uint1"), **inner.inputs}
        del joint_inputs["data"]
        joint_inputs["nonzero_data"] = Stored(kept, values.dtype)
        outputs = (mask_output, ((kept.size,), values.result_dtype))
        joint = OpSpec("constexpr_sparse_blockwise_shift_scale", inner.name, joint_inputs, outputs)
        # As coremltools chains it: the second op takes the mask constant again, not the first op's output.
        final: dict[str, Stored | Ref] = {"nonzero_data": Ref(0, 1), "mask": Stored(mask, "uint1")}
        return [joint, OpSpec("constexpr_sparse_to_dense", name, final, (output,))]
    before, lut = _table(values, name + "_nonzero_data_palettized")
    lut_inputs: dict[str, Stored | Ref] = {
        "indices_mask": Stored(mask, "uint1"),
        "indices_nonzero_data": Stored(kept, f"uint{values.nbits}"),
        "lut": lut,
        **_vector_axis(values),
    }
    outputs = (mask_output, ((kept.size * values.cluster_dim,), values.result_dtype))
    joint = OpSpec("constexpr_lut_to_sparse", name + "_nonzero_data_palettized", lut_inputs, outputs)
    at = len(before)
    final = {"nonzero_data": Ref(at, 1), "mask": Ref(at, 0)}
    return [*before, joint, OpSpec("constexpr_sparse_to_dense", name, final, (output,))]


def _lower_ios16(encoding: Encoding, name: str) -> OpSpec:
    from milpasses_kernels.bitpack import pack

    output = ((encoding.shape, encoding.result_dtype),)
    shape = Stored(np.array(encoding.shape, np.uint32), "uint32")
    if isinstance(encoding, Quantized):
        split = [axis for axis, count in enumerate(encoding.scale.shape) if count > 1]
        if encoding.zero_point is None:
            raise MilpassesError(f"{name}: the iOS16 op needs a zero point")
        inputs: dict[str, Stored | Ref] = {
            "quantized_data": _stored(encoding.codes),
            "zero_point": _stored(np.squeeze(encoding.zero_point)),
            "scale": _stored(np.squeeze(encoding.scale)),
            "axis": Stored(np.array(split[0] if split else 0, np.int32), "int32"),
        }
        return OpSpec("constexpr_affine_dequantize", name + "_quantized", inputs, output)
    if isinstance(encoding, Palettized):
        inputs = {
            "indices": Stored(pack(encoding.codes, encoding.nbits), "uint8"),
            "lut": _stored(encoding.table.reshape(-1)),
            "shape": shape,
        }
        return OpSpec("constexpr_lut_to_dense", name + "_palettized", inputs, output)
    if isinstance(encoding, Sparse) and isinstance(encoding.values, np.ndarray):
        inputs = {
            "nonzero_data": _stored(encoding.values),
            "mask": Stored(pack(encoding.mask, 1), "uint8"),
            "shape": shape,
        }
        return OpSpec("constexpr_sparse_to_dense", name + "_sparsified", inputs, output)
    if isinstance(encoding, Cast):
        inputs = {"source_val": _stored(encoding.values), "output_dtype": Stored(np.array("fp32"), "str")}
        return OpSpec("constexpr_cast", name, inputs, output)
    raise MilpassesError(f"{name}: {encoding.form} has no op before iOS18")


def lift(op_type: str, inputs: dict[str, Any], output: int = 0) -> Any:
    """The encoding that a constexpr op holds: the inverse of ``lower``.

    ``inputs`` maps parameters to arrays (elements unpacked as stored, iOS16 indices and masks still packed)
    with ``dtype:PARAM`` entries for their MIL types, or to the encodings of ops that feed this one.
    An op with two outputs gives its mask for ``output`` 0 and its values for 1. iOS16 ops are known by their
    ``shape``.
    """
    if op_type == "constexpr_affine_dequantize":
        return _lift_affine(inputs)
    if op_type == "constexpr_cast":
        return Cast(inputs["source_val"])
    if op_type == "constexpr_blockwise_shift_scale":
        return _lift_shift_scale(inputs)
    if op_type == "constexpr_lut_to_dense":
        return _lift_lut_ios16(inputs) if "shape" in inputs else _lift_lut(inputs)
    if op_type == "constexpr_lut_to_sparse":
        return _joint_output(output, inputs["indices_mask"], _lift_lut_to_sparse(inputs))
    if op_type == "constexpr_sparse_blockwise_shift_scale":
        return _joint_output(output, inputs["data_mask"], _lift_sparse_shift_scale(inputs))
    if op_type == "constexpr_sparse_to_dense":
        return _lift_sparse_ios16(inputs) if "shape" in inputs else _lift_sparse(inputs)
    raise MilpassesError(f"{op_type}: a constexpr op that milpasses does not know")


def _joint_output(output: int, mask: Array, values: Sparse) -> Any:
    return mask if output == 0 else values


def _shape(inputs: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in inputs["shape"])


def _spread(values: Array, axis: int, rank: int) -> Array:
    """A scalar or a vector along ``axis`` as an array of ``rank`` dimensions."""
    shape = [1] * rank
    if values.size > 1:
        shape[axis] = values.size
    return np.reshape(values, shape)


def _lift_affine(inputs: dict[str, Any]) -> Quantized:
    codes = inputs["quantized_data"]
    axis, rank = int(inputs["axis"]), codes.ndim
    counts: Sequence[int] = np.broadcast_shapes(np.shape(inputs["scale"]), np.shape(inputs["zero_point"]))
    size = int(np.prod(counts))
    scale = _spread(np.broadcast_to(inputs["scale"], size), axis, rank)
    zero_point = _spread(np.broadcast_to(inputs["zero_point"], size), axis, rank)
    return Quantized(codes, scale, zero_point, codes.dtype.name)


def _lift_shift_scale(inputs: dict[str, Any]) -> Quantized | Scaled:
    data, offset = inputs["data"], inputs.get("offset")
    if not isinstance(data, np.ndarray):
        return Scaled(data, inputs["scale"], offset)
    if data.dtype.kind == "f":
        return Scaled(Cast(data), inputs["scale"], offset)
    dtype = inputs.get("dtype:data", data.dtype.name)
    return Quantized(data, inputs["scale"], offset, dtype)


def _axis(inputs: dict[str, Any]) -> int | None:
    axis = inputs.get("vector_axis")
    return None if axis is None else int(axis)


def _lift_lut(inputs: dict[str, Any]) -> Palettized:
    return Palettized(inputs["indices"], inputs["lut"], _axis(inputs))


def _lift_lut_ios16(inputs: dict[str, Any]) -> Palettized:
    from milpasses_kernels.bitpack import unpack

    shape, lut = _shape(inputs), inputs["lut"]
    nbits = int(lut.size).bit_length() - 1
    codes = unpack(inputs["indices"], nbits, int(np.prod(shape))).reshape(shape)
    return Palettized(codes, lut.reshape(*[1] * len(shape), lut.size, 1))


def _dense_codes(kept: Array, mask: Array) -> Array:
    from milpasses_kernels.sparsity import scatter

    return scatter(kept, mask)


def _lift_lut_to_sparse(inputs: dict[str, Any]) -> Sparse:
    mask = inputs["indices_mask"]
    codes = _dense_codes(inputs["indices_nonzero_data"], mask)
    return Sparse(mask, Palettized(codes, inputs["lut"], _axis(inputs)))


def _lift_sparse_shift_scale(inputs: dict[str, Any]) -> Sparse:
    mask, kept = inputs["data_mask"], inputs["nonzero_data"]
    dtype = inputs.get("dtype:nonzero_data", kept.dtype.name)
    return Sparse(mask, Quantized(_dense_codes(kept, mask), inputs["scale"], inputs.get("offset"), dtype))


def _lift_sparse(inputs: dict[str, Any]) -> Sparse:
    values = inputs["nonzero_data"]
    return values if isinstance(values, Sparse) else Sparse(inputs["mask"], values)


def _lift_sparse_ios16(inputs: dict[str, Any]) -> Sparse:
    from milpasses_kernels.bitpack import unpack

    shape = _shape(inputs)
    mask = unpack(inputs["mask"], 1, int(np.prod(shape))).reshape(shape)
    return Sparse(mask, inputs["nonzero_data"])
