"""The classifier's output."""

from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, op


@op("classify")
def classify(probabilities: Array, classes: list[Any]) -> tuple[Any, dict[Any, float]]:
    """The most probable class, and the probability of each class."""
    labels = [c if isinstance(c, str) else int(c) for c in classes]
    flat = probabilities.reshape(-1)
    return labels[int(np.argmax(flat))], {label: float(p) for label, p in zip(labels, flat, strict=True)}
