"""Who runs a model: milpasses' interpreter anywhere, or Core ML itself on macOS."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from milpasses.data.parts import samples_of_part
from milpasses.data.samples import Samples, model_inputs
from milpasses.errors import MilpassesError
from milpasses.interpreter import Feature, Interpreter, Observer, PipelineInterpreter
from milpasses.program.opening import open_program
from milpasses.program.pipelines import is_pipeline


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
        self.functions: dict[str, Any] = {"": interpreter.function}
        self.programs = {"": interpreter}

    def run(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> dict[str, Any]:
        """See ``Runner``."""
        return self.interpreter.run(inputs, self.interpreter.make_state(), observers)

    def override(self, values: Mapping[str, Any]) -> None:
        """As ``Interpreter.override``."""
        self.interpreter.override(values)


class PipelineReference:
    """Runs a pipeline with milpasses' interpreter: its outputs are what each part gives, ``part/output``.

    Those of non-maximum suppression, whose boxes differ in number, come apart: see ``run_parts``, and
    ``suppressions`` by part. ``left_out`` says what only Core ML runs.
    """

    def __init__(self, interpreter: PipelineInterpreter) -> None:
        self.interpreter = interpreter.before_blocked() if interpreter.blocked else interpreter
        self.inputs = self.interpreter.inputs
        self.runners = self.interpreter.leaf_runners
        self.programs: dict[str, Interpreter] = {
            name: runner.interpreter for name, runner in self.runners.items() if runner.interpreter
        }
        self.functions = {name: found.function for name, found in self.programs.items()}
        self.suppressions = {
            name: runner.suppression for name, runner in self.runners.items() if runner.suppression
        }
        self.output_names = [
            f"{name}/{output}" for name, found in self.programs.items() for output in found.output_names
        ]
        blocked = interpreter.blocked
        self.left_out = "" if blocked is None else f"{blocked.name} (only Core ML runs it)"

    def run(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> dict[str, Any]:
        """See ``Runner``."""
        return self.run_parts(inputs, observers)[0]

    def run_parts(
        self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """The outputs, and what each non-maximum suppression keeps, by part."""
        outputs: dict[str, Any] = {}
        kept: dict[str, dict[str, Any]] = {}
        for step in self.interpreter.leaf_steps(inputs, observers):
            if step.name in self.programs:
                outputs.update({f"{step.name}/{name}": value for name, value in step.outputs.items()})
            else:
                kept[step.name] = step.outputs
        return outputs, kept

    def part(self, name: str) -> Reference:
        """What runs one part alone; raises ``MilpassesError`` where it is no program, or not there."""
        if name not in self.programs:
            raise MilpassesError(
                f"part {name} is none of the pipeline's that run here: {', '.join(self.programs) or 'none'}"
            )
        return Reference(self.programs[name])

    def override(self, values: Mapping[str, Any]) -> None:
        """As ``Interpreter.override``, of variables called ``part/variable``."""
        for name, interpreter in self.programs.items():
            inside = f"{name}/"
            interpreter.override(
                {key.removeprefix(inside): value for key, value in values.items() if key.startswith(inside)}
            )

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the first image input; None where there is none, or none of a fixed size."""
        for feature in self.inputs.values():
            if feature.image is not None and None not in feature.shape[-2:]:
                height, width = feature.shape[-2:]
                return int(height or 0), int(width or 0)
        return None


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
        interpreter = model if isinstance(model, Interpreter) else Interpreter(_whole(model), function)
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
    if is_pipeline(model):
        raise MilpassesError("runtime coreml takes one program; runtime reference runs pipelines")
    program = open_program(model)
    function, package = program.function_name(function), program.package
    path = str(package.path)
    description = package.spec.description
    several = {one.name: one for one in description.functions}
    outputs = several.get(function, description).output
    loaded = MLModel(path, function_name=function if several else None)
    return CoreML(loaded, model_inputs(path, function), [output.name for output in outputs])


def _whole(model: Any) -> Any:
    """``model``; a pipeline with its neural networks as the programs whose weights the tools show."""
    from coremltools.converters.mil.mil import Program

    from milpasses_tools._models import open_whole

    return model if isinstance(model, Program) else open_whole(model) or model


def open_pair(
    a: Any,
    b: Any,
    data: Any,
    part: str | None,
    function: str | None,
    limit: int | None,
    seed: int,
    runtime: str = "reference",
) -> tuple[Runner, Runner, Samples]:
    """Who runs two models, or ``part`` of two pipelines, and the samples: what reaches it in the first.

    Raises ``MilpassesError``, also where the two have different inputs or outputs.
    """
    if part is None:
        first, second = (open_runner(model, function, runtime) for model in (a, b))
        check_alike(first, second)
        return first, second, Samples.of(data, first.inputs, limit=limit, seed=seed).finite(first.run)
    whole: list[PipelineReference] = []
    for model in (a, b):
        runner = open_runner(model, function, runtime)
        if not isinstance(runner, PipelineReference):
            why = "the model is no pipeline" if runtime == "reference" else "with runtime reference only"
            raise MilpassesError(f"part {part}: {why}")
        whole.append(runner)
    first, second = (runner.part(part) for runner in whole)
    check_alike(first, second)
    source = Samples.of(data, whole[0].inputs, limit=limit, seed=seed).finite(whole[0].run)
    return first, second, samples_of_part(whole[0].interpreter, source, part)


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
