"""Counts of activations in bins, against one value after another."""

from typing import Any

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from milpasses_kernels.bins import count_in_bins

values = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=3, max_side=6),
    elements=st.one_of(
        st.floats(-7, 7, width=32, allow_subnormal=False),
        st.sampled_from([np.nan, np.inf, -np.inf, -0.0, 0.5, -0.5, 4.0]),
    ),
)


@settings(deadline=None, max_examples=100)
@given(values, st.integers(-3, 3))
def test_equals_one_after_another(array: Any, exponent: int) -> None:
    first, bins = -64, 128
    counts = np.ones(bins, np.int64)
    count_in_bins(array, exponent, first, counts)
    expected = naive.count_in_bins(array, exponent, first, bins)
    np.testing.assert_array_equal(counts - 1, expected)


def test_a_value_outside_is_refused() -> None:
    for value in (-1.0, 8.0, 1e30):
        with pytest.raises(ValueError, match="outside of bins 0 to 7"):
            count_in_bins(np.array([value]), 0, 0, np.zeros(8, np.int64))
