"""Elementwise ops of two broadcast inputs."""

from collections.abc import Callable

import numpy as np

from milpasses.interpreter.registry import Array, op

_COMPUTED: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}


def _register(name: str, ufunc: Callable[..., Array], moves: bool) -> None:
    @op(name, moves=moves)
    def run(x: Array, y: Array) -> Array:  # pyright: ignore[reportUnusedFunction]
        return ufunc(x, y)


for _name, _ufunc in _COMPUTED.items():
    _register(_name, _ufunc, False)
_register("maximum", np.maximum, True)
_register("minimum", np.minimum, True)


@op("real_div")
def real_div(x: Array, y: Array) -> Array:
    """x / y; integers are divided exactly and truncated towards zero."""
    return np.true_divide(x, y)


@op("floor_div")
def floor_div(x: Array, y: Array) -> Array:
    """floor(x / y)."""
    return np.floor_divide(x, y)


@op("mod")
def mod(x: Array, y: Array) -> Array:
    """x - y * floor(x / y): the sign of the divisor."""
    return np.mod(x, y)


@op("pow")
def pow(x: Array, y: Array) -> Array:  # MIL's own name
    """x ** y; an integer to a negative power is truncated."""
    if x.dtype.kind in "iu":
        return np.power(x.astype(np.float64), y)
    return np.power(x, y)
