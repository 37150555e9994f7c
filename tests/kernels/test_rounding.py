"""Affine quantization: against coremltools, against exhaustive search, and where float16 goes wrong."""

from typing import Any

import naive
import numpy as np
import pytest
from coremltools.converters.mil.mil import types
from coremltools.optimize import _utils as ct_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from milpasses_kernels import rounding
from milpasses_kernels.rounding import Rounded, quantize

# Weights near the ends of float32: NumPy's scalars warn of what compiled arithmetic takes in its stride.
pytestmark = [] if naive.JIT else [pytest.mark.filterwarnings("ignore::RuntimeWarning")]

MODES = [(signed, symmetric) for signed in (True, False) for symmetric in (True, False)]


def decode(rounded: Rounded) -> Any:
    return naive.decode(*rounded)


def error(groups: Any, rounded: Rounded, importance: Any = 1.0) -> Any:
    return naive.errors(groups, decode(rounded), importance)


def snr(groups: Any, rounded: Rounded) -> float:
    signal = (groups.astype(np.float64) ** 2).sum()
    return float(10 * np.log10(signal / error(groups, rounded).sum()))


def gaussian(groups: int, length: int, dtype: Any = np.float16, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).standard_normal((groups, length)) * 0.05).astype(dtype)


@pytest.mark.parametrize(("signed", "symmetric"), MODES)
@pytest.mark.parametrize("nbits", [4, 8])
def test_minmax_is_what_coremltools_computes(nbits: int, signed: bool, symmetric: bool) -> None:
    # On a coarse grid of values coremltools' float32 range has no rounding error of its own.
    groups = np.random.default_rng(nbits).integers(-3000, 2000, (20, 64)).astype(np.float32) / 1024
    rounded = quantize(groups, nbits, signed, symmetric, search=False)
    codes, scale, zero_point = ct_utils.quantize_weight_by_dtype(
        groups,
        1,
        types.get_nbits_int_builtin_type(nbits, signed),
        "LINEAR_SYMMETRIC" if symmetric else "LINEAR",
    )
    np.testing.assert_array_equal(rounded.scale, scale)
    np.testing.assert_array_equal(rounded.codes, codes)
    assert rounded.codes.dtype == (np.int8 if signed else np.uint8)
    if symmetric and signed:
        assert rounded.zero_point is None
    else:
        assert rounded.zero_point is not None
        assert rounded.zero_point.dtype == rounded.codes.dtype
        np.testing.assert_array_equal(rounded.zero_point, zero_point)


def finite_groups(dtype: Any) -> Any:
    width = 16 if dtype == np.float16 else 32
    largest = float(np.finfo(dtype).max)
    return hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
        elements=st.floats(-largest, largest, width=width) | st.integers(-4, 4).map(float),
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@settings(max_examples=60 if naive.JIT else 5, deadline=None)
@given(data=st.data(), nbits=st.integers(1, 8), mode=st.sampled_from(MODES))
def test_any_finite_weights(dtype: Any, data: Any, nbits: int, mode: tuple[bool, bool]) -> None:
    signed, symmetric = mode
    nbits = max(nbits, 2) if symmetric else nbits
    groups = data.draw(finite_groups(dtype))
    first = -(1 << nbits - 1) if signed else 0
    results = [quantize(groups, nbits, signed, symmetric, search) for search in (False, True)]
    for rounded in results:
        assert rounded.scale.dtype == groups.dtype
        assert (rounded.scale > 0).all()
        assert np.isfinite(rounded.scale).all()
        assert np.isfinite(decode(rounded)).all()
        for codes in (rounded.codes, rounded.zero_point):
            if codes is not None:
                assert codes.astype(int).min() >= first
                assert codes.astype(int).max() < first + (1 << nbits)
    minmax, searched = (error(groups, rounded) for rounded in results)
    assert (searched <= minmax * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("distribution", "length", "symmetric", "minmax_db", "least_db"),
    [
        ("gaussian", 32, True, 20.24, 21.2),
        ("gaussian", 32, False, 21.85, 22.2),
        ("student", 1024, True, 9.8, 13.2),
        ("student", 1024, False, 12.1, 13.9),
    ],
)
def test_search_gains_what_it_should(
    distribution: str, length: int, symmetric: bool, minmax_db: float, least_db: float
) -> None:
    generator = np.random.default_rng(1)
    shape = (naive.few(200_000, 3200) // length, length)
    weights = (
        generator.standard_t(4, shape) if distribution == "student" else generator.standard_normal(shape)
    )
    groups = (weights * 0.02).astype(np.float16)
    # Three heavy-tailed rows, all there are without the JIT, stray from the mean of two hundred.
    stray = 1 if naive.JIT else 3
    minmax = snr(groups, quantize(groups, 4, True, symmetric, search=False))
    assert minmax == pytest.approx(minmax_db, abs=stray)
    assert snr(groups, quantize(groups, 4, True, symmetric)) > least_db - (0 if naive.JIT else stray)


@pytest.mark.parametrize("magnitude", [3e-7, 1e-5, 1e-3, 0.05, 30.0, 65504.0])
@pytest.mark.parametrize("nbits", [2, 4, 8])
def test_search_is_near_the_best_of_all_float16_scales(nbits: int, magnitude: float) -> None:
    weights = np.random.default_rng(nbits).standard_normal((10, 32))
    groups = (weights / np.abs(weights).max(axis=1, keepdims=True) * magnitude).astype(np.float16)
    half = 1 << nbits - 1
    least = sum(naive.least_error(row, -half, half - 1) for row in groups)
    # At 8 bits the error is flat but ragged along the scale: a sweep stays a fifth of a decibel above.
    assert error(groups, quantize(groups, nbits, True, True)).sum() <= least * (1.3 if nbits == 8 else 1.02)


def test_zero_point_does_not_overflow_in_float16() -> None:
    """coremltools puts int8 over -20..600 at zero point -128 and clips all negatives."""
    groups = np.linspace(-20, 600, 256).astype(np.float16)[None]
    for search in (False, True):
        rounded = quantize(groups, 8, True, False, search)
        assert rounded.zero_point is not None
        assert rounded.zero_point[0] == pytest.approx(-120, abs=1)
        assert np.abs(decode(rounded).astype(float) - groups.astype(float)).max() < 2.5


@pytest.mark.parametrize(("signed", "symmetric"), MODES)
@pytest.mark.parametrize("nbits", [2, 4, 8])
@pytest.mark.parametrize("top", [40000.0, 65504.0])
def test_wide_ranges_neither_give_an_infinite_scale_nor_weight(
    top: float, nbits: int, signed: bool, symmetric: bool
) -> None:
    groups = np.array([[-top, top, 1.0], [top, top, 0], [-top, -top, 3]], np.float16)
    for search in (False, True):
        rounded = quantize(groups, nbits, signed, symmetric, search)
        decoded = decode(rounded)
        assert np.isfinite(decoded).all()
        step = rounded.scale.astype(float)[:, None]
        assert (np.abs(decoded.astype(float) - groups.astype(float)) <= step * 1.01).all()


@pytest.mark.parametrize("search", [False, True])
def test_tiny_weights_keep_a_scale(search: bool) -> None:
    """coremltools gives |w| <= 3e-6 scale 0; the smallest float16 scale holds them exactly in int8."""
    groups = (np.arange(-50, 51, dtype=np.float64) * 2.0**-24).astype(np.float16)[None]
    rounded = quantize(groups, 8, True, True, search)
    assert rounded.scale[0] == np.float16(2.0**-24)
    np.testing.assert_array_equal(decode(rounded), groups)


@pytest.mark.parametrize("nbits", [4, 8])
def test_a_subnormal_scale_is_the_better_neighbour(nbits: int) -> None:
    """The nearest subnormal scale is up to a quarter off: min/max takes the best of it and its neighbours."""
    high = (1 << nbits - 1) - 1
    for steps in (1.4, 1.6, 2.5, 3.3):
        top = steps * high * 2.0**-24
        groups = np.linspace(-top, top, 33).astype(np.float16)[None]
        candidates = []
        for scale in np.float16(np.arange(max(1, int(steps) - 1), int(steps) + 4) * 2.0**-24):
            codes = np.clip(np.rint(groups.astype(float) / float(scale)), -high, high)
            candidates.append(naive.errors(groups, codes * float(scale))[0])
        assert error(groups, quantize(groups, nbits, True, True, search=False))[0] <= min(candidates) * (
            1 + 1e-6
        )


@pytest.mark.parametrize(("signed", "symmetric"), MODES)
def test_zeros_stay_zero(signed: bool, symmetric: bool) -> None:
    groups = np.zeros((2, 5), np.float16)
    groups[1, 3] = -0.0
    rounded = quantize(groups, 8, signed, symmetric)
    assert (rounded.scale == 1).all()
    assert not decode(rounded).any()
    middle = 127 if symmetric and not signed else 0
    assert (rounded.codes == middle).all()
    # 0 is a code of every grid: a pruned weight stays pruned.
    groups = gaussian(4, 32)
    groups[:, ::2] = 0
    assert not decode(quantize(groups, 4, signed, symmetric))[:, ::2].any()


def test_codes_are_rounded_half_to_even_with_the_stored_scale() -> None:
    # 127 fixes the scale at 1 (exact), the halves are ties.
    groups = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float16)
    np.testing.assert_array_equal(
        quantize(groups, 8, True, True, search=False).codes, [[127, 0, 2, 2, 0, -2]]
    )
    groups = gaussian(50, 64)
    rounded = quantize(groups, 8, True, True, search=False)
    codes = np.rint(groups.astype(np.float32) / rounded.scale.astype(np.float32)[:, None])
    np.testing.assert_array_equal(rounded.codes, codes)


def test_symmetric_search_uses_the_outermost_code() -> None:
    codes = quantize(gaussian(200, 32), 4, True, True).codes
    assert codes.min() == -8
    assert codes.max() == 7


def test_importance_moves_the_error_to_where_it_matters_less() -> None:
    groups = gaussian(naive.few(300, 20), 64, np.float32)
    importance = np.random.default_rng(1).exponential(size=(1, 64)).astype(np.float32) ** 3
    for symmetric in (True, False):
        plain = quantize(groups, 3, True, symmetric)
        weighted = quantize(groups, 3, True, symmetric, importance=importance)
        minmax = quantize(groups, 3, True, symmetric, search=False)
        assert error(groups, weighted, importance).sum() < 0.9 * error(groups, plain, importance).sum()
        bound = error(groups, minmax, importance) * (1 + 1e-6)
        assert (error(groups, weighted, importance) <= bound).all()


@pytest.mark.parametrize("block", [8, 32768])
def test_no_importance_at_all(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "BLOCK", block)
    groups = gaussian(3, 32)
    rounded = quantize(groups, 4, True, True, importance=np.zeros((1, 32), np.float32))
    for a, b in zip(rounded, quantize(groups, 4, True, True, search=False), strict=True):
        np.testing.assert_array_equal(a, b)


def test_importance_rows_repeat() -> None:
    groups = gaussian(12, 32)
    importance = np.random.default_rng(2).random((3, 32), np.float32)
    once = quantize(groups, 4, True, True, importance=importance)
    whole = quantize(groups, 4, True, True, importance=np.tile(importance, (4, 1)))
    for a, b in zip(once, whole, strict=True):
        np.testing.assert_array_equal(a, b)


def test_groups_do_not_know_their_neighbours_or_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = gaussian(naive.few(9000, 12), 32)
    monkeypatch.setenv("MILPASSES_NUM_THREADS", "1")
    single = quantize(groups, 4, True, False)
    monkeypatch.setenv("MILPASSES_NUM_THREADS", "3")
    several = quantize(groups, 4, True, False)
    tail = quantize(groups[7:], 4, True, False)
    for a, b, c in zip(single, several, tail, strict=True):
        assert a is not None
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[7:], c)


@pytest.mark.parametrize(("signed", "symmetric"), MODES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_long_group_is_fitted_in_blocks(
    dtype: Any, signed: bool, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = gaussian(2, naive.few(5000, 150), dtype)
    importance = np.random.default_rng(3).random(groups.shape, np.float32)
    for weights in (None, importance):
        for search in (False, True):
            monkeypatch.setattr(rounding, "BLOCK", 32768)
            whole = quantize(groups, 4, signed, symmetric, search, weights)
            monkeypatch.setattr(rounding, "BLOCK", 64)
            blocks = []
            for threads in ("1", "3"):
                monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
                blocks.append(quantize(groups, 4, signed, symmetric, search, weights))
            for a, b in zip(*blocks, strict=True):
                np.testing.assert_array_equal(a, b)
            # Sums in another order may fall for another of two equally good grids.
            expected = error(groups, whole, 1.0 if weights is None else weights)
            np.testing.assert_allclose(
                error(groups, blocks[0], 1.0 if weights is None else weights), expected, rtol=1e-3
            )
    monkeypatch.setattr(rounding, "BLOCK", 64)
    zeros = quantize(np.zeros((1, 200), dtype), 4, signed, symmetric)
    assert not decode(zeros).any()
    groups[1, 70] = np.nan
    with pytest.raises(ValueError, match="group 1 holds NaN"):
        quantize(groups, 4, signed, symmetric)


def test_read_only_and_strided_groups() -> None:
    groups = gaussian(8, 64)
    expected = quantize(np.ascontiguousarray(groups[:, ::2]), 4, True, True)
    strided = quantize(groups[:, ::2], 4, True, True)
    np.testing.assert_array_equal(strided.codes, expected.codes)
    groups.flags.writeable = False
    assert quantize(groups, 4, True, True).codes.flags.writeable


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_non_finite_weights_are_refused(bad: float, dtype: Any) -> None:
    groups = gaussian(40, 32, dtype)
    groups[33, 5] = bad
    with pytest.raises(ValueError, match="group 33 holds NaN or infinity"):
        quantize(groups, 4, True, True)


def test_wrong_arguments_are_named() -> None:
    groups = gaussian(4, 8)
    with pytest.raises(TypeError, match="groups must be float16 or float32, but got float64"):
        quantize(groups.astype(np.float64), 4, True, True)
    with pytest.raises(ValueError, match=r"groups must have shape \(G, n\), but got \(8,\)"):
        quantize(groups[0], 4, True, True)
    with pytest.raises(ValueError, match=r"nbits must be within 2\.\.8, but got 1"):
        quantize(groups, 1, True, True)
    with pytest.raises(ValueError, match=r"nbits must be within 1\.\.8, but got 9"):
        quantize(groups, 9, True, False)
    with pytest.raises(ValueError, match=r"importance must have shape \(P, 8\) with P dividing 4"):
        quantize(groups, 4, True, True, importance=np.ones((3, 8), np.float32))
    with pytest.raises(ValueError, match="importance must be finite and non-negative"):
        quantize(groups, 4, True, True, importance=np.full((1, 8), np.nan, np.float32))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_nothing_to_quantize(shape: tuple[int, int]) -> None:
    rounded = quantize(np.empty(shape, np.float16), 4, True, False)
    assert rounded.codes.shape == shape
    assert rounded.scale.shape == shape[:1]
