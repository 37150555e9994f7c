"""Neural networks inside an ``.mlpackage``: coremltools saves them so, too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.models import MLModel
from milpasses_tools import compare
from milpasses_tools.cli import app
from nn_models import network, normal

from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import quantize_weights, read, upgrade
from milpasses.program.sources import read_source


def spec() -> Any:
    def build(builder: Any) -> None:
        builder.add_inner_product("fc1", normal(64, 48), normal(64), 48, 64, True, "x", "h")
        builder.add_activation("relu", "RELU", "h", "r")
        builder.add_inner_product("fc2", normal(10, 64, seed=1), None, 64, 10, False, "r", "out")

    return network(build, {"x": (48,)})


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "network.mlpackage"
    MLModel(spec()).save(str(path))
    (path / "Data" / "com.example.notes").mkdir()
    (path / "Data" / "com.example.notes" / "notes.txt").write_text("mine")
    return path


def test_the_same_as_the_file(package: Path) -> None:
    inputs = {"x": normal(48)}
    want = Interpreter(spec()).run(inputs)["out"]
    for given in (package, MLModel(str(package)), read(package), str(package)):
        np.testing.assert_array_equal(Interpreter(given).run(inputs)["out"], want)


@pytest.mark.parametrize("name", ["small.mlpackage", "small.mlmodel"])
def test_quantize(package: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    found = quantize_weights(package, 4, "kmeans_lut", output=output)
    assert found.report.count("compressed") == 3
    quantized = read_source(output)
    assert quantized.spec == found.get_spec()
    assert output.is_dir() == (output.suffix == ".mlpackage")
    if output.is_dir():
        assert (output / "Data" / "com.example.notes" / "notes.txt").read_text() == "mine"
    assert MLModel(str(output)).get_spec() == found.get_spec()
    assert read_source(package).spec == spec()


def test_a_file_becomes_a_package(tmp_path: Path) -> None:
    plain, output = tmp_path / "plain.mlmodel", tmp_path / "small.mlpackage"
    MLModel(spec()).save(str(plain))
    found = quantize_weights(plain, 8, output=output)
    assert MLModel(str(output)).get_spec() == found.get_spec()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.mlmodel", "small.mlpackage"]


def test_upgrade(package: Path, tmp_path: Path) -> None:
    made = upgrade(package, "int8", output=tmp_path / "program.mlpackage")
    assert made.get_spec().WhichOneof("Type") == "mlProgram"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: Any) -> str:
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments], prog_name="milpasses")
        assert ended.value.code in (0, 1, None)
        return capsys.readouterr().out

    return call


def test_commands_read_it(package: Path, tmp_path: Path, run: Any) -> None:
    small = tmp_path / "small.mlpackage"
    assert "times smaller" in run("quantize-nn", package, "--bits", "4", "-m", "kmeans_lut", "-o", small)
    assert "fc1" in run("explain", small)
    assert "linear" in run("dump", package)
    assert "lut" in run("diff", package, small)
    assert compare(package, small, "random", samples=2).rows()
    assert "bytes" in run("upgrade", package, "-o", tmp_path / "program.mlpackage")
