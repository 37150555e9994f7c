"""``WeightParams``, the weights of a layer as an ``.mlmodel`` stores them: decoded, encoded, written.

Four forms: ``floatValue``; ``float16Value``; ``rawValue``, codes of 1 to 8 bits, the first in the highest
bits of the first byte, which a scale and a bias (one, or one for each output channel) or a look-up table of
2^numberOfBits floats turn into weights; and ``int8RawValue``, signed bytes that a scale turns into weights.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.encodings import Palettized, Quantized
from milpasses.errors import MilpassesError

Array = NDArray[Any]
Form = Literal["empty", "float32", "float16", "linear", "lut", "int8"]

# The bits of a byte in the other order: the format counts from the highest, ``bitpack`` from the lowest.
_MIRRORED: NDArray[np.uint8] = np.packbits(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1
)[:, 0]
_FLOAT_VALUE = 0x0A  # tag of field 1, packed floats


class WeightError(MilpassesError):
    """A layer's weights are not what the layer declares, or no form of the format."""


def form(params: Any) -> Form:
    """Which of the format's forms holds the values of ``params``."""
    if len(params.floatValue):
        return "float32"
    if params.float16Value:
        return "float16"
    if params.int8RawValue:
        return "int8"
    if not params.rawValue:
        return "empty"
    kind = params.quantization.WhichOneof("QuantizationType")
    if kind is None:
        raise WeightError("the weights are raw bytes without a scale or a look-up table")
    return "linear" if kind == "linearQuantization" else "lut"


def count(params: Any) -> int | None:
    """Number of values that are stored; None for packed codes, whose last byte may be padded."""
    kind = form(params)
    if kind in ("linear", "lut"):
        return None
    sizes = {"float32": len(params.floatValue), "float16": len(params.float16Value) // 2}
    return sizes.get(kind, len(params.int8RawValue))


def nbytes(params: Any) -> int:
    """Stored bytes of values, codes, scales, biases and table."""
    linear, table = params.quantization.linearQuantization, params.quantization.lookupTableQuantization
    floats = len(params.floatValue) + len(linear.scale) + len(linear.bias) + len(table.floatValue)
    return 4 * floats + len(params.float16Value) + len(params.rawValue) + len(params.int8RawValue)


def decode(params: Any, shape: Sequence[int], axis: int = 0) -> Array:
    """The weights as the format defines them, in ``shape``: float32, or float16 where they are stored so.

    ``code * scale + bias`` is computed in float64 and rounded once. ``axis`` is that of the output channels,
    along which several scales are laid; ``axis`` 1 may hold those of one group of several, whose inputs then
    are parts of axis 0 (grouped deconvolution). Raises ``WeightError`` if the stored values do not fill
    ``shape``.
    """
    kind = form(params)
    if kind in ("float32", "float16", "empty"):
        return _dense(params, tuple(shape))
    codes, quantization = _codes(params, tuple(shape)), params.quantization
    if kind == "lut":
        return _table(quantization)[codes]
    scale, bias = (_spread(values, codes.shape) for values in _scales(quantization, codes.shape, axis))
    return (codes * scale + bias).astype(np.float32)


def encoding(params: Any, shape: Sequence[int], axis: int = 0) -> Array | Quantized | Palettized:
    """The weights without loss: dense as ``decode``, or ``Quantized`` or ``Palettized`` where they are codes.

    A bias becomes a zero point: an integer in the range of the codes where it is a whole number of scales, a
    float otherwise, which then gives the weights to the last place or two of float32. Where float32 cannot
    hold that zero point, the weights come out dense.
    Raises ``WeightError`` if the stored values do not fill ``shape``.
    """
    kind = form(params)
    if kind in ("float32", "float16", "empty"):
        return _dense(params, tuple(shape))
    codes = _codes(params, tuple(shape))
    if kind == "lut":
        table = _table(params.quantization)
        return Palettized(codes, table.reshape((1,) * len(shape) + (table.size, 1)))
    scale, bias = _scales(params.quantization, tuple(shape), axis)
    codes = np.where(_spread(scale, codes.shape) == 0, 0, codes).astype(codes.dtype)
    scale = np.where(scale == 0, 1.0, scale)
    nbits = _nbits(params) if kind == "linear" else 8
    dtype = f"uint{nbits}" if kind == "linear" else "int8"
    offset = -bias / scale
    nearest = np.rint(offset)
    low, high = (0, (1 << nbits) - 1) if kind == "linear" else (-128, 127)
    whole = np.abs(offset - nearest) <= 4e-7 * np.maximum(np.abs(offset), 1)
    zero_point: Array | None
    if whole.all() and nearest.min() >= low and nearest.max() <= high:
        zero_point = nearest.astype(codes.dtype) if nearest.any() else None
    elif np.abs(offset).max() > np.finfo(np.float32).max:
        return decode(params, shape, axis)
    else:
        zero_point = offset.astype(np.float32)
    return Quantized(codes, scale.astype(np.float32), zero_point, dtype)


def write(params: Any, encoded: Array | Quantized | Palettized) -> None:
    """Replace what ``params`` holds by a dense float32 or float16 array, by ``Quantized`` or ``Palettized``.

    ``Quantized`` must have unsigned codes and scales along one axis at most, ``Palettized`` one table of
    scalars. A zero point becomes the bias ``-scale * zero_point``. Raises ``WeightError`` for other forms.
    """
    if isinstance(encoded, np.ndarray):
        write_dense(params, encoded)
    elif isinstance(encoded, Palettized):
        if encoded.cluster_dim != 1 or encoded.table.size != 1 << encoded.nbits:
            raise WeightError(f"a neural network takes one table of scalars, not {encoded.form}")
        write_lut(params, encoded.codes, encoded.table.reshape(-1))
    else:
        if not encoded.dtype.startswith("uint") or encoded.scale.size != max(encoded.scale.shape, default=1):
            raise WeightError(f"a neural network takes unsigned codes and scales, not {encoded.form}")
        scale = encoded.scale.reshape(-1).astype(np.float64)
        zero_point = 0.0 if encoded.zero_point is None else encoded.zero_point.reshape(-1).astype(np.float64)
        write_linear(params, encoded.codes, scale, -scale * zero_point, int(encoded.dtype[4:]))


def write_dense(params: Any, values: Array) -> None:
    """Store ``values`` densely: float16 as such, anything else as float32."""
    clear(params)
    if values.dtype == np.float16:
        params.float16Value = np.ascontiguousarray(values, "<f2").tobytes()
    elif values.size:  # as the packed field's wire form: the list interface takes each float by itself
        data = np.ascontiguousarray(values, "<f4").tobytes()
        params.MergeFromString(bytes([_FLOAT_VALUE]) + _varint(len(data)) + data)


def write_linear(params: Any, codes: Array, scale: Array, bias: Array, nbits: int) -> None:
    """Store unsigned ``codes``, which ``scale`` and ``bias`` ((1,) or (channels,)) turn into weights."""
    clear(params)
    params.rawValue = pack(codes, nbits)
    params.quantization.numberOfBits = nbits
    linear = params.quantization.linearQuantization
    linear.scale.extend(scale.astype(np.float32).tolist())
    linear.bias.extend(bias.astype(np.float32).tolist())


def write_lut(params: Any, codes: Array, table: Array) -> None:
    """Store indices into ``table``, (2^nbits,)."""
    clear(params)
    nbits = table.size.bit_length() - 1
    params.rawValue = pack(codes, nbits)
    params.quantization.numberOfBits = nbits
    params.quantization.lookupTableQuantization.floatValue.extend(table.astype(np.float32).tolist())


def clear(params: Any) -> None:
    """Take the values out of ``params``; what says that they may be updated stays."""
    for field in ("floatValue", "float16Value", "rawValue", "int8RawValue", "quantization"):
        params.ClearField(field)


def pack(codes: Array, nbits: int) -> bytes:
    """Pack unsigned codes of any shape end to end, the first in the highest bits of the first byte."""
    from milpasses_kernels import bitpack

    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1)
    if nbits == 8:
        return flat.tobytes()
    return _MIRRORED[bitpack.pack(_MIRRORED[flat] >> np.uint8(8 - nbits), nbits)].tobytes()


def unpack(raw: bytes, nbits: int, size: int) -> NDArray[np.uint8]:
    """The ``size`` codes that ``pack`` made ``raw`` of. Raises ``WeightError`` for too few bytes."""
    from milpasses_kernels import bitpack

    needed = -(-size * nbits // 8)
    if not needed <= len(raw) <= needed + 1:  # coremltools pads a last byte that is full, too
        raise WeightError(
            f"{size:,} codes of {nbits} bits take {needed:,} bytes, but {len(raw):,} are stored"
        )
    packed = np.frombuffer(raw, np.uint8, needed)
    if nbits == 8:
        return packed.copy()
    return _MIRRORED[bitpack.unpack(_MIRRORED[packed], nbits, size)] >> np.uint8(8 - nbits)


def _dense(params: Any, shape: tuple[int, ...]) -> Array:
    if form(params) == "float16":
        return _fitted(np.frombuffer(params.float16Value, "<f2").astype(np.float16), shape)
    return _fitted(_floats(params), shape)


def _floats(params: Any) -> Array:
    """``floatValue`` through its wire form: the list interface gives each float by itself."""
    if not len(params.floatValue):
        return np.empty(0, np.float32)
    raw = params.SerializeToString()  # fields come in the order of their numbers, and 1 is the first
    start = 1
    while raw[start] & 0x80:
        start += 1
    return np.frombuffer(raw, "<f4", len(params.floatValue), start + 1).astype(np.float32)


def _fitted(flat: Array, shape: tuple[int, ...]) -> Array:
    if flat.size != math.prod(shape):
        declared = "x".join(map(str, shape))
        raise WeightError(f"{flat.size:,} values are stored, but the layer declares {declared or 'one'}")
    return flat.reshape(shape)


def _nbits(params: Any) -> int:
    nbits = int(params.quantization.numberOfBits)
    if not 1 <= nbits <= 8:
        raise WeightError(f"codes have 1 to 8 bits, but these declare {nbits}")
    return nbits


def _codes(params: Any, shape: tuple[int, ...]) -> Array:
    if params.int8RawValue:
        return _fitted(np.frombuffer(params.int8RawValue, np.int8), shape)
    return unpack(params.rawValue, _nbits(params), math.prod(shape)).reshape(shape)


def _table(quantization: Any) -> NDArray[np.float32]:
    table = np.array(quantization.lookupTableQuantization.floatValue, np.float32)
    if table.size != 1 << quantization.numberOfBits:
        raise WeightError(
            f"a table of {1 << quantization.numberOfBits} entries is needed for "
            f"{quantization.numberOfBits} bits, but {table.size} are stored"
        )
    return table


def _scales(quantization: Any, shape: tuple[int, ...], axis: int) -> tuple[Array, Array]:
    """Scale and bias in float64, of the weights' rank: one value along each axis, or channels, or groups."""
    linear = quantization.linearQuantization
    stored = np.array(linear.scale, np.float64), np.array(linear.bias, np.float64)
    shaped: list[Array] = []
    for values, name in zip(stored, ("scales", "biases"), strict=True):
        if name == "biases" and not values.size:
            values = np.zeros(1)
        if values.size == 1:
            shaped.append(values.reshape((1,) * len(shape)))
        elif shape and values.size == shape[axis]:
            shaped.append(values.reshape([-1 if d == axis else 1 for d in range(len(shape))]))
        elif axis == 1 and values.size % shape[1] == 0 and shape[0] % (values.size // shape[1]) == 0:
            shaped.append(values.reshape(-1, shape[1], *(1,) * (len(shape) - 2)))
        else:
            channels = shape[axis] if shape else 1
            raise WeightError(f"1 or {channels:,} {name} are needed, but {values.size:,} are stored")
    full = np.broadcast_shapes(shaped[0].shape, shaped[1].shape)
    return np.broadcast_to(shaped[0], full), np.broadcast_to(shaped[1], full)


def _spread(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeat what stands for a group of axis 0, so that ``values`` broadcast to ``shape``."""
    if values.ndim and values.shape[0] not in (1, shape[0]):
        return np.repeat(values, shape[0] // values.shape[0], axis=0)
    return values


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
