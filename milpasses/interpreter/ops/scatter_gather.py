"""Gathering from and scattering to indices. Negative indices count from the end; beyond the ends is an
error.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, InterpreterError, op

_UFUNCS: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def _validate(indices: Array, sizes: Any, validate: Any) -> None:
    """From iOS17: with ``validate_indices`` negative indices are out of bounds as well."""
    if bool(validate) and np.any((indices < 0) | (indices >= sizes)):
        raise InterpreterError(f"indices out of bounds: expected 0 to {np.asarray(sizes) - 1}")


def _batched(gather: Callable[[Array, Array], Array], x: Array, indices: Array, batch_dims: int) -> Array:
    """Apply ``gather`` to each pair of the leading ``batch_dims`` dimensions."""
    batch = x.shape[:batch_dims]
    count = math.prod(batch)
    flat_x, flat_indices = (
        x.reshape(count, *x.shape[batch_dims:]),
        indices.reshape(count, *indices.shape[batch_dims:]),
    )
    parts = np.stack([gather(a, b) for a, b in zip(flat_x, flat_indices, strict=True)])
    return parts.reshape(*batch, *parts.shape[1:])


@op("gather", moves=True)
def gather(
    x: Array, indices: Array, axis: Any = 0, batch_dims: Any = 0, validate_indices: Any = False
) -> Array:
    """Slices of x at ``indices`` along ``axis``."""
    along, batch = int(axis) % x.ndim, int(batch_dims)
    _validate(indices, x.shape[along], validate_indices)
    if batch == 0:
        return np.take(x, indices, along)
    return _batched(lambda a, b: np.take(a, b, along - batch), x, indices, batch)


@op("gather_along_axis", moves=True)
def gather_along_axis(x: Array, indices: Array, axis: Any = 0, validate_indices: Any = False) -> Array:
    """Elements of x at ``indices`` along ``axis``, everything else in place."""
    _validate(indices, x.shape[int(axis)], validate_indices)
    return np.take_along_axis(x, indices.astype(np.int64), int(axis))


@op("gather_nd", moves=True)
def gather_nd(x: Array, indices: Array, batch_dims: Any = 0, validate_indices: Any = False) -> Array:
    """Slices of x at the index vectors along the last axis of ``indices``."""
    _validate(indices, x.shape[int(batch_dims) :][: indices.shape[-1]], validate_indices)

    def pick(a: Array, b: Array) -> Array:
        return a[tuple(np.moveaxis(b, -1, 0))]

    return pick(x, indices) if int(batch_dims) == 0 else _batched(pick, x, indices, int(batch_dims))


def _combined(data: Array, where: Any, updates: Array, mode: str) -> Array:
    """``data`` with ``updates`` combined into it; repeated indices count each time, the last ``update``
    wins.
    """
    target = np.copy(data)
    if mode == "update":
        target[where] = updates
    elif mode in _UFUNCS:
        if mode == "div" and target.dtype.kind in "iu":
            raise InterpreterError("scatter with mode 'div' needs floats")
        _UFUNCS[mode].at(target, where, updates)
    else:
        raise InterpreterError(f"scatter has no mode {mode!r}")
    return target


@op("scatter")
def scatter(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Any = 0,
    mode: str = "add",
    validate_indices: Any = False,
) -> Array:
    """``data`` with slices along ``axis`` updated."""
    along = int(axis) % data.ndim
    _validate(indices, data.shape[along], validate_indices)
    flat = updates.reshape(*updates.shape[:along], -1, *updates.shape[along + indices.ndim :])
    moved = np.moveaxis(data, along, 0), np.moveaxis(flat, along, 0)
    return np.moveaxis(_combined(moved[0], indices.reshape(-1), moved[1], mode), 0, along)


@op("scatter_along_axis")
def scatter_along_axis(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Any = 0,
    mode: str = "add",
    validate_indices: Any = False,
) -> Array:
    """``data`` with elements at ``indices`` along ``axis`` updated."""
    _validate(indices, data.shape[int(axis)], validate_indices)
    where: list[Any] = list(np.ogrid[tuple(slice(0, n) for n in indices.shape)])
    where[int(axis)] = indices
    return _combined(data, tuple(where), updates, mode)


@op("scatter_nd")
def scatter_nd(
    data: Array, indices: Array, updates: Array, mode: str = "add", validate_indices: Any = False
) -> Array:
    """``data`` with slices at the index vectors along the last axis of ``indices`` updated."""
    _validate(indices, data.shape[: indices.shape[-1]], validate_indices)
    return _combined(data, tuple(np.moveaxis(indices, -1, 0)), updates, mode)
