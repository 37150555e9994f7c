"""Pipelines that hold neural networks beside other models: each network is worked on, the rest stays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.models import datatypes, neural_network
from milpasses_tools.bisect import bisect
from milpasses_tools.diff import diff
from milpasses_tools.explain import explain
from pipeline_models import linear_part, pipeline_of, tree_part

import milpasses as mp
from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import NeuralNetworkError, quantize_weights, upgrade
from milpasses.program.pipelines import open_pipeline

NAMES = ("network", "program", "trees")
NETWORK_WEIGHT, PROGRAM_WEIGHT = "network/dense.weights", "program/made_weight_0_to_fp16"


def network(given: str = "w", made: str = "x", seed: int = 3) -> Any:
    """A dense layer from ``given`` (64) to ``made`` (1, 64)."""
    builder = neural_network.NeuralNetworkBuilder(
        [(given, datatypes.Array(64))], [(made, datatypes.Array(64))], disable_rank5_shape_mapping=True
    )
    weight = np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32) / 8
    builder.add_inner_product("dense", weight, np.zeros(64), 64, 64, True, given, "dense")
    builder.add_expand_dims("rank", "dense", made, [0])
    spec = builder.spec
    spec.description.output[0].type.multiArrayType.shape[:] = [1, 64]
    return spec


def mixed(trees: bool = True) -> Any:
    """A network, an ML Program, and what only Core ML runs."""
    linear = linear_part("x", "y")
    models = [network(), linear.get_spec(), *([tree_part()] if trees else [])]
    return pipeline_of(models, linear.weights_dir, NAMES[: len(models)])


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixed") / "mixed.mlpackage"
    mixed().save(str(path))
    return path


def parts(model: Any) -> dict[str, Any]:
    return {leaf.name: leaf.spec for leaf in open_pipeline(model).leaves()}


W = {"w": np.linspace(-1, 1, 64, dtype=np.float32)}


def last(model: Any) -> Any:
    return Interpreter(model).before_blocked().run(W)["y"]


def test_networks_become_programs_and_the_rest_stays(package: Path, tmp_path: Path) -> None:
    made = upgrade(package, output=tmp_path / "up.mlpackage")
    before, after = parts(package), parts(tmp_path / "up.mlpackage")
    assert list(after) == list(NAMES)
    assert [spec.WhichOneof("Type") for spec in after.values()] == [
        "mlProgram", "mlProgram", "treeEnsembleRegressor",
    ]  # fmt: skip
    assert after["trees"] == before["trees"]
    assert after["program"].description == before["program"].description
    np.testing.assert_allclose(last(made), last(package), atol=0.02)
    spec = made.get_spec()
    assert [feature.name for feature in spec.description.input] == ["w"]
    assert spec.description.input[0].type == after["network"].description.input[0].type
    assert Path(made.weights_dir, "weight.bin").is_file()


def test_a_recipe_is_for_what_was_upgraded(package: Path) -> None:
    small = upgrade(package, "int8", strict=True)
    compressed = [record.name for record in small.report if record.status == "compressed"]
    assert [name.partition("/")[0] for name in compressed] == ["network"]
    assert {record.name.partition("/")[0] for record in small.report} == {"network"}
    whole = mp.compress(small, "int8")
    assert PROGRAM_WEIGHT in [record.name for record in whole.report if record.status == "compressed"]


def test_rules_that_match_nothing(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "no.mlpackage"
    with pytest.raises(mp.RecipeError, match="rule 1"):
        upgrade(package, "int8; name=nowhere* -> keep", output=out, strict=True)
    assert not out.exists()
    with pytest.raises(mp.RecipeError, match="rule 1"):
        upgrade(network(), "int8; name=nowhere* -> keep", output=out, strict=True)
    assert not out.exists()
    with pytest.warns(mp.UnmatchedRuleWarning):
        assert len(upgrade(package, "int8; name=nowhere* -> keep").report.unmatched) == 1


def test_one_network_of_a_pipeline_of_networks(tmp_path: Path) -> None:
    second = network("v", "u", seed=4)
    first = network("w", "v", seed=5)
    first.description.output[0].type.multiArrayType.shape[:] = [64]
    del first.neuralNetwork.layers[1]
    first.neuralNetwork.layers[0].output[0] = "v"
    spec = pipeline_of([first, second], "", ("a", "b")).get_spec()
    path = tmp_path / "both.mlmodel"
    path.write_bytes(spec.SerializeToString())
    assert upgrade(path).get_spec().WhichOneof("Type") == "mlProgram"  # one program of both
    half = upgrade(path, part="b", output=tmp_path / "half.mlpackage")
    assert {name: one.WhichOneof("Type") for name, one in parts(half).items()} == {
        "a": "neuralNetwork", "b": "mlProgram",
    }  # fmt: skip
    expected, made = (Interpreter(model).run(W)["u"] for model in (path, half))
    np.testing.assert_allclose(made, expected, atol=0.02)


def test_what_is_no_network_is_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(NeuralNetworkError, match=r"part trees is no neural network; .* network \(neuralN"):
        upgrade(package, part="trees")
    with pytest.raises(NeuralNetworkError, match="part x: the model is no pipeline"):
        upgrade(network(), part="x")
    with pytest.raises(NeuralNetworkError, match="input_shapes"):
        upgrade(package, input_shapes={"w": (64,)})
    with pytest.raises(mp.PackageError, match="part program is no neural network; there are network"):
        quantize_weights(package, 8, part="program")
    with pytest.raises(mp.PackageError, match="part x is no neural network; there are none"):
        quantize_weights(network(), 8, part="x")
    with pytest.raises(mp.PackageError, match=r"needs a name that ends in \.mlpackage"):
        quantize_weights(package, 8, output=tmp_path / "out.mlmodel")


def test_a_name_that_programs_cannot_have_is_refused() -> None:
    linear = linear_part("x", "y")
    pipeline = pipeline_of([network("in put"), linear.get_spec()], linear.weights_dir, NAMES[:2])
    with pytest.raises(NeuralNetworkError, match="part network: 'in put' cannot be a name in an ML Program"):
        upgrade(pipeline)


def test_quantizing_the_networks_keeps_the_weight_files(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.mlpackage"
    small = quantize_weights(package, 8, "kmeans_lut", output=out)
    assert [record.name for record in small.report if record.status == "compressed"][:1] == [NETWORK_WEIGHT]
    before, after = parts(package), parts(out)
    for name in ("program", "trees"):
        assert after[name] == before[name]
    blobs = [next(path.rglob("weight.bin")).read_bytes() for path in (package, out)]
    assert blobs[0] == blobs[1]
    np.testing.assert_allclose(last(out), last(package), atol=0.05)
    np.testing.assert_array_equal(last(small), last(out))
    again = mp.compress(out, "int8", output=tmp_path / "both.mlpackage")
    assert [record.name for record in again.report if record.status == "compressed"] == [PROGRAM_WEIGHT]
    assert quantize_weights(package, 8, part="network").report.count("compressed") == 2


def test_the_tools_show_the_networks(package: Path, tmp_path: Path) -> None:
    shown = explain(package)
    names = {weight.name.partition("/")[0] for weight in shown.weights}
    assert shown.model == str(package)
    assert sum(shown.files.values()) == sum(f.stat().st_size for f in package.rglob("*") if f.is_file())
    assert names == {"network", "program"}
    quantize_weights(package, 2, "kmeans_lut", output=tmp_path / "worse.mlpackage")
    found = diff(package, tmp_path / "worse.mlpackage")
    assert {one.function.partition("/")[0] for one in found.weights} == {"network"}
    searched = bisect(package, tmp_path / "worse.mlpackage", W, tolerance=40.0)
    assert [name.partition("/")[0] for name in searched.keep] == ["network"]


def test_updatable_models_say_so_at_every_width() -> None:
    spec = network()
    spec.isUpdatable = True
    spec.neuralNetwork.layers[0].isUpdatable = True
    for nbits in (1, 4, 8):
        report = quantize_weights(spec, nbits, "kmeans_lut").report
        assert report.notes == ["an updatable model: what is trained on the device stays float32"]
        assert report.count("compressed") == 0
        assert "trained on the device" in report.records[0].reason
    with pytest.raises(mp.MilpassesError, match="updatable model is trained on the device"):
        quantize_weights(spec, 16)
    assert quantize_weights(network(), 8).report.notes == []


def test_the_commands(package: Path, tmp_path: Path) -> None:
    from milpasses_tools.cli import app
    from typer.testing import CliRunner

    run = CliRunner().invoke
    up = run(
        app, ["upgrade", str(package), "-o", str(tmp_path / "up.mlpackage"), "--part", "network", "--json"]
    )
    assert up.exit_code == 0, up.output
    small = tmp_path / "small.mlpackage"
    done = run(app, ["quantize-nn", str(package), "-b", "4", "-o", str(small), "--part", "network", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["totals"]["compressed"] == 2  # weights and bias
    assert (
        run(app, ["upgrade", str(package), "-o", str(tmp_path / "x.mlpackage"), "--part", "y"]).exit_code == 2
    )
