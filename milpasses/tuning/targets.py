"""What programs make of all samples, a batch at a time."""

from collections.abc import Mapping
from typing import Any

import torch

from milpasses.interpreter.batch import BatchRun


def outputs_of(run: BatchRun, inputs: Mapping[str, Any], batch: int) -> list[Any]:
    """The variables of ``run`` for every sample of ``inputs``, without gradients."""
    count = len(next(iter(inputs.values())))
    with torch.no_grad():
        parts = [
            run({name: rows[start : start + batch] for name, rows in inputs.items()})
            for start in range(0, count, batch)
        ]
    return [torch.cat(column) for column in zip(*parts, strict=True)]
