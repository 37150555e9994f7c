"""Which option each weight gets: the least total cost within a limit on a total price.

A multiple-choice knapsack. Lagrange's relaxation (D + lambda R) picks from each weight's lower convex hull of
(price, cost); for hulls its solutions, in the order of falling lambda, are the hulls' steps sorted by slope,
so lambda need not be searched for. After Y. Shoham, A. Gersho, "Efficient Bit Allocation for an Arbitrary Set
of Quantizers" (1988). Where one weight outweighs the others the hulls' steps are too long, so sums of choices
are tried as well. What the limit leaves is filled greedily, then weights are exchanged by twos.
"""

from collections.abc import Sequence
from itertools import pairwise

import attrs
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Choice = NDArray[np.intp]
_ROUNDS = 200  # exchanges; each lowers the cost, so that this is a guard and no setting
_STATES = 4096


@attrs.define(eq=False)
class Allocation:
    """Options of some weights: ``prices`` and ``costs``, an array for each weight, in the same order."""

    prices: Sequence[Array]
    costs: Sequence[Array]

    def __attrs_post_init__(self) -> None:
        sizes = np.array([len(prices) for prices in self.prices])
        self._owner = np.repeat(np.arange(len(sizes)), sizes)
        self._place = np.concatenate([np.arange(size) for size in sizes]) if len(sizes) else np.zeros(0, int)
        self._price = np.concatenate(self.prices) if len(sizes) else np.zeros(0)
        self._cost = np.concatenate(self.costs) if len(sizes) else np.zeros(0)
        self._start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)

    _owner: NDArray[np.intp] = attrs.field(init=False)
    _place: NDArray[np.intp] = attrs.field(init=False)
    _price: Array = attrs.field(init=False)
    _cost: Array = attrs.field(init=False)
    _start: NDArray[np.intp] = attrs.field(init=False)

    @property
    def least(self) -> float:
        """The least total price."""
        return float(sum(prices.min() for prices in self.prices))

    def price(self, choice: Choice) -> float:
        """The total price of a choice of an option for each weight."""
        return float(self._price[self._start[:-1] + choice].sum())

    def cost(self, choice: Choice) -> float:
        """The total cost of a choice of an option for each weight."""
        return float(self._cost[self._start[:-1] + choice].sum())

    def solve(self, limit: float, starts: Sequence[Choice] = ()) -> Choice | None:
        """The choice of least cost whose price is at most ``limit``; None if there is no such choice.

        ``starts``: choices that it must not be worse than, if they are within the limit.
        """
        if self.least > limit:
            return None
        within = [start for start in starts if self.price(start) <= limit]
        tried = [self._relaxed(limit), self._by_states(limit), *within]
        filled = [self._filled(choice, limit) for choice in tried]
        choice = min(filled, key=lambda choice: (self.cost(choice), self.price(choice)))
        for _ in range(_ROUNDS):
            if not self._exchange(choice, limit):
                break
        return choice

    def _relaxed(self, limit: float) -> Choice:
        """Lagrange's solution: the hulls' steps, steepest first, as far as the limit goes."""
        hulls = [hull(price, cost) for price, cost in zip(self.prices, self.costs, strict=True)]
        choice = np.array([options[0] for options in hulls], np.intp)
        steps: list[tuple[float, int, int]] = []
        for index, (options, price, cost) in enumerate(zip(hulls, self.prices, self.costs, strict=True)):
            for before, after in pairwise(options):
                slope = (cost[before] - cost[after]) / (price[after] - price[before])
                steps.append((-slope, index, after))
        left = limit - self.price(choice)
        for _, index, after in sorted(steps):
            more = self.prices[index][after] - self.prices[index][choice[index]]
            if more > left:
                break
            left -= more
            choice[index] = after
        return choice

    def _by_states(self, limit: float) -> Choice:
        """The best of the undominated sums of a choice for the first weight, the first two, and so on.

        After G. L. Nemhauser, Z. Ullmann, "Discrete Dynamic Programming and Capital Allocation" (1969): exact
        while there are few sums. Of too many, those with the least cost are kept at evenly spaced prices.
        """
        rest = self.least
        price, cost = np.zeros(1), np.zeros(1)
        trail: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
        for prices, costs in zip(self.prices, self.costs, strict=True):
            rest -= prices.min()
            options = np.array(pareto(prices, costs), np.intp)
            sums = (price[:, None] + prices[options]).reshape(-1)
            lost = (cost[:, None] + costs[options]).reshape(-1)
            # Rounding must not rule out the cheapest choice of all, which is within the limit.
            order = np.lexsort((lost, sums))
            order = order[sums[order] + rest <= limit * (1 + 1e-12)]
            best = np.minimum.accumulate(lost[order])
            order = order[np.concatenate([[True], best[1:] < best[:-1]])]
            if len(order) > _STATES:
                span = sums[order[-1]] - sums[order[0]]
                bins = np.floor((sums[order] - sums[order[0]]) / span * _STATES)
                order = order[np.concatenate([bins[1:] != bins[:-1], [True]])]
            trail.append((order // len(options), options[order % len(options)]))
            price, cost = sums[order], lost[order]
        choice: list[int] = []
        state = int(np.argmin(cost))
        for before, option in reversed(trail):
            choice.append(int(option[state]))
            state = int(before[state])
        return np.array(choice[::-1], np.intp)

    def _filled(self, choice: Choice, limit: float) -> Choice:
        """Single moves within what is left, best ratio first."""
        choice = choice.copy()
        while self._fill(choice, limit):
            pass
        return choice

    def _moves(self, choice: Choice) -> tuple[Array, Array]:
        """What each option would add to the price and to the cost, in place of what is chosen."""
        now = (self._start[:-1] + choice)[self._owner]
        return self._price - self._price[now], self._cost - self._cost[now]

    def _fill(self, choice: Choice, limit: float) -> bool:
        more, change = self._moves(choice)
        fits = (change < 0) & (more <= limit - self.price(choice))
        if not fits.any():
            return False
        # A move that is cheaper as well is always right: those first, by how much they save.
        worth = np.where(fits, np.where(more > 0, -change / np.maximum(more, 1e-300), np.inf), -1.0)
        best = np.flatnonzero(worth == worth.max())
        move = best[np.argmin(change[best])]
        choice[self._owner[move]] = self._place[move]
        return True

    def _exchange(self, choice: Choice, limit: float) -> bool:
        """The best pair of moves of two different weights within the limit, if it lowers the cost."""
        more, change = self._moves(choice)
        slack = limit - self.price(choice)
        order = np.argsort(more, kind="stable")
        first, second = _two_best(change[order], self._owner[order])
        # For each move, the best partner among those that are at most as dear as what it leaves.
        reach = np.searchsorted(more[order], slack - more, side="right") - 1
        possible = reach >= 0
        best = order[first[np.maximum(reach, 0)]]
        runner_up = second[np.maximum(reach, 0)]
        clash = self._owner[best] == self._owner
        partner = np.where(clash, order[np.maximum(runner_up, 0)], best)
        possible &= ~clash | (runner_up >= 0)
        total = np.where(possible, change + change[partner], np.inf)
        move = int(np.argmin(total)) if total.size else -1
        if move < 0 or not total[move] < -1e-12 * abs(self.cost(choice)):
            return False
        for option in (move, int(partner[move])):
            choice[self._owner[option]] = self._place[option]
        return True


def _two_best(change: Array, owner: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each prefix: the place of the least change, and of the least of any other owner (-1: none)."""
    first: list[int] = []
    second: list[int] = []
    best = other = -1
    least = following = np.inf
    holder = -1
    for at, (value, who) in enumerate(zip(change.tolist(), owner.tolist(), strict=True)):
        if best < 0 or value < least:
            if who != holder:
                other, following = best, least
            best, least, holder = at, value, who
        elif who != holder and (other < 0 or value < following):
            other, following = at, value
        first.append(best)
        second.append(other)
    return np.array(first, np.intp), np.array(second, np.intp)


def pareto(price: Array, cost: Array) -> list[int]:
    """The Pareto-optimal options, by rising price: no other is both cheaper and no worse."""
    kept: list[int] = []
    for index in np.lexsort((cost, price)).tolist():
        if not kept or cost[index] < cost[kept[-1]]:
            kept.append(index)
    return kept


def hull(price: Array, cost: Array) -> list[int]:
    """The options on the lower convex hull, by rising price (A. M. Andrew's monotone chain, 1979)."""
    kept: list[int] = []
    for index in pareto(price, cost):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            before = (cost[a] - cost[b]) * (price[index] - price[b])
            if before > (cost[b] - cost[index]) * (price[b] - price[a]):
                break
            kept.pop()
        kept.append(index)
    return kept
