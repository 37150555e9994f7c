"""``quantize_weights``: what it refuses, folds, leaves alone, and says."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from coremltools.models.neural_network.quantization_utils import (
    AdvancedQuantizedLayerSelector,
    QuantizedLayerSelector,
)
from coremltools.proto import Model_pb2
from quantization_models import LAYERS, floats, network, weights

from milpasses.errors import MilpassesError, PackageError
from milpasses.neuralnetwork import QuantizedModel, quantize_variants, quantize_weights
from milpasses.neuralnetwork.quantize.quantized_model import read_model
from milpasses.neuralnetwork.quantize.settings import QuantizationError
from milpasses.neuralnetwork.spec.weight_params import decode, form
from milpasses.report import METADATA_KEY


def model(spec: Any) -> ct.models.MLModel:
    return ct.models.MLModel(spec, skip_model_load=True)


def saved(spec: Any, folder: Path) -> Path:
    path = folder / "model.mlmodel"
    path.write_bytes(spec.SerializeToString())
    return path


def test_returns_a_model_that_saves_and_tells(tmp_path: Path) -> None:
    spec = network("innerProduct", "convolution")
    before = spec.SerializeToString()
    found = quantize_weights(model(spec), 4, "kmeans_lut", output=tmp_path / "out.mlmodel")
    assert isinstance(found, QuantizedModel)
    assert spec.SerializeToString() == before
    found.save(str(tmp_path / "again.mlmodel"))
    again = read_model(tmp_path / "again.mlmodel").spec
    assert again.SerializeToString() == (tmp_path / "out.mlmodel").read_bytes()
    assert again.specificationVersion == 4
    totals = found.report.totals()
    assert (totals["weights"], totals["compressed"], totals["kept"]) == (4, 2, 2)
    assert "kmeans_lut 4, 2 of 4 weights" in again.description.metadata.userDefined[METADATA_KEY]
    record = found.report["convolution.weights"]
    assert (record.form, record.dtype, record.shape) == ("lut4 per_tensor", "float32", (16, 8, 3, 3))
    exact = floats(spec)["convolution.weights"]
    noise = decode(weights(again)["convolution.weights"].params, record.shape).ravel() - exact
    assert record.sqnr_db == pytest.approx(10 * np.log10(np.sum(exact**2) / np.sum(noise**2)), abs=1e-4)
    assert record.max_error == pytest.approx(np.abs(noise).max(), rel=1e-6)


@pytest.mark.parametrize("mode", ["linear", "linear_symmetric", "linear_lut", "kmeans", "kmeans_lut"])
def test_sixteen_bits_are_float16(mode: str) -> None:
    spec = network("gru")
    half = quantize_weights(model(spec), 16, mode).get_spec()
    assert half.specificationVersion == 4
    for name, site in weights(half).items():
        assert form(site.params) == "float16"
        expected = floats(spec)[name].astype(np.float16)
        np.testing.assert_array_equal(decode(site.params, site.shape).ravel(), expected)


def test_dequantization_brings_float32_back() -> None:
    spec = network("innerProduct", "gru")
    small = quantize_weights(model(spec), 6, "linear")
    wide = quantize_weights(small, None, "dequantization").get_spec()
    for name, site in weights(small.get_spec()).items():
        expected = decode(site.params, site.shape).ravel()
        np.testing.assert_array_equal(floats(wide)[name].astype(np.float32), expected)
    half = quantize_weights(model(spec), 16)
    assert all(len(v) for v in floats(quantize_weights(half, None, "dequantization").get_spec()).values())


def test_quantizing_again_must_be_asked_for() -> None:
    spec = network("innerProduct", "convolution")
    small = quantize_weights(model(spec), 4, "linear")
    with pytest.raises(QuantizationError, match=r"4 of 4 weights are quantized already \(uint4 per_channel"):
        quantize_weights(small, 8, "kmeans_lut")
    again = quantize_weights(small, 2, "kmeans_lut", requantize=True).report["innerProduct.weights"]
    assert again.reason == "again: its error is against uint4 per_channel, what that had lost comes on top"
    assert again.bytes_before == 17 * 33 // 2 + 1 + 8 * 17
    half = quantize_weights(model(spec), 16)
    assert quantize_weights(half, 4).report.count("compressed") == 4  # float16 is no quantization
    only = QuantizedLayerSelector()
    only.do_quantize = lambda layer, **_: layer.name == "convolution"  # type: ignore[method-assign]
    first = quantize_weights(model(spec), 4, selector=only)
    others = QuantizedLayerSelector()
    others.do_quantize = lambda layer, **_: layer.name != "convolution"  # type: ignore[method-assign]
    both = quantize_weights(first, 8, selector=others).get_spec()
    bits = {n: s.params.quantization.numberOfBits for n, s in weights(both).items()}
    assert bits == {"innerProduct.weights": 8, "innerProduct.bias": 8} | {
        "convolution.weights": 4,
        "convolution.bias": 4,
    }


def test_coremltools_selectors_work_as_they_are() -> None:
    spec = network("convolution", "depthwise", "pointwise", "batchnorm", "bias", "innerProduct")
    selector = AdvancedQuantizedLayerSelector(["batchnorm", "bias", "depthwiseConv"], 10, 400)
    report = quantize_weights(model(spec), 6, "linear", selector=selector).report
    changed = {record.name for record in report if record.status == "compressed"}
    assert changed == {"pointwise.weights", "innerProduct.weights"}
    assert {r.reason for r in report if r.status == "kept"} == {"the selector leaves it as it is"}


def test_nested_networks_follow_the_selector() -> None:
    spec = network("loop", "branch")
    assert quantize_weights(model(spec), 4).report.count("compressed") == 6
    closed = QuantizedLayerSelector()
    closed.quantizable_layer_types.discard("loop")
    report = quantize_weights(model(spec), 4, selector=closed).report
    assert {r.name for r in report if r.status == "kept"} == {
        "loop.bodyNetwork/inner.weights",
        "loop.bodyNetwork/inner.bias",
    }


def test_custom_tables() -> None:
    spec = network("innerProduct", "bias")

    def signs(nbits: int, values: np.ndarray) -> Any:
        assert values.dtype == np.float64
        return np.array([-1.0, 1.0]), (values > 0).astype(int)

    found = weights(quantize_weights(model(spec), 1, "custom_lut", lut_function=signs).get_spec())
    site = found["innerProduct.weights"]
    np.testing.assert_array_equal(
        decode(site.params, site.shape).ravel(),
        np.where(floats(spec)["innerProduct.weights"] > 0, 1, -1),
    )
    bad = {
        "table of 3 entries, and 1 bits take 2": lambda n, w: ([0, 1, 2], w > 0),
        "indices for 561 weights": lambda n, w: ([0, 1], [0]),
        r"indices beyond 0\.\.1": lambda n, w: ([0, 1], np.full(w.shape, 2)),
        "no integers": lambda n, w: ([0, 1], np.full(w.shape, 0.5)),
        "NaN": lambda n, w: ([0, np.nan], w > 0),
        "lut_function failed: division by zero": lambda n, w: 1 / 0,
    }
    for message, function in bad.items():
        with pytest.raises(QuantizationError, match=message):
            quantize_weights(model(spec), 1, "custom_lut", lut_function=function)


def test_wrong_arguments_and_files_write_nothing(tmp_path: Path) -> None:
    good, out = saved(network("innerProduct"), tmp_path), tmp_path / "out.mlmodel"
    truncated, tree = tmp_path / "truncated.mlmodel", Model_pb2.Model(specificationVersion=1)
    truncated.write_bytes(good.read_bytes()[:-700])
    tree.treeEnsembleRegressor.SetInParent()
    program = Model_pb2.Model(specificationVersion=6)
    program.mlProgram.SetInParent()
    noise = tmp_path / "noise.mlmodel"
    noise.write_bytes(np.random.default_rng(0).bytes(2000))
    cases: list[tuple[Any, Any, str, dict[str, Any], str]] = [
        (good, 9, "linear", {}, "give 1 to 8, or 16"),
        (good, None, "linear", {}, "give 1 to 8, or 16"),
        (good, 4, "kmean", {}, "no quantization mode 'kmean'; there are linear"),
        (good, 4, "custom_lut", {}, "needs lut_function"),
        (good, 4, "linear", {"lut_function": min}, "belongs to the mode custom_lut"),
        (good, 4, "linear", {"selector": 3}, "do_quantize"),
        (truncated, 4, "linear", {}, "truncated"),
        (noise, 4, "linear", {}, "encrypted"),
        (tmp_path / "none.mlmodel", 4, "linear", {}, "no such file"),
        (model(tree), 4, "linear", {}, "a neural network is needed, and this is of type treeEnsemble"),
        (3, 4, "linear", {}, "an MLModel or its specification, got int"),
    ]
    for given, nbits, mode, options, message in cases:
        with pytest.raises(MilpassesError, match=message):
            quantize_weights(given, nbits, mode, output=out, **options)
    (tmp_path / "program").mkdir()
    with pytest.raises(PackageError, match=r"is an ML Program; milpasses\.compress"):
        quantize_weights(saved(program, tmp_path / "program"), 4, output=out)
    wrong = (tmp_path / "out.onnx", tmp_path / "none" / "out.mlmodel", good)
    for bad, message in zip(wrong, ("must end in .mlmodel", "does not exist", "is an input"), strict=True):
        with pytest.raises(PackageError, match=message):
            quantize_weights(good, 4, output=bad)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_values_and_layers_that_must_stay() -> None:
    spec = network("innerProduct", "convolution", "batchnorm", "gru")
    inner, conv, norm, gru = spec.neuralNetwork.layers
    inner.innerProduct.weights.floatValue[3] = np.nan
    conv.isUpdatable = True
    norm.batchnorm.beta.floatValue.append(1)
    del gru.gru.resetGateRecursionMatrix.floatValue[:]  # nothing there, nothing to say
    report = quantize_weights(model(spec), 4).report
    reasons = {record.name: record.reason for record in report if record.status == "skipped"}
    assert reasons == {
        "innerProduct.weights": "1 NaN and 0 infinite values: not a weight to compress",
        "convolution.weights": "it is trained on the device, which takes float32",
        "convolution.bias": "it is trained on the device, which takes float32",
        "batchnorm.beta": "601 values are stored, but the layer declares 600",
    }
    spec = network("innerProduct", "convolution")
    spec.neuralNetwork.layers[0].innerProduct.bias.floatValue[0] = 1e6
    report = quantize_weights(model(spec), 16).report
    skipped = [record.name for record in report if record.status == "skipped"]
    assert skipped == ["innerProduct.weights", "innerProduct.bias"]  # the format does not mix 16 and 32
    assert "float16 ends at 65,504, but the layer's weights reach 1,000,000" in report[skipped[0]].reason
    spec.isUpdatable = True
    with pytest.raises(QuantizationError, match="updatable"):
        quantize_weights(model(spec), 16)


def test_pipelines_of_any_kind() -> None:
    for kind in ("pipeline", "pipelineClassifier", "pipelineRegressor"):
        outer = Model_pb2.Model(specificationVersion=1)
        pipeline = outer.pipeline if kind == "pipeline" else getattr(outer, kind).pipeline
        pipeline.models.add().CopyFrom(network("innerProduct"))
        pipeline.models.add(specificationVersion=1).treeEnsembleRegressor.SetInParent()
        pipeline.models.add().CopyFrom(network("convolution"))
        found = quantize_weights(model(outer), 4, "kmeans_lut")
        assert found.get_spec().specificationVersion == 4
        assert [r.name for r in found.report if r.status == "compressed"] == [
            "part0/innerProduct.weights",
            "part2/convolution.weights",
        ]


def test_variants_equal_single_runs(tmp_path: Path) -> None:
    path = saved(network("convolution", "batchnorm", "gru"), tmp_path)
    variants = [(16, "linear"), (3, "linear"), (0, "dequantization"), (5, "kmeans"), (3, "linear")]
    for (nbits, mode), (spec, report) in zip(variants, quantize_variants(path, variants), strict=True):
        alone = quantize_weights(path, nbits, mode)
        assert spec.SerializeToString() == alone.get_spec().SerializeToString()
        assert report.totals() == alone.report.totals()


def test_every_layer_has_a_size_of_its_own() -> None:
    for kind in LAYERS:
        for name, site in weights(network(kind)).items():
            assert site.size == len(site.params.floatValue), name


def test_layers_of_equal_names_keep_their_own_weights(tmp_path: Path) -> None:
    spec = network("innerProduct", "innerProduct")
    path = saved(spec, tmp_path)
    for found, _ in quantize_variants(path, [(8, "linear"), (8, "kmeans")]):
        for before, after in zip(spec.neuralNetwork.layers, found.neuralNetwork.layers, strict=True):
            exact = decode(before.innerProduct.weights, (17, 33))
            np.testing.assert_allclose(decode(after.innerProduct.weights, (17, 33)), exact, atol=0.2)


def test_samples_tell_how_far_outputs_agree() -> None:
    builder = NeuralNetworkBuilder([("x", datatypes.Array(33))], [("y", datatypes.Array(17))])
    matrix = np.random.default_rng(0).standard_normal((17, 33))
    builder.add_inner_product("ip", matrix, None, 33, 17, False, "x", "y")
    samples = [{"x": np.random.default_rng(seed).standard_normal(33)} for seed in range(3)]
    ratios = [
        quantize_weights(model(builder.spec), nbits, sample_data=samples).agreement["y"]
        for nbits in (16, 8, 4)
    ]
    assert ratios[0] > 60 > ratios[1] > 40 > ratios[2] > 15
