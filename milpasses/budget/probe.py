"""Runs a model with some of its weights changed, and measures what that does to its outputs."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import numpy as np

from milpasses.data.samples import Sample
from milpasses.data.scores import SCORES, Comparable, Outputs
from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter, Snapshot

_MOST = 1e6  # what is worse cannot be told apart, and sums must stay finite


@attrs.define(eq=False)
class Probe:
    """A loaded model, samples, and its outputs on them as they should be. The interpreter is the probe's own.

    Outputs are measured by what ``data.scores`` compares: of a softmax the scores that it takes.

    ``room``: bytes of activations to keep, with which a changed model runs from the changed weight on.
    ``executions`` counts the runs over all samples, the first included. Raises ``MilpassesError`` for a
    model whose outputs hold no numbers.
    """

    interpreter: Interpreter
    samples: list[Sample]
    room: int = 1 << 28
    executions: int = 0
    reference: list[Outputs] = attrs.field(init=False)
    _comparable: Comparable = attrs.field(init=False)
    _snapshots: list[Snapshot | None] = attrs.field(factory=list)  # of each sample, where there was room

    def __attrs_post_init__(self) -> None:
        self._comparable = Comparable(self.interpreter)
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
        observers = [self._comparable.observer(scores)]
        snapshot = None
        if self.interpreter.resumable and self.room > 0:
            outputs, snapshot = self.interpreter.record(sample.inputs, observers, limit=self.room)
        else:
            outputs = self.interpreter.run(sample.inputs, self.interpreter.make_state(), observers)
        if snapshot is not None:
            self.room -= snapshot.nbytes
        self._snapshots.append(snapshot)
        return self._comparable.read(outputs, scores)

    def _run_changed(self, index: int, start: int) -> Outputs:
        """Run a sample from an op on, with what those before gave in the reference; whole without."""
        snapshot, reference = self._snapshots[index], self.reference[index]
        if snapshot is None:
            scores: Outputs = {}
            outputs = self.interpreter.run(
                self.samples[index].inputs, self.interpreter.make_state(), [self._comparable.observer(scores)]
            )
        else:  # a softmax that does not run again took the scores that it took in the reference
            scores = {name: reference[name] for name in reference if name.startswith(SCORES)}
            outputs = self.interpreter.resume(snapshot, start, [self._comparable.observer(scores)])
        return self._comparable.read(outputs, scores)


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
