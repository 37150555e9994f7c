"""Recurrent layers over [Seq, Batch, C, 1, 1]; inputs x and states, outputs y and states.

The clip of the gates' arguments to -50..50, which no activation but ReLU and linear would notice, is left
out. Quantized weights are decoded: MIL holds the gates of a layer in one matrix.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.neuralnetwork.reader.layers.convolution import optional
from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb

Array = NDArray[Any]
_ACTIVATIONS = {
    "linear": "linear",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "ReLU": "relu",
    "scaledTanh": "scaled_tanh",
    "sigmoidHard": "hard_sigmoid",
}
_SETTINGS = {"scaledTanh": (1.0, 1.0), "sigmoidHard": (0.2, 0.5), "linear": (1.0, 0.0)}


@layer("simpleRecurrent")
def simple_recurrent(layer: Layer) -> Sequence[Value]:
    """h = f(W x + R h + b)."""
    params = layer.params
    size, out = int(params.inputVectorSize), int(params.outputVectorSize)
    y, h = mb.rnn(
        x=_steps(layer, size),
        initial_h=_state(layer, 1, out),
        weight_ih=layer.constant(params.weightMatrix, (out, size)),
        weight_hh=layer.constant(params.recursionMatrix, (out, out)),
        direction=_direction(params),
        output_sequence=bool(params.sequenceOutput),
        activation=_activation(params.activation).replace("hard_sigmoid", "sigmoid_hard"),  # rnn's own word
        name=layer.name,
        **optional("bias", layer.bias(params.hasBiasVector, params.biasVector, out)),
    )
    return _results(y, h)


@layer("gru")
def gru(layer: Layer) -> Sequence[Value]:
    """Gated recurrent unit; MIL orders the gates reset, output, update."""
    params = layer.params
    size, out = int(params.inputVectorSize), int(params.outputVectorSize)
    gates = ("reset", "output", "update")

    def joined(kind: str, shape: tuple[int, ...]) -> Array:
        return np.concatenate([layer.constant(getattr(params, f"{g}Gate{kind}"), shape) for g in gates])

    y, h = mb.gru(
        x=_steps(layer, size),
        initial_h=_state(layer, 1, out),
        weight_ih=joined("WeightMatrix", (out, size)),
        weight_hh=joined("RecursionMatrix", (out, out)),
        direction=_direction(params),
        output_sequence=bool(params.sequenceOutput),
        recurrent_activation=_activation(params.activations[0]),
        activation=_activation(params.activations[1]),
        name=layer.name,
        **optional("bias", joined("BiasVector", (out,)) if params.hasBiasVectors else None),
    )
    return _results(y, h)


@layer("uniDirectionalLSTM")
def lstm(layer: Layer) -> Sequence[Value]:
    """LSTM in one direction."""
    params = layer.params
    out = int(params.outputVectorSize)
    y, h, c = mb.lstm(
        x=_steps(layer, int(params.inputVectorSize)),
        initial_h=_state(layer, 1, out),
        initial_c=_state(layer, 2, out),
        direction=_direction(params),
        name=layer.name,
        **_weights(layer, params.weightParams, params.activations),
        **_settings(params.params, params.activations),
    )
    return _results(y, h, c)


@layer("biDirectionalLSTM")
def bidirectional_lstm(layer: Layer) -> Sequence[Value]:
    """LSTM in both directions; the outputs of both are joined along the channels."""
    params = layer.params
    out = int(params.outputVectorSize)
    forward, backward = params.weightParams
    activations = params.activationsForwardLSTM
    if [_activation(a) for a in params.activationsBackwardLSTM] != [_activation(a) for a in activations]:
        raise LayerError("has other activations backward than forward")
    states = [
        mb.concat(values=[_state(layer, first, out), _state(layer, first + 2, out)], axis=1)
        for first in (1, 2)
    ]
    back = _weights(layer, backward, activations)
    y, h, c = mb.lstm(
        x=_steps(layer, int(params.inputVectorSize)),
        initial_h=states[0],
        initial_c=states[1],
        direction="bidirectional",
        name=layer.name,
        **_weights(layer, forward, activations),
        **{f"{name}_back": value for name, value in back.items()},
        **_settings(params.params, activations),
    )
    halves = [mb.split(x=state, num_splits=2, axis=1) for state in (h, c)]
    return _results(y, halves[0][0], halves[1][0], halves[0][1], halves[1][1])


def _weights(layer: Layer, weights: Any, activations: Any) -> dict[str, Any]:
    """The gates' matrices, biases and peepholes, in MIL's order: input, forget, output, block input."""
    params, shared = layer.params, layer.params.params
    size, out = int(params.inputVectorSize), int(params.outputVectorSize)
    coupled = bool(shared.coupledInputAndForgetGate)
    if coupled and _activation(activations[0]) not in ("sigmoid", "hard_sigmoid"):
        raise LayerError("couples input and forget gate with an activation other than sigmoid")

    def joined(kind: str, shape: tuple[int, ...], gates: Sequence[str]) -> Array:
        parts = {g: layer.constant(getattr(weights, f"{g}{kind}"), shape) for g in gates if g != "forgetGate"}
        if coupled:  # 1 - sigmoid(a) = sigmoid(-a), of the hard sigmoid too
            parts["forgetGate"] = -parts["inputGate"]
        else:
            parts["forgetGate"] = layer.constant(getattr(weights, f"forgetGate{kind}"), shape)
        return np.concatenate([parts[gate] for gate in gates])

    gates = ("inputGate", "forgetGate", "outputGate", "blockInput")
    arrays: dict[str, Any] = {
        "weight_ih": joined("WeightMatrix", (out, size), gates),
        "weight_hh": joined("RecursionMatrix", (out, out), gates),
    }
    bias = joined("BiasVector", (out,), gates) if shared.hasBiasVectors else np.zeros(4 * out, np.float32)
    if shared.forgetBias and not coupled:
        bias[out : 2 * out] += 1
    if bias.any() or shared.hasBiasVectors:
        arrays["bias"] = bias
    if shared.hasPeepholeVectors:
        arrays["peephole"] = joined("PeepholeVector", (out,), gates[:3])
    return arrays


def _settings(shared: Any, activations: Any) -> dict[str, Any]:
    return {
        "output_sequence": bool(shared.sequenceOutput),
        "recurrent_activation": _activation(activations[0]),
        "cell_activation": _activation(activations[1]),
        "activation": _activation(activations[2]),
        "clip": np.float32(shared.cellClipThreshold or 50.0),
    }


def _activation(params: Any) -> str:
    """MIL's name; its recurrent ops take no parameters but the defaults."""
    kind = params.WhichOneof("NonlinearityType")
    if kind not in _ACTIVATIONS:
        raise LayerError(f"the activation {kind or 'none'} is not one of recurrent layers")
    activation = getattr(params, kind)
    stated = (activation.alpha, activation.beta) if kind in _SETTINGS else (0, 0)  # (0, 0): nothing stated
    if any(stated) and not np.allclose(stated, _SETTINGS[kind], atol=1e-2):
        raise LayerError(f"the activation {kind} has parameters other than {_SETTINGS[kind]}")
    return _ACTIVATIONS[kind]


def _direction(params: Any) -> str:
    return "reverse" if params.reverseInput else "forward"


def _steps(layer: Layer, size: int) -> Any:
    """The input as [Seq, Batch, size]."""
    value = layer.value
    if value.rank != 5 or value.shape[2:] != (size, 1, 1):
        raise LayerError(f"takes [Seq, Batch, {size}, 1, 1], and gets {value.shape}")
    return value.laid((*value.shape[:2], size))


def _state(layer: Layer, position: int, size: int) -> Any:
    """The input ``position`` as [Batch, size], or zeros."""
    batch = layer.value.shape[1]
    if len(layer.inputs) > position:
        return layer.inputs[position].laid((batch, size))
    return np.zeros((batch, size), np.float32)


def _results(y: Any, *states: Any) -> list[Value]:
    """[Seq, Batch, C] and states [Batch, C] as tensors of rank 5."""
    return [Value(y, (*y.shape, 1, 1)), *(Value(s, (1, *s.shape, 1, 1)) for s in states)]
