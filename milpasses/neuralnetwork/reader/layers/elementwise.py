"""Elementwise layers of the first generations: functions, sums and products, scales and biases."""

from collections.abc import Callable
from typing import Any

import numpy as np

from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value, aligned
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb

F = np.float32


@layer("unary")
def unary(layer: Layer) -> Value:
    """A function of scale * x + shift."""
    value, params = layer.value, layer.params
    x = value.laid(value.variable.shape)
    if params.scale not in (0.0, 1.0):  # 0: not set
        x = mb.mul(x=x, y=F(params.scale))
    if params.shift:
        x = mb.add(x=x, y=F(params.shift))
    epsilon, alpha = layer.number(params.epsilon, 1e-6), F(params.alpha)
    names = {"name": layer.name}
    functions: dict[int, Callable[[], Any]] = {
        0: lambda: mb.sqrt(x=x, **names),
        1: lambda: mb.rsqrt(x=x, epsilon=epsilon, **names),
        2: lambda: mb.inverse(x=x, epsilon=epsilon, **names),
        3: lambda: mb.pow(x=x, y=alpha, **names),
        4: lambda: mb.exp(x=x, **names),
        5: lambda: mb.log(x=x, epsilon=epsilon, **names),
        6: lambda: mb.abs(x=x, **names),
        7: lambda: mb.maximum(x=x, y=alpha, **names),
    }
    if params.type not in functions:
        raise LayerError(f"has no function number {params.type}")
    return value.same(functions[params.type]())


@layer("add", "multiply")
def add_or_multiply(layer: Layer) -> Value:
    """The sum or product of all inputs, or of one and a number."""
    op = mb.add if layer.kind == "add" else mb.mul
    if len(layer.inputs) == 1:
        value = layer.value
        x = value.laid(value.variable.shape)
        return value.same(op(x=x, y=F(layer.params.alpha), name=layer.name))
    return _folded(layer, op, layer.name)


@layer("average")
def average(layer: Layer) -> Value:
    """The mean of all inputs."""
    total = _folded(layer, mb.add, f"{layer.name}_sum")
    return total.same(mb.mul(x=total.variable, y=F(1 / len(layer.inputs)), name=layer.name))


@layer("max", "min")
def extreme(layer: Layer) -> Value:
    """The largest or smallest of all inputs."""
    return _folded(layer, mb.maximum if layer.kind == "max" else mb.minimum, layer.name)


def _folded(layer: Layer, op: Any, name: str) -> Value:
    """``op`` over all inputs from left to right, broadcast."""
    variables, rank = aligned(layer.inputs)
    result = variables[0]
    for count, other in enumerate(variables[1:], 2):
        last = {"name": name} if count == len(variables) else {}
        result = op(x=result, y=other, **last)
    return Value(result, (1,) * (rank - len(result.shape)) + tuple(result.shape))


@layer("dot")
def dot(layer: Layer) -> Value:
    """The products of two vectors [.., C, 1, 1] summed over the channels; of unit vectors for the cosine."""
    first, second = (value.batched() for value in layer.inputs)
    product = mb.reduce_sum(x=mb.mul(x=first, y=second), axes=[1], keep_dims=True)
    if layer.params.cosineSimilarity:
        lengths = [mb.reduce_l2_norm(x=x, axes=[1], keep_dims=True) for x in (first, second)]
        product = mb.real_div(x=product, y=mb.mul(x=lengths[0], y=lengths[1]), name=layer.name)
    return layer.value.rebatched(product)


@layer("scale")
def scale(layer: Layer) -> Value:
    """x * scale + bias, both of [1], [C], [1, H, W] or [C, H, W]."""
    value, params = layer.value, layer.params
    weight = layer.weight(params.scale, spread(params.shapeScale), "scale")
    y = mb.mul(x=value.batched(), y=weight, name=layer.name)
    if params.hasBias:
        y = mb.add(x=y, y=layer.weight(params.bias, spread(params.shapeBias), "bias"))
    return value.rebatched(y)


@layer("bias")
def bias(layer: Layer) -> Value:
    """x + bias of [1], [C], [1, H, W] or [C, H, W]."""
    value, params = layer.value, layer.params
    weight = layer.weight(params.bias, spread(params.shape), "bias")
    return value.rebatched(mb.add(x=value.batched(), y=weight, name=layer.name))


def spread(shape: Any) -> tuple[int, ...]:
    """The shape of a scale or bias against [batch, C, H, W]."""
    sizes = tuple(int(size) for size in shape)
    if len(sizes) == 1:
        return (1, sizes[0], 1, 1)
    if len(sizes) == 3:
        return (1, *sizes)
    raise LayerError(f"a scale or bias has 1 or 3 dimensions, and this has shape {sizes}")
