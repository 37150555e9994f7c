"""Masks: exact counts, ties by index, the masks of coremltools where its percentile is unambiguous."""

from typing import Any

import naive
import numpy as np
import pytest
from coremltools.optimize import _utils as ct_utils
from coremltools.optimize.coreml._quantization_passes import prune_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from milpasses_kernels import _select, sparsity
from milpasses_kernels.sparsity import (
    block_mask,
    gather,
    magnitude_mask,
    n_m_mask,
    pruned_count,
    scatter,
    threshold_mask,
)

DTYPES = [np.float16, np.float32]
EXAMPLES = 60 if naive.JIT else 10


def distinct(shape: tuple[int, ...], seed: int, dtype: Any = np.float32) -> Any:
    """Weights without ties and without zeros, exact in float16."""
    generator = np.random.default_rng(seed)
    size = int(np.prod(shape))
    magnitudes = (generator.permutation(size) + 1) / 64
    return (magnitudes * generator.choice([-1, 1], size)).astype(dtype).reshape(shape)


def mask_of(compressed: Any) -> Any:
    return ct_utils.ios16_sparse_params_to_ios18(compressed).mask


def few_valued(min_dims: int = 1, max_dims: int = 4) -> Any:
    """Weights with many ties and zeros."""
    return hnp.arrays(
        st.sampled_from(DTYPES),
        hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=7),
        elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 6e-8, 65504.0]),
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(values=few_valued(), sparsity=st.floats(0, 1))
def test_magnitude_prunes_exactly_so_many(values: Any, sparsity: float) -> None:
    mask = magnitude_mask(values, sparsity)
    count = pruned_count(values.size, sparsity)
    assert mask.dtype == np.uint8
    assert (mask == 0).sum() == max(count, (values == 0).sum())
    np.testing.assert_array_equal(mask, naive.magnitude_mask(values, count))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [2, 10, 101, 500])
def test_magnitude_is_what_coremltools_prunes(size: int, dtype: Any) -> None:
    values = distinct((size,), size, dtype)
    for target in (0.1, 0.25, 0.3, 0.5, 0.6123, 0.75, 0.9):
        # In float64: coremltools' percentile of float16 loses ranks, of large arrays altogether.
        expected = mask_of(prune_weights.compress_by_magnitude(values.astype(np.float64), target))
        np.testing.assert_array_equal(magnitude_mask(values, target), expected)


def test_pruned_count() -> None:
    assert [pruned_count(1000, s) for s in (0.0, 1e-9, 0.3, 0.5, 0.75, 1.0)] == [0, 1, 300, 500, 750, 1000]
    assert pruned_count(0, 0.5) == 0
    assert pruned_count(1, 0.5) == 1


def test_ties_do_not_prune_everything() -> None:
    """<= percentile prunes all of a +-1 weight at 30 %."""
    values = np.where(np.arange(1000) % 3 == 0, -1, 1).astype(np.float16)
    mask = magnitude_mask(values, 0.3)
    assert not mask[:300].any()
    assert mask[300:].all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_statistics_of_many_weights(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """np.percentile over more than 65,504 float16 values is NaN with NumPy 2.2 and 2.3: nothing is pruned."""
    monkeypatch.setattr(_select, "_SHORTEST", 64)  # several histograms, ties that run out in the middle
    size = naive.few(200_000, 700)
    values = np.random.default_rng(0).standard_normal(size).astype(dtype)
    ties = np.random.default_rng(1).integers(-3, 4, size).astype(dtype)
    for weights in (values, ties):
        for target in (0.05, 0.5, 0.75):
            masks = []
            for threads in ("1", "3"):
                monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
                masks.append(magnitude_mask(weights, target))
            np.testing.assert_array_equal(*masks)
            order = np.argsort(np.abs(weights.astype(np.float32)), kind="stable")
            expected = (weights != 0).astype(np.uint8)
            expected[order[: pruned_count(size, target)]] = 0
            np.testing.assert_array_equal(masks[0], expected)


def test_magnitudes_of_all_kinds_are_ordered() -> None:
    values = np.array([np.inf, -1e-40, 3e38, np.nan, -0.0, 1.0], np.float32)
    assert magnitude_mask(values, 0.5).tolist() == [1, 0, 1, 1, 0, 0]
    assert magnitude_mask(values[3:].astype(np.float16), 0.3).tolist() == [1, 0, 1]


def test_threshold_is_not_rounded_to_float16() -> None:
    values = np.array([0, 6e-8, -1e-3, 2], np.float16)
    assert threshold_mask(values, 1e-12).tolist() == [0, 1, 1, 1]
    assert threshold_mask(values, 0).tolist() == [0, 1, 1, 1]
    assert threshold_mask(values, float(values[2] * -1)).tolist() == [0, 0, 0, 1]
    assert threshold_mask(values, 1e300).tolist() == [0, 0, 0, 0]
    assert threshold_mask(np.array([1e-13, 1e-12, 1e-11], np.float32), 1e-12).tolist() == [0, 0, 1]
    one_and_a_bit = np.nextafter(np.float16(1), np.float16(2))
    assert threshold_mask(np.array([1, one_and_a_bit]).astype(np.float16), 1.0001).tolist() == [0, 1]


@settings(max_examples=EXAMPLES, deadline=None)
@given(values=few_valued(), threshold=st.floats(0, 1e6) | st.sampled_from([0.0, 0.5, 1.0, 6e-8, 65504.0]))
def test_threshold(values: Any, threshold: float) -> None:
    expected = np.abs(values.astype(np.float64)) > threshold
    np.testing.assert_array_equal(threshold_mask(values, threshold), expected)


@settings(max_examples=EXAMPLES, deadline=None)
@given(values=few_valued(), data=st.data())
def test_n_of_m(values: Any, data: Any) -> None:
    m = data.draw(st.integers(1, 9))
    n = data.draw(st.integers(0, m))
    dim = data.draw(st.integers(0, values.ndim - 1))
    np.testing.assert_array_equal(n_m_mask(values, n, m, dim), naive.n_m_mask(values, n, m, dim))


@settings(max_examples=EXAMPLES, deadline=None)
@given(values=few_valued(), data=st.data())
def test_blocks(values: Any, data: Any) -> None:
    target = data.draw(st.floats(0, 1))
    block_size = data.draw(st.integers(1, 9))
    dim = data.draw(st.integers(0, values.ndim - 1))
    count = pruned_count(values.size, target)
    # Beside 65504 the square of 6e-8 is lost, or not, with the order of the sum.
    values = np.where(np.abs(values) == np.float16(6e-8), values.dtype.type(0.25), values)
    expected = naive.block_mask(values, count, block_size, dim)
    np.testing.assert_array_equal(block_mask(values, target, block_size, dim), expected)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("shape", [(24, 18), (17, 26), (16, 12, 3), (13, 16, 3, 2)])
def test_structured_masks_are_those_of_coremltools(shape: tuple[int, ...], dim: int) -> None:
    values = distinct(shape, sum(shape))
    for n, m in ((1, 2), (2, 4), (3, 5)):
        expected = mask_of(prune_weights.compress_by_nm_sparsity(values, (n, m), dim))
        np.testing.assert_array_equal(n_m_mask(values, n, m, dim), expected)
    for block_size in (2, 3, 5):
        for target in (0.2, 0.5, 0.77):
            compressed = prune_weights.compress_by_magnitude(
                values.astype(np.float64), target, block_size, dim
            )
            np.testing.assert_array_equal(block_mask(values, target, block_size, dim), mask_of(compressed))


def test_block_norms_do_not_overflow_in_float16() -> None:
    values = np.array([[300, 400], [30000, 1], [1e-4, 1e-4], [2e-4, 0]], np.float16)
    assert block_mask(values, 0.5, 2, 1).tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    values=hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.uint8, np.int8, np.int32]),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=12),
        elements=st.integers(0, 100),
    ),
    data=st.data(),
)
def test_gather_and_scatter(values: Any, data: Any) -> None:
    mask = data.draw(hnp.arrays(np.uint8, values.shape, elements=st.integers(0, 1)))
    nonzeros = gather(values, mask)
    assert nonzeros.dtype == values.dtype
    np.testing.assert_array_equal(nonzeros, values[mask == 1])
    dense = scatter(nonzeros, mask)
    np.testing.assert_array_equal(dense, np.where(mask, values, 0))
    np.testing.assert_array_equal(dense, ct_utils.sparse_to_dense(nonzeros, mask))


def test_gather_and_scatter_over_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsity, "_PIECE", 100)
    generator = np.random.default_rng(0)
    values = generator.standard_normal((7, naive.few(10_001, 101))).astype(np.float16)
    mask = (generator.random(values.shape) < 0.3).astype(np.uint8)
    mask.ravel()[200:500] = 0
    for threads in ("1", "3"):
        monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
        nonzeros = gather(values, mask)
        np.testing.assert_array_equal(nonzeros, values[mask == 1])
        np.testing.assert_array_equal(scatter(nonzeros, mask), np.where(mask, values, 0))


def test_wrong_arguments_are_named() -> None:
    values = np.ones((4, 4), np.float32)
    with pytest.raises(TypeError, match="values must be float16 or float32, but got float64"):
        magnitude_mask(values.astype(np.float64), 0.5)
    with pytest.raises(ValueError, match=r"target_sparsity must be within 0\.\.1, but got 1.5"):
        magnitude_mask(values, 1.5)
    with pytest.raises(ValueError, match="threshold must be >= 0, but got nan"):
        threshold_mask(values, float("nan"))
    with pytest.raises(ValueError, match="n = 5, m = 4"):
        n_m_mask(values, 5, 4, 0)
    with pytest.raises(ValueError, match=r"dim must be within 0\.\.1, but got 2"):
        n_m_mask(values, 2, 4, 2)
    with pytest.raises(ValueError, match="block_size must be at least 1, but got 0"):
        block_mask(values, 0.5, 0, 0)
    with pytest.raises(ValueError, match="values and mask must have one shape"):
        gather(values, np.ones(16, np.uint8))
    with pytest.raises(ValueError, match=r"the mask keeps 16 values, but got shape \(15,\)"):
        scatter(np.ones(15, np.float16), np.ones((4, 4), np.uint8))
