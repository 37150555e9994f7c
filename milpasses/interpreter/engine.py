"""The execution engine: plan once, then run ops in order and drop each value after its last use."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from milpasses.interpreter import ops  # noqa: F401  # pyright: ignore[reportUnusedImport]
from milpasses.interpreter.backend import Backend, BackendName
from milpasses.interpreter.backend_choice import choose_backend, choose_values
from milpasses.interpreter.constants import Constants
from milpasses.interpreter.io import Feature, State, compute_type, describe_function, feed, numpy_type
from milpasses.interpreter.plan import Plan, Step, check_taken, plan_blocks, read_by
from milpasses.interpreter.program import load
from milpasses.interpreter.registry import Array, InterpreterError, rule
from milpasses.interpreter.snapshots import Recorder, Snapshot
from milpasses.interpreter.values import Values
from milpasses.program.weights import is_constant

Precision = Literal["declared", "float32"]
Observer = Callable[[Any, Mapping[str, Any], Sequence[Any]], None]


class Interpreter:
    """Runs one function of a MIL program.

    Args:
        program_or_package: a coremltools ``Program`` or ``MLModel``, the path of an ``.mlpackage`` or
            ``.mlmodel``, a ``SavedProgram`` (whose specification is not read again), what a legacy model was
            read into, or a pipeline of models, of which it makes a ``PipelineInterpreter``.
        function: which function of a multifunction program; its default one unless given.
        precision: ``declared`` rounds every result once, from float32, to the type that MIL declares for it;
            ``float32`` keeps float32 everywhere, weights as they are stored.
        backend: ``auto`` takes torch for the heavy ops where it is installed; ``numpy`` or ``torch`` force
            one.
        seed: seed of the random ops that have none of their own. Each ``run`` starts the sequences anew.
        keep_weights: decode each weight to float32 once, on first use, and keep it: 4 bytes a value beside
            the program's own copy. Without, weights are decoded for each use and dropped: slow but small.
        device: ``cpu``, ``cuda`` or ``mps``: values stay torch tensors there between ops. What torch lacks
            runs in NumPy.
        gradients: outputs, and what observers see, are torch tensors that gradients pass back from, to
            tensors that ``override`` put in the place of weights and to states. Rounding to float16 lets
            them through. ``values.cuts`` names the ops of the last run at which a gradient ended.

    Attributes:
        function, function_name: the MIL function (coremltools'), and its name.
        inputs: its inputs by name, in order.
        output_names: names of its outputs, in order.
        precision, backend: as chosen.

    Raises:
        InterpreterError: no such function, not an ML program, or ops that no handler runs, all named.
    """

    if not TYPE_CHECKING:  # to a type checker the constructor is __init__

        def __new__(cls, program_or_package, *arguments, **options):
            """The subclass that takes such a model (``PipelineInterpreter``), else this one."""
            takers = (kind for kind in cls.__subclasses__() if kind.takes(program_or_package))
            return object.__new__(next(takers, cls))

    @classmethod
    def takes(cls, model: Any) -> bool:
        """Whether ``Interpreter(model)`` is to be of this subclass."""
        return False

    def __init__(
        self,
        program_or_package: Any,
        function: str | None = None,
        precision: Precision = "declared",
        *,
        backend: BackendName = "auto",
        seed: int = 0,
        keep_weights: bool = True,
        device: str | None = None,
        gradients: bool = False,
    ) -> None:
        if precision not in ("declared", "float32"):
            raise InterpreterError(f"precision must be 'declared' or 'float32', got {precision!r}")
        self._loaded = load(program_or_package, function)
        self.function: Any = self._loaded.function
        self.function_name: str = self._loaded.name
        self.precision: Precision = precision
        self.values: Values = choose_values(backend, precision == "declared", device, gradients)
        self.backend: Backend = choose_backend("torch" if device is not None or gradients else backend)
        self.seed = seed
        self.constants = Constants(self.values.constant, wide=precision == "float32", keep=keep_weights)
        _check_ops(self.function)
        self._plans: dict[Any, Plan] = plan_blocks(self.function)
        self.changes: dict[tuple[str, str], Callable[[Array], Array]] = {}
        self.inputs: dict[str, Feature] = describe_function(self._loaded)
        self.output_names: list[str] = [var.name for var in self.function.outputs]

    def __repr__(self) -> str:
        inputs, outputs = ", ".join(self.inputs), ", ".join(self.output_names)
        return f"<{type(self).__name__}: {inputs} -> {outputs}; precision {self.precision}>"

    @property
    def operations(self) -> list[Any]:
        """The ops of the main block that run, in order: constants and compressed weights are none."""
        return [step.op for step in self.main_plan.steps]

    @property
    def output_ops(self) -> dict[str, Any]:
        """The op that makes each output, by the output's name; None where an input is an output as it is."""
        return {var.name: var.op for var in self.function.outputs}

    @property
    def resumable(self) -> bool:
        """No states and no random ops: what a run computes depends on its inputs alone."""
        states = any(feature.kind == "state" for feature in self.inputs.values())
        steps = (step for plan in self._plans.values() for step in plan.steps)
        return not states and not any(step.op.op_type.startswith("random_") for step in steps)

    def make_state(self) -> State:
        """Fresh states of the function, all zeros."""
        states = [f for f in self.inputs.values() if f.kind == "state"]
        return State({f.name: np.zeros(f.fixed_shape(), compute_type(f.dtype)) for f in states})

    def run(
        self, inputs: Mapping[str, Any], state: State | None = None, observers: Sequence[Observer] = ()
    ) -> dict[str, Any]:
        """Run the function once.

        Args:
            inputs: an array for each tensor input, a PIL image or uint8 HWC array (RGB) for each image input.
            state: what ``make_state`` returned, updated in place; required by programs with states.
            observers: called after each op, nested ones included, with the op, its inputs by name and its
                outputs. Floats are float32 arrays, already rounded; observers must not change them.

        Returns:
            Each output by its name, in the declared type: arrays; uint8 HWC arrays for images; label and
            probabilities of a classifier.

        Raises:
            InterpreterError: missing, misnamed or ill-shaped inputs, or an op that failed, by name.
        """
        return self._execute(self._feed(inputs, state), 0, state, observers)

    def record(
        self, inputs: Mapping[str, Any], observers: Sequence[Observer] = (), *, limit: int | None = None
    ) -> tuple[dict[str, Any], Snapshot | None]:
        """Run the function once and keep what every op of the main block gave, for ``resume``.

        Args:
            inputs, observers: as ``run`` takes them.
            limit: most bytes to keep.

        Returns:
            The outputs, as ``run`` gives them, and the snapshot: None where it would exceed ``limit``.

        Raises:
            InterpreterError: as ``run``; or the function is not ``resumable``.
        """
        if not self.resumable:
            raise InterpreterError(
                "a run with states or random ops cannot be resumed: its values depend on more"
            )
        values = self._feed(inputs, None)
        recorder = Recorder(dict(values), set(self.operations), limit)
        outputs = self._execute(values, 0, None, [recorder, *observers])
        return outputs, None if recorder.exceeded else Snapshot(self.function, recorder.values)

    def resume(self, snapshot: Snapshot, start: int, observers: Sequence[Observer] = ()) -> dict[str, Any]:
        """Run the ops from ``operations[start]`` on, with what those before gave in ``snapshot``.

        With the constants unchanged, or with overrides of such alone as no earlier op reads (see
        ``first_reader``), the outputs are bit for bit those of a whole run.

        Args:
            snapshot: what ``record`` of this interpreter gave.
            start: 0 to the number of ``operations``, where nothing runs and outputs are read again.
            observers: as ``run`` takes them; they see the ops that run.

        Raises:
            InterpreterError: a snapshot of another program, no such op, or an op that failed, by name.
        """
        if snapshot.function is not self.function:
            raise InterpreterError("the snapshot is of another program")
        if not 0 <= start <= len(self.main_plan.steps):
            raise InterpreterError(
                f"start must be 0 to {len(self.main_plan.steps)}, the number of ops, got {start}"
            )
        return self._execute(dict(snapshot.values), start, None, observers)

    def first_reader(self, names: Collection[str]) -> int:
        """The place in ``operations`` of the first op that reads a variable of these names.

        An op reads what the blocks inside it read. The number of operations where none does.
        """
        for place, step in enumerate(self.main_plan.steps):
            if any(var.name in names for var in read_by(step.op)):
                return place
        return len(self.main_plan.steps)

    def override(self, values: Mapping[str, Any]) -> None:
        """Give constants and compressed weights other values for the runs to come.

        ``values`` maps names of variables to arrays of their shapes; every call takes the place of the one
        before, and an empty mapping undoes it. Raises InterpreterError for a name that no op reads as a
        constant, and for another shape.
        """
        steps = [step for plan in self._plans.values() for step in plan.steps]
        constants = {var for step in steps for var in step.reads if is_constant(var)}
        overrides = {var: values[var.name] for var in constants if var.name in values}
        unknown = set(values) - {var.name for var in overrides}
        if unknown:
            raise InterpreterError(f"no op reads a constant {', '.join(sorted(unknown))}")
        for var, value in overrides.items():
            if np.shape(value) != tuple(var.shape):
                raise InterpreterError(f"{var.name} has shape {tuple(var.shape)}, not {np.shape(value)}")
        changed = {*overrides, *self.constants.overrides}
        for step in steps:
            if not changed.isdisjoint(step.reads):
                step.fixed = None
        self.constants.override(overrides)

    def alter(self, changes: Mapping[tuple[str, str], Callable[[Array], Array]]) -> None:
        """Let ops take other values than were computed, in the runs to come.

        ``changes`` maps (an op's name, that of a variable it takes) to a function of the value, whose result
        is rounded to the variable's type; it takes the place of what was given before. Outputs of ops and of
        the function are as computed. Raises InterpreterError where no op of that name takes the variable.
        """
        check_taken(changes, self._plans.values())
        self.changes = dict(changes)

    def finish(self, value: Any, declared: Any, moves: bool) -> Any:
        """A result, rounded once to its declared type (floats stay in float32)."""
        return self.values.finish(value, declared, moves)

    def plan_of(self, block: Any) -> Plan:
        """The plan of a block."""
        return self._plans[block]

    @property
    def main_plan(self) -> Plan:
        """The plan of the function itself."""
        return self._plans[self.function]

    def feed(self, inputs: Mapping[str, Any], state: State | None = None) -> dict[str, Array]:
        """The inputs that ``run`` takes, checked, as the arrays that it computes with."""
        return feed(self.inputs, inputs, state, self.precision == "declared")

    def _feed(self, inputs: Mapping[str, Any], state: State | None) -> dict[Any, Any]:
        """The function's inputs by variable, checked; a state is its name."""
        arrays = self.feed(inputs, state)
        return {var: arrays.get(var.name, var.name) for var in self.main_plan.inputs}

    def _execute(
        self, values: dict[Any, Any], start: int, state: State | None, observers: Sequence[Observer]
    ) -> dict[str, Any]:
        taken = {var: self.values.taken(value) for var, value in values.items()}
        execution = Execution(self, state, list(observers), taken)
        with self.values.running():
            results = execution.run_plan(self.main_plan, start)
        return self.values.fetch(self._loaded, results)


def _check_ops(function: Any) -> None:
    missing: set[str] = set()
    pending = [function]
    while pending:
        for op in pending.pop().operations:
            pending.extend(op.blocks)
            if op.op_type != "const" and rule(op.op_type) is None:
                missing.add(op.op_type)
    if missing:
        raise InterpreterError(f"the interpreter has no op {', '.join(sorted(missing))}")


class Execution:
    """One run under way: the values that are still needed."""

    def __init__(
        self, owner: Interpreter, state: State | None, observers: list[Observer], values: dict[Any, Any]
    ) -> None:
        self.owner = owner
        self.kind = owner.values
        self.state = state
        self.observers = observers
        self.values = values
        self.generators: dict[Any, np.random.Generator] = {}

    def value(self, var: Any) -> Any:
        return self.owner.constants.value(var) if is_constant(var) else self.values[var]

    def run_plan(self, plan: Plan, start: int = 0) -> list[Any]:
        """The outputs of a block, whose steps before ``start`` have run already."""
        for step in plan.steps[start:]:
            self.run_step(step)
        results = [self.value(var) for var in plan.outputs]
        for var in plan.leftovers:
            self.values.pop(var, None)
        return results

    def run_step(self, step: Step) -> list[Any]:
        """The outputs of one op."""
        fixed = step.fixed
        if fixed is None:
            fixed = {name: self.argument(argument) for name, argument in step.constant}
            if self.owner.constants.keep:
                step.fixed = fixed
        arguments = {**fixed, **{name: self.argument(argument, step.op) for name, argument in step.live}}
        try:
            if step.rule.wants_context:
                result = step.rule.function(_Call(self, step.op), **arguments)
            else:
                result = step.rule.function(**arguments)
        except InterpreterError:
            raise
        except Exception as error:
            raise InterpreterError(f"op {step.op.op_type} '{step.op.name}': {error}") from error
        results = result if isinstance(result, tuple) else (result,)
        outputs = [self.kind.finish(r, t, step.moves) for r, t in zip(results, step.types, strict=True)]
        self.values.update(zip(step.outputs, outputs, strict=True))
        if self.kind.watches:
            self.kind.stepped(step.op, arguments, outputs)
        if self.observers:
            seen = {name: self.kind.given(value) for name, value in arguments.items()}
            given = [self.kind.given(value) for value in outputs]
            for observer in self.observers:
                observer(step.op, seen, given)
        for var in step.frees:
            self.values.pop(var, None)
        return outputs

    def argument(self, argument: Any, op: Any = None) -> Any:
        if isinstance(argument, (list, tuple)):
            return [self.argument(var, op) for var in argument]
        value = self.value(argument)
        if op is None or not self.owner.changes:  # names are slow to ask for
            return value
        change = self.owner.changes.get((op.name, argument.name))
        if change is None:
            return value
        return self.owner.finish(change(self.kind.given(value)), numpy_type(argument.sym_type), False)


@dataclass(frozen=True)
class _Call:
    """``Context`` of one call."""

    execution: Execution
    op: Any

    @property
    def backend(self) -> Backend:
        return self.execution.owner.backend

    def rng(self, seed: int) -> np.random.Generator:
        generators = self.execution.generators
        if self.op not in generators:
            entropy = [seed] if seed >= 0 else [self.execution.owner.seed, len(generators)]
            generators[self.op] = np.random.default_rng(entropy)
        return generators[self.op]

    def run_block(self, index: int, arguments: list[Any]) -> list[Any]:
        plan = self.execution.owner.plan_of(self.op.blocks[index])
        self.execution.values.update(zip(plan.inputs, arguments, strict=True))
        return self.execution.run_plan(plan)

    def read_state(self, name: str) -> Array:
        assert self.execution.state is not None
        return self.execution.kind.taken(self.execution.state.values[name])

    def write_state(self, name: str, value: Array) -> None:
        assert self.execution.state is not None
        kind = self.execution.kind
        self.execution.state.values[name] = value if kind.watches else kind.given(value)
