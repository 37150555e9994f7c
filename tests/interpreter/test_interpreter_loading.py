"""What the interpreter takes, and that a model which is open is not opened again."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program
from models import convert, random, weights_program

import milpasses  # noqa: F401  (registers the reader of legacy models)
from milpasses import _coremltools as host
from milpasses.interpreter import Interpreter, InterpreterError
from milpasses.program import readers
from milpasses.program.opening import open_program
from milpasses.program.package import new_message, open_package
from milpasses.program.saved import SavedProgram


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A package of two functions, with a weight in its weight file each."""
    program = Program()
    for name, factor in (("double", 2.0), ("triple", 3.0)):
        with Function({"x": mb.placeholder((16,))}, opset_version=ct.target.iOS18) as function:
            weight = np.full(16, factor, np.float32)
            function.set_outputs([mb.mul(x=function.inputs["x"], y=weight, name="y")])
        program.add_function(name, function)
    program.default_function_name = "double"
    program.export_as_multifunction = True
    model = ct.convert(
        program,
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    path = tmp_path / "model.mlpackage"
    model.save(str(path))
    return path


def test_an_open_program_is_read_from_disk_for_its_weights_alone(path: Path) -> None:
    saved = SavedProgram(open_package(path))
    before = saved.package.spec.SerializeToString(deterministic=True)
    for file in path.rglob("*"):
        if file.suffix in (".json", ".mlmodel"):
            file.unlink()  # who reads the specification again fails
    assert [file.suffix for file in path.rglob("*") if file.is_file()] == [".bin"]
    for name, factor in (("double", 2), ("triple", 3), ("double", 2)):
        for runner in (Interpreter(saved, name), saved.runner(name)):
            np.testing.assert_array_equal(runner.run({"x": np.ones(16)})["y"], np.full(16, factor))
    with pytest.raises(InterpreterError, match="no function 'main'; the program has double, triple"):
        Interpreter(saved, "main")
    assert saved.package.spec.SerializeToString(deterministic=True) == before


def test_what_the_caller_changed_in_an_open_program_is_what_runs(path: Path) -> None:
    saved = SavedProgram(open_package(path))
    function = saved.package.spec.mlProgram.functions["double"]
    for op in function.block_specializations[function.opset].operations:
        op.type = {"mul": "add"}.get(op.type, op.type)
    result = Interpreter(saved, "double").run({"x": np.ones(16)})["y"]
    np.testing.assert_array_equal(result, np.full(16, 3))


def test_a_legacy_model_is_read_by_who_registered_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @mb.program(input_specs=[mb.TensorSpec((2,))])
    def half(x: Any) -> Any:
        return mb.mul(x=x, y=0.5, name="y")

    class Reading:
        program = half
        description = None

    asked: list[Any] = []

    def read(model: Any) -> Reading:
        asked.append(model)
        return Reading()

    monkeypatch.setitem(readers._READERS, "neuralnetwork", readers._READERS["neuralnetwork"])
    readers.register_reader("neuralnetwork", read)
    path = tmp_path / "model.mlmodel"
    spec = new_message("Model_pb2", "Model", specificationVersion=4)
    spec.neuralNetwork.SetInParent()
    path.write_bytes(spec.SerializeToString())
    assert Interpreter(path).run({"x": [2.0, 4.0]})["y"].tolist() == [1.0, 2.0]
    assert Interpreter(Reading()).run({"x": [2.0, 4.0]})["y"].tolist() == [1.0, 2.0]
    assert [source.path for source in asked] == [path]
    with pytest.raises(KeyError, match="unheard of"):
        readers.reader_of("unheard of")


def test_what_coremltools_cannot_load_runs_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convert(weights_program(random((8, 8))), skip_model_load=True)

    def unknown_rank(*_: object) -> None:
        raise NotImplementedError("a tensor of unknown rank")

    monkeypatch.setattr(host, "load_mil_program", unknown_rank)
    for given in (model, open_program(model)):
        assert Interpreter(given).run({"x": random((2, 8))})
    with pytest.raises(InterpreterError, match="cannot read this package: a tensor of unknown rank"):
        Interpreter(model.package_path)
