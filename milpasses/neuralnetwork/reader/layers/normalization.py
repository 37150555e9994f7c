"""Normalization: batch, instance, mean and variance, L2, across channels; softmax."""

from typing import Any

import numpy as np

from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.program.builder import mb


@layer("batchnorm")
def batchnorm(layer: Layer) -> Value:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta for each channel, stored or computed."""
    value, params = layer.value, layer.params
    x, size = value.batched(), int(params.channels)
    epsilon = layer.number(params.epsilon, 1e-5)
    gamma, beta = layer.constant(params.gamma, (size,)), layer.constant(params.beta, (size,))
    if not params.computeMeanVar:
        mean, variance = layer.constant(params.mean, (size,)), layer.constant(params.variance, (size,))
        y = mb.batch_norm(
            x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=epsilon, name=layer.name
        )
    elif params.instanceNormalization or x.shape[0] == 1:
        y = mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=epsilon, name=layer.name)
    else:  # over the whole batch
        y = _normalized(x, [0, 2, 3], epsilon)
        y = mb.mul(x=y, y=gamma.reshape(1, -1, 1, 1))
        y = mb.add(x=y, y=beta.reshape(1, -1, 1, 1), name=layer.name)
    return value.rebatched(y)


def _normalized(x: Any, axes: list[int], epsilon: np.float32) -> Any:
    centred = mb.sub(x=x, y=mb.reduce_mean(x=x, axes=axes, keep_dims=True))
    variance = mb.reduce_mean(x=mb.square(x=centred), axes=axes, keep_dims=True)
    return mb.mul(x=centred, y=mb.rsqrt(x=variance, epsilon=epsilon))


@layer("mvn")
def mean_variance(layer: Layer) -> Value:
    """(x - mean) / sqrt(variance + epsilon) of each channel, or of all together."""
    value, params = layer.value, layer.params
    x = value.batched()
    axes = [1, 2, 3] if params.acrossChannels else [2, 3]
    if not params.normalizeVariance:
        return value.rebatched(mb.sub(x=x, y=mb.reduce_mean(x=x, axes=axes, keep_dims=True), name=layer.name))
    epsilon = layer.number(params.epsilon, 1e-6)
    return value.rebatched(mb.layer_norm(x=x, axes=axes, epsilon=epsilon, name=layer.name))


@layer("l2normalize")
def l2_normalize(layer: Layer) -> Value:
    """x / sqrt(sum of squares over channel, height and width + epsilon)."""
    value = layer.value
    epsilon = layer.number(layer.params.epsilon, 1e-6)
    return value.rebatched(mb.l2_norm(x=value.batched(), epsilon=epsilon, name=layer.name))


@layer("lrn")
def local_response(layer: Layer) -> Value:
    """x / (k + alpha / size * sum of squares over neighbouring channels) ^ beta."""
    value, params = layer.value, layer.params
    y = mb.local_response_norm(
        x=value.batched(),
        size=int(params.localSize),
        alpha=np.float32(params.alpha),
        beta=np.float32(params.beta),
        k=layer.number(params.k, 1.0),
        name=layer.name,
    )
    return value.rebatched(y)


@layer("softmax")
def softmax(layer: Layer) -> Value:
    """Softmax over the channels."""
    value = layer.value
    return value.rebatched(mb.softmax(x=value.batched(), axis=1, name=layer.name))
