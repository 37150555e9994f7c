"""What the outputs of two runs are compared by: numbers, and of a softmax what it takes.

Probabilities near 0 and 1 hide what is lost, and small changes near a tie look like large ones. So an output
that a softmax makes stands for the scores that it takes, less their mean, which it does not see.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.interpreter import Interpreter, Observer

Outputs = dict[str, NDArray[np.float64]]
SCORES = "scores of "
# Ops between a softmax and the output that it makes, which keep its values.
_PASSING = ("classify", "identity", "cast", "reshape", "squeeze", "expand_dims", "transpose")


class Comparable:
    """Reads what is compared from runs of ``interpreter``: watch one with ``observer``, then ``read`` it."""

    def __init__(self, interpreter: Interpreter) -> None:
        softmaxes = {name: _softmax_at(op) for name, op in interpreter.output_ops.items()}
        self._softmaxes = {name: op for name, op in softmaxes.items() if op is not None}

    def observer(self, scores: Outputs) -> Observer:
        """An observer that puts what the softmaxes at the outputs take into ``scores``."""
        wanted = set(self._softmaxes.values())

        def see(op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
            if op in wanted:
                values = np.asarray(inputs["x"], np.float64)
                axis = int(inputs.get("axis", -1))
                scores[f"{SCORES}{op.name}"] = values - values.mean(axis=axis, keepdims=True)

        return see

    def read(self, outputs: Mapping[str, Any], scores: Outputs) -> Outputs:
        """``scores`` with the outputs that are numbers, but for those that a softmax makes."""
        found = dict(scores)
        for name, value in outputs.items():
            array = np.asarray(list(value.values()) if isinstance(value, Mapping) else value)
            if name not in self._softmaxes and array.dtype.kind in "fiu" and array.size:
                found[name] = array.astype(np.float64)
        return found


def _softmax_at(op: Any) -> Any:
    """The softmax that makes what ``op``, an output's, gives; or None."""
    while op is not None and op.op_type in _PASSING:
        source = op.inputs["probabilities" if op.op_type == "classify" else "x"]
        op = source.op
    return op if op is not None and op.op_type == "softmax" else None
