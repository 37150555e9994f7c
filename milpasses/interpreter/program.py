"""From a Program, an MLModel or the path of a model to one MIL function, with what the model says of it.

A legacy neural network (``.mlmodel``, or inside an ``.mlpackage``) is read into MIL first.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import coremltools as ct
from coremltools.converters.mil.mil import Program

from milpasses import _coremltools as host
from milpasses.errors import MilpassesError
from milpasses.interpreter.registry import InterpreterError
from milpasses.program.checking import check_package
from milpasses.program.functions import resolve_function
from milpasses.program.package import Package, new_message, package_of
from milpasses.program.readers import reader_of
from milpasses.program.saved import SavedProgram
from milpasses.program.scopes import with_unique_names
from milpasses.program.sources import PROGRAM, Source, read_source


@dataclass(frozen=True)
class Loaded:
    """One MIL function, and the name that it has in its program.

    ``description`` is the package's (a ModelDescription or FunctionDescription); an in-memory program has
    none, and its ``input_types`` are coremltools' TensorType and ImageType objects, if the frontend left
    some.
    """

    function: Any
    name: str
    description: Any = None
    input_types: tuple[Any, ...] = ()


def load(model: Any, function: str | None = None) -> Loaded:
    """Find the function in ``model``; see ``Interpreter`` for what that may be, and for the default.

    Raises InterpreterError where it is no model or has no such function, PackageError for a damaged file.
    """
    if isinstance(model, Program):
        return _from_program(model, function, None)
    if isinstance(model, SavedProgram):  # its specification is read already
        model.check()
        return _from_spec(model.spec, _weights(model.package), function, model.model)
    if isinstance(getattr(model, "program", None), Program):  # what a reader made of a model
        return _from_program(model.program, function, getattr(model, "description", None))
    if isinstance(model, ct.models.MLModel) and host.spec_of(model).WhichOneof("Type") == PROGRAM:
        return _from_spec(host.spec_of(model), model.weights_dir or "", function, model)
    if not isinstance(model, (str, os.PathLike, Source, ct.models.MLModel)) and not hasattr(
        model, "specificationVersion"
    ):
        kind = type(model).__name__
        raise InterpreterError(
            f"expected a Program, an MLModel or the path of an .mlpackage or .mlmodel, got {kind}"
        )
    source = read_source(model)  # of a path; an MLModel would write into the package
    if source.kind != PROGRAM:
        return load(reader_of("neuralnetwork")(source), function)
    package = package_of(source)
    check_package(package)
    return _from_spec(package.spec, _weights(package), function)


def _weights(package: Package) -> str:
    return str(package.model_folder / "weights")


def _from_program(program: Program, function: str | None, description: Any) -> Loaded:
    function = _resolve(program.functions, function, program.default_function_name)
    block: Any = program.functions[function]
    types = tuple(getattr(block, "input_types", None) or ())
    return Loaded(block, function, description, types)


def _from_spec(spec: Any, weights: str, function: str | None, model: Any = None) -> Loaded:
    """``model`` is the MLModel of ``spec``, if there is one: it may have the program in memory."""
    program = spec.mlProgram
    function = _resolve(program.functions, function, spec.description.defaultFunctionName)
    # The loader reads the weights of every function that it is given.
    alone = new_message("Model_pb2", "Model")
    alone.mlProgram.version = program.version
    alone.mlProgram.functions[function].CopyFrom(program.functions[function])
    wanted = with_unique_names(alone).mlProgram
    functions = spec.description.functions
    described = next((part for part in functions if part.name == function), spec.description)
    try:
        mil = host.load_mil_program(wanted, spec.specificationVersion, weights)
    except NotImplementedError as error:  # coremltools reads no tensors of unknown rank
        mil = None if model is None else host.program_of(model)
        if mil is None or function not in mil.functions:
            raise InterpreterError(f"coremltools cannot read this package: {error}") from error
    except host.MissingInternalError:
        raise
    except Exception as error:  # whatever its builder says of ops that are none, or do not fit together
        text = f"{type(error).__name__}: {error}"
        raise InterpreterError(f"coremltools cannot read this package: {text}") from error
    description = type(described)()
    description.CopyFrom(described)  # the caller may change the specification while this runs
    return Loaded(mil.functions[function], function, description)


def _resolve(names: Iterable[str], wanted: str | None, default: Any) -> str:
    try:
        return resolve_function(names, wanted, str(default or ""))
    except MilpassesError as error:
        raise InterpreterError(str(error)) from None
