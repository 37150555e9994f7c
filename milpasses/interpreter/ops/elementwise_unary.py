"""Elementwise ops of one input."""

from collections.abc import Callable
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import types

from milpasses import _coremltools as host
from milpasses.interpreter.registry import Array, Context, op

_UFUNCS: dict[str, Callable[..., Array]] = {
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "cos": np.cos,
    "cosh": np.cosh,
    "exp": np.exp,
    "exp2": np.exp2,
    "logical_not": np.logical_not,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}
# Results of these are representable wherever their inputs are. ``round`` takes ties to even.
_EXACT: dict[str, Callable[..., Array]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "round": np.rint,
    "sign": np.sign,
}


def _register(name: str, ufunc: Callable[..., Array], moves: bool) -> None:
    @op(name, moves=moves)
    def run(x: Array) -> Array:  # pyright: ignore[reportUnusedFunction]
        return ufunc(x)


for _name, _ufunc in _UFUNCS.items():
    _register(_name, _ufunc, False)
for _name, _ufunc in _EXACT.items():
    _register(_name, _ufunc, True)


@op("erf")
def erf(ctx: Context, x: Array) -> Array:
    """Gauss error function."""
    return ctx.backend.erf(x)


@op("clip")
def clip(x: Array, alpha: Array, beta: Array) -> Array:
    """min(max(x, alpha), beta)."""
    return np.minimum(np.maximum(x, alpha), beta)


@op("threshold")
def threshold(x: Array, alpha: Array) -> Array:
    """max(x, alpha)."""
    return np.maximum(x, alpha)


@op("inverse")
def inverse(x: Array, epsilon: Any = 1e-4) -> Array:
    """1 / (x + epsilon)."""
    return np.reciprocal(x + np.float32(epsilon))


@op("log")
def log(x: Array, epsilon: Any = 1e-45) -> Array:
    """log(x + epsilon)."""
    return np.log(x + np.float32(epsilon))


@op("rsqrt")
def rsqrt(x: Array, epsilon: Any = 1e-12) -> Array:
    """1 / sqrt(x + epsilon)."""
    return 1 / np.sqrt(x + np.float32(epsilon))


@op("cast")
def cast(x: Array, dtype: str) -> Array:
    """Convert: floats to integers towards zero, keeping to the range; any non-zero to true."""
    target: Any = np.dtype(host.numpy_type_of(types.string_to_builtin(dtype)))
    if x.dtype.kind == "f" and target.kind in "iu":
        info = np.iinfo(target)
        return np.nan_to_num(np.clip(np.trunc(x.astype(np.float64)), info.min, info.max)).astype(target)
    if target.kind == "f":
        return x.astype(np.float32)
    return x.astype(target)
