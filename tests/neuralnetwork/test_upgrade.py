"""Legacy networks as saved ML Programs: what stays, what is compressed, and the command."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from milpasses_tools.cli import app
from nn_models import network, normal
from test_reader import classifier, image_network, quantized

from milpasses import MilpassesError
from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import NeuralNetworkError, upgrade

WEIGHT = normal(64, 48) / 7


def small() -> Any:
    """Two layers with a batch normalization between them, and names that ML Programs do not take."""

    def build(b: Any) -> None:
        b.add_inner_product("fire2/one", WEIGHT, normal(64), 48, 64, True, "x", "y")
        b.add_batchnorm("n", 64, *(abs(normal(64, seed=s)) for s in range(4)), "y", "z")
        b.add_activation("fire2/relu", "RELU", "z", "w")
        b.add_inner_product("two", normal(40, 64) / 8, None, 64, 40, False, "w", "out")

    spec = network(build, {"x": (48,)})
    spec.description.metadata.author = "somebody"
    spec.description.metadata.userDefined["key"] = "value"
    spec.description.output[0].shortDescription = "what comes out"
    return spec


def ops(model: Any) -> Counter[str]:
    return Counter(op.op_type for op in model._mil_program.functions["main"].operations)


X = {"x": normal(48)}


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_the_saved_program_computes_the_same(precision: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.mlpackage"
    model = upgrade(small(), precision=precision, output=path)
    spec = model.get_spec()
    assert spec.WhichOneof("Type") == "mlProgram"
    assert spec.description.metadata.author == "somebody"
    assert spec.description.metadata.userDefined["key"] == "value"
    assert spec.description.output[0].shortDescription == "what comes out"
    wanted = Interpreter(small()).run(X)["out"]
    found = Interpreter(path).run(X)["out"]
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    atol = 1e-5 if precision == "float32" else 5e-3
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=atol)
    names = [op.name for op in model._mil_program.functions["main"].operations]
    assert all(name.isidentifier() for name in names)


def test_a_recipe_compresses_the_weights(tmp_path: Path) -> None:
    model = upgrade(small(), "int8", output=tmp_path / "small.mlpackage")
    assert ops(model)["constexpr_affine_dequantize"] == 2
    assert [record.status for record in model.report].count("compressed") == 2
    plain = upgrade(small())
    assert len(plain.report.records) == 0
    wanted = Interpreter(plain).run(X)["out"]
    noise = Interpreter(model).run(X)["out"] - wanted
    assert (wanted**2).mean() > 1e3 * (noise**2).mean()


def test_the_target_follows_the_recipe() -> None:
    assert upgrade(small(), "pal6").get_spec().specificationVersion == ct.target.iOS16
    assert upgrade(small(), "int4-b32").get_spec().specificationVersion == ct.target.iOS18
    with pytest.raises(MilpassesError, match="iOS18"):
        upgrade(small(), "int4-b32", ct.target.iOS17)


@pytest.mark.parametrize(
    ("kind", "nbits", "scales", "op"),
    [("lut", 4, 1, "constexpr_lut_to_dense"), ("linear", 8, 6, "constexpr_affine_dequantize")],
)
def test_codes_stay_codes_in_float16(kind: str, nbits: int, scales: int, op: str) -> None:
    spec, weight = quantized(nbits, kind, scales, True)
    model = upgrade(spec)
    function = model._mil_program.functions["main"]
    (found,) = [o for o in function.operations if o.op_type == op]
    value = found.materialized_val_inference()
    assert value.dtype == np.float16
    np.testing.assert_allclose(value.astype(np.float32), weight, rtol=2e-3)
    assert [user.op_type for user in found.outputs[0].child_ops] == ["conv"]  # the cast is gone
    again = upgrade(spec, "pal4")
    assert [r.reason for r in again.report if "already" in r.reason] != []


def test_images_and_labels_stay() -> None:
    spec = image_network("BGR", image_scale=0.5, blue_bias=3)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    model = upgrade(spec)
    assert model.get_spec().description.input[0].type == spec.description.input[0].type
    wanted = Interpreter(spec).run({"image": pixels})["out"]
    np.testing.assert_allclose(Interpreter(model).run({"image": pixels})["out"], wanted, rtol=1e-3)
    labelled = classifier(["a", "b", "c"], "p")
    model = upgrade(labelled)
    description = model.get_spec().description
    assert description.predictedFeatureName == "label"
    assert description.predictedProbabilitiesName == labelled.description.predictedProbabilitiesName
    out = Interpreter(model).run({"x": np.array([0.0, 2.0, 1.0])})
    assert out["label"] == "b"
    assert list(out[description.predictedProbabilitiesName]) == ["a", "b", "c"]


def test_nothing_is_written_where_it_fails(tmp_path: Path) -> None:
    spec = small()
    spec.neuralNetwork.layers.add(name="mine", input=["x"], output=["q"]).custom.className = "Mine"
    with pytest.raises(NeuralNetworkError, match="custom Mine"):
        upgrade(spec, output=tmp_path / "model.mlpackage")
    with pytest.raises(NeuralNetworkError, match="float16 or float32"):
        upgrade(small(), precision="float8", output=tmp_path / "model.mlpackage")  # pyright: ignore
    assert list(tmp_path.iterdir()) == []


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[Any, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        app(list(map(str, arguments)), prog_name="milpasses")
    return ended.value.code, *capsys.readouterr()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = tmp_path / "model.mlmodel", tmp_path / "model.mlpackage"
    model.write_bytes(small().SerializeToString())
    status, out, err = run(capsys, "upgrade", model, "-o", output, "--recipe", "pal4")
    assert (status or 0, err) == (0, "")
    lines = out.splitlines()
    assert "2 of" in lines[-3]
    assert lines[-2] == "input 'x' is float32 now: ML Programs have no 64-bit floats"
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    assert f"{model.stat().st_size:,} bytes -> {output} {size:,} bytes" in lines[-1]
    status, out, err = run(capsys, "upgrade", model, "-o", output)
    assert status == 2
    assert err.startswith(f"milpasses: error: {output}: exists already; --force")
    status, out, err = run(capsys, "upgrade", model, "-o", output, "-f", "--target", "iOS17", "--json")
    content = json.loads(out)
    assert content["output"] == {"path": str(output), "bytes": content["output"]["bytes"]}
    assert len(content["notes"]) == 1
    status, out, err = run(capsys, "upgrade", output, "-o", tmp_path / "other.mlpackage")
    assert (status, out) == (2, "")
    assert "is an ML Program already; milpasses compress takes it as it is" in err
