"""Ranges that a histogram of a tensor suggests, and what each would lose on the values counted there."""

from collections.abc import Callable, Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.activations.grid import LEVELS, ActivationRange, Grid, finer_mode, grid_of
from milpasses.data.histograms import Histogram
from milpasses.report import decibels

Floats = NDArray[np.float64]
PERCENTILES = (99.9, 99.99, 99.999)
METHODS = ("minmax", "average", *(f"percentile {each:g}" for each in PERCENTILES), "least squares", "entropy")
_STEPS = 50  # of a sweep: clips from all of the range to 1/50 of it


@attrs.frozen(eq=False)
class Candidates:
    """The ranges for one tensor, each a function of ``histogram``.

    ``mode``, ``dtype``, ``half``: as ``grid_of`` takes them; a grid of ``linear_symmetric`` covers both signs
    alike, so its clip is one number.
    """

    histogram: Histogram
    mode: str = "linear_symmetric"
    dtype: str = "int8"
    half: bool = True
    _values: Floats = attrs.field(init=False)
    _counts: Floats = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        filled = np.flatnonzero(self.histogram.counts)
        object.__setattr__(self, "_values", self.histogram.centres[filled])
        object.__setattr__(self, "_counts", self.histogram.counts[filled].astype(np.float64))

    def ranges(self) -> dict[str, ActivationRange]:
        """A range by each of ``METHODS``, with what the rounding loses in ``sqnr_db``."""
        histogram = self.histogram
        found = {"minmax": (histogram.low, histogram.high), "average": histogram.average}
        for each in PERCENTILES:
            tail = (1 - each / 100) / 2
            found[f"percentile {each:g}"] = histogram.quantile(tail), histogram.quantile(1 - tail)
        found["least squares"] = self._least(self.error)
        found["entropy"] = self._least(self.divergence)
        return {
            method: ActivationRange(low, high, method, self.sqnr_db(low, high))
            for method, (low, high) in found.items()
        }

    def error(self, low: float, high: float) -> float:
        """Mean squared error of the grid of a range, each value at the middle of its bin."""
        rounded = self._grid(low, high).round_trip(self._values)
        return float(self._counts @ (self._values - rounded) ** 2) / self.histogram.total

    def sqnr_db(self, low: float, high: float) -> float:
        """Power of the values over that error, in dB."""
        return decibels(float(self._counts @ self._values**2) / self.histogram.total, self.error(low, high))

    def divergence(self, low: float, high: float) -> float:
        """Kullback-Leibler divergence, in nats, of the values as clipped from those as rounded.

        Each code's share of what is inside of the range is spread evenly over its bins, and what is clipped
        counts where it is clipped to. The criterion is TensorRT's (Migacz, 2017).
        """
        grid = self._grid(low, high)
        least, most = LEVELS[grid.dtype]
        raw = np.rint(self._values / grid.scale) + grid.zero_point
        inside = (raw >= least) & (raw <= most)
        codes = (np.clip(raw, least, most) - least).astype(np.int64)
        if not inside.any():
            return np.inf
        clipped = np.where(inside, self._counts, 0.0)
        places = np.flatnonzero(inside)
        clipped[places[0]] += self._counts[: places[0]].sum()
        clipped[places[-1]] += self._counts[places[-1] + 1 :].sum()
        mass = np.bincount(codes[inside], self._counts[inside], minlength=most - least + 1)
        bins = np.bincount(codes[inside], minlength=most - least + 1)
        p, q = clipped[inside], (mass / np.maximum(bins, 1))[codes[inside]]
        p, q = p / p.sum(), q / q.sum()
        return float(p @ np.log(p / q))

    def _grid(self, low: float, high: float) -> Grid:
        return grid_of(low, high, self.mode, self.dtype, half=self.half)

    def _least(self, cost: Callable[[float, float], float]) -> tuple[float, float]:
        """The clip of the range that costs least; with a zero point each end by itself."""
        low, high = self.histogram.low, self.histogram.high
        mode = finer_mode(low, high) if self.mode == "auto" else self.mode
        if mode == "linear_symmetric":
            largest = max(abs(low), abs(high))
            clips = [(max(low, -largest * share), min(high, largest * share)) for share in _shares()]
            return _cheapest([clip for clip in clips if clip[0] < clip[1]] or [(low, high)], cost)
        best = (low, high)
        for _ in range(2):
            best = _cheapest([best, *((best[0], high * share) for share in _shares() if high > 0)], cost)
            best = _cheapest([best, *((low * share, best[1]) for share in _shares() if low < 0)], cost)
        return best


def _shares() -> Iterator[float]:
    yield from (1 - step / _STEPS for step in range(_STEPS))


def _cheapest(
    ranges: list[tuple[float, float]], cost: Callable[[float, float], float]
) -> tuple[float, float]:
    costs = [cost(*each) if each[0] <= each[1] else np.inf for each in ranges]
    return ranges[int(np.argmin(costs))]
