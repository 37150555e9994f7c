"""What ``explain`` says of saved models, against what is known of how they were made."""

import json
import re
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from conftest import Run
from coremltools.converters.mil import Builder as mb
from coremltools.proto import FeatureTypes_pb2
from milpasses_tools import digits, explain
from milpasses_tools._view.features import type_text

import milpasses
from milpasses.program.package import open_package
from milpasses.report import read_metadata

BIASES = {"conv": [32, 32, 64, 64, 64], "linear": [96, 10]}


def disk_bytes(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def compressed(digits_packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network, its linears in int8, and one weight that a rule keeps."""
    output = tmp_path_factory.mktemp("explain") / "compressed.mlpackage"
    recipe = "int8; max_elements=20000 -> keep"
    milpasses.compress(digits_packages["iOS18"], recipe, output=output)
    return output


class TestUncompressed:
    def test_every_weight_is_listed_once(self, digits_packages: dict[str, Path]):
        found = explain(digits_packages["iOS18"])
        shapes = sorted(weight.shape for weight in found.weights)
        assert shapes == sorted(
            [
                (32, 1, 3, 3),
                (32, 1, 3, 3),
                (64, 32, 1, 1),
                (64, 32, 3, 3),
                (64, 64, 3, 3),
                (96, 256),
                (10, 96),
            ]
            + [(size,) for sizes in BIASES.values() for size in sizes]
        )
        assert {weight.form for weight in found.weights} == {"dense float16"}
        assert {weight.bits for weight in found.weights} == {16.0}
        assert not any(weight.compressed for weight in found.weights)

    def test_why_they_are_dense(self, digits_packages: dict[str, Path]):
        why = {(weight.shape, weight.why) for weight in explain(digits_packages["iOS18"]).weights}
        assert ((96, 256), "nothing compressed it yet") in why
        assert ((10, 96), "960 elements <= weight_threshold 2,048") in why
        assert ((64,), "rank 1: Core ML needs vectors dense") in why

    def test_who_uses_them(self, digits_packages: dict[str, Path]):
        by_shape = {weight.shape: weight for weight in explain(digits_packages["iOS18"]).weights}
        assert by_shape[96, 256].op_types == ("linear",)
        assert by_shape[64, 64, 3, 3].op_types == ("conv",)
        assert all(use.endswith(":linear.weight") for use in by_shape[96, 256].used_by)

    def test_totals_add_up(self, digits_packages: dict[str, Path]):
        found = explain(digits_packages["iOS18"])
        assert found.weight_bytes == 2 * 83_456 + 2 * (sum(BIASES["conv"]) + sum(BIASES["linear"]))
        assert sum(total.nbytes for total in found.by_form()) == found.weight_bytes
        assert sum(total.share for total in found.by_form()) == pytest.approx(1)
        assert sum(found.files.values()) == disk_bytes(digits_packages["iOS18"])
        assert found.files["weight files"] > found.weight_bytes

    @pytest.mark.parametrize("target", ["iOS16", "iOS18"])
    def test_target_and_features(self, digits_packages: dict[str, Path], target: str):
        found = explain(digits_packages[target])
        assert found.target == target
        (function,) = found.functions
        assert (function.name, function.inputs) == ("main", {"image": "float32 1x1x8x8"})
        assert (function.outputs, function.states) == ({"scores": "float32 1x10"}, {})

    def test_a_model_in_memory(self, digits_packages: dict[str, Path]):
        path = digits_packages["iOS18"]
        model = ct.models.MLModel(str(path), skip_model_load=True)
        assert explain(model).weights == explain(path).weights


class TestCompressed:
    def test_forms_and_errors(self, compressed: Path):
        found = explain(compressed)
        by_shape = {weight.shape: weight for weight in found.weights}
        linear = by_shape[96, 256]
        assert (linear.compressed, linear.form, linear.why) == (True, "int8 per_channel", "")
        assert linear.nbytes == 96 * 256 + 2 * 96
        assert linear.sqnr_db is not None
        assert linear.sqnr_db > 35
        assert (found.recipe, found.version) == ("int8; max_elements=20000 -> keep", milpasses.__version__)

    def test_reasons_come_from_the_report(self, compressed: Path):
        by_shape = {weight.shape: weight for weight in explain(compressed).weights}
        assert by_shape[64, 32, 3, 3].why == "rule 1: max_elements=20000"
        assert by_shape[64, 32, 3, 3].sqnr_db is None

    def test_what_coremltools_compressed(self, digits_packages: dict[str, Path], tmp_path: Path):
        config = cto.OptimizationConfig(global_config=cto.OpMagnitudePrunerConfig(target_sparsity=0.5))
        model = ct.models.MLModel(str(digits_packages["iOS18"]), skip_model_load=True)
        cto.prune_weights(model, config).save(str(tmp_path / "pruned.mlpackage"))
        found = explain(tmp_path / "pruned.mlpackage")
        by_shape = {weight.shape: weight for weight in found.weights}
        assert by_shape[96, 256].form == "sparse 50%"
        assert by_shape[96, 256].sqnr_db is None
        assert by_shape[10, 96].why == "960 elements <= weight_threshold 2,048"
        assert found.recipe == ""

    def test_the_report_of_a_conversion_names_the_weights_of_the_package(self, tmp_path: Path):
        model = digits.convert(milpasses.pipeline("int8"))
        model.save(str(tmp_path / "converted.mlpackage"))
        found = explain(tmp_path / "converted.mlpackage")
        assert sum(weight.sqnr_db is not None for weight in found.weights) == 3
        assert all(weight.compressed == (weight.why == "") for weight in found.weights)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"weights": [{}]}', '{"weights": 3}', '{"weights": [1]}']
    )
    def test_a_report_that_cannot_be_read_is_none(self, text: str):
        assert read_metadata(text) == {}

    def test_several_functions(self, digits_packages: dict[str, Path], tmp_path: Path):
        descriptor = ct.utils.MultiFunctionDescriptor()
        for name in ("one", "two"):
            descriptor.add_function(str(digits_packages["iOS18"]), "main", name)
        descriptor.default_function_name = "one"
        ct.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
        found = explain(tmp_path / "both.mlpackage")
        assert [function.name for function in found.functions] == ["one", "two"]
        assert all(function.inputs == {"image": "float32 1x1x8x8"} for function in found.functions)
        assert {weight.functions for weight in found.weights} == {("one", "two")}
        assert len(found.weights) == 14


def feature(**fields: Any) -> Any:
    return FeatureTypes_pb2.FeatureType(**fields)


class TestFeatures:
    ARRAY = FeatureTypes_pb2.ArrayFeatureType

    def array(self, **fields: Any) -> Any:
        return self.ARRAY(dataType=self.ARRAY.FLOAT16, shape=[1, 3, 8], **fields)

    def test_arrays(self):
        assert type_text(feature(multiArrayType=self.array())) == "float16 1x3x8"
        optional = feature(multiArrayType=self.array(), isOptional=True)
        assert type_text(optional) == "float16 1x3x8 (optional)"
        scalar = self.ARRAY(dataType=self.ARRAY.INT32)
        assert type_text(feature(multiArrayType=scalar)) == "int32 unknown"

    def test_flexible_shapes(self):
        enumerated = self.array()
        for shape in ([1, 3, 8], [1, 3, 16]):
            enumerated.enumeratedShapes.shapes.add(shape=shape)
        assert type_text(feature(multiArrayType=enumerated)) == "float16 1x3x8, one of 1x3x8 1x3x16"
        ranged = self.array()
        for low, high in ((1, 1), (3, 6), (8, -1)):
            ranged.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
        assert type_text(feature(multiArrayType=ranged)) == "float16 1x3x8, 1x(3..6)x(8..any)"

    def test_images(self):
        image = FeatureTypes_pb2.ImageFeatureType
        plain = image(width=640, height=480, colorSpace=image.RGB)
        assert type_text(feature(imageType=plain)) == "RGB image 640x480"
        enumerated = image(width=64, height=48, colorSpace=image.GRAYSCALE)
        for size in (64, 32):
            enumerated.enumeratedSizes.sizes.add(width=size, height=size)
        expected = "GRAYSCALE image 64x48, one of 64x64 32x32"
        assert type_text(feature(imageType=enumerated)) == expected
        ranged = image(width=64, height=48, colorSpace=image.BGR)
        ranged.imageSizeRange.widthRange.lowerBound, ranged.imageSizeRange.widthRange.upperBound = 32, 128
        ranged.imageSizeRange.heightRange.lowerBound, ranged.imageSizeRange.heightRange.upperBound = 16, -1
        assert type_text(feature(imageType=ranged)) == "BGR image 64x48, (32..128)x(16..any)"

    def test_others(self):
        state = FeatureTypes_pb2.StateFeatureType(arrayType=self.array())
        assert type_text(feature(stateType=state)) == "float16 1x3x8"
        assert type_text(feature(stringType=FeatureTypes_pb2.StringFeatureType())) == "string"


class TestCommand:
    def test_prints_weights_totals_and_features(self, milpasses_command: Run, compressed: Path):
        outcome = milpasses_command("explain", compressed)
        assert (outcome.status, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        expected = ["weight", "shape", "form", "bits", "bytes", "share", "SQNR dB", "used by", "why"]
        expected += ["decided by", "to change it"]
        assert re.split(r"  +", lines[0]) == expected
        assert lines[1].split()[1:5] == ["64x64x3x3", "int8", "per_channel", "8.03"]
        assert any(line.startswith("int8 per_channel") for line in lines[16:])
        assert "target: iOS18" in lines
        assert (
            f"compressed by milpasses {milpasses.__version__} with int8; max_elements=20000 -> keep" in lines
        )
        assert lines[-2:] == ["  input: image float32 1x1x8x8", "  output: scores float32 1x10"]
        assert f"{disk_bytes(compressed):,}" in outcome.out

    def test_json_holds_the_same(self, milpasses_command: Run, compressed: Path):
        content = json.loads(milpasses_command("explain", compressed, "--json").out)
        found = explain(compressed)
        assert content["weight_bytes"] == found.weight_bytes
        assert [weight["name"] for weight in content["weights"]] == [w.name for w in found.sorted("bytes")]
        assert sum(weight["share"] for weight in content["weights"]) == pytest.approx(1, abs=1e-4)
        assert content["functions"][0]["inputs"] == {"image": "float32 1x1x8x8"}

    def test_sort_and_top(self, milpasses_command: Run, compressed: Path):
        names = [weight.name for weight in explain(compressed).weights]
        by_name = json.loads(milpasses_command("explain", compressed, "--json", "--sort", "name").out)
        assert [weight["name"] for weight in by_name["weights"]] == sorted(names)
        by_form = milpasses_command("explain", compressed, "--sort", "form", "--top", 2).out.splitlines()
        assert [line.split()[2] for line in by_form[1:3]] == ["dense", "dense"]
        assert by_form[3].startswith("and 12 more, ")
        assert "all weights" in "\n".join(by_form)

    def test_a_lossless_weight_is_valid_json(self, milpasses_command: Run, compressed: Path, tmp_path: Path):
        package = open_package(compressed)
        report = json.loads(package.spec.description.metadata.userDefined["milpasses.report"])
        for record in report["weights"]:
            record["sqnr_db"] = "inf"
        package.spec.description.metadata.userDefined["milpasses.report"] = json.dumps(report)
        copy = tmp_path / "lossless.mlpackage"
        ct.models.MLModel(
            package.spec, weights_dir=str(package.model_folder / "weights"), skip_model_load=True
        ).save(str(copy))
        content = json.loads(milpasses_command("explain", copy, "--json").out)
        assert {weight["sqnr_db"] for weight in content["weights"]} == {"inf", None}
        assert "exact" in milpasses_command("explain", copy).out


def test_float32_weights_can_be_stored_as_float16(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64))], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=weight, bias=weight[0])

    options = {"convert_to": "mlprogram", "compute_units": ct.ComputeUnit.CPU_ONLY}
    for precision, expected in ((ct.precision.FLOAT32, 1), (ct.precision.FLOAT16, 0)):
        model = ct.convert(
            program, compute_precision=precision, minimum_deployment_target=ct.target.iOS16, **options
        )
        found = explain(model)
        advised = [weight for weight in found.weights if "rest=half" in weight.change]
        assert len(advised) == expected
        assert all(len(weight.shape) == 2 for weight in advised)
        assert milpasses.compress(model, "half").report.count("compressed") == expected
