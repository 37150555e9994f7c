"""Elementwise layers of the N-dimensional generation: functions, comparisons, logic, broadcast arithmetic."""

from collections.abc import Callable
from typing import Any

import numpy as np

from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.program.builder import mb

F = np.float32

_UNARY = {
    "ceil": mb.ceil,
    "floor": mb.floor,
    "sign": mb.sign,
    "round": mb.round,
    "exp2": mb.exp2,
    "sin": mb.sin,
    "cos": mb.cos,
    "tan": mb.tan,
    "asin": mb.asin,
    "acos": mb.acos,
    "atan": mb.atan,
    "sinh": mb.sinh,
    "cosh": mb.cosh,
    "tanh": mb.tanh,
    "atanh": mb.atanh,
    "erf": mb.erf,
}


@layer(*_UNARY)
def function(layer: Layer) -> Value:
    """A function of each element."""
    value = layer.value
    return value.same(_UNARY[layer.kind](x=_any_shape(value), name=layer.name))


@layer("asinh", "acosh")
def area_function(layer: Layer) -> Value:
    """log(x + sqrt(x^2 + 1)) of |x| with the sign of x, or log(x + sqrt(x^2 - 1)): MIL has neither."""
    value, sign = layer.value, 1.0 if layer.kind == "asinh" else -1.0
    signed = _any_shape(value)
    x = mb.abs(x=signed) if sign > 0 else signed  # for negative x the sum would cancel
    root = mb.sqrt(x=mb.add(x=mb.mul(x=x, y=x), y=F(sign)))
    y = mb.log(x=mb.add(x=x, y=root), epsilon=F(0))
    return value.same(mb.mul(x=y, y=mb.sign(x=signed), name=layer.name) if sign > 0 else y)


@layer("gelu")
def gelu(layer: Layer) -> Value:
    """Exact, or approximated by a hyperbolic tangent or a sigmoid."""
    mode = ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")[layer.params.mode]
    return layer.value.same(mb.gelu(x=_any_shape(layer.value), mode=mode, name=layer.name))


@layer("clip")
def clip(layer: Layer) -> Value:
    """Between two numbers."""
    low, high = F(layer.params.minVal), F(layer.params.maxVal)
    return layer.value.same(mb.clip(x=_any_shape(layer.value), alpha=low, beta=high, name=layer.name))


@layer("clampedReLU")
def clamped_relu(layer: Layer) -> Value:
    """min(x, beta), x times alpha below zero."""
    alpha, beta = F(layer.params.alpha), F(layer.params.beta)
    return layer.value.same(
        mb.clamped_relu(x=_any_shape(layer.value), alpha=alpha, beta=beta, name=layer.name)
    )


_COMPARISONS: dict[str, Any] = {
    "equal": mb.equal,
    "notEqual": mb.not_equal,
    "lessThan": mb.less,
    "lessEqual": mb.less_equal,
    "greaterThan": mb.greater,
    "greaterEqual": mb.greater_equal,
}


@layer(*_COMPARISONS)
def comparison(layer: Layer) -> Value:
    """Of two inputs, or of one and a number; 1 where true."""
    first = layer.value
    other = layer.inputs[1].exact() if len(layer.inputs) > 1 else F(layer.params.alpha)
    return Value.of(_COMPARISONS[layer.kind](x=first.exact(), y=other, name=layer.name))


@layer("logicalNot")
def logical_not(layer: Layer) -> Value:
    """1 where the input is 0."""
    return Value.of(mb.logical_not(x=layer.value.bools(), name=layer.name))


# What computes the result, and how it takes its two inputs.
_BINARY: dict[str, tuple[Any, Callable[[Value], Any]]] = {
    "logicalOr": (mb.logical_or, Value.bools),
    "logicalXor": (mb.logical_xor, Value.bools),
    "logicalAnd": (mb.logical_and, Value.bools),
    "modBroadcastable": (mb.mod, Value.exact),
    "addBroadcastable": (mb.add, Value.exact),
    "powBroadcastable": (mb.pow, Value.exact),
    "divideBroadcastable": (mb.real_div, Value.exact),
    "floorDivBroadcastable": (mb.floor_div, Value.exact),
    "multiplyBroadcastable": (mb.mul, Value.exact),
    "subtractBroadcastable": (mb.sub, Value.exact),
}


@layer(*_BINARY)
def binary(layer: Layer) -> Value:
    """Arithmetic of two inputs, or logic of what is not 0 in them (1 where true); they broadcast."""
    op, taken = _BINARY[layer.kind]
    first, second = layer.exactly(2)
    return Value.of(op(x=taken(first), y=taken(second), name=layer.name))


@layer("minBroadcastable", "maxBroadcastable")
def extreme(layer: Layer) -> Value:
    """The smallest or largest of two inputs or more, which broadcast."""
    op = mb.minimum if layer.kind == "minBroadcastable" else mb.maximum
    result = layer.value.exact()
    for count, other in enumerate(layer.inputs[1:], 2):
        last = {"name": layer.name} if count == len(layer.inputs) else {}
        result = op(x=result, y=other.exact(), **last)
    return Value.of(result)


@layer("whereBroadcastable")
def where(layer: Layer) -> Value:
    """The second input where the first is not 0, else the third; they broadcast."""
    chosen, first, second = layer.exactly(3)
    return Value.of(mb.select(cond=chosen.bools(), a=first.exact(), b=second.exact(), name=layer.name))


def _any_shape(value: Value) -> Any:
    """The float32 variable in the shape that it has: elementwise ops do not care."""
    return value.laid(value.variable.shape)
