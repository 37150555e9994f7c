"""Who runs a model: milpasses' interpreter anywhere, or Core ML itself on macOS."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from milpasses.data.samples import model_inputs
from milpasses.errors import MilpassesError
from milpasses.interpreter import Feature, Interpreter, Observer, PipelineInterpreter
from milpasses.program.opening import open_program


class Runner(Protocol):
    """Runs one function of a model, each time with states anew."""

    inputs: dict[str, Feature]
    output_names: list[str]

    def run(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> dict[str, Any]:
        """The outputs by name: arrays, uint8 images, a label, a mapping from classes to probabilities."""
        ...


class Reference:
    """Runs a model with milpasses' interpreter."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.inputs = interpreter.inputs
        self.output_names = interpreter.output_names

    def run(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> dict[str, Any]:
        """See ``Runner``."""
        return self.interpreter.run(inputs, self.interpreter.make_state(), observers)


class PipelineReference:
    """Runs a pipeline with milpasses' interpreter: its outputs are what each part gives, ``part/output``.

    Not those of non-maximum suppression, whose boxes differ in number, and of what only Core ML runs.
    ``left_out`` says so.
    """

    def __init__(self, interpreter: PipelineInterpreter) -> None:
        self.interpreter = interpreter.before_blocked() if interpreter.blocked else interpreter
        self.inputs = self.interpreter.inputs
        runners = self.interpreter.runners
        self._names = {name: runner.interpreter for name, runner in runners.items() if runner.interpreter}
        self.output_names = [
            f"{name}/{output}" for name, found in self._names.items() for output in found.output_names
        ]
        suppressed = [f"{name} (its boxes differ in number)" for name in runners if name not in self._names]
        if interpreter.blocked is not None:
            suppressed.append(f"{interpreter.blocked.name} (only Core ML runs it)")
        self.left_out = ", ".join(suppressed)

    def run(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> dict[str, Any]:
        """See ``Runner``."""
        return {
            f"{step.name}/{name}": value
            for step in self.interpreter.steps(inputs, observers)
            if step.name in self._names
            for name, value in step.outputs.items()
        }


class CoreML:
    """Runs a model with ``MLModel.predict``; ``model`` is anything with that method (and ``make_state``).

    Written after coremltools' documentation and tested with a stand-in; not tried on macOS yet.
    """

    def __init__(self, model: Any, inputs: dict[str, Feature], output_names: list[str]) -> None:
        self.model, self.inputs, self.output_names = model, inputs, output_names
        self._has_state = any(feature.kind == "state" for feature in inputs.values())

    def run(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> dict[str, Any]:
        """See ``Runner``; there is nothing to observe."""
        given = {name: _to_coreml(self.inputs[name], value) for name, value in inputs.items()}
        made = (
            self.model.predict(given, state=self.model.make_state())
            if self._has_state
            else self.model.predict(given)
        )
        missing = [name for name in self.output_names if name not in made]
        if missing:
            raise MilpassesError(f"Core ML gave no output {', '.join(missing)}; it gave {', '.join(made)}")
        return {name: _from_coreml(made[name]) for name in self.output_names}


def _to_coreml(feature: Feature, value: Any) -> Any:
    """Arrays in the declared type; images as PIL's, which is what ``predict`` takes."""
    if feature.image is None:
        return np.asarray(value, feature.dtype)
    from PIL import Image

    image = value if hasattr(value, "convert") else Image.fromarray(np.asarray(value))
    return image.convert(
        "F" if "FLOAT16" in feature.image.layout else "L" if feature.image.is_gray else "RGB"
    )


def _from_coreml(value: Any) -> Any:
    if hasattr(value, "convert"):  # a PIL image: RGB, gray or float
        return np.asarray(value.convert("RGB") if value.mode == "RGBA" else value)
    return value


def open_runner(model: Any, function: str | None, runtime: str) -> Runner:
    """Who runs ``model`` (a path, ``MLModel``, ``Program`` or ``Interpreter``); raises ``MilpassesError``."""
    if runtime == "reference":
        interpreter = model if isinstance(model, Interpreter) else Interpreter(model, function)
        if isinstance(interpreter, PipelineInterpreter):
            return PipelineReference(interpreter)
        return Reference(interpreter)
    if runtime != "coreml":
        raise MilpassesError(f"runtime must be reference or coreml, got {runtime!r}")
    if sys.platform != "darwin":
        raise MilpassesError("runtime coreml needs macOS, where Core ML is; runtime reference runs anywhere")
    from coremltools.models import MLModel

    if not isinstance(model, str | os.PathLike | MLModel):
        raise MilpassesError(f"runtime coreml needs a saved model or an MLModel, got {type(model).__name__}")
    program = open_program(model)
    function, package = program.function_name(function), program.package
    path = str(package.path)
    description = package.spec.description
    several = {one.name: one for one in description.functions}
    outputs = several.get(function, description).output
    loaded = MLModel(path, function_name=function if several else None)
    return CoreML(loaded, model_inputs(path, function), [output.name for output in outputs])


def check_alike(a: Runner, b: Runner) -> None:
    """Raise ``MilpassesError`` unless both models take the same inputs and give outputs of the same names."""
    inputs = [{name: _kind(feature) for name, feature in one.inputs.items()} for one in (a, b)]
    for title, first, second in (
        ("inputs", *({f"{name} {kind}" for name, kind in one.items()} for one in inputs)),
        ("outputs", set(a.output_names), set(b.output_names)),
    ):
        if first != second:
            raise MilpassesError(
                f"the models have different {title}: {', '.join(sorted(first)) or 'none'} against "
                f"{', '.join(sorted(second)) or 'none'}"
            )


def _kind(feature: Feature) -> str:
    layout = "" if feature.image is None else f"{feature.image.layout} "
    return f"({layout}{feature.kind} {'x'.join('?' if n is None else str(n) for n in feature.shape)})"
