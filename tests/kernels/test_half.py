"""Rounding of whole arrays to float16, bit for bit NumPy's."""

import naive
import numpy as np
import pytest
from milpasses_kernels.half import round_to_half

RNG = np.random.default_rng(0)
COUNT = naive.few(3_000_000, 2000)  # more than one thread's share, where the kernels are compiled


@pytest.mark.parametrize(
    "values",
    [
        RNG.choice([-1, 1], COUNT) * 2.0 ** RNG.uniform(-28, 18, COUNT),
        [0, -0.0, 65519.9, 65520, -65520, np.inf, -np.inf, np.nan, 2**-14, 2**-24, 2**-25, 1.5 * 2**-24],
        np.arange(2**10, 2**10 + 64, 0.25) / 2**10,
    ],
    ids=["of every size", "special", "ties"],
)
def test_bits_equal_numpys(values: "np.ndarray | list[float]") -> None:
    floats = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        expected = floats.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(round_to_half(floats).view(np.uint32), expected.view(np.uint32))


def test_any_layout_and_shape() -> None:
    values = RNG.normal(size=(4, 6, 5)).astype(np.float32)[:, ::-2].transpose(2, 0, 1)
    before = values.copy()
    np.testing.assert_array_equal(round_to_half(values), before.astype(np.float16))
    np.testing.assert_array_equal(values, before)
    assert round_to_half(np.array(1 / 3, np.float32)).shape == ()
    assert round_to_half(np.zeros((0, 3), np.float32)).shape == (0, 3)
