"""Resizing on regular grids: each axis is interpolated by itself."""

from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, InterpreterError, op


def grid_points(source: int, target: int, mode: str) -> Array:
    """Where along an axis of ``source`` pixels the ``target`` samples lie, as MIL defines each sampling
    mode.
    """
    index = np.arange(target, dtype=np.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if target == 1:
            points = np.full(1, (source - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0)
        else:
            points = index * (source - 1) / (target - 1)
    elif mode == "DEFAULT":
        points = index * source / target
    elif mode == "OFFSET_CORNERS":
        delta = max(1, source - 1) / target
        points = 0.5 * delta + index * delta
    elif mode == "UNALIGN_CORNERS":
        points = (index + 0.5) * source / target - 0.5
    else:
        raise InterpreterError(f"no sampling mode {mode!r}")
    return np.clip(points, 0, source - 1)


def linear_axis(x: Array, points: Array, axis: int) -> Array:
    """Interpolate linearly between the two pixels around each point along ``axis``."""
    low = np.floor(points).astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    weight = (points - low).astype(np.float32).reshape(shape)
    return np.take(x, low, axis) * (1 - weight) + np.take(x, high, axis) * weight


def _resize_linear(x: Array, height: int, width: int, mode: str) -> Array:
    out = linear_axis(x, grid_points(x.shape[-2], height, mode), x.ndim - 2)
    return linear_axis(out, grid_points(x.shape[-1], width, mode), x.ndim - 1)


def _nearest(x: Array, target: int, axis: int, mode: str = "DEFAULT") -> Array:
    """The pixel that each output pixel falls in: at or before its grid point.

    UNALIGN_CORNERS looks at the middle of the output pixel; the modes that align corners take the nearest.
    """
    source = x.shape[axis]
    if mode == "DEFAULT":
        index = np.arange(target) * source // target
    elif mode == "UNALIGN_CORNERS":
        index = np.floor((np.arange(target) + 0.5) * source / target).astype(np.int64)
    else:
        index = np.floor(grid_points(source, target, mode) + 0.5).astype(np.int64)
    return np.take(x, np.minimum(index, source - 1), axis)


def _scaled(size: int, factor: Any) -> int:
    return int(np.floor(np.float32(size) * np.float32(factor)))


@op("upsample_nearest_neighbor", moves=True)
def upsample_nearest_neighbor(x: Array, scale_factor_height: Any = 1, scale_factor_width: Any = 1) -> Array:
    """Nearest neighbour by factors."""
    out = _nearest(x, _scaled(x.shape[-2], scale_factor_height), x.ndim - 2)
    return _nearest(out, _scaled(x.shape[-1], scale_factor_width), x.ndim - 1)


@op("resize_nearest_neighbor", moves=True)
def resize_nearest_neighbor(x: Array, target_size_height: Any, target_size_width: Any) -> Array:
    """Nearest neighbour to a size."""
    return _nearest(_nearest(x, int(target_size_height), x.ndim - 2), int(target_size_width), x.ndim - 1)


@op("upsample_bilinear")
def upsample_bilinear(
    x: Array,
    scale_factor_height: Any = 1,
    scale_factor_width: Any = 1,
    align_corners: Any = True,
    half_pixel_centers: Any = None,
) -> Array:
    """Bilinear by factors; the grid follows from the output size."""
    half = not bool(align_corners) if half_pixel_centers is None else bool(half_pixel_centers)
    mode = "STRICT_ALIGN_CORNERS" if bool(align_corners) else "UNALIGN_CORNERS" if half else "DEFAULT"
    height, width = _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    return _resize_linear(x, height, width, mode)


@op("resize_bilinear")
def resize_bilinear(
    x: Array, target_size_height: Any = 1, target_size_width: Any = 1, sampling_mode: str = "DEFAULT"
) -> Array:
    """Bilinear to a size."""
    return _resize_linear(x, int(target_size_height), int(target_size_width), sampling_mode)


@op("resize")
def resize(
    x: Array,
    shape: Array,
    resized_dims: Any,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Array:
    """Resize the last ``resized_dims`` dimensions; a size of 0 keeps the input's.

    Unlike the ops with ``nearest`` in their names, this one takes the nearest grid point in DEFAULT mode as
    well, the lower one of two equally near, as Core ML's recorded results show.
    """
    count = int(resized_dims)
    out = x
    for axis, wanted in zip(range(x.ndim - count, x.ndim), shape[len(shape) - count :], strict=True):
        target = int(wanted) or x.shape[axis]
        if interpolation_mode == "LINEAR":
            out = linear_axis(out, grid_points(x.shape[axis], target, sampling_mode), axis)
        elif sampling_mode == "DEFAULT":
            points = grid_points(x.shape[axis], target, sampling_mode)
            out = np.take(out, np.ceil(points - 0.5).astype(np.int64), axis)
        else:
            out = _nearest(out, target, axis, sampling_mode)
    return out


@op("crop", moves=True)
def crop(x: Array, crop_height: Array, crop_width: Array) -> Array:
    """Cut rows and columns off both ends."""
    (top, bottom), (left, right) = crop_height.tolist(), crop_width.tolist()
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
