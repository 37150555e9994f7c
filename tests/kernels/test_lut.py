"""Look-up tables without a search, against brute force."""

from collections.abc import Callable
from typing import Any

import milpasses_kernels._groups as groups_module
import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milpasses_kernels.lut import assign, uniform, unique
from naive import few

DTYPES = [np.float16, np.float32]


@st.composite
def groups_and_tables(draw: Callable[..., Any]) -> tuple[Any, Any]:
    """Weights and table entries that often tie: halves of small integers, and any finite value."""
    dtype = draw(st.sampled_from(DTYPES))
    table_dtype = draw(st.sampled_from(DTYPES))
    rows, n, k = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 9))
    value = st.integers(-6, 6).map(lambda i: i / 2) | st.floats(-60000, 60000, width=16)
    weights = draw(st.lists(value, min_size=rows * n, max_size=rows * n))
    entries = draw(st.lists(value, min_size=rows * k, max_size=rows * k))
    return np.array(weights, dtype).reshape(rows, n), np.array(entries, table_dtype).reshape(rows, k)


@settings(deadline=None, max_examples=few(150, 60))
@given(groups_and_tables())
def test_assign_takes_the_nearest(case: tuple[Any, Any]) -> None:
    groups, lut = case
    codes = assign(groups, lut)
    assert codes.dtype == np.uint8
    for g in range(len(groups)):
        np.testing.assert_array_equal(codes[g], naive.nearest(groups[g], lut[g]))


def test_assign_float32_within_one_table_cell() -> None:
    # Entries that share their sixteen high bits, on both sides of zero, and weights on every limit.
    entries = np.array([1, 1 + 2e-7, 1 + 5e-7, 1.001, -1, -1 - 2e-7, -1.0007, 0, 1e-40, -1e-40], np.float32)
    ordered = np.sort(entries).astype(np.float64)
    middles = (0.5 * (ordered[1:] + ordered[:-1])).astype(np.float32)
    steps = [np.nextafter(middles, np.float32(to)) for to in (-np.inf, np.inf)]
    weights = np.concatenate([entries, middles, *steps, np.float32([-0.0, 3e38, -3e38])])
    np.testing.assert_array_equal(assign(weights[None], entries[None])[0], naive.nearest(weights, entries))


@pytest.mark.parametrize("dtype", DTYPES)
def test_assign_does_not_depend_on_threads(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    groups, lut = rng.standard_normal((9, 500)).astype(dtype), rng.standard_normal((9, 16)).astype(dtype)
    results = []
    for threads, long in (("1", 1 << 20), ("3", 1 << 20), ("3", 100)):
        monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
        monkeypatch.setattr(groups_module, "_LONG", long)
        results.append(assign(groups, lut))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 16, 256])
def test_uniform_spaces_evenly(dtype: Any, k: int) -> None:
    groups = (np.random.default_rng(0).standard_normal((3, 400)) * 3).astype(dtype)
    groups[1] = abs(groups[1])
    groups[2] = -abs(groups[2])
    lut, codes = uniform(groups, k)
    assert lut.dtype == dtype
    for g, group in enumerate(groups):
        expected = np.linspace(np.float64(group.min()), np.float64(group.max()), k)
        np.testing.assert_allclose(lut[g], expected.astype(dtype), rtol=np.finfo(dtype).eps)
        np.testing.assert_array_equal(codes[g], naive.nearest(group, lut[g]))
        assert lut[g, 0] == group.min()
        assert k == 1 or lut[g, -1] == group.max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -3.0, 65504.0])
def test_uniform_of_equal_weights(dtype: Any, value: float) -> None:
    groups = np.full((2, 7), value, dtype)
    lut, codes = uniform(groups, 16)
    assert (lut == dtype(value)).all()
    assert not codes.any()


def test_uniform_spans_all_of_float16() -> None:
    lut, codes = uniform(np.array([[-65504, 65504, 0]], np.float16), 4)
    np.testing.assert_array_equal(codes, [[0, 3, 1]])
    assert np.isfinite(lut).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_unique_lists_every_value(dtype: Any) -> None:
    pool = np.array([-65504, -1.001, -6e-8, 0, 6e-8, 1, 1.001, 65504], dtype)
    rng = np.random.default_rng(0)
    groups = pool[np.stack([rng.integers(0, count, 300) for count in (1, 3, 8)])]
    found = unique(groups, 8)
    assert found is not None
    assert found.lut.shape == (3, 8)
    assert found.lut.dtype == dtype
    np.testing.assert_array_equal(naive.decoded(found.lut, found.codes), groups)
    for lut, codes, group in zip(found.lut, found.codes, groups, strict=True):
        values = np.unique(group)
        np.testing.assert_array_equal(lut[: len(values)], values)
        assert (lut[len(values) :] == values[-1]).all()
        assert codes.max() < len(values)
    narrow = unique(groups[:2], 8)
    assert narrow is not None
    assert narrow.lut.shape == (2, 3)
    assert unique(groups, 7) is None


def test_unique_counts_both_zeros_as_one() -> None:
    found = unique(np.array([[0.0, -0.0, 1]], np.float16), 2)
    assert found is not None
    np.testing.assert_array_equal(found.lut, [[0, 1]])
    assert not np.signbit(found.lut).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [255, 256, 257])
def test_unique_up_to_256(dtype: Any, count: int) -> None:
    values = np.arange(count).astype(dtype) / 16
    found = unique(np.random.default_rng(0).permutation(np.tile(values, 2))[None])
    assert (found is None) == (count > 256)
    assert found is None or found.lut.shape == (1, count)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuse_what_is_not_finite(value: float) -> None:
    groups = np.array([[1, value]], np.float32)
    for function in (
        lambda: uniform(groups, 4),
        lambda: unique(groups),
        lambda: assign(groups, groups[:, :1]),
    ):
        with pytest.raises(ValueError, match="must be finite"):
            function()
    with pytest.raises(ValueError, match="must be finite"):
        assign(groups[:, :1], groups)


def test_refuse() -> None:
    groups = np.ones((2, 3), np.float16)
    for function in (lambda g: uniform(g, 4), unique, lambda g: assign(g, groups)):
        with pytest.raises(ValueError, match="2 axes"):
            function(groups[0])
        with pytest.raises(TypeError, match="int8"):
            function(groups.astype(np.int8))
    for lut in (groups[0], groups[:1], np.ones((2, 257), np.float16)):
        with pytest.raises(ValueError, match="lut must be"):
            assign(groups, lut)
    for k in (0, 257):
        with pytest.raises(ValueError, match="k must"):
            uniform(groups, k)
        with pytest.raises(ValueError, match="k must"):
            unique(groups, k)
