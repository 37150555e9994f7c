"""Affine codes: a weight, or the entries of its look-up tables, as integers with scales."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.blocks import Shape, block_counts, from_rows, to_rows
from milpasses.encoding.encodings import Quantized
from milpasses.encoding.storage import SMALLEST_IN_FILE
from milpasses.errors import Refusal
from milpasses.recipe.schemes import Quantize

Array = NDArray[Any]


def quantize_blocks(
    value: Array,
    scheme: Quantize,
    blocks: Shape,
    importance: Array | None = None,
    stores_zero_point: bool = False,
) -> Quantized:
    """Integers with a scale for each block.

    ``importance``: what the squared error of each element counts (float32, shaped as ``value``).
    ``stores_zero_point``: give zero points also where the scheme has none, as the iOS16 op wants it.
    """
    from milpasses_kernels.rounding import quantize

    rounded = quantize(
        to_rows(value, blocks),
        nbits=scheme.nbits,
        signed=scheme.signed,
        symmetric=scheme.symmetric,
        search=scheme.method != "minmax",
        importance=None if importance is None else to_rows(importance, blocks),
    )
    counts = block_counts(value.shape, blocks)
    zero_point = rounded.zero_point
    if zero_point is None and stores_zero_point:
        zero_point = np.zeros(counts, rounded.codes.dtype)
    zero_point = None if zero_point is None else zero_point.reshape(counts)
    codes = from_rows(rounded.codes, value.shape, blocks)
    return Quantized(codes, rounded.scale.reshape(counts), zero_point, scheme.dtype)


def quantize_entries(table: Array, scheme: Quantize) -> Quantized:
    """Integer entries of look-up tables; one scale for all tables of a weight, as the ops can be chained."""
    if table.size < SMALLEST_IN_FILE:
        raise Refusal("small-table", size=table.size)
    return quantize_blocks(table, scheme, table.shape)
