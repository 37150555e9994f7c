"""An encoding's codes and tables chosen anew, so that the outputs of the weight's op change least.

The form stays what it is, to the byte; only codes, scales and table entries change.
"""

from typing import Any

import attrs
import numpy as np
from milpasses_kernels.gptq import (
    AffineGrid,
    Feedback,
    FloatGrid,
    Grid,
    NotPositive,
    Rerounded,
    TableGrid,
    VectorGrid,
    output_error,
    prepare,
    reround,
)
from numpy.typing import NDArray

from milpasses.calibration.matrices import Layout
from milpasses.encoding.blocks import Shape
from milpasses.encoding.encodings import Encoding, Palettized, Quantized, Sparse
from milpasses.errors import Refusal

Array = NDArray[Any]
_LARGEST_HALF = 65519.996  # what is below 65,520 rounds to a finite float16


def feed_back(
    encoding: Encoding,
    value: Array,
    layout: Layout,
    gram: Array,
    damping: float,
    refitted: bool = True,
    descents: int = 2,
) -> tuple[Encoding, float]:
    """``encoding`` with its codes chosen by error feedback, and the largest damping that it took.

    ``gram`` [groups, inputs, inputs]: the second moment of the inputs, of any scale. Tables and scales are
    refitted where the weight has one group; ``descents`` as in the kernel. Raises ``Refusal`` where there is
    no error feedback into the form, or by this second moment.
    """
    mask, target = _target(encoding, layout)
    rerounded, used = _rerounded(target, mask, value, layout, gram, damping, refitted, descents, None)
    weights = layout.split(value)
    back = [
        np.argsort(rows) if (rows := target.row_order(g)) is not None else slice(None)
        for g in range(layout.groups)
    ]
    codes = layout.join(np.stack([group.codes[back[g]] for g, group in enumerate(rerounded)]))
    decoded = layout.join(np.stack([weights[g] - group.errors[back[g]] for g, group in enumerate(rerounded)]))
    changed: Any = target.result(codes, decoded, rerounded[-1].grid, mask)
    return (changed if mask is None else Sparse(mask, changed)), used


def feedback_error(
    encoding: Encoding,
    value: Array,
    layout: Layout,
    gram: Array,
    damping: float,
    validation: Array,
    outputs: int,
) -> float:
    """The output error, by the second moment ``validation``, that feedback leaves in the first ``outputs``.

    Raises as ``feed_back``, of which it takes the share of the time that the outputs are of all.
    """
    mask, target = _target(encoding, layout)
    rerounded, _ = _rerounded(target, mask, value, layout, gram, damping, True, 1, outputs)
    return sum(output_error(group.errors, part) for group, part in zip(rerounded, validation, strict=True))


def _target(encoding: Encoding, layout: Layout) -> "tuple[Array | None, _Target]":
    """The mask of an encoding, if any, and what the kernel rounds to."""
    mask = encoding.mask if isinstance(encoding, Sparse) else None
    form = encoding.values if isinstance(encoding, Sparse) else encoding
    if isinstance(form, np.ndarray):
        return mask, _Floats(form)
    if isinstance(form, Quantized) and (form.zero_point is None or form.zero_point.dtype.kind != "f"):
        return mask, _Affine(form)
    if isinstance(form, Palettized) and form.cluster_dim > 1 and mask is None:
        return mask, _Vectors(form, layout)
    if isinstance(form, Palettized) and form.cluster_dim == 1 and form.table.dtype.kind == "f":
        return mask, _Tables(form)
    raise Refusal("feedback-form", form=encoding.form)


def _rerounded(
    target: "_Target",
    mask: Array | None,
    value: Array,
    layout: Layout,
    gram: Array,
    damping: float,
    refitted: bool,
    descents: int,
    outputs: int | None,
) -> tuple[list[Rerounded], float]:
    """The kernel's answer for each group, and the largest damping; of the first ``outputs``, if given."""
    weights = layout.split(value)
    masks = None if mask is None else layout.split(mask)
    places = None
    if target.counts is not None:
        places = layout.split(_block_numbers(value.shape, target.counts))
    rerounded: list[Rerounded] = []
    used = damping
    for g in range(layout.groups):
        feedback = _prepared(gram[g], damping)
        used = max(used, feedback.damping)
        order = target.row_order(g)
        order = slice(outputs) if order is None else order[:outputs]
        rows, columns = None, None
        if places is not None:
            rows, columns = places[g][order, 0], places[g][0] - places[g][0, 0]
        part = np.ascontiguousarray(weights[g][order], np.float32)
        own = None if masks is None else masks[g][order]
        grid = target.grid(rows, columns)
        refit = refitted and target.refits and layout.groups == 1
        rerounded.append(reround(part, feedback, grid, own, descents, refit))
    return rerounded, used


def _prepared(gram: Array, damping: float) -> Feedback:
    try:
        return prepare(gram, damping)
    except NotPositive as error:
        if error.cause == "indefinite":
            raise Refusal("moment-indefinite", damping=error.damping) from None
        refusal = Refusal("moment-zero") if error.cause == "zero" else Refusal("moment-nonfinite")
        raise refusal from None


def _block_numbers(shape: Shape, counts: Shape) -> NDArray[np.int32]:
    """The number, in C order, of the block that each element is in; ``counts`` blocks along each axis."""
    numbers = np.zeros((1,) * len(shape), np.int32)
    for axis, (size, count) in enumerate(zip(shape, counts, strict=True)):
        own = np.arange(size, dtype=np.int32) // (size // count)
        numbers = numbers * count + own.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.ascontiguousarray(np.broadcast_to(numbers, shape))


def _places(values: Any) -> NDArray[np.int64]:
    return np.ascontiguousarray(values, np.int64)


class _Target:
    """What a form is to the kernel, and the form that the kernel's answer makes."""

    counts: Shape | None = None
    refits = True

    def row_order(self, group: int) -> Array | None:
        """The order in which the kernel wants the rows of a group's matrix; None: as they are."""
        return None

    def grid(self, rows: Array | None, columns: Array | None) -> Grid:
        raise NotImplementedError

    def result(self, codes: Array, decoded: Array, grid: Grid, mask: Array | None) -> Any:
        raise NotImplementedError


class _Floats(_Target):
    """The values that a mask keeps."""

    def __init__(self, form: Array) -> None:
        self.form = form

    def grid(self, rows: Array | None, columns: Array | None) -> Grid:
        return FloatGrid(self.form.dtype == np.float16)

    def result(self, codes: Array, decoded: Array, grid: Grid, mask: Array | None) -> Array:
        from milpasses_kernels.sparsity import gather

        assert mask is not None
        return gather(decoded.astype(self.form.dtype), mask)


class _Affine(_Target):
    """Scales and zero points; zero points stay as they are."""

    def __init__(self, form: Quantized) -> None:
        self.form = form
        self.counts = form.scale.shape
        zeros = np.zeros(form.scale.shape) if form.zero_point is None else form.zero_point
        self.zeros = zeros.astype(np.float32)
        bits = int(form.dtype[-1])
        first = 0 if form.dtype.startswith("u") else -(1 << bits - 1)
        scale = form.scale.astype(np.float32).reshape(-1)
        half = form.scale.dtype == np.float16
        # In float64: the largest float32 over a scale below 1 is beyond float32.
        reach = np.floor(
            (_LARGEST_HALF if half else float(np.finfo(np.float32).max)) / scale.astype(np.float64)
        )
        low = first - self.zeros.reshape(-1)
        high = low + np.float32((1 << bits) - 1)
        limits = np.maximum(low, -reach).astype(np.float32), np.minimum(high, reach).astype(np.float32)
        self.parts = scale, *limits, half

    def grid(self, rows: Array | None, columns: Array | None) -> Grid:
        scale, low, high, half = self.parts
        return AffineGrid(scale, low, high, _places(rows), _places(columns), half)

    def result(self, codes: Array, decoded: Array, grid: Grid, mask: Array | None) -> Quantized:
        assert isinstance(grid, AffineGrid)
        zeros = self.zeros
        for axis, (size, count) in enumerate(zip(codes.shape, zeros.shape, strict=True)):
            zeros = np.repeat(zeros, size // count, axis) if count > 1 else zeros
        stored = (codes + zeros.astype(np.int16)).astype(self.form.codes.dtype)
        scale = grid.scale.astype(self.form.scale.dtype).reshape(self.form.scale.shape)
        return attrs.evolve(self.form, codes=stored, scale=scale)


class _Tables(_Target):
    """Tables of scalars. Integer entries stay as they are: one scale binds them all."""

    def __init__(self, form: Palettized) -> None:
        self.form = form
        table = form.table
        self.counts = table.shape[:-2]
        flat = table.reshape(-1, table.shape[-2])
        self.half = table.dtype == np.float16
        self.refits = isinstance(form.lut, np.ndarray)
        self.order = np.argsort(flat, axis=1, kind="stable")
        self.tables = np.ascontiguousarray(np.take_along_axis(flat, self.order, 1), np.float32)

    def grid(self, rows: Array | None, columns: Array | None) -> Grid:
        return TableGrid(self.tables, _places(rows), _places(columns), self.half)

    def result(self, codes: Array, decoded: Array, grid: Grid, mask: Array | None) -> Palettized:
        assert isinstance(grid, TableGrid)
        if isinstance(self.form.lut, np.ndarray):
            lut = grid.tables.astype(self.form.lut.dtype).reshape(self.form.lut.shape)
            return attrs.evolve(self.form, codes=codes.astype(np.uint8), lut=lut)
        numbers = _block_numbers(codes.shape, self.counts or ())
        return attrs.evolve(self.form, codes=self.order[numbers, codes].astype(np.uint8))


class _Vectors(_Target):
    """Tables of vectors along the outputs."""

    def __init__(self, form: Palettized, layout: Layout) -> None:
        assert form.vector_axis is not None
        self.form, self.axis = form, form.vector_axis % len(form.shape)
        if not isinstance(form.lut, np.ndarray):
            raise Refusal("feedback-integer-vectors")
        dims = form.cluster_dim
        numbers = np.arange(form.codes.size, dtype=np.int32).reshape(form.codes.shape)
        vectors = layout.split(np.repeat(numbers, dims, self.axis))
        place = (np.arange(form.shape[self.axis]) % dims).astype(np.int16)
        place = place.reshape([-1 if a == self.axis else 1 for a in range(len(form.shape))])
        places = layout.split(np.ascontiguousarray(np.broadcast_to(place, form.shape)))
        # A vector's components are to be neighbours: its number in the first column tells which they are.
        self.orders = [np.lexsort((places[g, :, 0], vectors[g, :, 0])) for g in range(layout.groups)]
        expected = np.arange(places.shape[1])[:, None] % dims
        if places.shape[1] % dims or any(
            (places[g][rows] != expected).any() for g, rows in enumerate(self.orders)
        ):
            raise Refusal("feedback-vector-axis", axis=self.axis)
        self.counts = form.lut.shape[:-2]
        self.tables = np.ascontiguousarray(form.lut.reshape(-1, *form.lut.shape[-2:]), np.float32)

    def row_order(self, group: int) -> Array | None:
        return self.orders[group]

    def grid(self, rows: Array | None, columns: Array | None) -> Grid:
        half = self.form.result_dtype == "float16"
        return VectorGrid(self.tables, _places(rows), _places(columns), half)

    def result(self, codes: Array, decoded: Array, grid: Grid, mask: Array | None) -> Palettized:
        assert isinstance(grid, VectorGrid)
        assert isinstance(self.form.lut, np.ndarray)
        every = np.arange(0, codes.shape[self.axis], self.form.cluster_dim)
        lut = grid.tables.astype(self.form.lut.dtype).reshape(self.form.lut.shape)
        return attrs.evolve(self.form, codes=np.take(codes, every, self.axis).astype(np.uint8), lut=lut)
