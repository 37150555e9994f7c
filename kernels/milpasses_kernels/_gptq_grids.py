"""What weights are rounded to: affine grids, tables, tables of vectors, or floats under a mask.

A weight matrix is (R, K), row r an output, column j an input. The grid of weight (r, j) has the number
``rows[r] + columns[j]``: blocks split the matrix along both axes, so their numbers add up.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _gptq_sweep

Floats = NDArray[np.float32]
Codes = NDArray[np.int16]
Places = NDArray[np.int64]
Mask = NDArray[np.uint8]
Index = NDArray[np.int32]

NO_MASK: Mask = np.zeros((0, 0), np.uint8)


class Block(NamedTuple):
    """The arguments that every sweep shares, of some rows and the columns ``columns``; contiguous."""

    weights: Floats
    targets: Floats
    errors: Floats
    feedback: Floats
    mask: Mask


class AffineGrid(NamedTuple):
    """Decoded = ``scale * k`` with k = code - zero point in ``low``..``high``; (T,) float32 each.

    ``half``: decoded weights and scales are float16.
    """

    scale: Floats
    low: Floats
    high: Floats
    rows: Places
    columns: Places
    half: bool

    step = 1

    def sweep(self, block: Block, rows: slice, columns: slice, codes: Codes) -> None:
        """Round a block of columns; codes are k."""
        grids = np.stack([self.scale, self.low, self.high], 1)
        _gptq_sweep.sweep_affine(*block, self.half, grids, self.rows[rows], self.columns[columns], codes)

    def parameters(self, codes: Codes) -> tuple[Index, Floats]:
        """Which scale each weight has, and what the scale is multiplied with."""
        return _numbers(self), codes.astype(np.float32)

    def values(self) -> NDArray[np.float64]:
        """The parameters: the scales."""
        return self.scale.astype(np.float64)

    def with_values(self, values: NDArray[np.float64]) -> "AffineGrid":
        """Other scales, where they can be stored and keep every code finite; else the old ones."""
        dtype: Any = np.float16 if self.half else np.float32
        limit = np.finfo(dtype)
        usable = (values >= limit.tiny) & (values * np.maximum(-self.low, self.high) <= limit.max)
        stored = np.where(usable, values, self.scale).astype(dtype).astype(np.float32)
        return self._replace(scale=stored)

    def decode(self, index: Index, basis: Floats) -> Floats:
        """The weights of the parameters' ``index`` and ``basis``."""
        decoded = self.scale[index] * basis
        return decoded.astype(np.float16).astype(np.float32) if self.half else decoded


class TableGrid(NamedTuple):
    """Decoded = an entry of a table; ``tables`` (T, k) float32, each ascending, holding ``half`` values."""

    tables: Floats
    rows: Places
    columns: Places
    half: bool

    step = 1

    def sweep(self, block: Block, rows: slice, columns: slice, codes: Codes) -> None:
        """Round a block of columns; codes are numbers of entries."""
        _gptq_sweep.sweep_tables(*block, self.tables, self.rows[rows], self.columns[columns], codes)

    def parameters(self, codes: Codes) -> tuple[Index, Floats]:
        """Which entry each weight has, all tables in one row; the basis is 1."""
        index = _numbers(self) * np.int32(self.tables.shape[1]) + codes
        return index, np.ones((1, 1), np.float32)

    def values(self) -> NDArray[np.float64]:
        """The parameters: the entries."""
        return self.tables.astype(np.float64).reshape(-1)

    def with_values(self, values: NDArray[np.float64]) -> "TableGrid":
        """Other entries. They may be out of order: ``ordered`` before the next sweep."""
        return self._replace(tables=_stored(values.reshape(self.tables.shape), self.half))

    def ordered(self) -> "TableGrid":
        """The same entries, ascending."""
        return self._replace(tables=np.sort(self.tables, axis=1))

    def decode(self, index: Index, basis: Floats) -> Floats:
        """The weights of the parameters' ``index``."""
        return self.tables.reshape(-1)[index]


class VectorGrid(NamedTuple):
    """Decoded = an entry of a table for each ``d`` neighbouring rows; ``tables`` (T, k, d) float32."""

    tables: Floats
    rows: Places
    columns: Places
    half: bool

    @property
    def step(self) -> int:
        """Rows that one code stands for."""
        return int(self.tables.shape[2])

    def sweep(self, block: Block, rows: slice, columns: slice, codes: Codes) -> None:
        """Round a block of columns; each of the d rows gets the number of the entry."""
        if block.mask.size:
            raise ValueError("a mask over vectors of a table is not made")
        _gptq_sweep.sweep_vectors(*block[:4], self.tables, self.rows[rows], self.columns[columns], codes)

    def parameters(self, codes: Codes) -> tuple[Index, Floats]:
        """Which component of which entry each weight has; the basis is 1."""
        entries, dims = self.tables.shape[1:]
        component = np.arange(self.rows.size)[:, None] % dims
        index = (_numbers(self) * np.int32(entries) + codes) * np.int32(dims) + component.astype(np.int32)
        return index, np.ones((1, 1), np.float32)

    values = TableGrid.values

    def with_values(self, values: NDArray[np.float64]) -> "VectorGrid":
        """Other entries."""
        return self._replace(tables=_stored(values.reshape(self.tables.shape), self.half))

    decode = TableGrid.decode


class FloatGrid(NamedTuple):
    """Any float16 (``half``) or float32 value, under a mask."""

    half: bool

    step = 1

    def sweep(self, block: Block, rows: slice, columns: slice, codes: Codes) -> None:
        """Round a block of columns; there are no codes."""
        _gptq_sweep.sweep_floats(*block, self.half)


Grid = AffineGrid | TableGrid | VectorGrid | FloatGrid


def _numbers(grid: AffineGrid | TableGrid | VectorGrid) -> Index:
    return grid.rows.astype(np.int32)[:, None] + grid.columns.astype(np.int32)


def _stored(values: NDArray[Any], half: bool) -> Floats:
    limit = 65504.0 if half else 3.4028234663852886e38
    clipped = np.clip(values, -limit, limit)
    return clipped.astype(np.float16).astype(np.float32) if half else clipped.astype(np.float32)
