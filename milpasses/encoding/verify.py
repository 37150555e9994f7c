"""Checks an encoding against the op's own decoding, before anything is rewritten.

coremltools' ``decompress`` of the emitted ops is run on a corner of the weight (all of it where it is small:
``constexpr_lut_to_dense`` needs elements x table entries of memory) and compared bit for bit with what the
encoding says it decodes to.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses import _coremltools as host
from milpasses.encoding.blocks import Shape
from milpasses.encoding.encodings import Cast, Encoding, Palettized, Quantized, Scaled, Sparse
from milpasses.encoding.generation import OpGeneration
from milpasses.encoding.lowering import OpSpec, Ref, lower
from milpasses.encoding.pieces import pieces
from milpasses.errors import MilpassesError, Refusal
from milpasses.report import decibels

Array = NDArray[Any]
_CORNER = 16_384


def check_decoding(encoding: Encoding, decoded: Array, name: str, generation: OpGeneration) -> None:
    """Raise ``MilpassesError`` if Core ML's op would not give ``decoded`` for ``encoding``.

    Of ``decoded`` a part along the first axis will do that holds the ``corner``.
    """
    part, extents = corner(encoding)
    expected = decoded[tuple(slice(0, extent) for extent in extents)]
    actual = run_specs(lower(part, name, generation), generation)
    same = actual.dtype == expected.dtype and actual.shape == expected.shape
    if not same or actual.tobytes() != np.ascontiguousarray(expected).tobytes():
        raise MilpassesError(
            f"{name}: {encoding.form} does not decode to what was computed; the weight is left as it was. "
            "Please report this with the weight."
        )


def _extents(shape: Shape, counts: Shape) -> Shape:
    """A corner of whole blocks along split axes, of at most about ``_CORNER`` elements along the others."""
    extents = [size // count for size, count in zip(shape, counts, strict=True)]
    for axis, count in enumerate(counts):
        total = int(np.prod(extents))
        if total <= _CORNER:
            break
        if count == 1:
            extents[axis] = max(1, extents[axis] * _CORNER // total)
    return tuple(extents)


def corner(encoding: Encoding) -> tuple[Encoding, Shape]:
    """A leading part of ``encoding`` that decodes by itself, and its extent along each axis of the weight."""
    counts = _counts(encoding)
    if int(np.prod(encoding.shape)) <= _CORNER:
        return encoding, encoding.shape
    repeat = _repeat(encoding)
    index_shape = tuple(size // by for size, by in zip(encoding.shape, repeat, strict=True))
    extents = _extents(index_shape, counts)
    return _cut(encoding, extents), tuple(e * by for e, by in zip(extents, repeat, strict=True))


def _repeat(encoding: Encoding) -> Shape:
    """Elements that one stored index covers along each axis."""
    if isinstance(encoding, Scaled):
        return _repeat(encoding.inner)
    if isinstance(encoding, Sparse) and not isinstance(encoding.values, np.ndarray):
        return _repeat(encoding.values)
    repeat = [1] * len(encoding.shape)
    if isinstance(encoding, Palettized) and encoding.vector_axis is not None:
        repeat[encoding.vector_axis] = encoding.cluster_dim
    return tuple(repeat)


def _counts(encoding: Encoding) -> Shape:
    """Scales or tables along each axis (the finer of the two where a form has both)."""
    ones = (1,) * len(encoding.shape)
    if isinstance(encoding, Quantized):
        return encoding.scale.shape
    if isinstance(encoding, Palettized):
        return tuple(encoding.lut.shape[:-2])
    if isinstance(encoding, Sparse):
        return ones if isinstance(encoding.values, np.ndarray) else _counts(encoding.values)
    if isinstance(encoding, Scaled):
        tables = _counts(encoding.inner)
        # Cut along an axis with as many scales as tables, or leave the axis whole.
        return tuple(min(a, b) for a, b in zip(tables, encoding.scale.shape, strict=True))
    return ones


def _head(values: Array, extents: Shape) -> Array:
    cut = values[tuple(slice(0, extent) for extent in extents)]
    return np.ascontiguousarray(cut)


def _scales(values: Array, shape: Shape, extents: Shape) -> Array:
    """The scales (or tables) of the blocks inside ``extents``."""
    kept = tuple(
        max(1, extent * count // size)
        for size, count, extent in zip(shape, values.shape, extents, strict=False)
    )
    return _head(values, kept)


def _cut(encoding: Encoding, extents: Shape) -> Encoding:
    if isinstance(encoding, Quantized):
        scale = _scales(encoding.scale, encoding.shape, extents)
        zero_point = encoding.zero_point
        if zero_point is not None:
            zero_point = _scales(zero_point, encoding.shape, extents)
        return Quantized(_head(encoding.codes, extents), scale, zero_point, encoding.dtype)
    if isinstance(encoding, Palettized):
        lut = encoding.lut
        if not isinstance(lut, Quantized):
            lut = _scales(encoding.table, encoding.codes.shape, extents)
        elif any(count > 1 for count in lut.shape[:-2]):
            codes = _scales(lut.codes, encoding.codes.shape, extents)
            lut = Quantized(codes, lut.scale, lut.zero_point, lut.dtype)
        return Palettized(_head(encoding.codes, extents), lut, encoding.vector_axis)
    if isinstance(encoding, Sparse):
        mask = _head(encoding.mask, extents)
        if not isinstance(encoding.values, np.ndarray):
            part = _cut(encoding.values, extents)
            assert isinstance(part, Quantized | Palettized)
            return Sparse(mask, part)
        dense = np.zeros(encoding.mask.shape, np.int64)
        dense[encoding.mask != 0] = np.arange(encoding.values.size)
        return Sparse(mask, encoding.values[_head(dense, extents)[mask != 0]])
    if isinstance(encoding, Scaled):
        inner = _cut(encoding.inner, extents)
        assert isinstance(inner, Palettized | Sparse)
        scale = _scales(encoding.scale, encoding.inner.shape, extents)
        return Scaled(inner, scale, encoding.zero_point)
    return Cast(_head(encoding.values, extents))


def run_specs(specs: list[OpSpec], generation: OpGeneration) -> Array:
    """What coremltools' own op classes compute for ``specs``: the last op's (only) output."""
    results: list[Any] = []
    for spec in specs:
        values: dict[str, Any] = {}
        for param, source in spec.inputs.items():
            if isinstance(source, Ref):
                answer = results[source.op]
                values[param] = answer[source.output] if isinstance(answer, tuple) else answer
            else:
                values[param] = source.values
        if spec.op_type == "constexpr_cast":
            results.append(values["source_val"].astype(np.float32))
            continue
        if generation.typed and spec.op_type in _OPTIONAL:
            values.setdefault(_OPTIONAL[spec.op_type], None)
        results.append(host.decompress(spec.op_type, generation.typed, **values))
    return results[-1]


_OPTIONAL = {
    "constexpr_blockwise_shift_scale": "offset",
    "constexpr_sparse_blockwise_shift_scale": "offset",
    "constexpr_lut_to_dense": "vector_axis",
    "constexpr_lut_to_sparse": "vector_axis",
}


def check_finite(value: Array) -> None:
    """Raise ``Refusal`` where a weight has NaN or infinite values."""
    from milpasses_kernels.finite import nonfinite

    nans, infinities = nonfinite(value)
    if nans or infinities:
        raise Refusal("nonfinite", nans=nans, infinities=infinities)


def decoding_errors(value: Array, decoded: Array) -> dict[str, float]:
    """``sqnr_db`` and ``max_error`` of a decoded weight, as a ``Record`` has them."""
    return _errors([_sums(value, decoded)])


def checked_errors(value: Array, encoding: Encoding, name: str, generation: OpGeneration) -> dict[str, float]:
    """``check_decoding`` and ``decoding_errors`` of ``encoding``, decoded a piece at a time and once."""
    sums: list[tuple[float, float, float]] = []
    for rows, piece in pieces(encoding):
        decoded = piece.decode()
        if not sums:  # the op is asked for a corner, which the first piece holds
            check_decoding(encoding, decoded, name, generation)
        sums.append(_sums(value[rows], decoded))
    return _errors(sums)


def _sums(value: Array, decoded: Array) -> tuple[float, float, float]:
    from milpasses_kernels.decode import error_sums

    return error_sums(np.ascontiguousarray(value), decoded)


def _errors(sums: list[tuple[float, float, float]]) -> dict[str, float]:
    signal, noise = (sum(part[i] for part in sums) for i in range(2))
    largest = max(part[2] for part in sums)
    return {"sqnr_db": decibels(signal, noise), "max_error": largest if noise else 0.0}
