"""Exact 1-D k-means, against the dynamic program and coremltools' own."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import milpasses_kernels._groups as groups_module
import naive
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from milpasses_kernels import _partition
from milpasses_kernels._lws import cheapest_cut
from milpasses_kernels._ranks import FIRST_RANK, LAST_RANK, VALUE_OF_RANK, nearest_rank
from milpasses_kernels.histogram import histogram
from milpasses_kernels.kmeans import KMeans, kmeans, solve
from naive import JIT, few

EXAMPLES = few(150, 60)


def gaussian(groups: int, n: int, dtype: Any = np.float16, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).standard_normal((groups, n)) * 0.02).astype(dtype)


def single(value: float) -> float:
    return float(np.float32(value))


@st.composite
def points(draw: Callable[..., Any]) -> tuple[Any, Any]:
    """Ascending float32 values, close, tied in distance or of any magnitude, and weights as uneven."""
    magnitudes = st.floats(-38, 38).map(lambda e: single(10.0**e))
    values = st.one_of(
        st.lists(st.integers(-40, 40).map(float), unique=True, min_size=1, max_size=16),
        st.lists(st.floats(width=32, min_value=-1, max_value=1), unique=True, min_size=1, max_size=16),
        st.lists(magnitudes | magnitudes.map(lambda x: -x), unique=True, min_size=1, max_size=14),
        st.lists(
            st.integers(0, 60).map(lambda i: single(1e4 + i / 64)), unique=True, min_size=1, max_size=14
        ),
    )
    distinct = np.unique(np.array(draw(values)) + 0.0)
    weight = st.integers(1, 4).map(float) | st.floats(-25, 25).map(lambda e: 10.0**e)
    even = draw(st.booleans())
    weights = draw(st.lists(st.just(1.0) if even else weight, min_size=len(distinct), max_size=len(distinct)))
    return distinct, np.array(weights)


@st.composite
def uneven_points(draw: Callable[..., Any]) -> tuple[Any, Any]:
    """Far apart values of which some weigh next to nothing: their weight all but drowns in prefix sums."""
    exponents = draw(st.lists(st.integers(-3, 30), unique=True, min_size=3, max_size=14))
    signs = draw(st.lists(st.sampled_from([-1, 1]), min_size=len(exponents), max_size=len(exponents)))
    distinct = np.sort([sign * single(10.0**e) for sign, e in zip(signs, exponents, strict=True)])
    weight = st.integers(1, 4).map(float) | st.integers(-18, -12).map(lambda e: 10.0**e)
    weights = draw(st.lists(weight, min_size=len(distinct), max_size=len(distinct)))
    return distinct, np.array(weights)


# A weight that adds one rounding error to the prefix sums: the last run is cheaper from a later start at the
# end before the last, and from the earlier start at the last end.
DROWNED = (
    np.array([-1.0, 1.0, 10.0, 100.0, single(10.0**17.5)]),
    np.array([1.0, 1.0, 10.0**1.5, 3.0, 1e-14]),
)


@settings(deadline=None, max_examples=2 * EXAMPLES)
@given(points() | uneven_points(), st.integers(1, 17))
@example(DROWNED, 2)
def test_solve_is_optimal(case: tuple[Any, Any], k: int) -> None:
    bounds, cost = solve(*case, k)
    least = naive.least_cost(*case, k)
    assert cost == pytest.approx(least, rel=1e-9, abs=0)
    assert len(bounds) == min(k, len(case[0])) + 1
    assert bounds[0] == 0
    assert bounds[-1] == len(case[0])
    assert (np.diff(bounds) > 0).all()
    costs = naive.run_costs(*case)
    assert cost == pytest.approx(sum(costs[i][j] for i, j in pairwise(bounds)), rel=1e-9, abs=0)


@settings(deadline=None, max_examples=2 * EXAMPLES)
@given(uneven_points(), st.floats(-40, 60).map(lambda e: 10.0**e))
@example(DROWNED, 1e20)
def test_no_start_of_a_piece_waits_for_an_end_past_the_last(case: tuple[Any, Any], penalty: float) -> None:
    # Compiled code would read past the prefix sums there without a word.
    values, weights = case
    m = len(values)
    moments = weights * (values - values[-1])
    weight, moment = (np.concatenate([[0.0], np.cumsum(terms)]) for terms in (weights, moments))
    assume((np.diff(weight) > 0).all())  # else optimal_partition leaves it to refined_partition
    best = np.empty(m + 1)
    parent, queue, since = (np.zeros(m + 1, np.int32) for _ in range(3))
    pieces = cheapest_cut(weight, moment, None, penalty, best, parent, queue, since)
    assert 1 <= pieces <= m
    assert since.max() <= m
    assert (parent[1:] < np.arange(1, m + 1)).all()


def test_solve_cuts_into_more_clusters_than_cells_of_a_first_penalty() -> None:
    values = np.concatenate([np.arange(1000) * 1e-9, np.arange(1.0, 101.0) ** 3])
    weights = np.ones(len(values))
    bounds, cost = solve(values, weights, 500)
    assert (np.diff(bounds) > 0).all()
    refined = np.empty(501, np.int32)
    _partition.refined_partition(values, weights, refined)
    assert cost == pytest.approx(_partition.partition_cost(values, weights, refined), rel=1e-9)


@pytest.mark.parametrize("k", [2, 3, 5, 7, 11, 13])
def test_solve_splices_where_penalties_jump_over_k(k: int) -> None:
    # Evenly spaced points: the cost falls along straight edges, whose inner k no penalty prefers.
    values, weights = np.arange(24.0), np.ones(24)
    assert solve(values, weights, k)[1] == pytest.approx(naive.least_cost(values, weights, k), rel=1e-12)


def test_solve_where_prefix_sums_cancel() -> None:
    values = np.array([-65504, 1e-7, 2e-7, 4e-7, 5e-7, 3e4, 65504.0])
    weights = np.array([1e6, 1, 1, 1, 1, 1, 1e6])
    bounds, cost = solve(values, weights, 5)
    assert cost == pytest.approx(naive.least_cost(values, weights, 5), rel=1e-12)
    np.testing.assert_array_equal(bounds, [0, 1, 3, 5, 6, 7])


def test_both_solvers_agree() -> None:
    for seed in range(3):
        distinct, weights = histogram(gaussian(1, few(3000, 400), seed=seed))
        distinct = distinct.astype(np.float64)
        for k in (2, 16, 50):
            costs = []
            for solver in (_partition.optimal_partition, _partition.refined_partition):
                bounds = np.empty(k + 1, np.int32)
                assert solver(distinct, weights, bounds) in (k, None)
                costs.append(_partition.partition_cost(distinct, weights, bounds))
            assert costs[0] == pytest.approx(costs[1], rel=1e-9)


def test_too_many_items_to_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_partition, "_MOST_MERGED", 10)
    rng = np.random.default_rng(0)
    values, weights = np.sort(rng.standard_normal(30)), 10.0 ** rng.uniform(-30, 0, 30)
    bounds = np.empty(5, np.int32)
    solver = getattr(_partition.optimal_partition, "py_func", _partition.optimal_partition)
    assert solver(values, weights, bounds) == 4
    total = naive.run_costs(values, weights)[0][-1]
    cost = _partition.partition_cost(values, weights, bounds)
    assert cost == pytest.approx(naive.least_cost(values, weights, 4), abs=1e-12 * total)


def test_solve_leaves_out_what_has_no_weight() -> None:
    values = np.array([0.0, 1, 2, 3, 4, 50, 51])
    weights = np.array([0.0, 1, 0, 1, 0, 1, 0])
    bounds, cost = solve(values, weights, 2)
    assert cost == 2
    np.testing.assert_array_equal(bounds, [0, 5, 7])
    assert solve(values, weights, 4)[1] == 0
    assert len(solve(values, weights, 4)[0]) == 4
    np.testing.assert_array_equal(solve(values, 0 * weights, 2)[0], [0])


@pytest.mark.parametrize(
    ("distinct", "weights", "k", "message"),
    [
        ([1.0, 2], [1.0, 1], 0, "k must"),
        ([2.0, 1], [1.0, 1], 1, "ascending"),
        ([1.0, 1], [1.0, 1], 1, "ascending"),
        ([1.0, np.inf], [1.0, 1], 1, "finite"),
        ([1.0, 2], [1.0, -1], 1, "non-negative"),
        ([1.0, 2], [1.0, np.nan], 1, "non-negative"),
        ([1.0, 2], [1.0], 1, "1-D"),
    ],
)
def test_solve_refuses(distinct: list[float], weights: list[float], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(np.array(distinct), np.array(weights), k)


@pytest.mark.skipif(not JIT, reason="a million weights take minutes without the JIT")
@pytest.mark.parametrize("k", [4, 16, 64])
def test_solve_equals_coremltools(k: int) -> None:
    kmeans1d = pytest.importorskip("coremltools._deps.kmeans1d")
    distinct, weights = histogram(gaussian(1, 1_000_000))
    values = distinct.astype(np.float64)
    found = kmeans1d.cluster(values, k, weights=weights)
    theirs = (weights * (values - np.array(found.centroids)[found.clusters]) ** 2).sum()
    assert solve(values, weights, k)[1] == pytest.approx(theirs, rel=1e-9)


def check(result: KMeans, groups: Any, k: int, importance: Any = None, ignore_zeros: bool = False) -> None:
    """What holds for every result: form, nearest codes, the cost, and that the cost is the optimum."""
    assert result.lut.shape == (len(groups), k)
    assert result.lut.dtype == groups.dtype
    assert result.codes.dtype == np.uint8
    for g, group in enumerate(groups):
        lut = result.lut[g]
        counted = group != 0 if ignore_zeros else np.ones(group.shape, bool)
        used = 1 + (np.diff(lut) > 0).sum()
        assert (np.diff(lut[:used]) > 0).all()
        assert (lut[used:] == lut[used - 1]).all()
        np.testing.assert_array_equal(result.codes[g][counted], naive.nearest(group[counted], lut))
        assert (result.codes[g][~counted] == 0).all()
        weights = np.ones(group.shape) if importance is None else importance[g].astype(np.float64)
        away = (group.astype(np.float64) - lut[result.codes[g]].astype(np.float64)) ** 2
        assert result.cost[g] == pytest.approx((weights * away)[counted].sum(), rel=1e-9, abs=1e-300)
        distinct, sums = naive.histogram(group, weights, ignore_zeros)
        if sums.sum() > 0 and len(distinct) <= 40:
            least = naive.least_cost(distinct, sums, k)
            # Rounding the entries adds at most total weight * (half an ulp)^2.
            largest = np.abs(lut).max()
            smallest = np.nextafter(lut.dtype.type(0), lut.dtype.type(1))  # an entry may round to zero
            ulp = float(max(largest - np.nextafter(largest, lut.dtype.type(0)), smallest))
            assert least * (1 - 1e-9) <= result.cost[g] <= least * (1 + 1e-9) + sums.sum() * (0.51 * ulp) ** 2


@st.composite
def small_groups(draw: Callable[..., Any]) -> Any:
    dtype = draw(st.sampled_from([np.float16, np.float32]))
    width = 16 if dtype == np.float16 else 32
    value = st.one_of(
        st.floats(-1, 1, width=width),
        st.integers(-3, 3).map(float),
        st.floats(width=width, allow_nan=False, allow_infinity=False, min_value=-60000, max_value=60000),
    )
    rows, n = draw(st.integers(1, 3)), draw(st.integers(1, 24))
    return np.array(draw(st.lists(value, min_size=rows * n, max_size=rows * n)), dtype).reshape(rows, n)


@settings(deadline=None, max_examples=EXAMPLES)
@given(small_groups(), st.integers(1, 8), st.booleans(), st.none() | st.integers(0, 99))
@example(np.array([[0, 6e-8]], np.float16), 1, False, None)
def test_kmeans(groups: Any, k: int, ignore_zeros: bool, seed: int | None) -> None:
    importance = None
    if seed is not None:
        rng = np.random.default_rng(seed)
        importance = (rng.exponential(1, groups.shape) * rng.integers(0, 2, groups.shape)).astype(np.float32)
    check(kmeans(groups, k, importance, ignore_zeros), groups, k, importance, ignore_zeros)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("k", [1, 2, 16, 256])
def test_entries_are_the_means_of_the_best_clusters(dtype: Any, k: int) -> None:
    groups = gaussian(3, few(4000, 500), dtype)
    result = kmeans(groups, k)
    for g, group in enumerate(groups):
        distinct, weights = histogram(group)
        bounds, cost = solve(distinct, weights, k)
        runs = [slice(i, j) for i, j in pairwise(bounds)]
        means = [np.average(distinct[run].astype(np.float64), weights=weights[run]) for run in runs]
        np.testing.assert_array_equal(result.lut[g], np.array(means).astype(dtype))
        assert cost * (1 - 1e-9) <= result.cost[g] <= cost * 1.05
    check(result, groups, k)


def test_entries_round_once_to_float16() -> None:
    rng = np.random.default_rng(0)
    halves = VALUE_OF_RANK[rng.integers(FIRST_RANK, LAST_RANK, 300)].astype(np.float64)
    after = np.nextafter(halves.astype(np.float16), np.float16(np.inf)).astype(np.float64)
    middles = 0.5 * (halves + after)  # ties, and what rounding to float32 first would make ties
    steps = [np.nextafter(middles, to) for to in (-np.inf, np.inf)]
    values = np.concatenate([halves, middles, *steps, [0.0, -0.0, 65504, -65504, 2e-8, 3e-8, -2.98e-8]])
    rounded = [VALUE_OF_RANK[nearest_rank(value, VALUE_OF_RANK)] for value in values]
    np.testing.assert_array_equal(np.array(rounded), values.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_few_values_are_kept(dtype: Any) -> None:
    pool = np.array([-65504, -1.001, 0, 6e-8, 1, 65504], dtype)
    groups = pool[np.random.default_rng(0).integers(0, len(pool), (4, 50))]
    importance = np.zeros(groups.shape, np.float32)
    for weights in (None, importance):
        result = kmeans(groups, 8, weights)
        np.testing.assert_array_equal(naive.decoded(result.lut, result.codes), groups)
        np.testing.assert_array_equal(result.cost, 0)
        assert result.codes.max() < len(pool)


def test_importance_counts_as_repetition() -> None:
    groups = gaussian(2, 60)
    times = np.random.default_rng(1).integers(1, 5, groups.shape)
    weighted = kmeans(groups, 4, times.astype(np.float32))
    for g in range(len(groups)):
        repeated = kmeans(np.repeat(groups[g], times[g])[None], 4)
        np.testing.assert_array_equal(weighted.lut[g], repeated.lut[0])
        assert weighted.cost[g] == pytest.approx(repeated.cost[0], rel=1e-12)


def test_a_group_without_importance_counts_each_value_once() -> None:
    groups = np.array([[0, 0, 0, 1, 4, 5]], np.float16)
    result = kmeans(groups, 2, np.zeros(groups.shape, np.float32))
    np.testing.assert_array_equal(result.lut, [[0.5, 4.5]])
    assert result.cost == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_ignored_zeros_take_no_entry(dtype: Any) -> None:
    groups = gaussian(2, 300, dtype)
    groups[:, ::2] = 0
    groups[0, 2] = -0.0
    result = kmeans(groups, 8, ignore_zeros=True)
    check(result, groups, 8, ignore_zeros=True)
    dense = kmeans(groups[:, 1::2], 8)
    np.testing.assert_array_equal(result.lut, dense.lut)
    np.testing.assert_array_equal(result.cost, dense.cost)
    nothing = kmeans(np.zeros((1, 5), dtype), 4, ignore_zeros=True)
    assert not nothing.lut.any()
    assert not nothing.codes.any()
    assert nothing.cost == 0


def test_a_range_that_needs_the_refined_solver() -> None:
    groups = gaussian(5, 24)
    groups[2] = np.repeat(np.array([-65504, 6e-8, 1.2e-7, 2.4e-7, 3e-7, 65504], np.float16), 4)
    result = kmeans(groups, 4)
    check(result, groups, 4)
    np.testing.assert_allclose(result.lut[2], np.array([-65504, 9e-8, 2.7e-7, 65504], np.float16), rtol=0.4)
    assert result.cost[2] < 1e-12


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_neither_threads_nor_length_change_a_bit(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = gaussian(20, few(600, 200), dtype)
    importance = np.random.default_rng(0).exponential(1, groups.shape).astype(np.float32)
    results = []
    for threads, long in (("1", 1 << 20), ("3", 1 << 20), ("3", 100)):
        monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
        monkeypatch.setattr(groups_module, "_LONG", long)
        results.append(kmeans(groups, 16, importance))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_inputs_stay_as_they_are() -> None:
    groups = gaussian(2, 50)[:, ::2]
    groups.flags.writeable = False
    before = groups.copy()
    check(kmeans(groups, 4), groups, 4)
    np.testing.assert_array_equal(groups, before)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_kmeans_refuses_what_is_not_finite(dtype: Any, value: float) -> None:
    groups = gaussian(3, 20, dtype)
    groups[1, 7] = value
    with pytest.raises(ValueError, match="must be finite"):
        kmeans(groups, 4)


def test_kmeans_refuses() -> None:
    groups = gaussian(2, 10)
    with pytest.raises(ValueError, match="2 axes"):
        kmeans(groups[0], 4)
    with pytest.raises(ValueError, match="hold weights"):
        kmeans(groups[:, :0], 4)
    with pytest.raises(TypeError, match="float64"):
        kmeans(groups.astype(np.float64), 4)
    for k in (0, 257):
        with pytest.raises(ValueError, match="k must"):
            kmeans(groups, k)
    with pytest.raises(ValueError, match="importance"):
        kmeans(groups, 4, np.ones(10, np.float32))
    with pytest.raises(ValueError, match="importance"):
        kmeans(groups, 4, -np.ones(groups.shape, np.float32))
