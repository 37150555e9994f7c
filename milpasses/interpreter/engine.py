"""The execution engine: plan once, then run ops in order and drop each value after its last use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from milpasses.interpreter import ops  # noqa: F401  # pyright: ignore[reportUnusedImport]
from milpasses.interpreter.backend import Backend, BackendName, choose
from milpasses.interpreter.io import Feature, State, describe_function, feed, fetch, numpy_type
from milpasses.interpreter.program import load
from milpasses.interpreter.registry import Array, InterpreterError, Rule, rule

Precision = Literal["declared", "float32"]
Observer = Callable[[Any, Mapping[str, Any], Sequence[Any]], None]


@dataclass
class _Step:
    """One op of a block, ready to run."""

    op: Any
    rule: Rule
    live: list[tuple[str, Any]]  # inputs read from the environment: a var or a tuple of vars
    constant: list[tuple[str, Any]]  # inputs that never change
    outputs: list[Any]
    types: list[Any]  # NumPy type of each output; None where it is no array
    moves: bool
    frees: list[Any] = field(default_factory=list[Any])
    fixed: dict[str, Any] | None = None  # the constants' values, after first use


@dataclass
class _Plan:
    steps: list[_Step]
    inputs: list[Any]
    outputs: list[Any]
    leftovers: list[Any]  # the block's own values that no step frees: its outputs and unused inputs


def _is_constant(var: Any) -> bool:
    return var.op is not None and (var.op.op_type == "const" or var.op.op_type.startswith("constexpr_"))


def _vars(argument: Any) -> list[Any]:
    return list(argument) if isinstance(argument, (list, tuple)) else [argument]


class Interpreter:
    """Runs one function of a MIL program.

    Args:
        program_or_package: a coremltools ``Program`` or ``MLModel`` (mlProgram), or the path of a package.
        function: which function of a multifunction program.
        precision: ``declared`` rounds every result once, from float32, to the type that MIL declares for it;
            ``float32`` keeps float32 everywhere, weights as they are stored.
        backend: ``auto`` takes torch for the heavy ops where it is installed; ``numpy`` or ``torch`` force
            one.
        seed: seed of the random ops that have none of their own. Each ``run`` starts the sequences anew.
        keep_weights: decode each weight to float32 once, on first use, and keep it: 4 bytes a value beside
            the program's own copy. Without, weights are decoded for each use and dropped: slow but small.

    Raises:
        InterpreterError: no such function, not an ML program, or ops that no handler runs, all named.
    """

    def __init__(
        self,
        program_or_package: Any,
        function: str = "main",
        precision: Precision = "declared",
        *,
        backend: BackendName = "auto",
        seed: int = 0,
        keep_weights: bool = True,
    ) -> None:
        if precision not in ("declared", "float32"):
            raise InterpreterError(f"precision must be 'declared' or 'float32', got {precision!r}")
        self._loaded = load(program_or_package, function)
        self.precision: Precision = precision
        self.backend: Backend = choose(backend)
        self._seed = seed
        self._keep_weights = keep_weights
        self._weights: dict[Any, Any] = {}
        self._overrides: dict[Any, Any] = {}
        self._check_ops()
        self._plans: dict[int, _Plan] = {}
        self._main = self._plan(self._loaded.function)
        self.inputs: dict[str, Feature] = describe_function(self._loaded)
        self.output_names: list[str] = [var.name for var in self._loaded.function.outputs]

    def make_state(self) -> State:
        """Fresh states of the function, all zeros."""
        states = [f for f in self.inputs.values() if f.kind == "state"]
        return State({f.name: np.zeros(f.fixed_shape(), _compute_type(f.dtype)) for f in states})

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
        arrays = feed(self.inputs, inputs, state, self.precision == "declared")
        run = _Run(self, state, list(observers))
        with np.errstate(all="ignore"):
            for var in self._main.inputs:
                run.values[var] = var.name if self.inputs[var.name].kind == "state" else arrays[var.name]
            results = run.execute(self._main)
        return fetch(self._loaded, results, self.precision == "declared")

    def override(self, values: Mapping[str, Any]) -> None:
        """Give constants and compressed weights other values for the runs to come.

        ``values`` maps names of variables to arrays of their shapes; every call takes the place of the one
        before, and an empty mapping undoes it. Raises InterpreterError for a name that no op reads as a
        constant, and for another shape.
        """
        found: dict[Any, Any] = {}
        readers: list[tuple[_Step, list[Any]]] = []
        for plan in (self._main, *self._plans.values()):
            for step in plan.steps:
                read = [var for _, argument in (*step.constant, *step.live) for var in _vars(argument)]
                found.update((v, values[v.name]) for v in filter(_is_constant, read) if v.name in values)
                readers.append((step, read))
        unknown = set(values) - {var.name for var in found}
        if unknown:
            raise InterpreterError(f"no op reads a constant {', '.join(sorted(unknown))}")
        for var, value in found.items():
            if np.shape(value) != tuple(var.shape):
                raise InterpreterError(f"{var.name} has shape {tuple(var.shape)}, not {np.shape(value)}")
        for step, read in readers:
            if any(var in found or var in self._overrides for var in read):
                step.fixed = None
        self._overrides = found

    def _check_ops(self) -> None:
        missing: set[str] = set()
        pending = [self._loaded.function]
        while pending:
            for op in pending.pop().operations:
                pending.extend(op.blocks)
                if op.op_type != "const" and rule(op.op_type) is None:
                    missing.add(op.op_type)
        if missing:
            raise InterpreterError(f"the interpreter has no op {', '.join(sorted(missing))}")

    def _plan(self, block: Any) -> _Plan:
        """Steps of ``block`` and, recursively, of the blocks inside it, with the values each step frees."""
        steps: list[_Step] = []
        used: list[set[Any]] = []
        for op in block.operations:
            if op.op_type == "const" or op.op_type.startswith("constexpr_"):
                continue
            found = rule(op.op_type)
            assert found is not None
            live: list[tuple[str, Any]] = []
            constant: list[tuple[str, Any]] = []
            for name, argument in op.inputs.items():
                if argument is None or name.startswith("_"):
                    continue
                group = live if any(not _is_constant(var) for var in _vars(argument)) else constant
                group.append((name, argument))
            outputs = list(op.outputs)
            types = [numpy_type(var.sym_type) for var in outputs]
            source = next((_vars(a)[0] for _, a in live), None)
            moves = found.moves and source is not None and numpy_type(source.sym_type) == types[0]
            steps.append(_Step(op, found, live, constant, outputs, types, moves))
            reads = {var for _, argument in live for var in _vars(argument) if not _is_constant(var)}
            used.append(reads.union(*(self._free_vars(nested) for nested in op.blocks)))
            for nested in op.blocks:
                self._plans[id(nested)] = self._plan(nested)
        own = {var for step in steps for var in step.outputs} | set(_block_inputs(block))
        kept = set(block.outputs)
        for step, reads in zip(reversed(steps), reversed(used), strict=True):
            step.frees = list(((reads | set(step.outputs)) & own) - kept)
            kept.update(step.frees)
        freed = {var for step in steps for var in step.frees}
        return _Plan(steps, _block_inputs(block), list(block.outputs), list(own - freed))

    def _free_vars(self, block: Any) -> set[Any]:
        """Variables that ``block`` reads from outside."""
        reads: set[Any] = {var for var in block.outputs if not _is_constant(var)}
        own: set[Any] = set(_block_inputs(block))
        for op in block.operations:
            own.update(op.outputs)
            for name, argument in op.inputs.items():
                if argument is not None and not name.startswith("_"):
                    reads.update(var for var in _vars(argument) if not _is_constant(var))
            for nested in op.blocks:
                reads |= self._free_vars(nested)
        return reads - own

    def constant(self, var: Any, keep: bool = True) -> Any:
        """Value of a const or constexpr output: floats as float32, decoded once."""
        if var in self._overrides:
            return _as_compute(self._overrides[var])
        if var in self._weights:
            return self._weights[var]
        op = var.op
        if op.op_type == "const":
            value = _as_compute(var.val)
        else:
            found = rule(op.op_type)
            assert found is not None
            arguments = {n: self.constant(a, keep=False) for n, a in op.inputs.items() if a is not None}
            result = found.function(**arguments)
            results = result if isinstance(result, tuple) else (result,)
            types = [numpy_type(out.sym_type) for out in op.outputs]
            finished = [self.finish(r, t, False) for r, t in zip(results, types, strict=True)]
            if keep and self._keep_weights:
                self._weights.update(zip(op.outputs, finished, strict=True))
            return finished[var.op_output_idx]
        if keep and self._keep_weights:
            self._weights[var] = value
        return value

    def finish(self, value: Any, declared: Any, moves: bool) -> Any:
        """Round a result once to its declared type (floats stay in float32 arrays)."""
        if declared is None:
            return value
        array = np.asarray(value)
        if declared == np.float16:
            array = np.asarray(array, np.float32)
            if moves or self.precision == "float32":
                return array
            from milpasses_kernels.half import round_to_half  # Numba: not before something runs

            return round_to_half(array)
        if declared == np.float32:
            return np.asarray(array, np.float32)
        return array.astype(declared, copy=False)

    def plan_of(self, block: Any) -> _Plan:
        """The plan of a nested block."""
        return self._plans[id(block)]

    @property
    def seed(self) -> int:
        """Seed of the random ops that have none of their own."""
        return self._seed


def _compute_type(declared: Any) -> Any:
    return np.float32 if np.issubdtype(declared, np.floating) else declared


def _block_inputs(block: Any) -> list[Any]:
    return list(block.inputs.values()) if isinstance(block.inputs, dict) else list(block.inputs)


def _as_compute(value: Any) -> Any:
    """A constant as handlers see it: floats as float32 arrays, numbers as arrays, lists as lists."""
    if hasattr(value, "ls"):  # coremltools' mil_list
        return list(value.ls)
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if np.issubdtype(array.dtype, np.floating):
        return np.asarray(array, np.float32)
    return array


class _Run:
    """The values of one ``run``; also the ``Context`` that handlers see, one op at a time."""

    def __init__(self, owner: Interpreter, state: State | None, observers: list[Observer]) -> None:
        self.owner = owner
        self.state = state
        self.observers = observers
        self.values: dict[Any, Any] = {}
        self.generators: dict[Any, np.random.Generator] = {}

    def value(self, var: Any) -> Any:
        return self.owner.constant(var) if _is_constant(var) else self.values[var]

    def execute(self, plan: _Plan) -> list[Any]:
        for step in plan.steps:
            self.step(step)
        results = [self.value(var) for var in plan.outputs]
        for var in plan.leftovers:
            self.values.pop(var, None)
        return results

    def step(self, step: _Step) -> None:
        fixed = step.fixed
        if fixed is None:
            fixed = {name: self.argument(argument) for name, argument in step.constant}
            if self.owner._keep_weights:
                step.fixed = fixed
        arguments = {**fixed, **{name: self.argument(argument) for name, argument in step.live}}
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
        outputs = [self.owner.finish(r, t, step.moves) for r, t in zip(results, step.types, strict=True)]
        self.values.update(zip(step.outputs, outputs, strict=True))
        for observer in self.observers:
            observer(step.op, arguments, outputs)
        for var in step.frees:
            self.values.pop(var, None)

    def argument(self, argument: Any) -> Any:
        if isinstance(argument, (list, tuple)):
            return [self.value(var) for var in argument]
        return self.value(argument)


@dataclass(frozen=True)
class _Call:
    """``Context`` of one call."""

    run: _Run
    op: Any

    @property
    def backend(self) -> Backend:
        return self.run.owner.backend

    def rng(self, seed: int) -> np.random.Generator:
        if self.op not in self.run.generators:
            entropy = [seed] if seed >= 0 else [self.run.owner.seed, len(self.run.generators)]
            self.run.generators[self.op] = np.random.default_rng(entropy)
        return self.run.generators[self.op]

    def run_block(self, index: int, arguments: list[Any]) -> list[Any]:
        plan = self.run.owner.plan_of(self.op.blocks[index])
        self.run.values.update(zip(plan.inputs, arguments, strict=True))
        return self.run.execute(plan)

    def read_state(self, name: str) -> Array:
        assert self.run.state is not None
        return self.run.state.values[name]

    def write_state(self, name: str, value: Array) -> None:
        assert self.run.state is not None
        self.run.state.values[name] = value
