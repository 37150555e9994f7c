"""What a file or an object is: Core ML's kinds of models told apart, and everything else named."""

import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from coremltools.models import MLModel, datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from models import conv_linear_program, convert, random

import milpasses as mp
from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import NeuralNetworkError, quantize_weights, read
from milpasses.program.package import new_message
from milpasses.program.sources import read_source


@pytest.fixture(scope="module")
def program_model() -> Any:
    return convert(conv_linear_program())


def small_network() -> Any:
    builder = NeuralNetworkBuilder([("x", datatypes.Array(16))], [("out", None)])
    builder.add_inner_product("fc", random((8, 16)), None, 16, 8, False, "x", "out")
    return builder.spec


def glm() -> Any:
    spec = new_message("Model_pb2", "Model", specificationVersion=4)
    spec.glmRegressor.weights.add().value.append(1.0)
    spec.glmRegressor.offset.append(0.0)
    return spec


def test_kinds(program_model: Any, tmp_path: Path) -> None:
    program_model.save(str(tmp_path / "program.mlpackage"))
    MLModel(small_network()).save(str(tmp_path / "network.mlpackage"))
    MLModel(small_network()).save(str(tmp_path / "network.mlmodel"))
    kinds = {
        name: (source.kind, source.is_network, source.spec_path is not None)
        for name in ("program.mlpackage", "network.mlpackage", "network.mlmodel")
        if (source := read_source(tmp_path / name))
    }
    assert kinds == {
        "program.mlpackage": ("mlProgram", False, True),
        "network.mlpackage": ("neuralNetwork", True, True),
        "network.mlmodel": ("neuralNetwork", True, False),
    }
    assert read_source(MLModel(str(tmp_path / "network.mlpackage"))).spec_path is not None
    assert read_source(small_network()).path is None


def test_a_network_to_compress_is_told_of_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "network.mlpackage"
    MLModel(small_network()).save(str(path))
    for given in (path, MLModel(str(path)), MLModel(small_network()), small_network()):
        with pytest.raises(mp.PackageError, match=r"of type neuralNetwork: milpasses upgrade .* quantize-nn"):
            mp.compress(given, "int8")


def test_other_types_are_not_told_of_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "glm.mlmodel"
    path.write_bytes(glm().SerializeToString())
    for given in (path, MLModel(glm()), glm()):
        with pytest.raises(mp.PackageError, match=r"of type glmRegressor: milpasses compresses") as caught:
            mp.compress(given, "int8")
        assert "upgrade" not in str(caught.value)
        with pytest.raises(NeuralNetworkError, match="of type glmRegressor; neural networks"):
            Interpreter(given)


def test_a_specification_of_a_program_has_no_weights(program_model: Any, tmp_path: Path) -> None:
    spec = program_model.get_spec()
    with pytest.raises(mp.PackageError, match=r"without its weights; give the MLModel"):
        mp.compress(spec, "int8")
    alone = tmp_path / "model.mlmodel"
    alone.write_bytes(spec.SerializeToString())
    with pytest.raises(mp.PackageError, match=r"one file of an \.mlpackage"):
        mp.compress(alone, "int8")
    with pytest.raises(mp.PackageError, match=r"one file of an \.mlpackage"):
        Interpreter(alone)


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as written:
        for name in names:
            written.writestr(f"net/{name}", b"")
    return path


def folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_bytes(b"")
    return path


def file(path: Path) -> Path:
    path.write_bytes(b"\x08\x07")
    return path


FOREIGN = [
    (lambda at: folder(at / "a.mlmodelc", "coremldata.bin"), r"compiled Core ML model \(.mlmodelc\)"),
    (lambda at: folder(at / "renamed", "coremldata.bin"), "that it was compiled from"),
    (lambda at: folder(at / "saved", "saved_model.pb"), "a TensorFlow model"),
    (lambda at: file(at / "a.onnx"), "an ONNX model, and coremltools converts none"),
    (lambda at: archive(at / "a.pt", "constants.pkl", "data.pkl"), "a TorchScript network"),
    (lambda at: archive(at / "b.pt", "data.pkl", "version"), "a PyTorch checkpoint"),
    (lambda at: archive(at / "a.pt2", "archive_format"), r"a program of torch\.export"),
    (lambda at: file(at / "a.safetensors"), "without the network"),
    (lambda at: file(at / "a.txt"), "a file of another kind"),
]


@pytest.mark.parametrize(("make", "message"), FOREIGN)
def test_files_that_are_not_core_ml(make: Any, message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    for use in (lambda: mp.compress(path, "int8"), lambda: read(path), lambda: Interpreter(path)):
        with pytest.raises(mp.PackageError, match=message):
            use()
    with pytest.raises(mp.PackageError, match=message):
        quantize_weights(path, 4)


def test_objects_that_are_not_core_ml() -> None:
    for given, message in (
        (3, "got int"),
        (SimpleNamespace(), "got SimpleNamespace"),
        (conv_linear_program(), "a Program is a program in memory; convert it"),
    ):
        with pytest.raises(mp.PackageError, match=message):
            mp.compress(given, "int8")  # type: ignore[arg-type]


def test_torch_objects_are_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(4, 4)
    traced = torch.jit.trace(net, torch.zeros(1, 4))
    exported = torch.export.export(net, (torch.zeros(1, 4),))
    traced.save(str(tmp_path / "script.bin"))
    torch.export.save(exported, str(tmp_path / "exported.bin"))
    torch.save(net.state_dict(), tmp_path / "weights.bin")
    for given, message in (
        (net, "a Linear is a PyTorch module; trace or export it"),
        (traced, "a TorchScript network"),
        (exported, r"a program of torch\.export"),
        (tmp_path / "script.bin", "a TorchScript network"),
        (tmp_path / "exported.bin", r"a program of torch\.export"),
        (tmp_path / "weights.bin", "a PyTorch checkpoint"),
    ):
        with pytest.raises(mp.PackageError, match=message):
            mp.compress(given, "int8")
