"""Activations, of the activation layer and inside recurrent layers."""

from typing import Any

import numpy as np

from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb

F = np.float32


@layer("activation")
def activation(layer: Layer) -> Value:
    """One of the thirteen nonlinearities, elementwise."""
    value, params = layer.value, layer.params
    kind = params.WhichOneof("NonlinearityType")
    if kind in ("PReLU", "parametricSoftplus"):
        return _parametric(layer, kind)
    return value.same(activated(params, value.laid(value.variable.shape), layer.name))


def activated(params: Any, x: Any, name: str) -> Any:
    """The nonlinearity that ``params`` (``ActivationParams``) chooses, applied to a float32 variable."""
    kind = params.WhichOneof("NonlinearityType")
    if kind not in _SIMPLE:
        raise LayerError(f"the nonlinearity {kind or 'none'} is not supported here")
    return _SIMPLE[kind](x, getattr(params, kind), name)


def _linear(x: Any, p: Any, name: str) -> Any:
    return mb.add(x=mb.mul(x=x, y=F(p.alpha)), y=F(p.beta), name=name)


_SIMPLE: dict[str, Any] = {
    "linear": _linear,
    "ReLU": lambda x, p, name: mb.relu(x=x, name=name),
    "leakyReLU": lambda x, p, name: mb.leaky_relu(x=x, alpha=F(p.alpha), name=name),
    "thresholdedReLU": lambda x, p, name: mb.thresholded_relu(x=x, alpha=F(p.alpha), name=name),
    "tanh": lambda x, p, name: mb.tanh(x=x, name=name),
    "scaledTanh": lambda x, p, name: mb.scaled_tanh(x=x, alpha=F(p.alpha), beta=F(p.beta), name=name),
    "sigmoid": lambda x, p, name: mb.sigmoid(x=x, name=name),
    "sigmoidHard": lambda x, p, name: mb.sigmoid_hard(x=x, alpha=F(p.alpha), beta=F(p.beta), name=name),
    "ELU": lambda x, p, name: mb.elu(x=x, alpha=F(p.alpha), name=name),
    "softsign": lambda x, p, name: mb.softsign(x=x, name=name),
    "softplus": lambda x, p, name: mb.softplus(x=x, name=name),
}


def _parametric(layer: Layer, kind: str) -> Value:
    value, params = layer.value, getattr(layer.params, kind)
    x = value.batched()
    size = int(x.shape[1])
    alpha = _per_channel(layer, params.alpha, size)
    if kind == "PReLU":
        return value.rebatched(mb.prelu(x=x, alpha=alpha, name=layer.name))
    beta = _per_channel(layer, params.beta, size)
    return value.rebatched(mb.softplus_parametric(x=x, alpha=alpha, beta=beta, name=layer.name))


def _per_channel(layer: Layer, params: Any, size: int) -> Any:
    """A parameter of length C or 1, for each channel."""
    from milpasses.neuralnetwork.spec.weight_params import count

    stored = count(params) or size
    return np.broadcast_to(layer.constant(params, (1 if stored == 1 else size,)), (size,)).copy()
