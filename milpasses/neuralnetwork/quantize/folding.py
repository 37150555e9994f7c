"""Layers that only scale and shift the output of the layer before become part of it, before quantization.

    convolution -> batchnorm | scale | bias      =>  convolution
    innerProduct -> scale | bias                 =>  innerProduct
    batchnorm -> scale | bias                    =>  batchnorm

As coremltools' quantization does, so that the file keeps no parameters that the weights can take up.
Does not fire where the first layer's output is read by anybody else or is an output of the model; for batch
normalization over the instance; for scales and biases that are not one value or one a channel; where a layer
is updatable; or where ``readable`` refuses one of the weights (quantized already).
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.neuralnetwork.spec import weight_params
from milpasses.neuralnetwork.spec.layer_weights import LayerWeight, layer_weights
from milpasses.neuralnetwork.spec.networks import Scope, nested_networks

Array = NDArray[Any]
_INTO = {
    "convolution": ("batchnorm", "scale", "bias"),
    "innerProduct": ("scale", "bias"),
    "batchnorm": ("scale", "bias"),
}


def fold(scope: Scope, readable: Callable[[LayerWeight], bool]) -> list[tuple[str, str]]:
    """Fold the layers of a network, in place; those inside loops and branches stay as they are.

    Returns the names (first, folded into it), in the order of the network.
    """
    layers = scope.network.layers
    done: list[tuple[str, str]] = []
    index = 0
    while index < len(layers):
        follower = _follower(layers, index, scope.outputs)
        if follower is not None and _absorb(layers[index], layers[follower], readable):
            done.append((scope.path + layers[index].name, scope.path + layers[follower].name))
            layers[index].output[:] = layers[follower].output
            if len(layers[follower].outputTensor):
                del layers[index].outputTensor[:]
                layers[index].outputTensor.extend(layers[follower].outputTensor)
            del layers[follower]
            continue  # the same layer may take up the next, too
        index += 1
    return done


def _follower(layers: Any, index: int, kept: frozenset[str]) -> int | None:
    """The one layer that reads the one output of ``layers[index]``, if it may be folded at all."""
    first = layers[index]
    kinds = _INTO.get(first.WhichOneof("layer"), ())
    if not kinds or len(first.output) != 1 or len(first.input) != 1 or first.isUpdatable:
        return None
    (name,) = first.output
    readers = [position for position, layer in enumerate(layers) if name in layer.input]
    if len(readers) != 1 or readers[0] <= index:
        return None
    second = layers[readers[0]]
    if second.WhichOneof("layer") not in kinds or len(second.input) != 1 or len(second.output) != 1:
        return None
    makers = Counter(output for layer in layers for output in layer.output)
    inside = {blob for layer in layers for _, inner in nested_networks(layer) for blob in _blobs(inner)}
    alone = name not in kept and name not in inside and makers[name] == 1
    return readers[0] if alone and makers[second.output[0]] == 1 and not second.isUpdatable else None


def _blobs(network: Any) -> set[str]:
    """Every blob that a network, or one nested in it, reads or makes."""
    names: set[str] = set()
    for layer in network.layers:
        names.update(layer.input, layer.output)
        for _, inner in nested_networks(layer):
            names |= _blobs(inner)
    return names


def _absorb(first: Any, second: Any, readable: Callable[[LayerWeight], bool]) -> bool:
    """Make ``first`` compute what both compute; return False, with nothing changed, where it cannot."""
    involved = {weight.field: weight for weight in layer_weights(first)}
    others = {weight.field: weight for weight in layer_weights(second)}
    if any(not _usable(weight, readable) for weight in (*involved.values(), *others.values())):
        return False
    kind = first.WhichOneof("layer")
    channels = first.batchnorm.channels if kind == "batchnorm" else getattr(first, kind).outputChannels
    affine = _affine(second, others, channels, vector=kind == "innerProduct")
    if affine is None or (kind == "batchnorm" and first.batchnorm.instanceNormalization):
        return False
    scale, shift = affine
    if kind == "batchnorm":
        for field, weight in involved.items():  # all of them: the format does not mix float16 and float32
            values = _decoded(weight)
            if field == "gamma":
                values = values * scale
            elif field == "beta":
                values = values * scale + shift
            weight_params.write_dense(weight.params, values.astype(np.float32))
        return True
    part = getattr(first, kind)
    weights = involved["weights"]
    bias = _decoded(involved["bias"]) if part.hasBias else np.zeros(channels)
    shape = [1] * len(weights.shape)
    if weights.groups == 1:
        shape[weights.axis] = channels
        per_weight = scale.reshape(shape)
    else:  # a deconvolution's inputs are laid out group after group, each with that group's outputs
        each = weights.shape[0] // weights.groups
        per_weight = np.repeat(scale.reshape(weights.groups, -1), each, axis=0)[:, :, None, None]
    weight_params.write_dense(weights.params, (_decoded(weights) * per_weight).astype(np.float32))
    part.hasBias = True
    weight_params.write_dense(part.bias, (bias * scale + shift).astype(np.float32))
    return True


def _usable(weight: LayerWeight, readable: Callable[[LayerWeight], bool]) -> bool:
    if weight_params.form(weight.params) == "empty" or not readable(weight):
        return False
    stored = weight_params.count(weight.params)
    return stored is None or stored == weight.size


def _decoded(weight: LayerWeight) -> Array:
    return weight_params.decode(weight.params, weight.shape, weight.axis).astype(np.float64)


def _affine(
    layer: Any, weights: dict[str, LayerWeight], channels: int, vector: bool
) -> tuple[Array, Array] | None:
    """What ``layer`` does to each channel: (scale, shift), or None where it does not treat channels alike."""
    kind = layer.WhichOneof("layer")
    if kind == "batchnorm":
        part = layer.batchnorm
        if part.instanceNormalization or part.computeMeanVar or part.channels != channels:
            return None
        gamma, beta, mean, variance = (
            _decoded(weights[name]) for name in ("gamma", "beta", "mean", "variance")
        )
        scale = gamma / np.sqrt(variance + (part.epsilon or 1e-5))
        return scale, beta - mean * scale
    if kind == "scale":
        scale = _channelwise(weights["scale"], layer.scale.shapeScale, channels, vector)
        shift = np.zeros(channels)
        if layer.scale.hasBias:
            shift = _channelwise(weights["bias"], layer.scale.shapeBias, channels, vector)
    else:
        scale = np.ones(channels)
        shift = _channelwise(weights["bias"], layer.bias.shape, channels, vector)
    return None if scale is None or shift is None else (scale, shift)


def _channelwise(weight: LayerWeight, shape: Any, channels: int, vector: bool) -> Array | None:
    """One value for each channel from a parameter of shape [1], [C] or [C, 1, 1], None for others.

    An inner product's output may be laid out as a vector ([C]) or as channels ([C, 1, 1]); both are meant.
    """
    values = _decoded(weight).reshape(-1)
    if values.size == 1:
        return np.full(channels, values[0])
    plain = tuple(shape) in ((channels,), (channels, 1, 1), (1, channels, 1, 1))
    return values if plain and values.size == channels and math.prod(shape) == channels else None
