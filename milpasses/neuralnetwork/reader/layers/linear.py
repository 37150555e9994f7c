"""Matrix products: inner product, embedding, batched matrix product."""

import math
from typing import Any

import numpy as np
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from milpasses.neuralnetwork.reader.layers.convolution import optional
from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Shape, Value
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb


@layer("innerProduct")
def inner_product(layer: Layer) -> Value:
    """W x + b over the last dimension, or over the last three from rank 4 on."""
    value, params = layer.value, layer.params
    size, out = int(params.inputChannels), int(params.outputChannels)
    lead = value.lead if value.rank > 3 else value.shape[:-1]
    if math.prod(value.shape[-3:] if value.rank > 3 else value.shape[-1:]) != size:
        raise LayerError(f"takes {size} values and gets {value.shape}")
    weight = layer.weight(params.weights, (out, size))
    bias = layer.bias(params.hasBias, params.bias, out)
    x = _rows(value, lead, size)
    y = mb.linear(x=x, weight=weight, name=layer.name, **optional("bias", bias))
    return Value(y, (*lead, out, 1, 1) if value.rank > 3 else (*lead, out))


@layer("embedding")
def embedding(layer: Layer) -> Value:
    """A column of the weights for each index [.., 1, 1, 1]."""
    value, params = layer.value, layer.params
    if value.rank < 4:
        raise LayerError(f"takes indices [.., 1, 1, 1], and gets shape {value.shape}")
    y = looked_up(layer, Value(value.variable, (math.prod(value.shape),)), int(params.inputDim))
    return Value(y, (*value.lead, int(params.outputChannels), 1, 1))


def looked_up(layer: Layer, indices: Value, vocabulary: int) -> Any:
    """[.., size]: the columns of the layer's weights [size, vocabulary] at ``indices`` [..], plus bias.

    A dense weight is stored transposed, as MIL's ``gather`` reads rows fastest; codes stay as they are.
    """
    params = layer.params
    size = int(getattr(params, "outputChannels", 0) or getattr(params, "embeddingSize", 0))
    weight = layer.weight(params.weights, (size, vocabulary))
    bias = layer.bias(params.hasBias, params.bias, size)
    if isinstance(weight, np.ndarray):
        rows = mb.gather(
            x=np.ascontiguousarray(weight.T), indices=indices.ints(), axis=0, name=f"{layer.name}_rows"
        )
    else:
        columns = mb.gather(x=weight, indices=indices.ints(), axis=1)
        rows = mb.transpose(x=columns, perm=[*range(1, indices.rank + 1), 0])
    return rows if bias is None else mb.add(x=rows, y=bias, name=layer.name)


@layer("batchedMatmul")
def batched_matmul(layer: Layer) -> Value:
    """A product of the last two dimensions, the others broadcast; or with a matrix of weights."""
    if len(layer.inputs) == 1:
        return _with_weights(layer)
    a, b = layer.inputs
    left = a.laid((1, *a.shape)) if a.rank == 1 else a.exact()
    right = b.laid((*b.shape, 1)) if b.rank == 1 else b.exact()
    return Value.of(
        mb.matmul(
            x=left,
            y=right,
            transpose_x=bool(layer.params.transposeA),
            transpose_y=bool(layer.params.transposeB),
            name=layer.name,
        )
    )


def _with_weights(layer: Layer) -> Value:
    value, params = layer.value, layer.params
    size, out = int(params.weightMatrixFirstDimension), int(params.weightMatrixSecondDimension)
    # [X1, X2] in column-major order are the rows that MIL's linear takes.
    weight = layer.weight(params.weights, (out, size))
    bias = layer.bias(params.hasBias, params.bias, out)
    x = _rows(value, value.shape[:-1], size)
    y = mb.linear(x=x, weight=weight, name=layer.name, **optional("bias", bias))
    return Value(y, (*value.shape[:-1], out))


def _rows(value: Value, lead: Shape, size: int) -> Any:
    """What MIL's linear takes: [rows, size], or all of it where that would merge flexible dimensions."""
    if value.rank <= 3 and sum(map(is_symbolic, lead)) > 1:
        return value.exact()
    return value.laid((math.prod(lead), size))
