"""What is counted of activations as a model runs: their ranges, and histograms of those that are wanted."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from milpasses.data.histograms import Histogram
from milpasses.data.moments import Range


class RangeObserver:
    """Adds to ``ranges`` and ``histograms`` what each op gives and what the function's inputs are.

    ``tensors``: those with a histogram, all floats where None.
    """

    def __init__(self, tensors: Collection[str] | None = None) -> None:
        self.ranges: dict[str, Range] = {}
        self.histograms: dict[str, Histogram] = {}
        self._tensors = tensors
        self._takers: dict[str, Any] = {}  # of inputs: the op that takes each first

    def begin(self, histograms: dict[str, Histogram]) -> None:
        """A run starts, counted into ``histograms``."""
        self.histograms = histograms
        self._takers.clear()

    def __call__(self, op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        for var, value in zip(op.outputs, outputs, strict=True):
            self._add(var.name, value)
        for param, bound in op.inputs.items():
            if param not in inputs or isinstance(bound, list | tuple) or bound.op is not None:
                continue
            if self._takers.setdefault(bound.name, op) is op:  # many ops may take it: it counts once
                self._add(bound.name, inputs[param])

    def _add(self, name: str, value: Any) -> None:
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or not value.size:
            return
        low, high, nonfinite = float(value.min()), float(value.max()), 0
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = value[np.isfinite(value)]
            nonfinite = value.size - finite.size
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)
        span = Range(low, high, nonfinite)
        known = self.ranges.get(name)
        self.ranges[name] = span if known is None else known | span
        counted = self._tensors is None or name in self._tensors
        if counted and value.dtype.kind == "f" and low <= high:
            if name not in self.histograms:
                self.histograms[name] = Histogram.empty(low, high)
            self.histograms[name].add(value, low, high)
