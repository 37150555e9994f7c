"""What a change of weights does to outputs, against the sums written out."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from milpasses_kernels.outputs import output_loss


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 40)),
    st.sampled_from([np.float16, np.float32]),
    st.sampled_from([np.float16, np.float32, None]),
    st.integers(0, 99),
)
def test_sums_are_those_written_out(
    shape: tuple[int, int, int], dtype: type, other: type | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=shape).astype(dtype)
    decoded = None if other is None else rng.normal(size=shape).astype(other)
    variance, mean = rng.uniform(0, 3, (shape[0], shape[2])), rng.normal(size=(shape[0], shape[2]))
    spread, lost = output_loss(weights, variance, mean, decoded)
    expected = naive.output_loss(weights, variance, mean, decoded)
    assert spread == pytest.approx(expected[0], rel=1e-9)
    np.testing.assert_allclose(lost, expected[1], rtol=1e-9, atol=1e-9)


def test_blocks_join_where_groups_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, naive.few(700, 70), 97)).astype(np.float16)
    decoded = (weights + np.float16(0.1)).astype(np.float16)
    variance, mean = rng.uniform(0, 3, (3, 97)), rng.normal(size=(3, 97))
    monkeypatch.setenv("MILPASSES_NUM_THREADS", "3")
    several = output_loss(weights, variance, mean, decoded)
    monkeypatch.setenv("MILPASSES_NUM_THREADS", "1")
    one = output_loss(weights, variance, mean, decoded)
    assert several[0] == one[0]
    assert several[1].tobytes() == one[1].tobytes()
    change = weights.astype(np.float32) - decoded.astype(np.float32)
    assert one[0] == pytest.approx(float(np.einsum("gok,gk->", change.astype(float) ** 2, variance)))


def test_shapes_and_types_are_checked() -> None:
    weights = np.ones((2, 3, 4), np.float16)
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        output_loss(weights, np.ones((1, 4)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="one shape"):
        output_loss(weights, np.ones((2, 4)), np.ones((2, 4)), weights[:1])
    with pytest.raises(TypeError, match="float16 or float32"):
        output_loss(weights.astype(np.float64), np.ones((2, 4)), np.ones((2, 4)))
