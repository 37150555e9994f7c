"""Pruning: which weights stay, and the weights that stay.

A mask is uint8, shaped as the weights: 1 where a weight is kept, 0 where it is pruned. Each rule prunes
the count it is asked for, ties by index (C order, the first go first). A weight that is zero already is
pruned first, and is never kept: where there are more zeros than the rule asks for, all of them go.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._blocks import bits, for_blocks, weights_array
from ._masks import add_squares, compact, expand, mask_blocks, mask_runs
from ._select import keep_largest, mask_above
from ._threads import for_ranges

_PIECE = 1 << 18


def magnitude_mask(values: NDArray[Any], target_sparsity: float) -> NDArray[np.uint8]:
    """Prune the ``pruned_count`` smallest magnitudes of float16 or float32 ``values`` of any shape.

    The same mask as ``compress_by_magnitude`` of coremltools where magnitudes are distinct; NaN counts as
    larger than infinity. Raises TypeError for another dtype, ValueError for a sparsity outside 0..1.
    """
    flat = weights_array(values).reshape(-1)
    mask = np.empty(flat.size, np.uint8)
    keep_largest(bits(flat), pruned_count(flat.size, target_sparsity), mask)
    return mask.reshape(values.shape)


def pruned_count(size: int, target_sparsity: float) -> int:
    """Return how many of ``size`` weights a target sparsity prunes: floor(sparsity * (size - 1)) + 1.

    That many are <= the linearly interpolated percentile that coremltools compares with. 0 prunes none,
    1 prunes all. Raises ValueError for a sparsity outside 0..1.
    """
    if not 0 <= target_sparsity <= 1:
        raise ValueError(f"target_sparsity must be within 0..1, but got {target_sparsity}")
    if target_sparsity == 0 or size == 0:
        return 0
    return int(target_sparsity * (size - 1)) + 1


def threshold_mask(values: NDArray[Any], threshold: float) -> NDArray[np.uint8]:
    """Prune magnitudes <= ``threshold``, compared in float64, of float16 or float32 ``values`` of any shape.

    Raises TypeError for another dtype, ValueError for a negative or NaN threshold.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must be >= 0, but got {threshold}")
    flat = weights_array(values).reshape(-1)
    # The largest magnitude of the dtype that is <= threshold separates the same weights.
    with np.errstate(over="ignore"):
        limit = np.asarray(threshold).astype(flat.dtype)
    if float(limit) > threshold:
        limit = np.nextafter(limit, flat.dtype.type(0))
    pattern = int(bits(limit.reshape(1))[0])
    patterns = bits(flat)
    mask = np.empty(flat.size, np.uint8)
    for_blocks(1, flat.size, lambda _, part: mask_above(patterns[part], pattern, mask[part]), _PIECE)
    return mask.reshape(values.shape)


def n_m_mask(values: NDArray[Any], n: int, m: int, dim: int) -> NDArray[np.uint8]:
    """Prune the ``n`` smallest magnitudes of every ``m`` neighbours along ``dim``.

    ``values`` float16 or float32. As ``compress_by_nm_sparsity`` of coremltools: a last, shorter run
    counts as filled up with zeros, which are pruned first. Raises TypeError for another dtype, ValueError
    for n outside 0..m and a dim that is not there.
    """
    if not 0 <= n <= m or m < 1:
        raise ValueError(f"n must be within 0..m and m at least 1, but got n = {n}, m = {m}")
    patterns = bits(_along(weights_array(values), dim))
    mask = np.empty(patterns.shape, np.uint8)
    outer, length, _ = patterns.shape
    for_ranges(outer * -(-length // m), lambda start, stop: mask_runs(patterns, n, m, start, stop, mask))
    return mask.reshape(values.shape)


def block_mask(values: NDArray[Any], target_sparsity: float, block_size: int, dim: int) -> NDArray[np.uint8]:
    """Prune whole blocks of ``block_size`` neighbours along ``dim``, those of the smallest l2 norm.

    ``values`` float16 or float32. As ``compress_by_magnitude`` of coremltools with a block size, norms in
    float64: the fewest blocks that hold ``pruned_count`` weights; where ``block_size`` does not divide the
    axis the last blocks are shorter. Raises TypeError for another dtype, ValueError for a sparsity outside
    0..1, a block size below 1 and a dim that is not there.
    """
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, but got {block_size}")
    patterns = bits(_along(weights_array(values), dim))
    wanted = pruned_count(values.size, target_sparsity)
    outer, length, inner = patterns.shape
    runs = -(-length // block_size)
    squares = np.zeros((outer * runs, inner))
    for_ranges(len(squares), lambda start, stop: add_squares(patterns, block_size, start, stop, squares))
    ordered = bits(squares.reshape(-1))
    sizes = np.full(runs, block_size)
    sizes[-1:] = length - (runs - 1) * block_size
    kept = np.empty(squares.shape, np.uint8)
    # No block holds more than block_size weights, so this many are never too many; short blocks need more.
    blocks, missing = 0, wanted
    while True:
        blocks += -(-missing // block_size)
        keep_largest(ordered, blocks, kept.reshape(-1))
        missing = wanted - int(((kept == 0).reshape(outer, runs, inner).sum(axis=(0, 2)) * sizes).sum())
        if missing <= 0:
            break
    mask = np.empty(patterns.shape, np.uint8)
    for_ranges(len(squares), lambda start, stop: mask_blocks(patterns, block_size, start, stop, kept, mask))
    return mask.reshape(values.shape)


def gather(values: NDArray[Any], mask: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the values where ``mask`` is 1, (D,), in C order; any dtype of 1, 2, 4 or 8 bytes.

    Raises ValueError where the shapes differ.
    """
    if values.shape != mask.shape:
        raise ValueError(f"values and mask must have one shape, but got {values.shape} and {mask.shape}")
    dense = bits(np.ascontiguousarray(values).reshape(-1))
    flat, starts = _flat_mask(mask)
    packed = np.empty(starts[-1], dense.dtype)

    def run(_: slice, part: slice) -> None:
        first, last = starts[part.start // _PIECE], starts[part.start // _PIECE + 1]
        compact(dense[part], flat[part], packed[first:last])

    for_blocks(1, dense.size, run, _PIECE)
    return packed.view(values.dtype)


def scatter(nonzeros: NDArray[Any], mask: NDArray[np.uint8]) -> NDArray[Any]:
    """Undo ``gather``: the values (D,) where ``mask`` is 1, 0 elsewhere, in the mask's shape.

    Raises ValueError where the mask does not keep D values.
    """
    flat, starts = _flat_mask(mask)
    if nonzeros.shape != (starts[-1],):
        raise ValueError(f"the mask keeps {starts[-1]} values, but got shape {nonzeros.shape}")
    packed = bits(np.ascontiguousarray(nonzeros))
    dense = np.zeros(flat.size, packed.dtype)

    def run(_: slice, part: slice) -> None:
        first, last = starts[part.start // _PIECE], starts[part.start // _PIECE + 1]
        expand(packed[first:last], flat[part], dense[part])

    for_blocks(1, flat.size, run, _PIECE)
    return dense.view(nonzeros.dtype).reshape(mask.shape)


def _along(values: NDArray[Any], dim: int) -> NDArray[Any]:
    """Return values as (outer, axis, inner), the middle axis being ``dim``."""
    if not 0 <= dim < values.ndim:
        raise ValueError(f"dim must be within 0..{values.ndim - 1}, but got {dim}")
    shape = values.shape
    return values.reshape(int(np.prod(shape[:dim])), shape[dim], int(np.prod(shape[dim + 1 :])))


def _flat_mask(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the mask flat, read-only, and where the kept values of each piece start, with the end."""
    flat = bits(np.ascontiguousarray(mask).reshape(-1))
    counts = np.zeros(-(-flat.size // _PIECE) + 1, np.int64)

    def count(_: slice, part: slice) -> None:
        counts[part.start // _PIECE + 1] = np.count_nonzero(flat[part])

    for_blocks(1, flat.size, count, _PIECE)
    return flat, counts.cumsum()
