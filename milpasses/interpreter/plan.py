"""A block as steps, ready to run: what each op reads, and which values it is the last to need."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from milpasses.interpreter.io import numpy_type
from milpasses.interpreter.registry import InterpreterError, Rule, rule
from milpasses.program.weights import is_constant


@dataclass
class Step:
    """One op of a block, ready to run.

    ``live``: inputs read from the values of the run, a variable or a tuple of variables each; ``constant``:
    those that never change. ``types``: NumPy type of each output, None where it is no array. ``moves``: the
    outputs need no rounding. ``frees``: values that no later step needs. ``fixed``: the constants' values,
    after first use.
    """

    op: Any
    rule: Rule
    live: list[tuple[str, Any]]
    constant: list[tuple[str, Any]]
    outputs: list[Any]
    types: list[Any]
    moves: bool
    frees: list[Any] = field(default_factory=list[Any])
    fixed: dict[str, Any] | None = None

    @property
    def reads(self) -> list[Any]:
        """Every variable among the op's own inputs."""
        return [var for _, argument in (*self.constant, *self.live) for var in bound_vars(argument)]


@dataclass
class Plan:
    """The steps of a block; ``leftovers``: its own values that no step frees, outputs and unused inputs."""

    steps: list[Step]
    inputs: list[Any]
    outputs: list[Any]
    leftovers: list[Any]


def is_weight_op(op: Any) -> bool:
    """The op gives a constant: it is a const, or a constexpr op of a compressed weight."""
    return op.op_type == "const" or op.op_type.startswith("constexpr_")


def bound_vars(argument: Any) -> list[Any]:
    """The variables bound to one input: several where it takes a list."""
    return list(argument) if isinstance(argument, (list, tuple)) else [argument]


def op_inputs(op: Any) -> Mapping[str, Any]:
    """The inputs of ``op`` that are bound, but for coremltools' own, which begin with an underscore."""
    return {
        name: bound for name, bound in op.inputs.items() if bound is not None and not name.startswith("_")
    }


def plan_blocks(block: Any) -> dict[Any, Plan]:
    """Plans of ``block`` and of every block inside it, by block."""
    plans: dict[Any, Plan] = {}
    steps: list[Step] = []
    needed: list[set[Any]] = []
    for op in block.operations:
        if is_weight_op(op):
            continue
        step = _step(op)
        steps.append(step)
        live = {var for var in step.reads if not is_constant(var)}
        needed.append(live.union(*(_free_vars(nested) for nested in op.blocks)))
        for nested in op.blocks:
            plans |= plan_blocks(nested)
    inputs = _block_inputs(block)
    own = {var for step in steps for var in step.outputs} | set(inputs)
    kept = set(block.outputs)
    for step, reads in zip(reversed(steps), reversed(needed), strict=True):
        step.frees = list(((reads | set(step.outputs)) & own) - kept)
        kept.update(step.frees)
    freed = {var for step in steps for var in step.frees}
    plans[block] = Plan(steps, inputs, list(block.outputs), list(own - freed))
    return plans


def check_taken(pairs: Iterable[tuple[str, str]], plans: Iterable[Plan]) -> None:
    """Raise ``InterpreterError`` where one of ``pairs`` is no op's name and that of a variable it takes."""
    steps = [step for plan in plans for step in plan.steps]
    unknown = set(pairs) - {(step.op.name, var.name) for step in steps for var in step.reads}
    if unknown:
        name, variable = min(unknown)
        raise InterpreterError(f"no op {name} takes {variable}")


def _step(op: Any) -> Step:
    handler = rule(op.op_type)
    assert handler is not None
    live: list[tuple[str, Any]] = []
    constant: list[tuple[str, Any]] = []
    for name, argument in op_inputs(op).items():
        changes = any(not is_constant(var) for var in bound_vars(argument))
        (live if changes else constant).append((name, argument))
    outputs = list(op.outputs)
    types = [numpy_type(var.sym_type) for var in outputs]
    source = next((bound_vars(argument)[0] for _, argument in live), None)
    moves = handler.moves and source is not None and numpy_type(source.sym_type) == types[0]
    return Step(op, handler, live, constant, outputs, types, moves)


def read_by(op: Any) -> set[Any]:
    """Every variable that ``op`` reads, in the blocks inside it as well, constants included."""
    reads = {var for argument in op_inputs(op).values() for var in bound_vars(argument)}
    for block in op.blocks:
        reads.update(
            block.outputs, *(read_by(inner) for inner in block.operations if not is_weight_op(inner))
        )
    return reads


def _free_vars(block: Any) -> set[Any]:
    """Variables that ``block`` reads from outside, constants apart."""
    reads = {var for var in block.outputs if not is_constant(var)}
    own: set[Any] = set(_block_inputs(block))
    for op in block.operations:
        own.update(op.outputs)
        for argument in op_inputs(op).values():
            reads.update(var for var in bound_vars(argument) if not is_constant(var))
        for nested in op.blocks:
            reads |= _free_vars(nested)
    return reads - own


def _block_inputs(block: Any) -> list[Any]:
    return list(block.inputs.values()) if isinstance(block.inputs, dict) else list(block.inputs)
