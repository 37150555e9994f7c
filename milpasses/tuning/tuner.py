"""Tune a compressed model: the same forms and bytes, with what they store learned against the float model."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
from coremltools.models import MLModel

from milpasses.data.parts import samples_of_part
from milpasses.data.random_data import is_random
from milpasses.data.samples import Samples
from milpasses.encoding.lowering import OpSpec
from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter, PipelineInterpreter
from milpasses.program.model import CompressedModel, write_model
from milpasses.program.opening import open_program
from milpasses.program.package import check_output
from milpasses.program.pipelines import SavedPipeline, check_one_function, opened_parts
from milpasses.program.saved import SavedProgram
from milpasses.program.weights import Site
from milpasses.program.writer import SavedCopy
from milpasses.recipe.recipe import Recipe
from milpasses.report import METADATA_KEY, Report
from milpasses.rewrite import rewriter_for, write_rewritten
from milpasses.tuning.clock import Clock, Progress

_LEAST = 8  # samples


def tune(
    model: "str | os.PathLike[str] | MLModel",
    recipe: Any,
    data: Any,
    *,
    output: "str | os.PathLike[str] | None" = None,
    minutes: float = 20.0,
    steps: int = 400,
    batch: int = 16,
    device: str = "cpu",
    seed: int = 0,
    limit: int | None = None,
    part: str | None = None,
    function: str | None = None,
    minimum_deployment_target: Any = None,
    requantize: bool = False,
    sequential: bool = False,
    strict: bool = False,
    force: bool = False,
    skip_model_load: bool | None = None,
    progress: Progress | None = None,
) -> CompressedModel:
    """Learn what a compressed model stores, so that its outputs come nearer to those of ``model``.

    Three stages. The program is cut where one tensor flows: each block learns its tables, scales, codes,
    biases and gains of normalizations, so that it makes of what really reaches it what the float program has
    there. Then all blocks together learn from the outputs, without codes and with them. Every fourth sample
    is held out, and decides: what is returned is never worse on them, in any output, than what tuning began
    with. Forms, bytes, masks and ops stay.

    Args:
        model: the float model, a path or ``MLModel``: its outputs are learned from. Of a pipeline every ML
            Program is tuned, on what reaches it, each in an equal share of the time.
        recipe: whatever ``compress`` takes; methods that a scheme does not name are ``gptq``, with ``data``.
            Or that model compressed already, an ``MLModel`` or the path of a package.
        data: whatever ``Samples.of`` takes, eight samples or more of equal shapes, without labels.
        output, minimum_deployment_target, requantize, sequential, strict, force, skip_model_load: as
            ``compress`` takes them.
        minutes: most time, calibration included; a run that ends by it may differ from the next one.
        steps: most steps of each stage, and of each block.
        batch: samples a step.
        device: torch's: ``cpu``, ``cuda``, ``mps``.
        seed: of the order of the samples.
        limit: use the first so many samples.
        part: of a pipeline, this part alone.
        function: which function of a multifunction model.
        progress: called with (done, total, name of the stage), where total stands for all of the time.

    Returns:
        The model with its ``report``, whose notes say what each stage gained.

    Raises:
        MilpassesError: torch is missing, too few samples, nothing to learn, no gradient that reaches it, a
            device that is not there, a loss that is not finite. Nothing is written then.
    """
    if find_spec("torch") is None:
        raise MilpassesError("tuning needs torch: pip install 'milpasses[torch]'")
    if is_random(data):
        raise MilpassesError(f"data={data}: nothing is learned from random samples, give real ones")
    compressed = _is_model(recipe)
    if output is not None:
        check_output(Path(output), force, (model, data, *([recipe] if compressed else [])))
    start = recipe if compressed else _wanted(recipe)
    options = _Options(start, steps, batch, device, seed, requantize, sequential, strict)
    clock = Clock(60 * minutes, progress)
    with opened_parts(model, minimum_deployment_target, part, skip_model_load) as (pipeline, programs):
        check_one_function(pipeline, function)
        if pipeline is None:
            interpreter = Interpreter(programs[""], function)
            samples = Samples.of(data, interpreter, limit=limit)
            return options.tuned(programs[""], samples, function, clock, 1.0).write(output, force)
        if compressed:
            raise MilpassesError("of a pipeline give the recipe: one compressed already is not tuned")
        inputs = Samples.of(data, PipelineInterpreter(pipeline), limit=limit)
        return _tuned_parts(pipeline, programs, options, inputs, clock, output, force)


def _is_model(recipe: Any) -> bool:
    """A compressed model stands in the place of the recipe."""
    return isinstance(recipe, MLModel) or (isinstance(recipe, str | os.PathLike) and Path(recipe).is_dir())


def _wanted(recipe: Any) -> Recipe:
    wanted = Recipe.of(recipe)
    if wanted.wants_activations:
        raise MilpassesError("8-bit activations have no gradient: tune without a8, then add it with compress")
    return wanted if wanted.wants_tuning else wanted.tuned()


@attrs.frozen(eq=False)
class _Tuned:
    """The compressed program, the ops of each site that learned, and what is to be said of it."""

    program: SavedProgram
    replaced: dict[Site, list[OpSpec]]
    report: Report

    def write(self, output: Any = None, force: bool = False) -> CompressedModel:
        """The package with what was learned."""
        program, report = self.program, self.report

        def write_weights(folder: Path) -> Any:
            copy = SavedCopy(program, folder)
            copy.replace(list(self.replaced), lambda site: self.replaced[site])
            copy.spec.description.metadata.userDefined[METADATA_KEY] = report.to_metadata()
            return copy.spec

        options = program.load_options
        return write_model(
            program.package, write_weights, CompressedModel, output, force, report=report, **options
        )


@attrs.frozen(eq=False)
class _Options:
    """What every program of a model is tuned with."""

    start: Any
    steps: int
    batch: int
    device: str
    seed: int
    requantize: bool
    sequential: bool
    strict: bool

    def tuned(
        self, teacher: SavedProgram, samples: Samples, function: str | None, clock: Clock, until: float
    ) -> _Tuned:
        """``teacher`` compressed and tuned, by the time that share of all is spent."""
        from milpasses.tuning.task import APART, Task

        inputs = [sample.inputs for sample in samples]
        if len(inputs) < _LEAST:
            raise MilpassesError(
                f"{len(inputs)} samples are too few to tune with: give at least {_LEAST}, of which every "
                f"{APART}th is held out"
            )
        given, report = self._begin(teacher, inputs, function, clock)
        task = Task(teacher, given, inputs, function, self.device, self.batch, self.seed)
        return _Tuned(given, task.learn(report, self.steps, clock, until), report)

    def _begin(
        self, teacher: SavedProgram, inputs: list[Any], function: str | None, clock: Clock
    ) -> tuple[SavedProgram, Report]:
        """The compressed program that tuning starts from, and its report."""
        if not isinstance(self.start, Recipe):
            return open_program(self.start), getattr(self.start, "report", None) or Report()

        def told(done: int, total: int, name: str) -> None:
            clock.tell(f"calibrating: {name}")

        rewriter = rewriter_for(
            teacher, self.start, calibration=inputs, function=function, requantize=self.requantize,
            sequential=self.sequential, strict=self.strict, progress=told, tunes=True,
        )  # fmt: skip
        start = write_rewritten(teacher, rewriter, CompressedModel, progress=told)
        program = open_program(start, skip_model_load=True)
        return attrs.evolve(program, load_options=teacher.load_options), start.report


def _tuned_parts(
    pipeline: SavedPipeline, programs: dict[str, SavedProgram], options: _Options, samples: Samples,
    clock: Clock, output: Any, force: bool,
) -> CompressedModel:  # fmt: skip
    """``pipeline`` with its ``programs`` tuned, each on what reaches it in the float pipeline."""
    interpreter, raised, report = PipelineInterpreter(pipeline), dict(pipeline.raised), Report()
    kept: list[CompressedModel] = []  # their packages are read until all is written
    for index, (name, program) in enumerate(programs.items(), 1):
        reaching = samples_of_part(interpreter, samples, name)
        tuned = options.tuned(program, reaching, None, clock, index / len(programs))
        kept.append(tuned.write())
        raised[name] = open_program(kept[-1])
        report.add_part(name, tuned.report)
    whole = attrs.evolve(pipeline, raised=raised)

    def write_weights(folder: Path) -> Any:
        spec = whole.copy(folder)
        spec.description.metadata.userDefined[METADATA_KEY] = report.to_metadata()
        return spec

    loading = pipeline.load_options
    return write_model(
        pipeline.package, write_weights, CompressedModel, output, force, report=report, **loading
    )
