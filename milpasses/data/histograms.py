"""Histograms of activations, counted as samples run: 2,048 bins, merged exactly.

A bin is [i 2^e, (i + 1) 2^e) for an integer i. The exponent e is the smallest with which the bins hold every
value, so it follows from the smallest and the largest alone; a wider range joins bins in pairs, and no value
changes sides. The counts are the same in whatever order samples come, and however runs are merged.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

BINS = 2048
_FINEST = 30  # powers of two below the largest value: a constant tensor has no width of its own
_SMALLEST = -126  # subnormal numbers are zeros to processors that flush them
_UNITS = 1 << 149  # in the number 1: every float32 is a whole number of them


def layout(low: float, high: float) -> tuple[int, int]:
    """The exponent of the width of bins that hold ``low`` to ``high``, and the number of the first."""
    largest = max(abs(low), abs(high))
    exponent = max(math.frexp(largest)[1] - _FINEST, _SMALLEST) if largest else _SMALLEST
    if high > low:
        exponent = max(exponent, math.frexp((high - low) / BINS)[1] - 1)
    while _bin(high, exponent) - _bin(low, exponent) >= BINS:
        exponent += 1
    return exponent, _bin(low, exponent)


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


@attrs.define(eq=False)
class Histogram:
    """How often values of an activation fell into each of ``BINS`` bins.

    ``counts[i]``, int64: values in [(first + i) 2^exponent, (first + i + 1) 2^exponent). ``low``, ``high``:
    the smallest and the largest finite value. ``samples``: how many arrays were added; ``low_sum`` and
    ``high_sum``: exact sums of their smallest and largest values, in units of 2^-149.
    """

    low: float
    high: float
    exponent: int
    first: int
    counts: NDArray[np.int64]
    samples: int = 0
    low_sum: int = 0
    high_sum: int = 0

    @classmethod
    def empty(cls, low: float, high: float) -> "Histogram":
        """No values yet, for those from ``low`` to ``high``, both finite."""
        return cls(low, high, *layout(low, high), np.zeros(BINS, np.int64))

    def add(self, values: NDArray[Any], low: float, high: float) -> None:
        """Count the finite ones of float ``values``, of any shape, which reach from ``low`` to ``high``."""
        from milpasses_kernels.bins import count_in_bins  # Numba: not before something runs

        self._widen(low, high)
        count_in_bins(values, self.exponent, self.first, self.counts)
        self.samples += 1
        self.low_sum += _units(low)
        self.high_sum += _units(high)

    def __or__(self, other: "Histogram") -> "Histogram":
        """The values of both, counted together."""
        both = Histogram.empty(min(self.low, other.low), max(self.high, other.high))
        for each in (self, other):
            both.counts += each.counts_in(both.exponent, both.first)
        both.samples = self.samples + other.samples
        both.low_sum, both.high_sum = self.low_sum + other.low_sum, self.high_sum + other.high_sum
        return both

    def counts_in(self, exponent: int, first: int) -> NDArray[np.int64]:
        """The counts in bins that are as wide or wider."""
        filled = np.flatnonzero(self.counts)
        places = ((filled + self.first) >> (exponent - self.exponent)) - first
        counts = np.zeros(BINS, np.int64)
        np.add.at(counts, places, self.counts[filled])
        return counts

    @property
    def fields(self) -> dict[str, Any]:
        """All but the counts, as a file has it."""
        return {
            "low": self.low, "high": self.high, "samples": self.samples,
            "low_sum": self.low_sum, "high_sum": self.high_sum,
        }  # fmt: skip

    @classmethod
    def of(cls, fields: dict[str, Any], counts: NDArray[Any]) -> "Histogram":
        """From ``fields`` and the counts; raises ``TypeError`` or ``KeyError`` where they are none."""
        found = cls.empty(float(fields["low"]), float(fields["high"]))
        if counts.shape != (BINS,):
            raise KeyError(f"{BINS} counts")
        found.counts[:] = counts
        found.samples = int(fields["samples"])
        found.low_sum, found.high_sum = int(fields["low_sum"]), int(fields["high_sum"])
        return found

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin, inside of ``low`` to ``high``."""
        middles = (np.arange(BINS, dtype=np.float64) + (self.first + 0.5)) * self.width
        return np.clip(middles, self.low, self.high)

    @property
    def average(self) -> tuple[float, float]:
        """The mean of the samples' smallest values, and of their largest."""
        unit = Fraction(1, _UNITS)
        low, high = self.low_sum * unit / self.samples, self.high_sum * unit / self.samples
        return float(low), float(high)

    def quantile(self, share: float) -> float:
        """The value below which ``share`` (0 to 1) of all are, linear inside of a bin."""
        cumulated = np.cumsum(self.counts)
        wanted = share * cumulated[-1]
        place = int(np.searchsorted(cumulated, wanted))
        before = cumulated[place] - self.counts[place]
        inside = (wanted - before) / self.counts[place] if self.counts[place] else 0.0
        return float(np.clip((place + self.first + inside) * self.width, self.low, self.high))

    def _widen(self, low: float, high: float) -> None:
        if low >= self.low and high <= self.high:
            return
        low, high = min(self.low, low), max(self.high, high)
        exponent, first = layout(low, high)
        if (exponent, first) != (self.exponent, self.first):
            self.counts = self.counts_in(exponent, first)
        self.low, self.high, self.exponent, self.first = low, high, exponent, first


def joined(first: Mapping[str, Histogram], second: Mapping[str, Histogram]) -> dict[str, Histogram]:
    """Histograms by name: those of both, counted together where a name is in both."""
    both = {name: first[name] | second[name] for name in first.keys() & second.keys()}
    return {**first, **second, **both}


def _units(value: float) -> int:
    """A float32 as a whole number of 2^-149."""
    return int(Fraction(float(np.float32(value))) * _UNITS)
