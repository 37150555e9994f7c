"""What outputs lose against the float model's: divergence of probabilities, else the relative error."""

from typing import Any

import numpy as np
import torch

from milpasses.interpreter.io import numpy_type

_PASSES_ON = ("cast", "identity", "reshape", "squeeze", "expand_dims")


def compared(function: Any) -> list[Any]:
    """The variables of ``function`` to compare: outputs of floats, of a classifier its probabilities."""
    found: list[Any] = []
    for var in function.outputs:
        op = var.op
        if op is not None and op.op_type == "classify":
            var = op.inputs["probabilities"]
        declared = numpy_type(var.sym_type)
        if declared is not None and np.issubdtype(declared, np.floating) and var not in found:
            found.append(var)
    return found


def are_probabilities(var: Any) -> bool:
    """A softmax made ``var``, or what it is a cast or another shape of."""
    while var.op is not None and var.op.op_type in _PASSES_ON:
        var = var.op.inputs["x"]
    return var.op is not None and var.op.op_type == "softmax"


def loss(output: Any, target: Any, probabilities: bool) -> Any:
    """A loss for each sample: mean divergence KL(target, output) of the rows, or |y - y'|^2 / |y|^2."""
    count = len(target)
    if probabilities:
        floor = 1e-7
        rows = target * (torch.log(target.clamp_min(floor)) - torch.log(output.clamp_min(floor)))
        return rows.sum(-1).reshape(count, -1).mean(1)
    error, signal = ((output - target) ** 2).reshape(count, -1), (target**2).reshape(count, -1)
    return error.sum(1) / (signal.sum(1) + 1e-12)
