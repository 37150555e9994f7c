"""Reductions, normalization and triangles of the N-dimensional generation."""

from typing import Any

import numpy as np
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from milpasses.neuralnetwork.reader.layers.tensor_nd_shape import lifted
from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb

_REDUCTIONS: dict[str, Any] = {
    "reduceL1": mb.reduce_l1_norm,
    "reduceL2": mb.reduce_l2_norm,
    "reduceMax": mb.reduce_max,
    "reduceMin": mb.reduce_min,
    "reduceSum": mb.reduce_sum,
    "reduceProd": mb.reduce_prod,
    "reduceMean": mb.reduce_mean,
    "reduceLogSum": mb.reduce_log_sum,
    "reduceSumSquare": mb.reduce_sum_square,
    "reduceLogSumExp": mb.reduce_log_sum_exp,
}


@layer(*_REDUCTIONS)
def reduce(layer: Layer) -> Value:
    """Over some axes, or all of them."""
    params = layer.params
    axes = None if params.reduceAll or not len(params.axes) else [int(axis) for axis in params.axes]
    keep = bool(params.keepDims)
    options = {} if axes is None else {"axes": axes}
    return lifted(_REDUCTIONS[layer.kind](x=layer.value.exact(), keep_dims=keep, name=layer.name, **options))


@layer("softmaxND")
def softmax_nd(layer: Layer) -> Value:
    """Softmax along an axis."""
    return Value.of(mb.softmax(x=layer.value.exact(), axis=layer.params.axis, name=layer.name))


@layer("layerNormalization")
def layer_normalization(layer: Layer) -> Value:
    """Zero mean and unit variance over the last axes, then gamma and beta."""
    params, value = layer.params, layer.value
    shape = tuple(int(size) for size in params.normalizedShape)
    y = mb.layer_norm(
        x=value.exact(),
        axes=[axis - len(shape) for axis in range(len(shape))],
        gamma=layer.constant(params.gamma, shape),
        beta=layer.constant(params.beta, shape),
        epsilon=layer.number(params.eps, 1e-5),
        name=layer.name,
    )
    return Value.of(y)


@layer("matrixBandPart")
def matrix_band_part(layer: Layer) -> Value:
    """The diagonals of a band; a negative number of them means all."""
    lower, upper = int(layer.params.numLower), int(layer.params.numUpper)
    return Value.of(mb.band_part(x=layer.value.exact(), lower=lower, upper=upper, name=layer.name))


@layer("lowerTriangular", "upperTriangular")
def triangular(layer: Layer) -> Value:
    """What is not above, or below, the k-th diagonal."""
    value, k, lower = layer.value, int(layer.params.k), layer.kind == "lowerTriangular"
    if lower and k >= 0:
        return Value.of(mb.band_part(x=value.exact(), lower=-1, upper=k, name=layer.name))
    if not lower and k <= 0:
        return Value.of(mb.band_part(x=value.exact(), lower=-k, upper=-1, name=layer.name))
    if any(is_symbolic(size) for size in value.shape[-2:]):
        raise LayerError(f"cuts at diagonal {k} of matrices whose size is known only when the network runs")
    mask = (np.tril if lower else np.triu)(np.ones(value.shape[-2:], bool), k)
    return Value.of(mb.select(cond=mask, a=value.exact(), b=np.float32(0), name=layer.name))
