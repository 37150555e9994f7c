"""Values of MIL protobuf messages: constants and types, in and out.

A constant is stored in the weight file when it has ten elements or more of a type that the file takes, and
in the message itself otherwise: the rule of coremltools' own writer.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses import _coremltools as host
from milpasses.encoding.storage import SMALLEST_IN_FILE, packed_bytes
from milpasses.errors import PackageError
from milpasses.program.blobfile import BlobWriter
from milpasses.program.package import Package

Array = NDArray[Any]
_TO_PROTO = {
    "float16": 10,
    "float32": 11,
    "uint1": 37,
    "uint2": 36,
    "uint3": 39,
    "uint4": 35,
    "uint6": 38,
    "uint8": 31,
    "int4": 25,
    "int8": 21,
    "uint16": 32,
    "int16": 22,
    "uint32": 33,
    "int32": 23,
    "str": 2,
    "bool": 1,
}
_SHORT_NAMES = {"float16": "fp16", "float32": "fp32"}  # as MIL's builder calls them
_FROM_PROTO = {number: name for name, number in _TO_PROTO.items()}


def tensor_type(value_type: Any) -> tuple[str, tuple[int, ...]] | None:
    """(MIL type name, shape) of a tensor type with known dimensions, else None."""
    if value_type.WhichOneof("type") != "tensorType":
        return None
    tensor = value_type.tensorType
    shape = tuple(int(dimension.constant.size) for dimension in tensor.dimensions)
    return _FROM_PROTO.get(tensor.dataType, f"type{tensor.dataType}"), shape


def make_type(dtype: str, shape: tuple[int, ...]) -> Any:
    """The ``ValueType`` of a tensor."""
    return host.tensor_type(shape, _TO_PROTO[dtype])


def stored_bytes(value: Any) -> int:
    """Bytes that the constant ``value`` (a MIL ``Value``) takes."""
    known = tensor_type(value.type)
    if known is None or known[0] not in _TO_PROTO or known[0] in ("str", "bool"):
        return 0
    return packed_bytes(int(np.prod(known[1])), known[0])


def read_value(package: Package, value: Any) -> tuple[Array, str]:
    """The array of a constant (types below a byte unpacked) and its MIL type name."""
    known = tensor_type(value.type)
    if known is None:
        raise PackageError(f"{package.path}: a constant that is no tensor where a weight was expected")
    dtype, shape = known
    if value.WhichOneof("value") == "blobFileValue":
        blob = value.blobFileValue
        elements = package.reader(blob.fileName).read(blob.offset)
        if elements.size != int(np.prod(shape)):
            raise PackageError(
                f"{package.path}: a weight of shape {shape} has {elements.size} stored elements; damaged file"
            )
        return elements.reshape(shape), dtype
    return _read_immediate(package, value, dtype, shape), dtype


def _read_immediate(package: Package, value: Any, dtype: str, shape: tuple[int, ...]) -> Array:
    tensor = value.immediateValue.tensor
    kind = tensor.WhichOneof("value")
    if kind == "bytes":
        raw = np.frombuffer(tensor.bytes.values, np.uint8)
        if dtype in ("uint1", "uint2", "uint3", "uint4", "uint6", "int4"):
            from milpasses_kernels.bitpack import unpack

            signed = dtype.startswith("int")
            return unpack(raw, int(dtype[-1]), int(np.prod(shape)), signed=signed).reshape(shape)
        return raw.view(dtype).reshape(shape)
    numpy_type = {"str": "str", "bool": "bool"}.get(dtype, dtype)
    return np.array(list(getattr(tensor, kind).values), numpy_type).reshape(shape)


def constant_scalar(value: Any) -> bool | int | float | None:
    """The flag or the number that a scalar constant in the program's text holds, None where it holds none."""
    if value.WhichOneof("value") != "immediateValue":
        return None
    tensor = value.immediateValue.tensor
    kind = tensor.WhichOneof("value")
    numbers: Any = getattr(tensor, kind).values if kind in ("bools", "ints", "floats", "longInts") else ()
    return numbers[0] if len(numbers) else None


def constant_str(value: Any) -> str:
    """The string that a scalar constant holds."""
    return str(value.immediateValue.tensor.strings.values[0])


def write_value(values: Array, dtype: str, writer: BlobWriter, file_name: str) -> Any:
    """A MIL ``Value`` of ``values``: in the weight file, or in the message where it is small."""
    if dtype != "str" and values.size >= SMALLEST_IN_FILE:
        offset = writer.write(values, dtype)
        return host.file_value(file_name, offset, values.shape, _TO_PROTO[dtype])
    if dtype == "str":
        return host.scalar_value(str(values))
    typed = values.astype(host.numpy_type(_SHORT_NAMES.get(dtype, dtype)))
    return host.scalar_value(typed[()]) if values.ndim == 0 else host.tensor_value(typed)
