"""A sensitivity table as a problem: the least damage within bytes, or the least bytes within a damage."""

from collections.abc import Callable

import numpy as np

from milpasses.budget.allocation import Allocation, Choice
from milpasses.budget.table import Option, Sensitivity
from milpasses.budget.text import decibels
from milpasses.errors import MilpassesError

_UNIFORM = 2  # single schemes for all weights that a choice is run against
_FAR = 4  # times the least predicted damage: predictions err, but not by so much
_CORRECTIONS = 4
Measure = Callable[[tuple[Option, ...]], float]


class Problem:
    """A table as the two ways of allocating: bytes within a damage, damage within bytes."""

    def __init__(self, table: Sensitivity) -> None:
        self.table = table
        prices = [np.array([float(o.nbytes) for o in one.options]) for one in table]
        costs = [np.array([o.damage for o in one.options]) for one in table]
        self.by_bytes, self.by_damage = Allocation(prices, costs), Allocation(costs, prices)
        self.uniform = {name: self._uniform(name) for name in table.candidates}

    def _uniform(self, scheme: str) -> Choice:
        """The candidate for every weight that takes it; the others as they are."""
        places = [[o.scheme for o in one.options] for one in self.table]
        return np.array([names.index(scheme) if scheme in names else 0 for names in places], np.intp)

    def options(self, choice: Choice) -> dict[str, Option]:
        """The option of each weight."""
        return {one.name: one.options[at] for one, at in zip(self.table, choice, strict=True)}

    @property
    def bytes_now(self) -> int:
        """Of the weight file as it is."""
        return self.table.fixed_bytes + sum(one.nbytes for one in self.table)

    def bytes(self, choice: Choice) -> int:
        """Of the weight file that a choice gives."""
        return self.table.fixed_bytes + round(self.by_bytes.price(choice))

    def damage(self, choice: Choice) -> float:
        """As the table predicts it."""
        return self.by_bytes.cost(choice)

    def solve(self, budget: int | None, limit: float | None) -> Choice:
        """Least damage within ``budget``; else least bytes within ``limit``."""
        starts = list(self.uniform.values())
        if budget is None:
            assert limit is not None
            found = self.by_damage.solve(limit, starts)
            if found is None:
                least = self.by_damage.least
                raise MilpassesError(
                    f"max_loss {limit:.2g} ({decibels(limit):.1f} dB) cannot be kept: the pinned weights "
                    f"alone lose {least:.2g} ({decibels(least):.1f} dB)"
                )
            return found
        found = self.by_bytes.solve(budget - self.table.fixed_bytes, starts)
        if found is None:
            least = self.table.fixed_bytes + round(self.by_bytes.least)
            bits = 8 / self.table.elements
            raise MilpassesError(
                f"the budget of {budget:,} bytes ({bits * budget:.2f} bits a weight) is too small: "
                f"these candidates need at least {least:,} ({bits * least:.2f} bits)"
            )
        if limit is not None and self.damage(found) > limit:
            needed = self.by_damage.solve(limit, starts)
            wants = "no choice has it" if needed is None else f"it needs {self.bytes(needed):,} bytes"
            raise MilpassesError(
                f"{budget:,} bytes allow {decibels(self.damage(found)):.1f} dB at best, not "
                f"{decibels(limit):.1f} dB: {wants}"
            )
        return found

    def finalists(self, budget: int) -> list[Choice]:
        """What to run against each other: the solution, the best single schemes, that of the layers alone.

        Without those that are predicted to be far worse than the solution.
        """
        shares = [np.array([o.share for o in one.options]) for one in self.table]
        limit = budget - self.table.fixed_bytes
        layers = Allocation(self.by_bytes.prices, shares).solve(limit)
        within = [one for one in self.uniform.values() if self.bytes(one) <= budget]
        best = self.solve(budget, None)
        others = [*sorted(within, key=self.damage)[:_UNIFORM], *([] if layers is None else [layers])]
        return [best, *(one for one in others if self.damage(one) <= _FAR * self.damage(best))]


def choose_measured(
    problem: Problem, budget: int | None, limit: float | None, measure: Measure
) -> tuple[Choice, float]:
    """The choice and its measured damage: as ``Problem.solve``, but what is measured decides."""

    def measured(choice: Choice) -> float:
        return measure(tuple(one.options[at] for one, at in zip(problem.table, choice, strict=True)))

    if budget is not None:
        found = min(problem.finalists(budget), key=measured)
        damage = measured(found)
        if limit is not None and damage > limit:
            raise MilpassesError(
                f"{budget:,} bytes allow {decibels(damage):.1f} dB at best, not {decibels(limit):.1f} dB: "
                "raise the budget, or leave it out to see the bytes that it takes"
            )
        return found, damage
    assert limit is not None
    return _within_loss(problem, limit, measured)


def _within_loss(problem: Problem, limit: float, measured: Callable[[Choice], float]) -> tuple[Choice, float]:
    """The least bytes with a measured damage within ``limit``: the prediction is scaled until it fits."""
    known: list[tuple[int, float, Choice]] = []
    aim = limit
    for attempt in range(2 * _CORRECTIONS):
        if attempt >= _CORRECTIONS:
            if any(damage <= limit for _, damage, _ in known):
                break
            aim /= 2  # in proportion it does not get there
        choice = problem.solve(None, max(aim, problem.by_damage.least))
        damage = measured(choice)
        known.append((problem.bytes(choice), damage, choice))
        if damage == 0 or 0.9 * limit <= damage <= limit:
            break
        aim *= 0.95 * limit / damage
    within = [one for one in known if one[1] <= limit]
    if not within:
        choice = problem.solve(None, problem.by_damage.least)  # as little loss as there is
        within = [(problem.bytes(choice), measured(choice), choice)]
        if within[0][1] > limit:
            raise MilpassesError(
                f"max_loss {limit:.2g} ({decibels(limit):.1f} dB) cannot be kept: the best choice measures "
                f"{decibels(within[0][1]):.1f} dB"
            )
    _, damage, choice = min(within, key=lambda one: one[:2])
    return choice, damage
