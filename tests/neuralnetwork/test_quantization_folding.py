"""Folding before quantization: the network computes the same, with fewer layers."""

from typing import Any

import numpy as np
import pytest
from coremltools.models import MLModel, datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from quantization_models import weights

from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import quantize_weights
from milpasses.neuralnetwork.quantize.quantized_model import prepared
from milpasses.neuralnetwork.quantize.settings import Settings

CHANNELS = 6


def start(size: tuple[int, ...] = (4, 5, 5)) -> Any:
    return NeuralNetworkBuilder([("x", datatypes.Array(*size))], [("y", datatypes.Array(1))])


def convolution(builder: Any, bias: bool, deconv: bool = False, groups: int = 1, out: str = "a") -> None:
    random = np.random.default_rng(0)
    shape = (3, 3, 4, CHANNELS // groups) if deconv else (3, 3, 4 // groups, CHANNELS)
    builder.add_convolution(
        "conv", 4 if deconv else 4 // groups, CHANNELS, 3, 3, 1, 1, "valid", groups,
        random.standard_normal(shape), random.standard_normal(CHANNELS) if bias else None, bias,
        is_deconv=deconv, output_shape=None, input_name="x", output_name=out,
    )  # fmt: skip


def norm(builder: Any, given: str, out: str, **options: Any) -> None:
    random = np.random.default_rng(1)
    gamma, beta, mean = (random.standard_normal(CHANNELS) for _ in range(3))
    builder.add_batchnorm(
        "bn", CHANNELS, gamma, beta, mean, random.random(CHANNELS) + 0.1, given, out, epsilon=1e-3, **options
    )


def scale(builder: Any, given: str, out: str, shape: tuple[int, ...] = (CHANNELS, 1, 1)) -> None:
    values = np.random.default_rng(2).standard_normal(shape) + 1
    builder.add_scale("scale", values, values * 2, True, given, out, list(shape), list(shape))


def bias(builder: Any, given: str, out: str) -> None:
    builder.add_bias("bias", np.arange(CHANNELS) / 2, given, out, [CHANNELS])


def folded(builder: Any, **options: Any) -> tuple[Any, list[str]]:
    """The folded specification and its layer types; it computes what it did."""
    spec = builder.spec
    result = prepared(spec, Settings.of(8, "linear", **options))
    size = spec.description.input[0].type.multiArrayType.shape
    x = np.random.default_rng(3).standard_normal(tuple(size)).astype(np.float32)
    before, after = (Interpreter(one).run({"x": x}) for one in (spec, result))
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-4, atol=1e-4)
    return result, [layer.WhichOneof("layer") for layer in result.neuralNetwork.layers]


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("deconv", "groups"), [(False, 1), (False, 2), (True, 1), (True, 2)])
def test_convolution_takes_up_all_that_follows(has_bias: bool, deconv: bool, groups: int) -> None:
    builder = start()
    convolution(builder, has_bias, deconv, groups)
    norm(builder, "a", "b")
    scale(builder, "b", "c")
    bias(builder, "c", "y")
    result, kinds = folded(builder)
    assert kinds == ["convolution"]
    sizes = {name: len(site.params.floatValue) for name, site in weights(result).items()}
    assert sizes == {"conv.weights": CHANNELS * 4 * 9 // groups, "conv.bias": CHANNELS}  # not C x C
    report = quantize_weights(MLModel(builder.spec, skip_model_load=True), 8).report
    assert [record.name for record in report] == ["conv.weights", "conv.bias"]


def test_inner_product_and_batchnorm() -> None:
    builder = start((4,))
    matrix = np.random.default_rng(4).standard_normal((CHANNELS, 4))
    builder.add_inner_product("ip", matrix, None, 4, CHANNELS, False, "x", "a")
    scale(builder, "a", "b", (CHANNELS,))
    bias(builder, "b", "y")
    assert folded(builder)[1] == ["innerProduct"]
    builder = start((CHANNELS, 5, 5))
    norm(builder, "x", "a")
    scale(builder, "a", "b", (1,))
    bias(builder, "b", "y")
    assert folded(builder)[1] == ["batchnorm"]


def test_what_others_read_stays() -> None:
    builder = start()
    convolution(builder, True)
    bias(builder, "a", "b")
    builder.add_elementwise("sum", ["a", "b"], "y", "ADD")
    assert folded(builder)[1] == ["convolution", "bias", "add"]
    builder = NeuralNetworkBuilder(
        [("x", datatypes.Array(4, 5, 5))], [("a", datatypes.Array(1)), ("y", datatypes.Array(1))]
    )
    convolution(builder, True)
    norm(builder, "a", "y")
    assert folded(builder)[1] == ["convolution", "batchnorm"]


def test_what_is_not_by_channel_stays() -> None:
    builder = start()
    convolution(builder, True)
    scale(builder, "a", "b", (CHANNELS, 3, 3))
    norm(builder, "b", "y", compute_mean_var=True, instance_normalization=True)
    assert folded(builder)[1] == ["convolution", "scale", "batchnorm"]


def test_quantized_layers_fold_only_when_asked() -> None:
    builder = start()
    convolution(builder, True)
    norm(builder, "a", "y")
    conv = builder.spec.neuralNetwork.layers[0].convolution
    small = quantize_weights(MLModel(builder.spec, skip_model_load=True), 8)
    conv.weights.CopyFrom(small.get_spec().neuralNetwork.layers[0].convolution.weights)
    assert folded(builder, requantize=True)[1] == ["convolution"]
