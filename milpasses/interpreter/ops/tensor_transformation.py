"""Ops that move elements: reshape, transpose, slice and their kin."""

from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, op


def _axes(axes: Any, rank: int) -> list[int]:
    return sorted(int(a) % rank for a in np.atleast_1d(axes))


def _to_pixels(x: Array, factor: Any, position_first: bool) -> Array:
    """Each ``factor`` x ``factor`` channels of [N, C, H, W] become a block of pixels.

    A channel's place in the block is the slow part of its index (``position_first``) or the fast one.
    """
    n, c, h, w = x.shape
    f = int(factor)
    depth = c // (f * f)
    if position_first:
        blocks = x.reshape(n, f, f, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, depth, f, f, h, w).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, depth, h * f, w * f)


def _to_channels(x: Array, factor: Any, position_first: bool) -> Array:
    """The inverse of ``_to_pixels``."""
    n, c, h, w = x.shape
    f = int(factor)
    blocks = x.reshape(n, c, h // f, f, w // f, f)
    order = (0, 3, 5, 1, 2, 4) if position_first else (0, 1, 3, 5, 2, 4)
    return blocks.transpose(order).reshape(n, c * f * f, h // f, w // f)


@op("depth_to_space", moves=True)
def depth_to_space(x: Array, block_size: Any) -> Array:
    """Channels to pixels; the block position is the slow part of the channel."""
    return _to_pixels(x, block_size, position_first=True)


@op("space_to_depth", moves=True)
def space_to_depth(x: Array, block_size: Any) -> Array:
    """Pixels to channels; the block position is the slow part of the channel."""
    return _to_channels(x, block_size, position_first=True)


@op("pixel_shuffle", moves=True)
def pixel_shuffle(x: Array, upscale_factor: Any) -> Array:
    """Channels to pixels; the block position is the fast part of the channel."""
    return _to_pixels(x, upscale_factor, position_first=False)


@op("pixel_unshuffle", moves=True)
def pixel_unshuffle(x: Array, downscale_factor: Any) -> Array:
    """Pixels to channels; the block position is the fast part of the channel."""
    return _to_channels(x, downscale_factor, position_first=False)


@op("space_to_batch", moves=True)
def space_to_batch(x: Array, block_shape: Array, paddings: Array) -> Array:
    """Pixels to batch, after padding with zeros."""
    bh, bw = (int(b) for b in block_shape)
    padded = np.pad(x, [(0, 0), (0, 0), *((int(a), int(b)) for a, b in paddings)])
    n, c, h, w = padded.shape
    blocks = padded.reshape(n, c, h // bh, bh, w // bw, bw).transpose(3, 5, 0, 1, 2, 4)
    return blocks.reshape(bh * bw * n, c, h // bh, w // bw)


@op("batch_to_space", moves=True)
def batch_to_space(x: Array, block_shape: Array, crops: Array) -> Array:
    """Batch to pixels, then cut the borders off."""
    bh, bw = (int(b) for b in block_shape)
    n, c, h, w = x.shape
    blocks = x.reshape(bh, bw, n // (bh * bw), c, h, w).transpose(2, 3, 4, 0, 5, 1)
    image = blocks.reshape(n // (bh * bw), c, h * bh, w * bw)
    (top, bottom), (left, right) = ((int(a), int(b)) for a, b in crops)
    return image[:, :, top : h * bh - bottom, left : w * bw - right]


@op("expand_dims", moves=True)
def expand_dims(x: Array, axes: Array) -> Array:
    """New dimensions of size 1, at their places in the result."""
    return np.expand_dims(x, tuple(_axes(axes, x.ndim + np.size(axes))))


@op("squeeze", moves=True)
def squeeze(x: Array, axes: Array | None = None) -> Array:
    """Drop dimensions of size 1; an axis of another size stays."""
    chosen = range(x.ndim) if axes is None else _axes(axes, x.ndim)
    return np.squeeze(x, tuple(a for a in chosen if x.shape[a] == 1))


@op("reshape", moves=True)
def reshape(x: Array, shape: Array) -> Array:
    """The same elements in a new shape: -1 takes what is left, 0 the size of x counted from the right.

    Counting from the right is iOS17's rule; where earlier targets allow 0 the ranks agree, and so do the
    rules.
    """
    sizes = [int(size) for size in shape]
    shift = x.ndim - len(sizes)
    kept = (
        [x.shape[i + shift] if i + shift >= 0 else 1 for i in range(len(sizes))]
        if 0 in sizes and x.size
        else sizes
    )
    return x.reshape([keep if size == 0 else size for size, keep in zip(sizes, kept, strict=True)])


@op("reshape_like", moves=True)
def reshape_like(
    x: Array, ref_tensors: list[Array], begins: list[Any], ends: list[Any], end_masks: list[Any]
) -> Array:
    """Reshape to sizes taken from other tensors."""
    sizes: list[int] = []
    for reference, begin, end, whole in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[int(begin) : None if bool(whole) else int(end)]
    return x.reshape(sizes)


@op("reverse", moves=True)
def reverse(x: Array, axes: Array | None = None) -> Array:
    """Flip along ``axes``, or all."""
    return np.flip(x, None if axes is None else tuple(_axes(axes, x.ndim)))


@op("reverse_sequence", moves=True)
def reverse_sequence(x: Array, lengths: Array, seq_axis: Any = 0, batch_axis: Any = 0) -> Array:
    """Flip the first ``lengths[i]`` elements along ``seq_axis`` of each slice i of ``batch_axis``."""
    count = x.shape[int(seq_axis)]
    order = np.tile(np.arange(count), (len(lengths), 1))
    for row, length in zip(order, (int(n) for n in lengths), strict=True):
        row[:length] = row[:length][::-1]
    shape = [1] * x.ndim
    shape[int(batch_axis)], shape[int(seq_axis)] = len(lengths), count
    aligned = order if int(batch_axis) % x.ndim < int(seq_axis) % x.ndim else order.T
    return np.take_along_axis(x, aligned.reshape(shape), int(seq_axis))


@op("transpose", moves=True)
def transpose(x: Array, perm: Array) -> Array:
    """Permute dimensions."""
    return x.transpose([int(p) for p in perm]) if x.ndim else x


@op("sliding_windows", moves=True)
def sliding_windows(x: Array, axis: Any, size: Any, stride: Any = 1) -> Array:
    """All windows along an axis; the window becomes the next dimension."""
    along = int(axis) % x.ndim
    windows = np.lib.stride_tricks.sliding_window_view(x, int(size), along)
    every = (slice(None),) * along
    return np.moveaxis(windows[(*every, slice(None, None, int(stride)))], -1, along + 1)


def slices(
    shape: tuple[int, ...],
    begin: Array,
    end: Array,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> tuple[slice | int, ...]:
    """The index of ``slice_by_index``: Python's slices, a mask standing for an end left out.

    A squeezed dimension is a plain index. With a negative stride, end -1 means the last element, as in
    Python.
    """
    rank = len(shape)
    off = np.zeros(rank, np.bool_)
    steps = np.ones(rank, np.int32) if stride is None else stride
    no_begin, no_end, single = (
        off if mask is None else mask for mask in (begin_mask, end_mask, squeeze_mask)
    )
    index: list[slice | int] = []
    for axis in range(rank):
        first = None if bool(no_begin[axis]) else int(begin[axis])
        if bool(single[axis]):
            index.append(first or 0)
        else:
            last = None if bool(no_end[axis]) else int(end[axis])
            index.append(slice(first, last, int(steps[axis])))
    return tuple(index)


@op("slice_by_index", moves=True)
def slice_by_index(x: Array, **bounds: Any) -> Array:
    """x[begin:end:stride] in every dimension."""
    return x[slices(x.shape, **bounds)]


@op("slice_update", moves=True)
def slice_update(x: Array, update: Array, **bounds: Any) -> Array:
    """x with x[begin:end:stride] replaced."""
    out, index = np.copy(x), slices(x.shape, **bounds)
    out[index] = update.reshape(x[index].shape)
    return out


@op("slice_by_size", moves=True)
def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """``size`` elements from ``begin`` in every dimension; -1 takes the rest."""
    index: list[slice] = []
    for start, count, length in zip(begin, size, x.shape, strict=True):
        first = int(start) + length if start < 0 else int(start)
        index.append(slice(first, None if count == -1 else first + int(count)))
    return x[tuple(index)]
