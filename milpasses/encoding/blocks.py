"""Blocks of a tensor, and the flat rows (blocks, elements of a block) that kernels work on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


def block_counts(shape: Shape, blocks: Shape) -> Shape:
    """Blocks along each axis: the shape of a per-block scale. Block sizes divide the dimensions."""
    return tuple(size // block for size, block in zip(shape, blocks, strict=True))


def to_rows(values: NDArray[Any], blocks: Shape) -> NDArray[Any]:
    """``values`` as a C-contiguous (blocks, elements of a block) array; a view where memory allows."""
    counts = block_counts(values.shape, blocks)
    split = [size for pair in zip(counts, blocks, strict=True) for size in pair]
    order = [*range(0, len(split), 2), *range(1, len(split), 2)]
    rows = values.reshape(split).transpose(order)
    return np.ascontiguousarray(rows).reshape(int(np.prod(counts)), -1)


def from_rows(rows: NDArray[Any], shape: Shape, blocks: Shape) -> NDArray[Any]:
    """The inverse of ``to_rows``: a C-contiguous array of ``shape``."""
    counts = block_counts(shape, blocks)
    rank = len(shape)
    order = [axis for pair in zip(range(rank), range(rank, 2 * rank), strict=True) for axis in pair]
    values = rows.reshape(*counts, *blocks).transpose(order)
    return np.ascontiguousarray(values).reshape(shape)


def nearest_divisor(size: int, wanted: int) -> int:
    """The divisor of ``size`` nearest to ``wanted`` by ratio; the smaller of two as near."""
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    return min(divisors, key=lambda d: (max(d / wanted, wanted / d), d))
