"""Reductions. Floats are summed pairwise in float32 by NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, op

Axes = tuple[int, ...] | None


def _log_sum_exp(x: Array, axis: Axes, keepdims: bool) -> Array:
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    total = np.log(np.exp(x - top).sum(axis=axis, keepdims=keepdims))
    return total + (top if keepdims else np.squeeze(top, axis=axis))


def _l2(x: Array, axis: Axes, keepdims: bool) -> Array:
    return np.sqrt(np.square(x).sum(axis=axis, keepdims=keepdims))


_REDUCTIONS: dict[str, Callable[[Array, Axes, bool], Array]] = {
    "reduce_l1_norm": lambda x, axis, keep: np.abs(x).sum(axis=axis, keepdims=keep),
    "reduce_l2_norm": _l2,
    "reduce_log_sum": lambda x, axis, keep: np.log(x.sum(axis=axis, keepdims=keep)),
    "reduce_log_sum_exp": _log_sum_exp,
    "reduce_mean": lambda x, axis, keep: x.mean(axis=axis, keepdims=keep),
    "reduce_prod": lambda x, axis, keep: x.prod(axis=axis, keepdims=keep),
    "reduce_sum": lambda x, axis, keep: x.sum(axis=axis, keepdims=keep),
    "reduce_sum_square": lambda x, axis, keep: np.square(x).sum(axis=axis, keepdims=keep),
}
_EXTREMES: dict[str, Callable[[Array, Axes, bool], Array]] = {
    "reduce_max": lambda x, axis, keep: x.max(axis=axis, keepdims=keep),
    "reduce_min": lambda x, axis, keep: x.min(axis=axis, keepdims=keep),
}


def _register(name: str, reduce: Callable[[Array, Axes, bool], Array], moves: bool) -> None:
    @op(name, moves=moves)
    def run(x: Array, axes: Array | None = None, keep_dims: Any = False) -> Array:  # pyright: ignore[reportUnusedFunction]
        axis = None if axes is None else tuple(int(a) for a in np.atleast_1d(axes))
        return reduce(x, axis, bool(keep_dims))


for _name, _reduce in _REDUCTIONS.items():
    _register(_name, _reduce, False)
for _name, _reduce in _EXTREMES.items():
    _register(_name, _reduce, True)


@op("reduce_argmax")
def reduce_argmax(x: Array, axis: Any = -1, keep_dims: Any = False, output_dtype: str = "int32") -> Array:
    """Index of the maximum, the first on ties."""
    return np.argmax(x, axis=int(axis), keepdims=bool(keep_dims))


@op("reduce_argmin")
def reduce_argmin(x: Array, axis: Any = -1, keep_dims: Any = False, output_dtype: str = "int32") -> Array:
    """Index of the minimum, the first on ties."""
    return np.argmin(x, axis=int(axis), keepdims=bool(keep_dims))
