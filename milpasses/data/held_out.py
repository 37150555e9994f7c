"""A model run on held-out samples again and again, and how far its outputs are from the first run's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.interpreter import Interpreter

Array = NDArray[Any]


class HeldOutRuns:
    """Runs ``interpreter`` on ``samples``, once as it is, then as often as asked with what was overridden.

    ``samples``: the inputs of each run, as ``Interpreter.run`` takes them; states start anew in each.
    """

    def __init__(self, interpreter: Interpreter, samples: Sequence[Mapping[str, Any]]) -> None:
        self.interpreter, self._samples = interpreter, samples
        self._exact = [self._run(sample) for sample in samples]
        self._energy = {
            name: sum(_energy(_finite(outputs[name], outputs[name])) for outputs in self._exact)
            for name in (self._exact[0] if self._exact else ())
        }

    def __len__(self) -> int:
        """The number of samples."""
        return len(self._samples)

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs in which an error can be told: numbers that are not all 0."""
        return [name for name, energy in self._energy.items() if energy > 0]

    def errors(self) -> dict[str, float]:
        """Of each of ``outputs`` the sum of (y - y')^2 over that of y^2, over all samples.

        Infinite where y' has another shape than y, or is not finite where y is.
        """
        lost = dict.fromkeys(self.outputs, 0.0)
        for sample, exact in zip(self._samples, self._exact, strict=True):
            changed = self._run(sample)
            for name in lost:
                lost[name] += _distance(exact[name], changed[name])
        return {name: energy / self._energy[name] for name, energy in lost.items()}

    def _run(self, sample: Mapping[str, Any]) -> dict[str, Array]:
        return output_arrays(self.interpreter.run(sample, self.interpreter.make_state()))


def output_arrays(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """The float outputs, of a classifier the probabilities, in float64; integers if there are none."""
    arrays = {
        name: np.asarray(list(value.values()) if isinstance(value, dict) else value)
        for name, value in outputs.items()
    }
    for kinds in ("f", "iu"):
        chosen = {name: array for name, array in arrays.items() if array.dtype.kind in kinds}
        if chosen:
            return {name: array.astype(np.float64) for name, array in chosen.items()}
    return {}


def _finite(array: Array, where: Array) -> Array:
    return array[np.isfinite(where)]


def _energy(array: Array) -> float:
    return float(np.vdot(array, array))


def _distance(exact: Array, changed: Array) -> float:
    """The sum of squared differences, where ``exact`` is finite."""
    if exact.shape != changed.shape:
        return np.inf
    distance = _energy(_finite(exact, exact) - _finite(changed, exact))
    return distance if np.isfinite(distance) else np.inf
