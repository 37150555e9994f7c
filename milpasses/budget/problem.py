"""A sensitivity table as a problem: least output error within bytes, or least bytes within an error."""

from collections.abc import Callable

import numpy as np

from milpasses.budget.allocation import Allocation, Choice
from milpasses.budget.table import Option, Sensitivity
from milpasses.errors import MilpassesError
from milpasses.report import decibels

_UNIFORM = 2  # single schemes for all weights that a choice is run against
_FAR = 4  # times the least predicted output error: predictions err, but not by so much
_CORRECTIONS = 4
Measure = Callable[[tuple[Option, ...]], float]


class Problem:
    """A table as the two ways of allocating: output error within bytes, bytes within an output error."""

    def __init__(self, table: Sensitivity) -> None:
        self.table = table
        sizes = [np.array([float(o.nbytes) for o in weight.options]) for weight in table]
        errors = [np.array([o.output_error for o in weight.options]) for weight in table]
        self.by_bytes, self.by_error = Allocation(sizes, errors), Allocation(errors, sizes)
        self.uniform = {name: self._uniform(name) for name in table.candidates}

    def _uniform(self, scheme: str) -> Choice:
        """The candidate for every weight that takes it; the others as they are."""
        names = [[o.scheme for o in weight.options] for weight in self.table]
        return np.array([n.index(scheme) if scheme in n else 0 for n in names], np.intp)

    def options(self, choice: Choice) -> dict[str, Option]:
        """The option of each weight."""
        return {weight.name: weight.options[at] for weight, at in zip(self.table, choice, strict=True)}

    @property
    def bytes_now(self) -> int:
        """Of the weight file as it is."""
        return self.table.fixed_bytes + sum(weight.nbytes for weight in self.table)

    def bytes(self, choice: Choice) -> int:
        """Of the weight file that a choice gives."""
        return self.table.fixed_bytes + round(self.by_bytes.price(choice))

    def output_error(self, choice: Choice) -> float:
        """As the table predicts it."""
        return self.by_bytes.cost(choice)

    def solve(self, budget: int | None, limit: float | None) -> Choice:
        """Least output error within ``budget``; else least bytes within ``limit``."""
        starts = list(self.uniform.values())
        if budget is None:
            assert limit is not None
            choice = self.by_error.solve(limit, starts)
            if choice is None:
                least = self.by_error.least
                raise MilpassesError(
                    f"max_loss={limit:.2g} ({_ratio(limit)}) cannot be kept: the pinned weights "
                    f"alone lose {least:.2g} ({_ratio(least)})"
                )
            return choice
        choice = self.by_bytes.solve(budget - self.table.fixed_bytes, starts)
        if choice is None:
            least = self.table.fixed_bytes + round(self.by_bytes.least)
            bits = 8 / self.table.elements
            raise MilpassesError(
                f"the budget of {budget:,} bytes ({bits * budget:.2f} bits a weight) is too small: "
                f"these candidates need at least {least:,} ({bits * least:.2f} bits)"
            )
        if limit is not None and self.output_error(choice) > limit:
            needed = self.by_error.solve(limit, starts)
            wants = "no choice has it" if needed is None else f"it needs {self.bytes(needed):,} bytes"
            raise MilpassesError(
                f"{budget:,} bytes allow {_ratio(self.output_error(choice))} at best, not "
                f"{_ratio(limit)}: {wants}"
            )
        return choice

    def finalists(self, budget: int) -> list[Choice]:
        """What to run against each other: the solution, the best single schemes, that of the layers alone.

        Without those that are predicted to be far worse than the solution.
        """
        layer_errors = [np.array([o.layer_error for o in weight.options]) for weight in self.table]
        limit = budget - self.table.fixed_bytes
        layers = Allocation(self.by_bytes.prices, layer_errors).solve(limit)
        within = [choice for choice in self.uniform.values() if self.bytes(choice) <= budget]
        best = self.solve(budget, None)
        others = [*sorted(within, key=self.output_error)[:_UNIFORM], *([] if layers is None else [layers])]
        limit_error = _FAR * self.output_error(best)
        return [best, *(choice for choice in others if self.output_error(choice) <= limit_error)]


def choose_measured(
    problem: Problem, budget: int | None, limit: float | None, measure: Measure
) -> tuple[Choice, float]:
    """The choice and its measured output error: as ``Problem.solve``, but what is measured decides."""

    def measured(choice: Choice) -> float:
        return measure(tuple(weight.options[at] for weight, at in zip(problem.table, choice, strict=True)))

    if budget is not None:
        choice = min(problem.finalists(budget), key=measured)
        error = measured(choice)
        if limit is not None and error > limit:
            raise MilpassesError(
                f"{budget:,} bytes allow {_ratio(error)} at best, not {_ratio(limit)}: "
                "raise the budget, or leave it out to see the bytes that it takes"
            )
        return choice, error
    assert limit is not None
    return _within_loss(problem, limit, measured)


def _within_loss(problem: Problem, limit: float, measured: Callable[[Choice], float]) -> tuple[Choice, float]:
    """The least bytes that keep ``limit`` when measured: the prediction is scaled until it fits."""
    known: list[tuple[int, float, Choice]] = []
    aim = limit
    for attempt in range(2 * _CORRECTIONS):
        if attempt >= _CORRECTIONS:
            if any(error <= limit for _, error, _ in known):
                break
            aim /= 2  # in proportion it does not get there
        choice = problem.solve(None, max(aim, problem.by_error.least))
        error = measured(choice)
        known.append((problem.bytes(choice), error, choice))
        if error == 0 or 0.9 * limit <= error <= limit:
            break
        aim *= 0.95 * limit / error
    within = [(nbytes, error, choice) for nbytes, error, choice in known if error <= limit]
    if not within:
        choice = problem.solve(None, problem.by_error.least)  # as little loss as there is
        within = [(problem.bytes(choice), measured(choice), choice)]
        if within[0][1] > limit:
            raise MilpassesError(
                f"max_loss={limit:.2g} ({_ratio(limit)}) cannot be kept: the best choice measures "
                f"{_ratio(within[0][1])}"
            )
    _, error, choice = min(within, key=lambda measurement: measurement[:2])
    return choice, error


def _ratio(output_error: float) -> str:
    return f"{decibels(1.0, output_error):.1f} dB"
