"""Legacy networks for the tests of quantization: every layer type that coremltools quantizes."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from coremltools import models
from coremltools.models.neural_network import quantization_utils
from coremltools.proto import Model_pb2, NeuralNetwork_pb2

from milpasses.neuralnetwork.spec.layer_weights import layer_weights
from milpasses.neuralnetwork.spec.weight_params import write_dense


def _conv(out: int, channels: int, kernel: int = 3, groups: int = 1, deconv: bool = False) -> Any:
    def make(layer: Any) -> None:
        part = layer.convolution
        part.outputChannels, part.kernelChannels, part.nGroups = out, channels, groups
        part.kernelSize.extend([kernel, kernel])
        part.isDeconvolution, part.hasBias = deconv, True
        part.valid.SetInParent()

    return make


def _fields(kind: str, **values: Any) -> Any:
    def make(layer: Any) -> None:
        part = getattr(layer, kind)
        for name, value in values.items():
            if isinstance(value, list):
                getattr(part, name).extend(value)
            else:
                setattr(part, name, value)

    return make


def _lstm(kind: str) -> Any:
    def make(layer: Any) -> None:
        part = getattr(layer, kind)
        part.inputVectorSize, part.outputVectorSize = 12, 9
        part.params.hasBiasVectors = part.params.hasPeepholeVectors = True
        if kind == "biDirectionalLSTM":
            part.weightParams.add()
            part.weightParams.add()

    return make


def _loop(layer: Any) -> None:
    inner = layer.loop.bodyNetwork.layers.add(name="inner", input=["x"], output=["y"])
    LAYERS["innerProduct"](inner)
    fill(inner, np.random.default_rng(5))


def _branch(layer: Any) -> None:
    for part in (layer.branch.ifBranch, layer.branch.elseBranch):
        inner = part.layers.add(name="inner", input=["x"], output=["y"])
        LAYERS["convolution"](inner)
        fill(inner, np.random.default_rng(6))


LAYERS: dict[str, Callable[[Any], None]] = {
    "convolution": _conv(16, 8),
    "pointwise": _conv(20, 24, 1),
    "depthwise": _conv(32, 1, 3, 32),
    "grouped": _conv(12, 4, 3, 3),
    "deconvolution": _conv(6, 10, 3, deconv=True),
    "innerProduct": _fields("innerProduct", outputChannels=17, inputChannels=33, hasBias=True),
    "oneOutput": _fields("innerProduct", outputChannels=1, inputChannels=400, hasBias=True),
    "batchedMatmul": _fields(
        "batchedMatmul", weightMatrixFirstDimension=21, weightMatrixSecondDimension=13, hasBias=True
    ),
    "embedding": _fields("embedding", outputChannels=8, inputDim=50, hasBias=True),
    "embeddingND": _fields("embeddingND", embeddingSize=8, vocabSize=50, hasBias=True),
    "batchnorm": _fields("batchnorm", channels=600),
    "scale": _fields("scale", shapeScale=[300], shapeBias=[300], hasBias=True),
    "bias": _fields("bias", shape=[4, 10, 10]),
    "loadConstant": _fields("loadConstant", shape=[3, 9, 9]),
    "loadConstantND": _fields("loadConstantND", shape=[2, 3, 7, 8]),
    "simpleRecurrent": _fields(
        "simpleRecurrent", inputVectorSize=14, outputVectorSize=10, hasBiasVector=True
    ),
    "gru": _fields("gru", inputVectorSize=12, outputVectorSize=8, hasBiasVectors=True),
    "uniDirectionalLSTM": _lstm("uniDirectionalLSTM"),
    "biDirectionalLSTM": _lstm("biDirectionalLSTM"),
    "loop": _loop,
    "branch": _branch,
}


_CONSTANTS = {
    "linear": models._QUANTIZATION_MODE_LINEAR_QUANTIZATION,
    "linear_symmetric": models._QUANTIZATION_MODE_LINEAR_SYMMETRIC,
    "linear_lut": models._QUANTIZATION_MODE_LOOKUP_TABLE_LINEAR,
    "kmeans_lut": models._QUANTIZATION_MODE_LOOKUP_TABLE_KMEANS,
    "dequantization": models._QUANTIZATION_MODE_DEQUANTIZE,
}


def fill(layer: Any, random: np.random.Generator) -> None:
    """Give every weight of a layer values; some rows lie far from zero, some are flat."""
    for weight in layer_weights(layer):
        values = random.standard_normal(weight.shape) * 0.1
        if len(weight.shape) > 1:
            values[0] += 3
            values[-1] *= 40
        write_dense(weight.params, values.astype(np.float32))


def network(*kinds: str, seed: int = 0) -> Any:
    """A specification with these layers, one after the other."""
    spec = Model_pb2.Model(specificationVersion=4)
    random = np.random.default_rng(seed)
    for index, kind in enumerate(kinds):
        layer = spec.neuralNetwork.layers.add(name=kind, input=[f"b{index}"], output=[f"b{index + 1}"])
        LAYERS[kind](layer)
        fill(layer, random)
    for name, features in (("b0", spec.description.input), (f"b{len(kinds)}", spec.description.output)):
        feature = features.add(name=name)
        feature.type.multiArrayType.shape.extend([1, 1, 1])
        feature.type.multiArrayType.dataType = 65568
    return spec


def coremltools_quantized(spec: Any, nbits: int | None, mode: str) -> Any:
    """What coremltools makes of a copy of ``spec``, silently."""
    copy = Model_pb2.Model()
    copy.CopyFrom(spec)
    with contextlib.redirect_stdout(io.StringIO()):
        quantization_utils._quantize_spec_weights(copy, nbits, _CONSTANTS[mode])
    return copy


def weights(spec: Any) -> dict[str, Any]:
    """Every ``WeightParams`` with values, by its place; nested networks too."""
    named: dict[str, Any] = {}

    def walk(layers: Any, path: str) -> None:
        for layer in layers:
            for weight in layer_weights(layer):
                if weight.params.ByteSize():
                    named[f"{path}{layer.name}.{weight.field}"] = weight
            kind = layer.WhichOneof("layer")
            for name in {"loop": ("bodyNetwork",), "branch": ("ifBranch", "elseBranch")}.get(kind, ()):
                walk(getattr(getattr(layer, kind), name).layers, f"{path}{layer.name}.{name}/")

    walk(getattr(spec, spec.WhichOneof("Type")).layers, "")
    return named


def floats(spec: Any) -> dict[str, Any]:
    """The float values of every weight, read through the list interface, as float64."""
    return {name: np.array(weight.params.floatValue, np.float64) for name, weight in weights(spec).items()}


def weight_params(**fields: Any) -> Any:
    """A ``WeightParams`` with these fields."""
    return NeuralNetwork_pb2.WeightParams(**fields)
