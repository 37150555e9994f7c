"""Every weight of a layer: where it stands in the specification, its shape, its axis of output channels.

The shapes are those of the format (``NeuralNetwork.proto``): convolution [out, in / groups, H, W],
deconvolution [in, out / groups, H, W], inner product and embedding [out, in], batched matmul [second, first],
recurrent matrices [out, in]; everything else is a vector.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import attrs

Role = Literal["weights", "bias", "vector"]

_GRU_GATES = ("updateGate", "resetGate", "outputGate")
_LSTM_GATES = ("inputGate", "forgetGate", "blockInput", "outputGate")
_PEEPHOLES = ("inputGate", "forgetGate", "outputGate")


@attrs.frozen(eq=False)
class LayerWeight:
    """One ``WeightParams`` of a layer.

    ``field`` is its name in the layer (``weights``, ``weightParams[0].inputGateBiasVector``), ``axis`` that
    of the output channels, ``groups`` those of a grouped deconvolution, whose ``axis`` holds one group's.
    """

    layer: Any
    field: str
    params: Any
    shape: tuple[int, ...]
    axis: int = 0
    groups: int = 1
    role: Role = "weights"

    @property
    def size(self) -> int:
        """Number of values that the layer declares."""
        return math.prod(self.shape)


def layer_weights(layer: Any) -> list[LayerWeight]:
    """The weights of one layer that the layer declares, in the specification's order; nested ones not."""
    kind = layer.WhichOneof("layer")
    find = _FINDERS.get(kind)
    return [] if find is None else list(find(layer, getattr(layer, kind)))


def _vector(layer: Any, field: str, params: Any, size: int, role: Role = "vector") -> LayerWeight:
    return LayerWeight(layer, field, params, (int(size),), role=role)


def _bias(layer: Any, part: Any, size: int) -> Iterator[LayerWeight]:
    if part.hasBias:
        yield _vector(layer, "bias", part.bias, size, "bias")


def _convolution(layer: Any, part: Any) -> Iterator[LayerWeight]:
    kernel = tuple(part.kernelSize[i] if len(part.kernelSize) > i else 3 for i in (0, 1))
    groups = max(part.nGroups, 1)
    if len(layer.input) == 1:  # otherwise the weights are its second input
        if part.isDeconvolution:
            shape = (part.kernelChannels, part.outputChannels // groups, *kernel)
            yield LayerWeight(layer, "weights", part.weights, shape, axis=1, groups=groups)
        else:
            yield LayerWeight(
                layer, "weights", part.weights, (part.outputChannels, part.kernelChannels, *kernel)
            )
    yield from _bias(layer, part, part.outputChannels)


def _convolution3d(layer: Any, part: Any) -> Iterator[LayerWeight]:
    kernel = (part.kernelDepth, part.kernelHeight, part.kernelWidth)
    groups = max(part.nGroups, 1)
    if part.isDeconvolution:
        shape = (part.inputChannels, part.outputChannels // groups, *kernel)
        yield LayerWeight(layer, "weights", part.weights, shape, axis=1, groups=groups)
    else:
        shape = (part.outputChannels, part.inputChannels // groups, *kernel)
        yield LayerWeight(layer, "weights", part.weights, shape)
    yield from _bias(layer, part, part.outputChannels)


def _matrix(rows: str, columns: str) -> Any:
    def find(layer: Any, part: Any) -> Iterator[LayerWeight]:
        shape = (getattr(part, rows), getattr(part, columns))
        yield LayerWeight(layer, "weights", part.weights, shape)
        yield from _bias(layer, part, shape[0])

    return find


def _vectors(size: str, *fields: str) -> Any:
    def find(layer: Any, part: Any) -> Iterator[LayerWeight]:
        for field in fields:
            yield _vector(layer, field, getattr(part, field), getattr(part, size))

    return find


def _shaped(field: str) -> Any:
    def find(layer: Any, part: Any) -> Iterator[LayerWeight]:
        yield _vector(layer, field, getattr(part, field), math.prod(part.shape))

    return find


def _scale(layer: Any, part: Any) -> Iterator[LayerWeight]:
    yield _vector(layer, "scale", part.scale, math.prod(part.shapeScale))
    if part.hasBias:
        yield _vector(layer, "bias", part.bias, math.prod(part.shapeBias))


def _norm(layer: Any, part: Any) -> Iterator[LayerWeight]:
    size = math.prod(part.normalizedShape)
    for field in ("gamma", "beta"):
        yield _vector(layer, field, getattr(part, field), size)


def _activation(layer: Any, part: Any) -> Iterator[LayerWeight]:
    kind = part.WhichOneof("NonlinearityType")
    fields = {"PReLU": ("alpha",), "parametricSoftplus": ("alpha", "beta")}
    for field in fields.get(kind, ()):
        params = getattr(getattr(part, kind), field)
        # Its length, the channels or 1, is declared nowhere but in the values.
        yield _vector(
            layer, f"{kind}.{field}", params, len(params.floatValue) or len(params.float16Value) // 2
        )


def _recurrent(
    layer: Any, holder: Any, prefix: str, part: Any, names: tuple[tuple[str, str, str, bool], ...]
) -> Iterator[LayerWeight]:
    """Weights of (input matrices, recursion matrices, vectors) named by field."""
    rows, columns = int(part.outputVectorSize), int(part.inputVectorSize)
    for name, _, _, _ in names:
        yield LayerWeight(layer, prefix + name, getattr(holder, name), (rows, columns))
    for _, name, _, _ in names:
        yield LayerWeight(layer, prefix + name, getattr(holder, name), (rows, rows))
    for _, _, name, has_bias in names:
        if has_bias:
            yield _vector(layer, prefix + name, getattr(holder, name), rows, "bias")


def _simple(layer: Any, part: Any) -> Iterator[LayerWeight]:
    names = (("weightMatrix", "recursionMatrix", "biasVector", part.hasBiasVector),)
    yield from _recurrent(layer, part, "", part, names)


def _gates(gates: tuple[str, ...], has_bias: bool) -> tuple[tuple[str, str, str, bool], ...]:
    return tuple((f"{g}WeightMatrix", f"{g}RecursionMatrix", f"{g}BiasVector", has_bias) for g in gates)


def _gru(layer: Any, part: Any) -> Iterator[LayerWeight]:
    yield from _recurrent(layer, part, "", part, _gates(_GRU_GATES, part.hasBiasVectors))


def _lstm(layer: Any, part: Any) -> Iterator[LayerWeight]:
    both = layer.WhichOneof("layer") == "biDirectionalLSTM"
    holders = list(part.weightParams) if both else [part.weightParams]
    for index, holder in enumerate(holders):
        prefix = f"weightParams[{index}]." if both else "weightParams."
        yield from _recurrent(layer, holder, prefix, part, _gates(_LSTM_GATES, part.params.hasBiasVectors))
        if part.params.hasPeepholeVectors:
            for gate in _PEEPHOLES:
                name = f"{gate}PeepholeVector"
                yield _vector(layer, prefix + name, getattr(holder, name), part.outputVectorSize)


_FINDERS: dict[str, Any] = {
    "convolution": _convolution,
    "convolution3d": _convolution3d,
    "innerProduct": _matrix("outputChannels", "inputChannels"),
    "batchedMatmul": _matrix("weightMatrixSecondDimension", "weightMatrixFirstDimension"),
    "embedding": _matrix("outputChannels", "inputDim"),
    "embeddingND": _matrix("embeddingSize", "vocabSize"),
    "batchnorm": _vectors("channels", "gamma", "beta", "mean", "variance"),
    "layerNormalization": _norm,
    "scale": _scale,
    "bias": _shaped("bias"),
    "loadConstant": _shaped("data"),
    "loadConstantND": _shaped("data"),
    "simpleRecurrent": _simple,
    "gru": _gru,
    "uniDirectionalLSTM": _lstm,
    "biDirectionalLSTM": _lstm,
    "activation": _activation,
}
