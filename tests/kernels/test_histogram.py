"""Distinct values and their weights, against a dictionary."""

from collections.abc import Callable
from typing import Any

import milpasses_kernels.histogram as module
import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from milpasses_kernels.histogram import histogram

finite = {
    np.float16: st.floats(width=16, allow_nan=False, allow_infinity=False),
    np.float32: st.floats(width=32, allow_nan=False, allow_infinity=False),
}


@st.composite
def weights(draw: Callable[..., Any]) -> tuple[Any, Any]:
    """An array that repeats a few values, and importance or None."""
    dtype = draw(st.sampled_from([np.float16, np.float32]))
    shape = draw(hnp.array_shapes(max_dims=3, max_side=5))
    pool = draw(st.lists(finite[dtype], min_size=1, max_size=6))
    values = draw(hnp.arrays(dtype, shape, elements=st.sampled_from([*pool, 0.0, -0.0])))
    importance = hnp.arrays(np.float32, shape, elements=st.floats(0, 10, width=32))
    return values, draw(st.none() | importance)


@settings(deadline=None, max_examples=60)
@given(weights(), st.booleans())
def test_equals_a_dictionary(case: tuple[Any, Any], ignore_zeros: bool) -> None:
    distinct, counts = histogram(*case, ignore_zeros=ignore_zeros)
    expected, expected_counts = naive.histogram(*case, ignore_zeros)
    assert distinct.dtype == np.float32
    assert counts.dtype == np.float64
    np.testing.assert_array_equal(distinct, expected)
    np.testing.assert_allclose(counts, expected_counts, rtol=1e-12)
    assert not np.signbit(distinct[distinct == 0]).any()


def test_every_float16() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(np.float16)[np.isfinite(bits.view(np.float16))]
    distinct, counts = histogram(np.random.default_rng(0).permutation(values))
    np.testing.assert_array_equal(distinct, np.unique(values).astype(np.float32))
    assert counts[distinct == 0] == 2  # both zeros
    assert counts.sum() == 63488
    assert len(distinct) == 63487


def test_no_weights_have_no_values() -> None:
    for dtype in (np.float16, np.float32):
        distinct, counts = histogram(np.empty((0, 3), dtype), np.empty((0, 3), np.float32))
        assert distinct.shape == counts.shape == (0,)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_sums_do_not_depend_on_threads(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORTEST_PART", 500)
    rng = np.random.default_rng(0)
    values = rng.integers(-9, 9, 6_000).astype(dtype)
    importance = rng.exponential(1, values.shape).astype(np.float32)
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
        results.append(histogram(values, importance))
    np.testing.assert_array_equal(results[0][0], np.arange(-9, 9))
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_allclose(results[0][1], naive.histogram(values, importance)[1], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite(dtype: Any, value: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        histogram(np.array([1, value, 2], dtype))


@pytest.mark.parametrize(
    ("importance", "error"),
    [
        (np.array([1, -1], np.float32), ValueError),
        (np.array([1, np.nan], np.float32), ValueError),
        (np.array([np.inf, 1], np.float32), ValueError),
        (np.ones(3, np.float32), ValueError),
        (np.ones(2), TypeError),
    ],
)
def test_refuses_importance(importance: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="importance"):
        histogram(np.ones(2, np.float16), importance)


def test_refuses_other_dtypes() -> None:
    with pytest.raises(TypeError, match="float64"):
        histogram(np.ones(3))
