"""An encoding in pieces that decode by themselves: what is to be said of all of it needs no second weight."""

from collections.abc import Iterator
from math import prod
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.encodings import Encoding, Palettized, Quantized

_ELEMENTS = 1 << 19  # about what a second-level cache holds of codes, decoded values and the weight


def pieces(encoding: Encoding, elements: int = _ELEMENTS) -> Iterator[tuple[slice, Encoding]]:
    """Parts of about ``elements``, of whole blocks, along the first axis; other forms are one part."""
    if isinstance(encoding, Quantized):
        tables = encoding.scale
    elif isinstance(encoding, Palettized) and encoding.cluster_dim == 1:
        tables = encoding.table
        encoding = attrs.evolve(encoding, lut=tables)
    else:
        yield slice(None), encoding
        return
    size, counts = encoding.shape[0], tables.shape[0]
    block = size // counts if counts > 1 else 1
    step = max(1, elements // (prod(encoding.shape[1:]) * block)) * block
    for start in range(0, size, step):
        rows = slice(start, min(start + step, size))
        own = slice(start // block, rows.stop // block) if counts > 1 else slice(None)
        yield rows, _cut(encoding, rows, own)


def _cut(encoding: Quantized | Palettized, rows: slice, own: slice) -> Encoding:
    if isinstance(encoding, Palettized):
        return Palettized(encoding.codes[rows], encoding.table[own], encoding.vector_axis)
    zero_point: NDArray[Any] | None = encoding.zero_point
    if zero_point is not None:
        zero_point = np.ascontiguousarray(zero_point[own])
    return Quantized(
        encoding.codes[rows], np.ascontiguousarray(encoding.scale[own]), zero_point, encoding.dtype
    )
