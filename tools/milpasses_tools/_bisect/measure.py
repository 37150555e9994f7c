"""What a bisection measures and when it is content: errors of outputs, a tolerance, a search."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from milpasses_tools._output import json_decibels

if TYPE_CHECKING:
    from milpasses.data.samples import Sample


@attrs.frozen
class WorstError:
    """How far the outputs are from the reference, over all samples; that of the worst output.

    ``snr_db`` is 10 log10(sum a^2 / sum (a - b)^2): infinite where nothing differs, minus infinity where one
    is finite and the other is not. ``max_error`` is the largest |a - b| of any output.
    """

    snr_db: float
    max_error: float
    output: str = ""

    @property
    def known(self) -> bool:
        """Whether any value was compared: not where none is finite in both, or the output is empty."""
        return not math.isnan(self.snr_db)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no infinity."""
        return {
            "snr_db": json_decibels(self.snr_db),
            "max_error": self.max_error if math.isfinite(self.max_error) else str(self.max_error),
            "output": self.output,
        }


@attrs.frozen
class Tolerance:
    """What is accepted: every output within ``snr_db`` decibels, or within an absolute ``max_error``."""

    snr_db: float | None = None
    max_error: float | None = None

    @classmethod
    def of(cls, tolerance: float | None, max_error: float | None) -> "Tolerance":
        """From the two arguments, exactly one of which is given; raises ``MilpassesError``."""
        from milpasses.errors import MilpassesError

        limits = [limit for limit in (tolerance, max_error) if limit is not None]
        if len(limits) != 1 or not math.isfinite(limits[0]) or (max_error is not None and max_error < 0):
            raise MilpassesError(
                "give a tolerance: decibels (tolerance=40), or an absolute error (max_error=0.01)"
            )
        return cls(tolerance, max_error)

    def keeps(self, error: WorstError) -> bool:
        """Whether the outputs are within the tolerance; NaN never is."""
        if self.max_error is not None:
            return error.max_error <= self.max_error
        assert self.snr_db is not None
        return error.snr_db >= self.snr_db

    def __str__(self) -> str:
        return f"{self.snr_db:g} dB" if self.snr_db is not None else f"max error {self.max_error:g}"


Outputs = Mapping[str, Any]


def run_all(runner: Any, samples: "Sequence[Sample]", observers: Sequence[Any] = ()) -> list[Outputs]:
    """The outputs of every sample, in order."""
    return [runner.run(sample.inputs, observers) for sample in samples]


def measure(reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> WorstError:
    """The error of ``outputs`` against ``reference``, sample by sample; outputs are paired by place."""
    from milpasses.errors import MilpassesError
    from milpasses_tools._compare.metrics import OutputSums, kind_of

    sums: list[OutputSums] = []
    for first, second in zip(reference, outputs, strict=True):
        if len(first) != len(second):
            raise MilpassesError(f"{len(first)} outputs in one program, {len(second)} in the other")
        if not sums:
            sums = [OutputSums(name, kind_of(name, value, first, None), 1) for name, value in first.items()]
        for one, a, b in zip(sums, first.values(), second.values(), strict=True):
            one.add(a, b)
    results = [one.result() for one in sums if one.kind != "label"]
    numbers = [
        WorstError(one.snr_db, one.max_error, one.name)
        for one in results
        if one.snr_db is not None and one.max_error is not None
    ]
    if not numbers:
        raise MilpassesError("the model has no output of numbers to measure")
    measured = [one for one in numbers if one.known]
    if not measured:
        return numbers[0]
    worst = min(measured, key=lambda one: (one.snr_db, -one.max_error))
    return attrs.evolve(worst, max_error=max(one.max_error for one in measured))


def measure_reference(outputs: Sequence[Outputs]) -> WorstError:
    """The error of a reference against itself: none; raises ``MilpassesError`` if nothing is finite."""
    from milpasses.errors import MilpassesError

    error = measure(outputs, outputs)
    if not error.known:
        raise MilpassesError(
            "no value of the reference's outputs is finite on these samples: nothing to measure"
        )
    return error


def first_bad(good: int, bad: int, is_bad: Callable[[int], bool | None]) -> tuple[int, int]:
    """Narrow down between a ``good`` and a ``bad`` number, by halves, to the last good and the first bad one.

    ``is_bad`` answers None where a number cannot be tried; then those around it are, and the two numbers
    returned are further apart than one if nothing between them can. What is bad is taken to stay bad with
    every number after it; if it does not, the two numbers are still a good and a bad one.
    """
    tried: set[int] = set()
    while True:
        middle = (good + bad) // 2
        left = sorted(set(range(good + 1, bad)) - tried, key=lambda number: abs(number - middle))
        if not left:
            return good, bad
        tried.add(left[0])
        answer = is_bad(left[0])
        if answer is True:
            bad = left[0]
        elif answer is False:
            good = left[0]
