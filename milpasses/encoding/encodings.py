"""What a weight becomes: plain arrays that decode to exactly what Core ML will compute.

``decode()`` follows the arithmetic of coremltools' constexpr ops bit for bit; ``nbytes`` counts every byte
that is stored (codes, tables, scales, offsets, masks). Codes are kept unpacked, one a byte.
"""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.blocks import Shape, from_rows, to_rows
from milpasses.encoding.storage import packed_bytes

Array = NDArray[Any]


def _granularity(shape: Shape, counts: Shape) -> str:
    """Coremltools' word for how many scales or tables there are, and along what."""
    split = [axis for axis, count in enumerate(counts) if count > 1]
    if not split:
        return "per_tensor"
    if len(split) == 1:
        block = shape[split[0]] // counts[split[0]]
        return "per_channel" if block == 1 else f"per_grouped_channel({block})"
    return "per_block(" + "x".join(str(s // c) for s, c in zip(shape, counts, strict=True)) + ")"


def shift_scale(data: Array, scale: Array, offset: Array | None) -> Array:
    """``scale * (data - offset)``, each step rounded to the scale's type, in which the result comes.

    ``scale`` and ``offset`` have the rank of ``data`` and a divisor of its dimension along each axis. The
    arithmetic of coremltools' ``constexpr_blockwise_shift_scale``, which takes floats as ``data`` and as
    ``offset`` too: an offset wider than the scale is subtracted in its own type.
    """
    split = [n for size, count in zip(data.shape, scale.shape, strict=True) for n in (count, size // count)]
    spread = [n for count in scale.shape for n in (count, 1)]
    wide = scale.dtype if offset is None else np.result_type(scale.dtype, offset.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # a scale may take float16 past its range
        blocks = data.astype(scale.dtype, order="C").astype(wide, copy=False).reshape(split)
        if offset is not None:
            blocks -= offset.reshape(spread)
        np.multiply(scale.reshape(spread), blocks, out=blocks)
        return blocks.astype(scale.dtype, copy=False).reshape(data.shape)


@attrs.frozen(eq=False)
class Quantized:
    """Affine codes: ``scale * (codes - zero_point)``, rounded once where zero points are integers.

    ``codes`` has the weight's shape, int8 or uint8, or floats, which the ops of iOS18 take too; ``scale`` and
    ``zero_point`` have the weight's rank, a divisor of the dimension along each axis. ``dtype`` is the stored
    type of a code (``"int4"``).
    """

    codes: Array
    scale: Array
    zero_point: Array | None
    dtype: str

    @property
    def shape(self) -> Shape:
        """Shape of the weight."""
        return self.codes.shape

    @property
    def result_dtype(self) -> str:
        """NumPy name of the decoded type."""
        return self.scale.dtype.name

    @property
    def form(self) -> str:
        """The form in a few words."""
        return f"{self.dtype} {_granularity(self.shape, self.scale.shape)}"

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        offsets = 0
        if self.zero_point is not None:
            floating = self.zero_point.dtype.kind == "f"
            offsets = packed_bytes(
                self.zero_point.size, self.zero_point.dtype.name if floating else self.dtype
            )
        return packed_bytes(self.codes.size, self.dtype) + self.scale.nbytes + offsets

    def decode(self) -> Array:
        """The weight as Core ML will see it, in ``result_dtype``."""
        from milpasses_kernels.decode import decode_affine

        floats = [array.dtype.kind == "f" for array in (self.codes, self.zero_point) if array is not None]
        if any(floats):
            return shift_scale(self.codes, self.scale, self.zero_point)
        blocks = tuple(s // c for s, c in zip(self.shape, self.scale.shape, strict=True))
        zero_point = None if self.zero_point is None else self.zero_point.reshape(-1)
        decoded = decode_affine(to_rows(self.codes, blocks), self.scale.reshape(-1), zero_point)
        return from_rows(decoded, self.shape, blocks)


@attrs.frozen(eq=False)
class Palettized:
    """Indices into look-up tables.

    ``codes`` uint8; ``lut`` of shape (tables along each axis..., 2**nbits, cluster_dim), or the quantized or
    scaled form of such a table. With ``cluster_dim`` > 1 an index stands for a vector along ``vector_axis``.
    """

    codes: Array
    lut: "Array | Quantized | Scaled"
    vector_axis: int | None = None

    @property
    def table(self) -> Array:
        """The look-up tables, decoded."""
        return self.lut if isinstance(self.lut, np.ndarray) else self.lut.decode()

    @property
    def nbits(self) -> int:
        """Bits of an index."""
        return int(self.lut.shape[-2]).bit_length() - 1

    @property
    def cluster_dim(self) -> int:
        """Elements that one index stands for."""
        return int(self.lut.shape[-1])

    @property
    def shape(self) -> Shape:
        """Shape of the weight."""
        if self.cluster_dim == 1 or self.vector_axis is None:
            return self.codes.shape
        shape = list(self.codes.shape)
        shape[self.vector_axis] *= self.cluster_dim
        return tuple(shape)

    @property
    def result_dtype(self) -> str:
        """NumPy name of the decoded type."""
        return self.lut.dtype.name if isinstance(self.lut, np.ndarray) else self.lut.result_dtype

    @property
    def form(self) -> str:
        """The form in a few words."""
        vector = f" of {self.cluster_dim}-vectors" if self.cluster_dim > 1 else ""
        table = f", {self.lut.dtype} entries" if isinstance(self.lut, Quantized) else ""
        table = ", scaled entries" if isinstance(self.lut, Scaled) else table
        return f"lut{self.nbits}{vector} {_granularity(self.shape, self.lut.shape[:-2])}{table}"

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return packed_bytes(self.codes.size, f"uint{self.nbits}") + self.lut.nbytes

    def decode(self) -> Array:
        """The weight as Core ML will see it, in ``result_dtype``."""
        from milpasses_kernels.decode import decode_lut, decode_vectors

        table = self.table
        counts = table.shape[:-2]
        blocks = tuple(s // c for s, c in zip(self.codes.shape, counts, strict=True))
        rows = to_rows(self.codes, blocks)
        flat = table.reshape(-1, *table.shape[-2:])
        if self.cluster_dim == 1 or self.vector_axis is None:
            entries = np.ascontiguousarray(flat[..., 0])
            if entries.dtype.kind != "f":  # integer tables, which a scale follows
                return from_rows(np.take_along_axis(entries, rows.astype(np.intp), 1), self.shape, blocks)
            return from_rows(decode_lut(entries, rows), self.shape, blocks)
        vectors = decode_vectors(flat, rows).reshape(rows.shape[0], -1)
        spread = from_rows(vectors, (*self.codes.shape, self.cluster_dim), (*blocks, self.cluster_dim))
        along = (
            self.vector_axis + 1 if self.vector_axis >= 0 else len(self.codes.shape) + self.vector_axis + 1
        )
        return np.ascontiguousarray(np.moveaxis(spread, -1, along)).reshape(self.shape)


@attrs.frozen(eq=False)
class Sparse:
    """A mask of the non-zeros, and the non-zeros: as they are (flat), quantized or palettized.

    ``mask`` is uint8, 1 where a value is kept. A joint form holds codes for every position; only those under
    the mask are stored and mean anything.
    """

    mask: Array
    values: "Array | Quantized | Palettized"

    @property
    def _repeat(self) -> tuple[int, int] | None:
        values = self.values
        if isinstance(values, Palettized) and values.cluster_dim > 1 and values.vector_axis is not None:
            return values.cluster_dim, values.vector_axis
        return None

    @property
    def shape(self) -> Shape:
        """Shape of the weight."""
        return self.mask.shape if isinstance(self.values, np.ndarray) else self.values.shape

    @property
    def result_dtype(self) -> str:
        """NumPy name of the decoded type."""
        values = self.values
        return values.dtype.name if isinstance(values, np.ndarray) else values.result_dtype

    @property
    def form(self) -> str:
        """The form in a few words."""
        joint = "" if isinstance(self.values, np.ndarray) else f" + {self.values.form}"
        return f"sparse {_share_text(self.mask.size - self.kept, self.mask.size)}{joint}"

    @property
    def kept(self) -> int:
        """Positions under the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        values = self.values
        mask = packed_bytes(self.mask.size, "uint1")
        if isinstance(values, np.ndarray):
            return mask + values.nbytes
        dtype = values.dtype if isinstance(values, Quantized) else f"uint{values.nbits}"
        return mask + values.nbytes - packed_bytes(values.codes.size, dtype) + packed_bytes(self.kept, dtype)

    def decode(self) -> Array:
        """The weight as Core ML will see it, in ``result_dtype``."""
        from milpasses_kernels.sparsity import scatter

        if isinstance(self.values, np.ndarray):
            return scatter(self.values, self.mask)
        dense = self.values.decode()
        mask = self.mask if self._repeat is None else np.repeat(self.mask, *self._repeat)
        dense[mask == 0] = 0
        return dense


def _share_text(count: int, total: int) -> str:
    """A share as a percentage, with digits enough that only all of it is 100 %: ``50%``, ``99.5%``."""
    share = count / max(total, 1)
    digits = 0
    while count < total and float(f"{100 * share:.{digits}f}") >= 100 and digits < 12:
        digits += 1
    return f"{share:.{digits}%}"


@attrs.frozen(eq=False)
class Scaled:
    """A palettized or sparse weight times a scale: how coremltools stores a per-channel-scaled table.

    ``Cast``: floats that no other op made, which the op may scale as well.
    """

    inner: "Palettized | Sparse | Cast"
    scale: Array
    zero_point: Array | None = None

    @property
    def shape(self) -> Shape:
        """Shape of the weight."""
        return self.inner.shape

    @property
    def result_dtype(self) -> str:
        """NumPy name of the decoded type."""
        return self.scale.dtype.name

    @property
    def form(self) -> str:
        """The form in a few words."""
        return f"{self.inner.form}, scaled {_granularity(self.shape, self.scale.shape)}"

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        offsets = 0 if self.zero_point is None else self.zero_point.nbytes
        return self.inner.nbytes + self.scale.nbytes + offsets

    def decode(self) -> Array:
        """The weight as Core ML will see it: the product is rounded in the scale's type."""
        return shift_scale(self.inner.decode(), self.scale, self.zero_point)


@attrs.frozen(eq=False)
class Cast:
    """A float32 weight stored as float16."""

    values: Array

    result_dtype = "float32"

    @property
    def shape(self) -> Shape:
        """Shape of the weight."""
        return self.values.shape

    @property
    def form(self) -> str:
        """The form in a few words."""
        return "float16 cast"

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.values.nbytes

    def decode(self) -> Array:
        """The weight as Core ML will see it."""
        return self.values.astype(np.float32)


Encoding = Quantized | Palettized | Sparse | Scaled | Cast
