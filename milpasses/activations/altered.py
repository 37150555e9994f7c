"""A model run as if some tensors were 8-bit: no op is inserted, values are rounded where ops take them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.activations.pairs import Placed
from milpasses.data.scores import Comparable, Outputs
from milpasses.interpreter import Interpreter

Array = NDArray[Any]
Takers = Mapping[str, set[str]]


class AlteredRuns:
    """Runs ``interpreter`` over samples, and says how far its outputs are from those without 8-bit tensors.

    ``samples``: inputs; each runs once as it is. What is compared is as in ``data.scores``.
    """

    def __init__(self, interpreter: Interpreter, samples: Sequence[Mapping[str, Any]]) -> None:
        self._interpreter, self._samples = interpreter, samples
        self._takes = takers(interpreter)
        self._comparable = Comparable(interpreter)
        self._exact = [self._outputs(sample) for sample in samples]

    @property
    def comparable(self) -> bool:
        """There are samples, and outputs in numbers that are not all 0."""
        return any(_power(array) > 0 for outputs in self._exact for array in outputs.values())

    def error(self, placed: Iterable[Placed]) -> float:
        """Mean over samples and outputs of |y - y'|^2 / |y|^2; infinite where y' is not finite.

        ``placed``: the pairs there are; all others stay float.
        """
        self._interpreter.alter(changes(self._takes, placed))
        try:
            pairs = zip(self._samples, self._exact, strict=True)
            errors = [_distance(exact, self._outputs(sample)) for sample, exact in pairs]
        finally:
            self._interpreter.alter({})
        return math.fsum(errors) / len(errors)  # the same in whatever order samples come

    def _outputs(self, sample: Mapping[str, Any]) -> Outputs:
        scores: Outputs = {}
        outputs = self._interpreter.run(sample, observers=[self._comparable.observer(scores)])
        return self._comparable.read(outputs, scores)


def changes(takes: Takers, placed: Iterable[Placed]) -> dict[tuple[str, str], Callable[[Array], Array]]:
    """What pairs alter, as ``Interpreter.alter`` takes it: behind an op all take the dequantized copy."""
    found: dict[tuple[str, str], Callable[[Array], Array]] = {}
    for each in placed:
        point = each.point
        taking = takes.get(point.name, set())
        ops = taking if point.after else taking & {use.op_name for use in point.uses}
        found |= {(op, point.name): each.grid.round_trip for op in ops}
    return found


def takers(interpreter: Interpreter) -> Takers:
    """Names of the ops that take each variable, those in nested blocks included."""
    found: dict[str, set[str]] = {}
    pending: list[Any] = [interpreter.function]
    while pending:
        for op in pending.pop().operations:
            pending.extend(op.blocks)
            for bound in op.inputs.values():
                for var in bound if isinstance(bound, list | tuple) else [bound]:
                    if var is not None:
                        found.setdefault(var.name, set()).add(op.name)
    return found


def _power(array: Array) -> float:
    return float((array**2).sum())


def _distance(exact: Mapping[str, Array], altered: Mapping[str, Array]) -> float:
    """Mean of the outputs' relative squared errors."""
    errors: list[float] = []
    for name, array in exact.items():
        power = _power(array)
        if power > 0:
            fits = array.shape == altered[name].shape
            errors.append(_power(array - altered[name]) / power if fits else np.inf)
    mean = float(np.mean(errors)) if errors else 0.0
    return mean if np.isfinite(mean) else np.inf
