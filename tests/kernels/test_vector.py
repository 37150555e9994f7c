"""Vector k-means, against brute-force distances and plain Lloyd iterations."""

from collections.abc import Callable
from typing import Any

import milpasses_kernels._groups as groups_module
import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milpasses_kernels import _lloyd, _nearest, _seeding
from milpasses_kernels import vector as module
from milpasses_kernels.kmeans import kmeans
from milpasses_kernels.vector import VectorKMeans, vector_kmeans
from naive import few

DTYPES = [np.float16, np.float32]


def gaussian(groups: int, n: int, dims: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).standard_normal((groups, n, dims)) * 0.02).astype(dtype)


def check(result: VectorKMeans, vectors: Any, k: int, importance: Any = None) -> None:
    """What holds for every result: form, nearest codes, and the cost."""
    groups, n, dims = vectors.shape
    assert result.lut.shape == (groups, k, dims)
    assert result.lut.dtype == vectors.dtype
    assert result.codes.shape == (groups, n)
    assert result.codes.dtype == np.uint8
    for g in range(groups):
        away = naive.distances(vectors[g], result.lut[g], None if importance is None else importance[g])
        ours = away[np.arange(n), result.codes[g]]
        # Distances are float32: a code may lose to another by rounding.
        scale = np.square(vectors[g].astype(np.float64)).max() * (
            1 if importance is None else importance[g].max()
        )
        assert (ours <= away.min(axis=1) * (1 + 1e-5) + 1e-12 * scale).all()
        assert result.cost[g] == pytest.approx(ours.sum(), rel=1e-4, abs=1e-11 * float(scale) * n)


@st.composite
def cases(draw: Callable[..., Any]) -> tuple[Any, int, Any]:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 14), st.integers(1, 4)))
    value = st.integers(-2, 2).map(float) | st.floats(-1, 1, width=16)
    size = int(np.prod(shape))
    vectors = np.array(draw(st.lists(value, min_size=size, max_size=size)), dtype).reshape(shape)
    weight = st.sampled_from([0.0, 0.25, 1.0, 7.0])
    weights = draw(st.none() | st.lists(weight, min_size=size, max_size=size))
    importance = None if weights is None else np.array(weights, np.float32).reshape(shape)
    return vectors, draw(st.integers(1, 16)), importance


@settings(deadline=None, max_examples=few(80, 40))
@given(cases())
def test_vector_kmeans(case: tuple[Any, int, Any]) -> None:
    vectors, k, importance = case
    result = vector_kmeans(vectors, k, importance, starts=2, iterations=10)
    check(result, vectors, k, importance)
    for g, group in enumerate(vectors):
        if importance is None and len(np.unique(group, axis=0)) <= k:
            np.testing.assert_array_equal(result.lut[g][result.codes[g]], group)
            assert result.cost[g] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [2, 4])
def test_another_step_gains_little(dtype: Any, dims: int) -> None:
    vectors = gaussian(2, few(2000, 60), dims, dtype)
    importance = np.random.default_rng(1).exponential(1, vectors.shape).astype(np.float32)
    for weights in (None, importance):
        result = vector_kmeans(vectors, 16, weights)
        check(result, vectors, 16, weights)
        for g, group in enumerate(vectors):
            part = None if weights is None else weights[g]
            moved = naive.lloyd_step(group, result.lut[g], part)
            assert naive.distances(group, moved, part).min(axis=1).sum() > result.cost[g] * 0.995


@pytest.mark.parametrize(("dims", "k"), [(2, 16), (4, 32)])
def test_better_than_plain_lloyd(dims: int, k: int) -> None:
    vectors = gaussian(1, few(1500, 80), dims, seed=2)
    cost = vector_kmeans(vectors, k).cost[0]
    rng = np.random.default_rng(0)
    plain = []
    for _ in range(3):
        lut = vectors[0, rng.choice(vectors.shape[1], k, replace=False)]
        for _ in range(30):
            lut = naive.lloyd_step(vectors[0], lut)
        plain.append(naive.distances(vectors[0], lut).min(axis=1).sum())
    assert cost < np.mean(plain)


@pytest.mark.skipif(not naive.JIT, reason="thousands of vectors")
@pytest.mark.parametrize("tails", [False, True])
@pytest.mark.parametrize(("dims", "bits"), [(2, 4), (2, 8), (4, 4), (4, 6)])
def test_no_more_error_than_coremltools(tails: bool, dims: int, bits: int) -> None:
    """On the average over weights: coremltools calls scikit-learn once, with these arguments."""
    cluster: Any = pytest.importorskip("sklearn.cluster")
    ours, theirs = 0.0, 0.0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        values = rng.standard_t(3, (4096, dims)) if tails else rng.standard_normal((4096, dims))
        vectors = (values * 0.02).astype(np.float16)
        reference = cluster.KMeans(2**bits, init="k-means++", tol=1e-2, n_init=1, random_state=0).fit(vectors)
        entries = reference.cluster_centers_.astype(np.float16)[reference.labels_]
        theirs += float(np.square(entries.astype(np.float64) - vectors).sum())
        ours += float(vector_kmeans(vectors[None], 2**bits).cost[0])
    assert ours <= theirs


@pytest.mark.parametrize("weighted", [False, True])
def test_a_split_goes_to_the_point_that_counts_most_or_along_the_widest_axis(weighted: bool) -> None:
    """The first centre has one far point, the second is spread along its second axis."""
    spread = np.stack([np.zeros(40), np.tile([-1.0, 1.0], 20)])
    points = np.concatenate([np.zeros((2, 40)), [[50.0], [3.0]], spread], axis=1).astype(np.float32)
    mass = np.ones((2 if weighted else 1, 81), np.float32)
    centres, codes = np.zeros((2, 2)), np.repeat([0, 1], [41, 40]).astype(np.int32)
    best = np.square(points).sum(axis=0)
    weights = np.repeat([[41.0], [40.0]], 2, axis=1)
    apart, busy = _lloyd._splits(points, mass, centres, weights, best, codes)
    np.testing.assert_array_equal(apart, [[[50, 3], [0, 1]], [[0, 0], [0, -1]]])
    np.testing.assert_array_equal(busy, [0, 1])


@pytest.mark.parametrize("weighted", [False, True])
def test_a_sample_keeps_the_moments_and_the_tails(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    n, size = few(20_000, 1000), few(2000, 200)
    points = rng.standard_t(3, (2, n)).astype(np.float32)
    points[:, 5] = 500.0
    mass = (rng.exponential(1, (2, n)) if weighted else np.ones((1, n))).astype(np.float32)
    mass[:, 5] = 1.0
    chosen, shares = np.empty(size, np.int64), np.empty(size, np.float32)
    found = _seeding.sample(points, mass, rng.random(size), chosen, shares)
    chosen, shares = chosen[:found], shares[:found]
    assert (np.diff(chosen) > 0).all()
    assert 5 in chosen
    np.testing.assert_allclose(shares.sum(), size, rtol=0.05)
    away = (mass * np.square(points - points.mean(axis=1, keepdims=True))).sum(axis=0)
    np.testing.assert_allclose((away[chosen] * shares).sum(), away.sum() * size / n, rtol=0.05)


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 5])
def test_nearest_of_a_range_of_centres(dims: int) -> None:
    """Centres are taken two or four at a time, then the rest; the first of equals wins."""
    rng = np.random.default_rng(dims)
    points = rng.integers(-3, 4, (dims, 70)).astype(np.float32)
    centres = rng.integers(-3, 4, (11, dims)).astype(np.float64)
    best, codes = np.full(70, np.inf, np.float32), np.full(70, -1, np.int32)
    _nearest.nearest(points, np.ones((1, 70), np.float32), centres, 1, 10, best, codes)
    away = naive.distances(points.T, centres[1:10])
    np.testing.assert_array_equal(codes, away.argmin(axis=1) + 1)
    np.testing.assert_array_equal(best, away.min(axis=1))


def test_one_component_comes_close_to_the_optimum() -> None:
    vectors = gaussian(1, few(2000, 150), 1)
    least = kmeans(vectors[:, :, 0], 8).cost[0]
    assert least * (1 - 1e-4) <= vector_kmeans(vectors, 8).cost[0] <= least * 1.02


def test_components_without_importance_do_not_count() -> None:
    vectors = gaussian(1, 120, 2)
    importance = np.ones(vectors.shape, np.float32)
    importance[..., 1] = 0
    noisy = vectors.copy()
    noisy[..., 1] *= 1000
    result = vector_kmeans(noisy, 8, importance)
    alone = vector_kmeans(np.ascontiguousarray(vectors[..., :1]), 8)
    assert result.cost[0] == pytest.approx(alone.cost[0], rel=0.05)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fewer_vectors_than_entries(dtype: Any) -> None:
    vectors = gaussian(3, 5, 2, dtype)
    vectors[2] = vectors[2, 0]
    result = vector_kmeans(vectors, 16)
    np.testing.assert_array_equal(naive.decoded(result.lut, result.codes), vectors)
    np.testing.assert_array_equal(result.cost, 0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_stay_within_float32(scale: float) -> None:
    vectors = gaussian(1, 100, 2)
    huge = vectors * np.float32(scale)
    importance = np.full(huge.shape, 1e30, np.float32)
    result = vector_kmeans(huge, 8, importance)
    expected = vector_kmeans(vectors, 8).cost[0] * scale**2 * 1e30
    assert result.cost[0] == pytest.approx(expected, rel=0.05)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and chunks so small that the path of long groups is taken."""
    monkeypatch.setattr(module, "_SAMPLE", 8)
    monkeypatch.setattr(module, "_LEAST_SAMPLE", 64)
    monkeypatch.setattr(module, "_POOL", 2)
    monkeypatch.setattr(module, "_CHUNK", 64)


@pytest.mark.usefixtures("small_pieces")
def test_samples_and_chunks() -> None:
    vectors = gaussian(1, few(3000, 300), 2)
    vectors[0, :20] *= 30  # tails that an even sample would miss
    whole = naive.lloyd_step(vectors[0], vector_kmeans(vectors, 8).lut[0])
    result = vector_kmeans(vectors, 8)
    check(result, vectors, 8)
    assert naive.distances(vectors[0], whole).min(axis=1).sum() > result.cost[0] * 0.99


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", DTYPES)
def test_rare_vectors_are_found_in_every_chunk(dtype: Any) -> None:
    vectors = np.zeros((1, 500, 2), dtype)
    vectors[0, 100::100] = np.arange(1, 9).reshape(4, 2)
    result = vector_kmeans(vectors, 8)
    np.testing.assert_array_equal(naive.decoded(result.lut, result.codes), vectors)


@pytest.mark.usefixtures("small_pieces")
def test_neither_threads_nor_length_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = gaussian(3, few(400, 150), 2, np.float16)
    importance = np.random.default_rng(0).exponential(1, vectors.shape).astype(np.float32)
    results = []
    for threads, long in (("1", 1 << 20), ("3", 1 << 20), ("3", 100)):
        monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
        monkeypatch.setattr(groups_module, "_LONG", long)
        results.append(vector_kmeans(vectors, 8, importance, seed=5))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert (vector_kmeans(vectors, 8, importance, seed=6).lut != results[0].lut).any()


def test_refuse() -> None:
    vectors = gaussian(1, 10, 2)
    with pytest.raises(ValueError, match="3 axes"):
        vector_kmeans(vectors[0], 4)
    with pytest.raises(TypeError, match="float64"):
        vector_kmeans(vectors.astype(np.float64), 4)
    for k in (0, 257):
        with pytest.raises(ValueError, match="k must"):
            vector_kmeans(vectors, k)
    with pytest.raises(ValueError, match="starts"):
        vector_kmeans(vectors, 4, starts=0)
    with pytest.raises(ValueError, match="importance"):
        vector_kmeans(vectors, 4, np.ones((1, 10), np.float32))
    vectors[0, 3, 1] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        vector_kmeans(vectors, 4)
