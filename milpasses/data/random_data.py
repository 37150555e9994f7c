"""Random inputs, where nothing better is at hand: they run a model, and say nothing of what it is used on."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.errors import SampleError
from milpasses.interpreter import Feature

_SMALLEST = 2.0**-10  # of positive data: its logarithm and its reciprocal are harmless
# What a float input is drawn from, and what it is called.
DISTRIBUTIONS = {
    "normal": "random data",
    "uniform": "random data in [0, 1)",
    "positive": "random positive data",
}


def is_random(data: Any) -> bool:
    """Whether ``data`` names random samples: ``random``, or with a distribution ``random:uniform``."""
    return isinstance(data, str) and data.partition(":")[0] == "random"


def read_distribution(text: str) -> str:
    """The distribution that ``random`` or ``random:NAME`` names; raises ``SampleError``."""
    name = text.partition(":")[2] if ":" in text else "normal"
    if name not in DISTRIBUTIONS:
        raise SampleError(f"{text}: random data is {', '.join(f'random:{one}' for one in DISTRIBUTIONS)}")
    return name


def draw_inputs(features: Mapping[str, Feature], seed: int, distribution: str) -> Iterable[dict[str, Any]]:
    """Inputs without end; those at place i are the same however many are taken."""
    wanted = [
        feature
        for feature in features.values()
        if feature.kind != "state" and (feature.shape or feature.default is None)  # no thresholds
    ]
    if seed < 0:
        raise SampleError(f"seed={seed}: a seed is 0 or more")
    for index in range(sys.maxsize):
        rng = np.random.default_rng([seed, index])
        yield {feature.name: _draw(feature, rng, distribution) for feature in wanted}


def _draw(feature: Feature, rng: np.random.Generator, distribution: str) -> NDArray[Any]:
    shape = feature.allowed[0] if feature.allowed else feature.fixed_shape()
    if feature.image is not None:
        pixels = rng.integers(0, 256, shape[2:] if feature.image.is_gray else (*shape[2:], 3))
        return pixels.astype(np.uint8)
    if not np.issubdtype(feature.dtype, np.floating):
        return rng.integers(0, 2, shape).astype(feature.dtype)
    if distribution == "uniform":
        return rng.random(shape, np.float32)
    values = rng.standard_normal(shape, np.float32)
    return np.maximum(np.abs(values), np.float32(_SMALLEST)) if distribution == "positive" else values


def all_finite(outputs: Mapping[str, Any]) -> bool:
    """Whether no float output of a run holds NaN or infinity; dictionaries of a classifier count by value."""
    for value in outputs.values():
        numbers = list(value.values()) if isinstance(value, Mapping) else value
        array = np.asarray(numbers)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return False
    return True
