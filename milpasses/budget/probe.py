"""Runs a model with some of its weights changed, and measures what that does to its outputs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.data.samples import Sample
from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter, Observer, Snapshot

Outputs = dict[str, NDArray[np.float64]]
# Ops between a softmax and the output that it makes, which keep its values.
_PASSING = ("classify", "identity", "cast", "reshape", "squeeze", "expand_dims", "transpose")
_SCORES = "scores of "
_MOST = 1e6  # what is worse cannot be told apart, and sums must stay finite


@attrs.define(eq=False)
class Probe:
    """A loaded model, samples, and its outputs on them as they should be. The interpreter is the probe's own.

    Where an output is made by a softmax, what is measured are the scores that softmax takes, less their mean:
    probabilities near 0 and 1 hide what is lost, and small changes near a tie look like large ones.

    ``room``: bytes of activations to keep, with which a changed model runs from the changed weight on.
    ``executions`` counts the runs over all samples, the first included. Raises ``MilpassesError`` for a
    model whose outputs hold no numbers.
    """

    interpreter: Interpreter
    samples: list[Sample]
    room: int = 1 << 28
    executions: int = 0
    reference: list[Outputs] = attrs.field(init=False)
    _softmaxes: dict[str, Any] = attrs.field(init=False)  # output -> the op that makes it
    _snapshots: list[Snapshot | None] = attrs.field(factory=list)  # of each sample, where there was room

    def __attrs_post_init__(self) -> None:
        softmaxes = {name: _softmax_at(op) for name, op in self.interpreter.output_ops.items()}
        self._softmaxes = {name: op for name, op in softmaxes.items() if op is not None}
        self.interpreter.override({})
        self.reference = [self._run_reference(sample) for sample in self.samples]
        self.executions += 1
        if not self.reference or not self.reference[0]:
            raise MilpassesError("the model has no output of numbers to measure")

    def output_error(self, values: Mapping[str, Any]) -> float:
        """Noise energy / signal energy of the outputs, with constants changed: variable -> values.

        Of each output over all samples; the mean of the outputs. A million where one is not finite.
        """
        self.executions += 1
        self.interpreter.override(values)  # in place of those of the call before
        start = self.interpreter.first_reader(values)
        changed = [self._run_changed(index, start) for index in range(len(self.samples))]
        return min(noise_share(self.reference, changed), _MOST)

    def _run_reference(self, sample: Sample) -> Outputs:
        """Run a sample; what every op gave is kept while there is room: later runs start in the middle."""
        scores: Outputs = {}
        observers = [self._scores_into(scores)]
        snapshot = None
        if self.interpreter.resumable and self.room > 0:
            outputs, snapshot = self.interpreter.record(sample.inputs, observers, limit=self.room)
        else:
            outputs = self.interpreter.run(sample.inputs, self.interpreter.make_state(), observers)
        if snapshot is not None:
            self.room -= snapshot.nbytes
        self._snapshots.append(snapshot)
        return self._measured(outputs, scores)

    def _run_changed(self, index: int, start: int) -> Outputs:
        """Run a sample from an op on, with what those before gave in the reference; whole without."""
        snapshot, reference = self._snapshots[index], self.reference[index]
        if snapshot is None:
            scores: Outputs = {}
            outputs = self.interpreter.run(
                self.samples[index].inputs, self.interpreter.make_state(), [self._scores_into(scores)]
            )
        else:  # a softmax that does not run again took the scores that it took in the reference
            scores = {name: reference[name] for name in reference if name.startswith(_SCORES)}
            outputs = self.interpreter.resume(snapshot, start, [self._scores_into(scores)])
        return self._measured(outputs, scores)

    def _scores_into(self, scores: Outputs) -> Observer:
        """An observer that puts what the softmaxes at the outputs take into ``scores``."""
        wanted = set(self._softmaxes.values())

        def see(op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
            if op in wanted:
                values = np.asarray(inputs["x"], np.float64)
                axis = int(inputs.get("axis", -1))
                scores[f"{_SCORES}{op.name}"] = values - values.mean(axis=axis, keepdims=True)

        return see

    def _measured(self, outputs: Mapping[str, Any], scores: Outputs) -> Outputs:
        """``scores`` with the outputs that are numbers, but for those that a softmax makes."""
        for name, value in outputs.items():
            array = np.asarray(list(value.values()) if isinstance(value, Mapping) else value)
            if name not in self._softmaxes and array.dtype.kind in "fiu" and array.size:
                scores[name] = array.astype(np.float64)
        return scores


def _softmax_at(op: Any) -> Any:
    """The softmax that makes what ``op``, an output's, gives; or None."""
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
