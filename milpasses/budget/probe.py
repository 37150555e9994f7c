"""Runs a model with some of its weights changed, and measures what that does to its outputs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.data.samples import Sample
from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter
from milpasses.interpreter.engine import _Run
from milpasses.interpreter.io import feed, fetch

Outputs = dict[str, NDArray[np.float64]]
# Ops between a softmax and the output that it makes, which keep its values.
_PASSING = ("classify", "identity", "cast", "reshape", "squeeze", "expand_dims", "transpose")
_SCORES = "scores of "
_ROOM = 1 << 28  # bytes of activations to keep
_MOST = 1e6  # what is worse cannot be told apart, and sums must stay finite


@attrs.define(eq=False)
class Probe:
    """A loaded model, samples, and its outputs on them as they should be. The interpreter is the probe's own.

    Where an output is made by a softmax, what is measured are the scores that softmax takes, less their mean:
    probabilities near 0 and 1 hide what is lost, and small changes near a tie look like large ones.

    ``executions`` counts the runs over all samples, the first included. Raises ``MilpassesError`` for a
    model whose outputs hold no numbers.
    """

    interpreter: Interpreter
    samples: list[Sample]
    executions: int = 0
    reference: list[Outputs] = attrs.field(init=False)
    _softmaxes: dict[str, Any] = attrs.field(init=False)  # output -> the op that makes it
    _kept: list[dict[Any, Any]] = attrs.field(
        factory=list
    )  # of each sample, every value, while there is room

    def __attrs_post_init__(self) -> None:
        outputs = self.interpreter._loaded.function.outputs
        made = {var.name: _softmax_of(var) for var in outputs}
        self._softmaxes = {name: op for name, op in made.items() if op is not None}
        self.interpreter.override({})
        self.reference = [self._whole(sample) for sample in self.samples]
        self.executions += 1
        if not self.reference or not self.reference[0]:
            raise MilpassesError("the model has no output of numbers to measure")

    def share(self, values: Mapping[str, Any]) -> float:
        """Noise energy / signal energy of the outputs, with constants changed: variable -> values.

        Of each output over all samples; the mean of the outputs. A million where one is not finite.
        """
        self.executions += 1
        self.interpreter.override(values)  # in place of those of the call before
        start = self._first_step(values)
        changed = [self._from(start, index) for index in range(len(self.samples))]
        return min(noise_share(self.reference, changed), _MOST)

    def _whole(self, sample: Sample) -> Outputs:
        """Run a sample; what every op gave is kept while there is room: later runs start in the middle."""
        values: dict[Any, Any] = {}

        def keep(op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
            values.update(zip(op.outputs, outputs, strict=True))

        found: Outputs = {}
        state = self.interpreter.make_state()
        watch = [keep] if not state.values and not self._random and self._room(values) else []
        made = self.interpreter.run(sample.inputs, state, [*watch, self._scores_into(found)])
        if watch and self._room(values):
            arrays = feed(
                self.interpreter.inputs, sample.inputs, None, self.interpreter.precision == "declared"
            )
            values.update((var, arrays[var.name]) for var in self.interpreter._main.inputs)
            self._kept.append(values)
        return self._outputs(made, found)

    def _from(self, start: int, index: int) -> Outputs:
        """Run a sample from a step on, with what the steps before gave in the reference."""
        if index >= len(self._kept):
            return self._whole_again(index)
        owner, plan = self.interpreter, self.interpreter._main
        found = {
            name: self.reference[index][name] for name in self.reference[index] if name.startswith(_SCORES)
        }
        run = _Run(owner, owner.make_state(), [self._scores_into(found)])
        run.values = dict(self._kept[index])
        with np.errstate(all="ignore"):
            for step in plan.steps[start:]:
                run.step(step)
        results = [run.value(var) for var in plan.outputs]
        return self._outputs(fetch(owner._loaded, results, owner.precision == "declared"), found)

    def _whole_again(self, index: int) -> Outputs:
        found: Outputs = {}
        owner = self.interpreter
        made = owner.run(self.samples[index].inputs, owner.make_state(), [self._scores_into(found)])
        return self._outputs(made, found)

    def _first_step(self, values: Mapping[str, Any]) -> int:
        """The first step of the main block that reads one of the constants, or has blocks, which may."""
        for place, step in enumerate(self.interpreter._main.steps):
            read = [argument for _, argument in (*step.constant, *step.live)]
            flat = [var for one in read for var in (one if isinstance(one, list | tuple) else [one])]
            if step.op.blocks or any(var.name in values for var in flat):
                return place
        return 0

    @property
    def _random(self) -> bool:
        """Some op draws numbers, which depend on those drawn before it."""
        return any(step.op.op_type.startswith("random_") for step in self.interpreter._main.steps)

    def _room(self, more: Mapping[Any, Any]) -> bool:
        held = [*self._kept, more]
        return sum(getattr(value, "nbytes", 0) for one in held for value in one.values()) <= _ROOM

    def _scores_into(self, found: Outputs) -> Any:
        """An observer that puts what the softmaxes at the outputs take into ``found``."""
        wanted = set(self._softmaxes.values())

        def see(op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
            if op in wanted:
                scores = np.asarray(inputs["x"], np.float64)
                axis = int(inputs.get("axis", -1))
                found[f"{_SCORES}{op.name}"] = scores - scores.mean(axis=axis, keepdims=True)

        return see

    def _outputs(self, made: Mapping[str, Any], found: Outputs) -> Outputs:
        """``found`` with the outputs that are numbers, but for those that a softmax makes."""
        for name, value in made.items():
            array = np.asarray(list(value.values()) if isinstance(value, Mapping) else value)
            if name not in self._softmaxes and array.dtype.kind in "fiu" and array.size:
                found[name] = array.astype(np.float64)
        return found


def _softmax_of(var: Any) -> Any:
    """The softmax that makes an output, or None."""
    op = var.op
    while op is not None and op.op_type in _PASSING:
        source = op.inputs["probabilities" if op.op_type == "classify" else "x"]
        op = source.op
    return op if op is not None and op.op_type == "softmax" else None


def noise_share(reference: Iterable[Outputs], changed: Iterable[Outputs]) -> float:
    """Sum of (a - b)^2 / sum of a^2 of each output, over all samples: the mean of the outputs."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for first, second in zip(reference, changed, strict=True):
        for name, a in first.items():
            b = second[name]
            finite = np.isfinite(a)
            if a.shape != b.shape or not np.isfinite(b[finite]).all():
                return float("inf")
            signal[name] = signal.get(name, 0.0) + float(np.sum(a[finite] ** 2))
            noise[name] = noise.get(name, 0.0) + float(np.sum((a[finite] - b[finite]) ** 2))
    shares = [noise[name] / signal[name] for name in signal if signal[name] > 0]
    return float(np.mean(shares)) if shares else 0.0
