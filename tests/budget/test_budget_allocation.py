"""Allocation: never over the limit, never worse than a start, and as good as exhaustive search."""

import itertools

import numpy as np
import pytest

from milpasses.budget.allocation import Allocation, hull, pareto


def problem(rng: np.random.Generator, weights: int, options: int) -> Allocation:
    """Weights of very different sizes, each with noisy options along the usual 6 dB a bit."""
    bits = np.array([16, 2, 3, 4, 6, 8, 2.3, 3.2, 4.2, 6.1, 4.5, 8.1])[:options]
    prices = [np.floor(size * bits / 8) + 64 for size in 10 ** rng.uniform(3, 6, weights)]
    costs = [
        np.where(bits == 16, 0, 10 ** rng.uniform(-3, 0) * 4.0**-bits * rng.uniform(0.5, 1.5, options))
        for _ in range(weights)
    ]
    return Allocation(prices, costs)


def every_total(allocation: Allocation) -> tuple[np.ndarray, np.ndarray]:
    """Price and cost of every choice there is."""
    price, cost = np.zeros(1), np.zeros(1)
    for prices, costs in zip(allocation.prices, allocation.costs, strict=True):
        price, cost = (price[:, None] + prices).reshape(-1), (cost[:, None] + costs).reshape(-1)
    return price, cost


@pytest.mark.parametrize("seed", range(12))
def test_gap_to_exhaustive_search_is_below_one_percent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    allocation = problem(rng, int(rng.integers(1, 6)), int(rng.integers(2, 10)))
    price, cost = every_total(allocation)
    for limit in np.linspace(allocation.least, price.max(), 9):
        choice = allocation.solve(limit)
        assert choice is not None
        assert allocation.price(choice) <= limit
        assert allocation.cost(choice) <= 1.01 * cost[price <= limit].min() + 1e-15


def test_many_weights_are_no_worse_than_any_start_and_near_the_bound() -> None:
    allocation = problem(np.random.default_rng(3), 120, 12)
    starts = [np.full(120, option) for option in range(12)]
    for start in starts[2::4]:
        limit = allocation.price(start)
        choice = allocation.solve(limit, starts)
        assert choice is not None
        assert allocation.price(choice) <= limit
        assert allocation.cost(choice) <= allocation.cost(start)
    # Lagrange's bound from below: the hulls' solution with the last step taken in part.
    limit = allocation.price(starts[3])
    choice = allocation.solve(limit)
    assert choice is not None
    assert allocation.cost(choice) <= 1.01 * fractional_bound(allocation, limit)


def fractional_bound(allocation: Allocation, limit: float) -> float:
    """The least cost where a weight may be between two options."""
    steps: list[tuple[float, float, float]] = []
    price = cost = 0.0
    for prices, costs in zip(allocation.prices, allocation.costs, strict=True):
        ends = hull(prices, costs)
        price, cost = price + prices[ends[0]], cost + costs[ends[0]]
        for a, b in itertools.pairwise(ends):
            more, less = prices[b] - prices[a], costs[a] - costs[b]
            steps.append((less / more, more, less))
    for _, more, less in sorted(steps, reverse=True):
        part = min(1.0, (limit - price) / more)
        price, cost = price + part * more, cost - part * less
        if part < 1:
            break
    return cost


def test_a_limit_below_the_least_has_no_choice() -> None:
    allocation = Allocation([np.array([10.0, 5.0])], [np.array([0.0, 1.0])])
    assert allocation.solve(4.9) is None
    cheapest = allocation.solve(5.0)
    assert cheapest is not None
    assert cheapest.tolist() == [1]


def test_one_weight_that_outweighs_the_others() -> None:
    # The hull's next step of the large one only fits if both small ones give way.
    large = np.array([100.0, 160.0]), np.array([100.0, 1.0])
    small = np.array([10.0, 40.0]), np.array([3.0, 0.0])
    allocation = Allocation([large[0], small[0], small[0]], [large[1], small[1], small[1]])
    choice = allocation.solve(180.0)
    assert choice is not None
    assert choice.tolist() == [1, 0, 0]


def test_hull_and_pareto() -> None:
    price = np.array([4.0, 1.0, 2.0, 3.0, 3.0, 2.5])
    cost = np.array([0.0, 10.0, 9.0, 2.0, 5.0, 9.5])
    assert pareto(price, cost) == [1, 2, 3, 0]
    assert hull(price, cost) == [1, 3, 0]
