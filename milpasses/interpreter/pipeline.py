"""Runs a pipeline model: its parts in order, with values passed by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import attrs
import numpy as np

from milpasses import _coremltools as host
from milpasses.interpreter.engine import Interpreter, Observer, Precision
from milpasses.interpreter.io import Feature, State
from milpasses.interpreter.registry import InterpreterError
from milpasses.interpreter.suppression import NonMaximumSuppression
from milpasses.program.pipelines import Part, is_pipeline, open_pipeline
from milpasses.program.sources import NETWORKS, PIPELINES

_Run = Callable[[dict[str, Any], Sequence[Observer]], dict[str, Any]]


@attrs.frozen(eq=False)
class PartRunner:
    """A part that runs here.

    ``inputs``: features of its inputs. ``interpreter``: of a program or a nested pipeline. ``suppression``:
    of a part that suppresses boxes.
    """

    part: Part
    interpreter: Interpreter | None
    inputs: dict[str, Feature]
    run: _Run
    suppression: NonMaximumSuppression | None = None


@attrs.frozen
class PartRun:
    """What one part took and gave in a run."""

    name: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]


class PipelineInterpreter(Interpreter):
    """Runs a pipeline: what ``Interpreter(model)`` makes of one.

    ``run`` and ``inputs`` are those of an ``Interpreter``; what looks into a program (``record``, ``resume``,
    ``override``, ``operations``) is there for each part, in ``interpreters``. Arguments are those of
    ``Interpreter``. A pipeline of neural networks alone is read as one program instead.

    Attributes:
        runners: what runs each part, by name, up to the first that only Core ML can run.
        blocked: that part, None where all can run: ``run`` raises, ``before_blocked`` runs what comes first.
    """

    @classmethod
    def takes(cls, model: Any) -> bool:
        """Whether ``model`` is a pipeline with parts that are no neural networks."""
        if not is_pipeline(model):
            return False
        return any(leaf.kind not in NETWORKS for leaf in open_pipeline(model).leaves())

    def __init__(
        self,
        program_or_package: Any,
        function: str | None = None,
        precision: Precision = "declared",
        *,
        seed: int = 0,
        gradients: bool = False,
        **options: Any,  # of each part's interpreter
    ) -> None:
        if function not in (None, "main"):
            raise InterpreterError(f"no function '{function}': a pipeline has none")
        if gradients:
            raise InterpreterError(
                "gradients pass through one program: take the parts of a pipeline one by one"
            )
        pipeline = open_pipeline(program_or_package)
        options["seed"] = seed
        self.precision: Precision = precision
        self.seed = seed
        self.function: Any = None
        self.description: Any = pipeline.spec.description
        self.runners: dict[str, PartRunner] = {}
        self.blocked: Part | None = None
        for part in pipeline.parts:
            runner = _runner(part, precision, options)
            if runner is None:
                self.blocked = part
                break
            self.runners[part.name] = runner
        self.inputs: dict[str, Feature] = {
            given.name: self._feature(given) for given in self.description.input
        }
        self.output_names: list[str] = [given.name for given in self.description.output]

    @property
    def interpreters(self) -> dict[str, Interpreter]:
        """The interpreter of each ML Program, neural network and nested pipeline, by the part's name."""
        return {
            name: runner.interpreter
            for name, runner in self.runners.items()
            if runner.interpreter is not None
        }

    def before_blocked(self) -> "PipelineInterpreter":
        """The parts before the one that cannot run: its outputs are what they give and none of them takes."""
        before: PipelineInterpreter = object.__new__(PipelineInterpreter)
        vars(before).update(vars(self))
        before.blocked = None
        before.inputs = {
            name: feature
            for name, feature in self.inputs.items()
            if any(name in runner.inputs for runner in self.runners.values())
        }
        left: dict[str, None] = {}
        for runner in self.runners.values():
            left = {name: None for name in left if name not in runner.inputs}
            left.update((given.name, None) for given in runner.part.spec.description.output)
        before.output_names = list(left)
        return before

    @property
    def resumable(self) -> bool:
        """Never: a pipeline is resumed part by part."""
        return False

    def make_state(self) -> State:
        """Parts of a pipeline have no states here."""
        return State({})

    def run(
        self, inputs: Mapping[str, Any], state: State | None = None, observers: Sequence[Observer] = ()
    ) -> dict[str, Any]:
        """Run the parts in order, each with the values of its inputs' names; see ``Interpreter.run``.

        Thresholds of ``nonMaximumSuppression`` may be left out: the model's own count then. Raises
        InterpreterError also where a part runs nowhere but in Core ML, by its name.
        """
        if self.blocked is not None:
            raise InterpreterError(
                f"part {self.blocked.name} of the pipeline is of type {self.blocked.kind}, which only "
                "Core ML runs; what comes before it runs here (before_blocked())"
            )
        values = dict(inputs)
        for made in self.steps(inputs, observers):
            values.update(made.outputs)
        missing = [name for name in self.output_names if name not in values]
        if missing:
            raise InterpreterError(f"no part of the pipeline gives its output {', '.join(missing)}")
        return {name: values[name] for name in self.output_names}

    def steps(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> Iterator[PartRun]:
        """Run part after part: what each took and gave. Raises as ``run``, naming the part."""
        self._check(inputs)
        values = dict(inputs)
        for name, runner in self.runners.items():
            given = {known: values[known] for known in runner.inputs if known in values}
            outputs = self._run_part(name, runner, given, observers)
            values.update(outputs)
            yield PartRun(name, given, outputs)

    def leaf_steps(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> Iterator[PartRun]:
        """As ``steps``, with the parts of a nested pipeline, ``outer/part``, in the place of it."""
        self._check(inputs)
        values = dict(inputs)
        for name, runner in self.runners.items():
            given = {known: values[known] for known in runner.inputs if known in values}
            nested = runner.interpreter
            if not isinstance(nested, PipelineInterpreter):
                made = PartRun(name, given, self._run_part(name, runner, given, observers))
                values.update(made.outputs)
                yield made
                continue
            inner: dict[str, Any] = {}
            for made in nested.leaf_steps(given, observers):
                inner.update(made.outputs)
                yield attrs.evolve(made, name=f"{name}/{made.name}")
            values.update({known: inner[known] for known in nested.output_names if known in inner})

    @property
    def leaf_runners(self) -> dict[str, PartRunner]:
        """What runs each part that is no pipeline, by name; those of a nested one are ``outer/part``."""
        leaves: dict[str, PartRunner] = {}
        for name, runner in self.runners.items():
            if isinstance(runner.interpreter, PipelineInterpreter):
                inner = runner.interpreter.leaf_runners
                leaves.update({f"{name}/{part}": found for part, found in inner.items()})
            else:
                leaves[name] = runner
        return leaves

    def _run_part(
        self, name: str, runner: PartRunner, given: dict[str, Any], observers: Sequence[Observer]
    ) -> dict[str, Any]:
        try:
            return runner.run(given, observers)
        except InterpreterError as error:
            raise InterpreterError(f"part {name}: {error}") from error

    def override(self, values: Mapping[str, Any]) -> None:
        """Weights are a part's: raises InterpreterError."""
        self._refuse()

    @property
    def output_ops(self) -> dict[str, Any]:
        """Ops are a part's: raises InterpreterError."""
        return self._refuse()

    @property
    def main_plan(self) -> Any:
        return self._refuse()

    def _refuse(self) -> NoReturn:
        raise InterpreterError(
            "a pipeline has no ops of its own: ask one of its parts, "
            f"interpreters[name] of {', '.join(self.interpreters)}"
        )

    def _check(self, inputs: Mapping[str, Any]) -> None:
        unknown = sorted(set(inputs) - set(self.inputs))
        missing = sorted(
            name for name, feature in self.inputs.items() if name not in inputs and feature.default is None
        )
        if unknown or missing:
            problem = [f"missing {', '.join(missing)}"] if missing else []
            problem += [f"unknown {', '.join(unknown)}"] if unknown else []
            names = ", ".join(self.inputs)
            raise InterpreterError(f"{'; '.join(problem)}: the inputs are {names or 'none'}")

    def _feature(self, given: Any) -> Feature:
        """An input as the first part that takes it has it, else as the pipeline states it."""
        for runner in self.runners.values():
            if given.name in runner.inputs:
                return runner.inputs[given.name]
        return _stated(given)


def _runner(part: Part, precision: Precision, options: Mapping[str, Any]) -> PartRunner | None:
    """What runs ``part``; None where only Core ML does."""
    if part.kind == "nonMaximumSuppression":
        suppression = NonMaximumSuppression(part.spec)
        thresholds = suppression.defaults
        features = {
            given.name: Feature(given.name, "tensor", np.float64, (), default=thresholds[given.name])
            if given.name in thresholds
            else _stated(given)
            for given in part.spec.description.input
        }
        return PartRunner(part, None, features, lambda inputs, _: suppression.run(inputs), suppression)
    if part.kind not in (*NETWORKS, *PIPELINES, "mlProgram"):
        return None
    try:
        interpreter = Interpreter(part.program or part.pipeline or part.spec, "main", precision, **options)
    except InterpreterError as error:
        raise InterpreterError(f"part {part.name}: {error}") from error
    if isinstance(interpreter, PipelineInterpreter) and interpreter.blocked is not None:
        return None
    if any(feature.kind == "state" for feature in interpreter.inputs.values()):
        raise InterpreterError(f"part {part.name}: it has states, which a pipeline here does not keep")
    return PartRunner(
        part,
        interpreter,
        interpreter.inputs,
        lambda inputs, observers: interpreter.run(inputs, None, observers),
    )


def _stated(given: Any) -> Feature:
    """An input as a ``FeatureDescription`` states it."""
    array = given.type.multiArrayType
    kinds = host.message_class("FeatureTypes_pb2", "ArrayFeatureType")
    types = {kinds.INT32: np.int32, kinds.DOUBLE: np.float64, kinds.FLOAT16: np.float16}
    shape = tuple(int(size) if size > 0 else None for size in array.shape)
    if given.type.WhichOneof("Type") == "int64Type":
        return Feature(given.name, "tensor", np.int64, ())
    return Feature(given.name, "tensor", types.get(array.dataType, np.float32), shape)
