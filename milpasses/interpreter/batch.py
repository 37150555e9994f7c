"""Some variables of a program for several samples at once, as torch tensors with gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from milpasses.interpreter.engine import Execution, Interpreter
from milpasses.interpreter.plan import Step, read_by
from milpasses.interpreter.registry import InterpreterError
from milpasses.interpreter.tensor_functions import tensor_of
from milpasses.interpreter.tensor_values import TensorValues
from milpasses.interpreter.tensors import TensorArray
from milpasses.program.weights import is_constant


class BatchRun:
    """Gives ``variables`` of the main block for a batch of samples; only ops that they depend on run.

    ``given``: variables of the main block that a call gets instead of the program's inputs, which are given
    unless they are named: ops before them do not run.

    The program itself takes one sample, whatever its own first dimension means: a batch is mapped over it
    (``torch.vmap``), and where an op cannot be mapped (a loop that depends on values, NumPy's arithmetic)
    samples run one by one. ``mapped``: whether they are mapped; decided in the first call with more than one
    sample, which compares both ways.

    Raises InterpreterError for an interpreter without tensors, and for states, which have one sequence.
    """

    def __init__(
        self, interpreter: Interpreter, variables: Sequence[Any], given: Sequence[Any] | None = None
    ) -> None:
        if not isinstance(interpreter.values, TensorValues):
            raise InterpreterError("a batch needs an interpreter with a device or with gradients")
        if any(feature.kind == "state" for feature in interpreter.inputs.values()):
            raise InterpreterError("a program with states takes its samples in sequence, not as a batch")
        self.interpreter = interpreter
        self.values: TensorValues = interpreter.values
        self.variables = list(variables)
        self.given: list[Any] = list(interpreter.main_plan.inputs if given is None else given)
        self.steps = _needed(interpreter.main_plan.steps, self.variables, self.given)
        self.mapped: bool | None = None

    def stack(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Inputs of several samples, checked and on the device, along a new first axis.

        Raises InterpreterError where they differ in their shapes.
        """
        fed = [self.interpreter.feed(sample) for sample in samples]
        stacked: dict[str, Any] = {}
        for name in fed[0]:
            tensors = [tensor_of(sample[name], self.values.device) for sample in fed]
            if len({tuple(tensor.shape) for tensor in tensors}) > 1:
                raise InterpreterError(f"input '{name}' differs in its shape from sample to sample")
            stacked[name] = torch.stack(tensors)
        return stacked

    def __call__(self, inputs: Mapping[str, Any]) -> list[Any]:
        """The variables as tensors, samples along the first axis; ``inputs`` as ``stack`` gives them."""
        with self.values.running():
            count = len(next(iter(inputs.values())))
            if count == 1 or self.mapped is False:
                return self._one_by_one(inputs, count)
            if self.mapped is None:
                return self._first(inputs, count)
            return self._mapped(inputs)

    def _first(self, inputs: Mapping[str, Any], count: int) -> list[Any]:
        """Both ways, compared; the gradient is that of one by one."""
        outputs = self._one_by_one(inputs, count)
        try:
            mapped = self._mapped(inputs)
        except Exception:  # whatever torch cannot map, in whatever words
            self.mapped = False
            return outputs
        pairs = zip(outputs, mapped, strict=True)
        self.mapped = all(torch.allclose(a, b, rtol=1e-2, atol=1e-2 * _scale(a)) for a, b in pairs)
        return outputs

    def _mapped(self, inputs: Mapping[str, Any]) -> list[Any]:
        self.values.watches = False  # a mapped tensor does not show that it has a gradient
        try:
            return list(torch.vmap(self._run, randomness="error")(dict(inputs)))
        finally:
            self.values.watches = self.values.gradients

    def _one_by_one(self, inputs: Mapping[str, Any], count: int) -> list[Any]:
        rows = [self._run({name: rows[i] for name, rows in inputs.items()}) for i in range(count)]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def _run(self, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        """One sample."""
        wanted: dict[Any, Any] = {}
        values = {var: TensorArray(inputs[var.name]) for var in self.given}
        wanted.update((var, values[var].tensor) for var in self.variables if var in values)
        execution = Execution(self.interpreter, None, [], values)
        for step in self.steps:
            outputs = execution.run_step(step)
            for var, value in zip(step.outputs, outputs, strict=True):
                if var in self.variables:
                    wanted[var] = tensor_of(value, self.values.device)
        return tuple(wanted[var] for var in self.variables)


def _scale(x: Any) -> float:
    return float(x.detach().abs().amax()) if x.numel() else 0.0


def _needed(steps: Sequence[Step], variables: Sequence[Any], given: Sequence[Any]) -> list[Step]:
    """The steps that ``variables`` depend on, but for those before what is ``given``, in order."""
    needed: list[Step] = []
    known = set(given)
    reads = {var for var in variables if not is_constant(var)} - known
    for step in reversed(steps):
        if reads.isdisjoint(step.outputs):
            continue
        needed.append(step)
        reads.update(var for var in read_by(step.op) if not is_constant(var) and var not in known)
    return needed[::-1]
