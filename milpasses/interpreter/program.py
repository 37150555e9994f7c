"""From a Program, an MLModel or the path of a model to one MIL function, with what the model says of it.

A legacy neural network (``.mlmodel``) is read into MIL first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil.mil import Program

from milpasses import _coremltools as host
from milpasses.interpreter.registry import InterpreterError
from milpasses.program.package import new_message, open_package
from milpasses.program.saved import SavedProgram


@dataclass(frozen=True)
class Loaded:
    """One MIL function.

    ``description`` is the package's (a ModelDescription or FunctionDescription); an in-memory program has
    none, and its ``input_types`` are coremltools' TensorType and ImageType objects, if the frontend left
    some.
    """

    function: Any
    description: Any = None
    input_types: tuple[Any, ...] = ()


def load(program_or_package: Any, function: str) -> Loaded:
    """Find the function in whatever was given."""
    if isinstance(program_or_package, Program):
        names = list(program_or_package.functions)
        if function not in names:
            raise InterpreterError(_no_function(function, names))
        found: Any = program_or_package.functions[function]
        return Loaded(found, None, tuple(getattr(found, "input_types", None) or ()))
    if _is_legacy(program_or_package):
        return _read_legacy(program_or_package, function)
    if isinstance(program_or_package, SavedProgram):
        package = program_or_package.package
        return _load_spec(package.spec, str(package.model_folder / "weights"), function)
    if isinstance(program_or_package, (str, Path)):
        package = open_package(program_or_package)  # an MLModel would write into the package
        return _load_spec(package.spec, str(package.model_folder / "weights"), function)
    if isinstance(program_or_package, ct.models.MLModel):
        model = program_or_package
        return _load_spec(model.get_spec(), model.weights_dir or "", function, model)
    kind = type(program_or_package).__name__
    raise InterpreterError(
        f"expected a Program, an MLModel or the path of an .mlpackage or .mlmodel, got {kind}"
    )


def _is_legacy(model: Any) -> bool:
    if isinstance(model, (str, Path)):
        return Path(model).suffix.lower() == ".mlmodel" and Path(model).is_file()
    if isinstance(model, ct.models.MLModel):
        return host.spec_of(model).WhichOneof("Type") != "mlProgram"
    return hasattr(model, "specificationVersion") or hasattr(model, "program")  # a specification, a Reading


def _read_legacy(model: Any, function: str) -> Loaded:
    from milpasses.neuralnetwork import Reading, read

    reading = model if isinstance(model, Reading) else read(model)
    names = list(reading.program.functions)
    if function not in names:
        raise InterpreterError(_no_function(function, names))
    return Loaded(reading.program.functions[function], reading.description)


def _load_spec(spec: Any, weights: str, function: str, model: Any = None) -> Loaded:
    """``model`` is the MLModel of ``spec``, if there is one: it may have the program in memory."""
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise InterpreterError(f"the package holds a {kind}, not an mlProgram")
    program = spec.mlProgram
    names = list(program.functions)
    if function not in names:
        raise InterpreterError(_no_function(function, names))
    # The loader reads the weights of every function that it is given.
    wanted = new_message("MIL_pb2", "Program", version=program.version)
    wanted.functions[function].CopyFrom(program.functions[function])
    described = {f.name: f for f in spec.description.functions}
    try:
        mil = host.load_mil_program(wanted, spec.specificationVersion, weights)
    except NotImplementedError as error:  # coremltools reads no tensors of unknown rank
        mil = None if model is None else host.program_of(model)
        if mil is None or function not in mil.functions:
            raise InterpreterError(f"coremltools cannot read this package: {error}") from error
    return Loaded(mil.functions[function], described.get(function, spec.description))


def _no_function(wanted: str, names: list[str]) -> str:
    return f"no function '{wanted}'; the program has {', '.join(sorted(names))}"
