"""What the reader makes of inputs, outputs, preprocessing, labels, quantized weights and bad files."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder, flexible_shape_utils
from coremltools.models.pipeline import Pipeline
from nn_models import Array, network, normal, run_spec

from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import (
    LayerError,
    NeuralNetworkError,
    read,
    supported_layers,
    unsupported_layers,
)
from milpasses.neuralnetwork.reader.registry import all_layers
from milpasses.neuralnetwork.spec import weight_params


def image_network(color: str = "BGR", **settings: Any) -> Any:
    """An image in, its preprocessed planes out."""
    builder = NeuralNetworkBuilder(
        [("image", datatypes.Array(1 if "GRAY" in color else 3, 4, 5))], [("out", None)]
    )
    builder.add_activation("a", "LINEAR", "image", "out", [1.0, 0.0])
    builder.set_pre_processing_parameters(["image"], color == "BGR", **settings)
    if "GRAY" in color:
        builder.spec.description.input[0].type.imageType.colorSpace = 10
    return builder.spec


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)


@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_pixels_are_scaled_and_biased_in_the_order_of_the_planes(color: str) -> None:
    spec = image_network(color, image_scale=0.5, red_bias=1, green_bias=2, blue_bias=3)
    out = Interpreter(spec).run({"image": PIXELS})["out"]
    planes = PIXELS.transpose(2, 0, 1) * 0.5 + np.array([1, 2, 3]).reshape(3, 1, 1)
    np.testing.assert_allclose(out, planes[::-1] if color == "BGR" else planes)


def test_gray_images() -> None:
    spec = image_network("GRAYSCALE", image_scale=2.0, gray_bias=-1)
    out = Interpreter(spec).run({"image": PIXELS[:, :, 0]})["out"]
    np.testing.assert_allclose(out[0], PIXELS[:, :, 0] * 2.0 - 1)


def test_the_mean_image_is_a_constant_that_is_subtracted() -> None:
    spec = image_network("RGB")
    mean = normal(3, 4, 5)
    del spec.neuralNetwork.preprocessing[:]
    spec.neuralNetwork.preprocessing.add().meanImage.meanImage.extend(mean.reshape(-1).tolist())
    reading = read(spec)
    constants = [op for op in reading.program.functions["main"].operations if op.op_type == "const"]
    assert [np.shape(op.val.val) for op in constants if np.size(op.val.val) == mean.size] == [(1, 3, 4, 5)]
    out = Interpreter(reading).run({"image": PIXELS})["out"]
    np.testing.assert_allclose(out, PIXELS.transpose(2, 0, 1) - mean, rtol=1e-5)
    spec.neuralNetwork.preprocessing[0].meanImage.meanImage.append(0)
    with pytest.raises(NeuralNetworkError, match="mean image of 'image' has 61 values"):
        read(spec)


def test_an_image_output() -> None:
    spec = image_network("RGB")
    kind = spec.description.output[0].type.imageType
    kind.colorSpace, kind.height, kind.width = 20, 4, 5
    np.testing.assert_array_equal(Interpreter(spec).run({"image": PIXELS})["out"], PIXELS)


def classifier(labels: list[Any], name: str = "") -> Any:
    builder = NeuralNetworkBuilder([("x", datatypes.Array(3))], [("p", None)], mode="classifier")
    builder.add_softmax("s", "x", "p")
    builder.set_class_labels(labels, "label", name)
    return builder.spec


@pytest.mark.parametrize("labels", [["a", "b", "c"], [7, 8, 9]])
@pytest.mark.parametrize("name", ["", "p"])
def test_a_classifier_gives_label_and_probabilities(labels: list[Any], name: str) -> None:
    spec = classifier(labels, name)
    x = np.array([0.0, 2.0, 1.0], np.float32)
    out = Interpreter(spec).run({"x": x})
    assert out["label"] == labels[1]
    probabilities = np.exp(x) / np.exp(x).sum()
    found = out[spec.description.predictedProbabilitiesName]
    assert list(found) == labels
    np.testing.assert_allclose(list(found.values()), probabilities, rtol=1e-5)


def test_a_classifier_with_too_few_labels() -> None:
    spec = classifier(["a", "b", "c"])
    del spec.neuralNetworkClassifier.stringClassLabels.vector[2]
    with pytest.raises(NeuralNetworkError, match=r"2 labels and gives .* probabilities"):
        read(spec)


def test_a_regressor_gives_an_array_of_one_element() -> None:
    spec = network(lambda b: b.add_reduce("r", "x", "out", "CHW", "sum"), {"x": (3,)})
    spec.neuralNetworkRegressor.layers.extend(spec.neuralNetwork.layers)
    spec.description.output[0].type.doubleType.SetInParent()
    reading = read(spec)
    assert any("array of one element" in note for note in reading.notes)
    np.testing.assert_allclose(Interpreter(reading).run({"x": np.arange(3.0)})["out"], [3.0])


def test_declared_shapes_types_and_texts_stay() -> None:
    spec = network(lambda b: b.add_flatten("f", 0, "x", "out"), {"x": (2, 3, 4)})
    output = spec.description.output[0].type.multiArrayType
    output.shape.extend([24])
    output.dataType = 131104  # INT32
    spec.description.metadata.author = "somebody"
    spec.description.metadata.userDefined["key"] = "value"
    spec.description.input[0].shortDescription = "what goes in"
    reading = read(spec)
    assert reading.description.metadata == spec.description.metadata
    assert reading.description.input[0].shortDescription == "what goes in"
    out = Interpreter(reading).run({"x": np.arange(24.0).reshape(2, 3, 4)})["out"]
    np.testing.assert_array_equal(out, np.arange(24))
    assert out.dtype == np.int32


def test_names_that_are_no_identifiers_are_changed_and_noted() -> None:
    def build(b: Any) -> None:
        b.add_activation("conv/1", "RELU", "x:0", "a/b")
        b.add_activation("a_b", "SIGMOID", "x:0", "a_b")  # the op may not take the output's name

    spec = network(build, {"x:0": (3,)}, ("a/b", "a_b"))
    reading = read(spec)
    assert sum("identifiers" in note for note in reading.notes) == 2
    out = Interpreter(reading).run({"x_0": np.array([-1.0, 0.0, 1.0])})
    np.testing.assert_allclose(out["a_b_1"].ravel(), [0, 0, 1])
    np.testing.assert_allclose(out["a_b"].ravel(), 1 / (1 + np.exp([1.0, 0, -1])), rtol=1e-5)


def test_an_input_that_is_an_output_and_one_value_with_two_names() -> None:
    def build(b: Any) -> None:
        b.add_permute("p", (0, 1, 2, 3), "x", "out")
        b.add_flatten("f", 0, "out", "again")

    x = normal(3, 1, 1)
    out = run_spec(network(build, {"x": (3, 1, 1)}, ("out", "again")), {"x": x})
    np.testing.assert_array_equal(out["out"], x)
    np.testing.assert_array_equal(out["again"], x)


def test_optional_inputs_are_zero() -> None:
    spec = network(lambda b: b.add_elementwise("e", ["x", "y"], "out", "ADD"), {"x": (3,), "y": (3,)})
    spec.description.input[1].type.isOptional = True
    np.testing.assert_allclose(Interpreter(spec).run({"x": np.ones(3)})["out"].ravel(), [1, 1, 1])


def test_flexible_images() -> None:
    spec = image_network("RGB")
    builder = spec.neuralNetwork.layers.add(name="c", input=["out"], output=["y"]).convolution
    builder.outputChannels, builder.kernelChannels = 2, 3
    weight = normal(2, 3, 3, 3)
    weight_params.write_dense(builder.weights, weight)
    builder.same.SetInParent()
    spec.description.output[0].name = "y"
    size = flexible_shape_utils.NeuralNetworkImageSizeRange()
    size.add_height_range((4, 64))
    size.add_width_range((4, -1))
    flexible_shape_utils.update_image_size_range(spec, "image", size)
    run = Interpreter(spec)
    for shape in ((4, 5), (9, 6)):
        pixels = np.zeros((*shape, 3), np.uint8)
        assert run.run({"image": pixels})["y"].shape[-2:] == shape


def test_a_layer_that_needs_fixed_shapes_says_so() -> None:
    spec = network(lambda b: b.add_mvn("m", "x", "out"), {"x": (3, 4, 5)})
    spec.neuralNetwork.layers.add(name="c", input=["out"], output=["y"]).reshape.targetShape.extend(
        [60, 1, 1]
    )
    spec.description.output[0].name = "y"
    flexible_shape_utils.set_multiarray_ndshape_range(spec, "x", [3, 4, 5], [3, 8, 9])
    with pytest.raises(LayerError, match=r"layer 1 'c' \(reshape\)"):
        read(spec)
    assert read(spec, input_shapes={"x": (3, 4, 5)}).program is not None


def test_a_pipeline_of_networks_becomes_one_program(tmp_path: Path) -> None:
    first = network(lambda b: b.add_activation("a", "LINEAR", "x", "y", [2.0, 0.0]), {"x": (3,)}, ("y",))
    first.description.output[0].type.multiArrayType.shape.extend([3])
    second = network(lambda b: b.add_activation("a", "LINEAR", "y", "z", [1.0, 1.0]), {"y": (3,)}, ("z",))
    second.description.output[0].type.multiArrayType.shape.extend([3])
    pipeline = Pipeline([("x", datatypes.Array(3))], [("z", datatypes.Array(3))])
    for spec in (first, second):
        pipeline.add_model(ct.models.MLModel(spec, skip_model_load=True))
    path = tmp_path / "both.mlmodel"
    path.write_bytes(pipeline.spec.SerializeToString())
    np.testing.assert_allclose(Interpreter(path).run({"x": np.arange(3.0)})["z"], [1, 3, 5])


def quantized(nbits: int, kind: str, scales: int, whole: bool) -> tuple[Any, Array]:
    """A convolution with codes, and its decoded weights."""
    rng = np.random.default_rng(nbits)
    build: Any = lambda b: b.add_convolution(  # noqa: E731
        "c",
        4,
        6,
        3,
        3,
        1,
        1,
        "valid",
        1,
        np.zeros((3, 3, 4, 6)),
        None,
        False,
        input_name="x",
        output_name="out",
    )
    spec = network(build, {"x": (4, 6, 6)})
    params = spec.neuralNetwork.layers[0].convolution.weights
    codes = rng.integers(0, 1 << nbits, (6, 4, 3, 3)).astype(np.uint8)
    if kind == "lut":
        weight_params.write_lut(params, codes, rng.standard_normal(1 << nbits).astype(np.float32))
    elif kind == "int8":
        weight_params.clear(params)
        params.int8RawValue = (codes.astype(int) - 128).astype(np.int8).tobytes()
        params.quantization.linearQuantization.scale.extend([0.01] * scales)
    else:
        scale = rng.uniform(0.01, 0.02, scales).astype(np.float32)
        bias = -scale * (1 << (nbits - 1)) if whole else rng.uniform(-1, 0, scales)
        weight_params.write_linear(params, codes, scale, bias.astype(np.float32), nbits)
    return spec, weight_params.decode(params, (6, 4, 3, 3))


AFFINE, LUT, SHIFT = (
    "constexpr_affine_dequantize",
    "constexpr_lut_to_dense",
    "constexpr_blockwise_shift_scale",
)


@pytest.mark.parametrize(
    ("nbits", "kind", "scales", "whole", "target", "op"),
    [
        (4, "lut", 1, True, "iOS16", LUT),
        (3, "lut", 1, True, "iOS16", LUT),
        (5, "lut", 1, True, "iOS16", LUT),
        (8, "linear", 1, True, "iOS16", AFFINE),
        (8, "linear", 6, True, "iOS16", AFFINE),
        (4, "linear", 6, True, "iOS16", AFFINE),
        (4, "linear", 1, True, "iOS16", LUT),
        (8, "linear", 1, False, "iOS16", LUT),
        (8, "linear", 6, False, "iOS18", SHIFT),
        (8, "int8", 1, True, "iOS16", AFFINE),
    ],
)
def test_quantized_weights_keep_their_codes(
    nbits: int, kind: str, scales: int, whole: bool, target: str, op: str
) -> None:
    spec, weight = quantized(nbits, kind, scales, whole)
    reading = read(spec)
    assert reading.target == ct.target[target]
    ops = [o for o in reading.program.functions["main"].operations if o.op_type.startswith("constexpr_")]
    assert [o.op_type for o in ops] == [op]
    np.testing.assert_allclose(ops[0].materialized_val_inference(), weight, rtol=2e-6, atol=1e-7)
    pinned = read(spec, ct.target.iOS18).program.functions["main"]
    (other,) = [o for o in pinned.operations if o.op_type.startswith("constexpr_")]
    np.testing.assert_allclose(other.materialized_val_inference(), weight, rtol=2e-6, atol=1e-7)


def test_a_form_that_the_target_lacks_is_decoded_and_noted() -> None:
    spec, weight = quantized(8, "linear", 6, False)
    reading = read(spec, ct.target.iOS16)
    (note,) = [note for note in reading.notes if "iOS18" in note]
    assert note.startswith("c_weight: decoded")
    values = [op.val.val for op in reading.program.functions["main"].operations if op.op_type == "const"]
    (found,) = [value for value in values if np.shape(value) == weight.shape]
    np.testing.assert_allclose(found, weight, rtol=2e-6, atol=1e-7)


def test_unsupported_layers_are_all_named_before_anything_is_read() -> None:
    spec = network(lambda b: b.add_activation("a", "RELU", "x", "y"), {"x": (3,)})
    for name in ("first", "second"):
        spec.neuralNetwork.layers.add(name=name, input=["nothing"], output=[name]).custom.className = "Mine"
    wanted = r"2 unsupported: layer 1 'first' \(custom Mine\); layer 2 'second' \(custom Mine\)"
    with pytest.raises(NeuralNetworkError, match=wanted):
        read(spec)


def test_the_registry_covers_the_first_generations() -> None:
    found = all_layers()
    assert len(found) == 158
    assert set(found[: found.index("custom")]) <= set(supported_layers())
    assert "custom" in unsupported_layers()
    assert sorted([*supported_layers(), *unsupported_layers()]) == sorted(found)


def test_a_missing_input_is_named() -> None:
    spec = network(lambda b: b.add_activation("a", "RELU", "nowhere", "out"), {"x": (3,)})
    with pytest.raises(
        LayerError, match=r"layer 0 'a' \(activation\): no earlier layer gives its input nowhere"
    ):
        read(spec)


def _spec_of(field: str) -> Any:
    spec = network(lambda b: b.add_activation("a", "RELU", "x", "out"), {"x": (3,)})
    getattr(spec, field).SetInParent()
    return spec


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no model"),
        (b"\xff" * 64, "damaged or truncated"),
        (_spec_of("treeEnsembleClassifier").SerializeToString(), "of type treeEnsembleClassifier"),
        (_spec_of("mlProgram").SerializeToString(), "an ML Program already"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.mlmodel"
    path.write_bytes(content)
    with pytest.raises(MilpassesError, match=message):
        read(path)


def test_what_is_no_model() -> None:
    with pytest.raises(MilpassesError, match="got int"):
        read(3)
    with pytest.raises(MilpassesError, match="no such file"):
        read("nowhere.mlmodel")
