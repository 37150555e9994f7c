"""Counting what is not a number."""

from typing import Any

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from milpasses_kernels.finite import nonfinite


@settings(max_examples=50 if naive.JIT else 20, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32]),
        hnp.array_shapes(min_dims=0, max_dims=4, max_side=6),
        elements=st.sampled_from([0.0, -0.0, 1.0, -65504.0, 6e-8, np.inf, -np.inf, np.nan, -np.nan]),
    )
)
def test_counts(values: Any) -> None:
    assert nonfinite(values) == (int(np.isnan(values).sum()), int(np.isinf(values).sum()))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_one_among_many(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.ones(naive.few(1_000_003, 3003), dtype)
    assert nonfinite(values) == (0, 0)
    values[-1] = -np.nan
    values[5] = -np.inf
    for threads in ("1", "3"):
        monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
        assert nonfinite(values) == (1, 1)
    assert nonfinite(values[::2]) == (1, 0)


def test_quiet_and_signalling_patterns() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)[:: naive.few(1, 17)].view(np.float16)
    assert nonfinite(patterns) == (int(np.isnan(patterns).sum()), int(np.isinf(patterns).sum()))


def test_foreign_byte_order() -> None:
    values = np.array([np.inf, 1, np.nan, 2], ">f2")
    assert nonfinite(values) == (1, 1)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="values must be float16 or float32, but got int32"):
        nonfinite(np.zeros(3, np.int32))
