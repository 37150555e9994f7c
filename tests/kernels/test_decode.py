"""Decoding, bit for bit, and the error sums."""

from typing import Any

import naive
import numpy as np
import pytest
from coremltools.converters.mil.mil.ops.defs.iOS18.compression import constexpr_blockwise_shift_scale
from coremltools.optimize import _utils as ct_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from milpasses_kernels import decode
from milpasses_kernels.decode import decode_affine, decode_lut, decode_vectors, error_sums

SHAPES = [(1, 3), (7, 32), (3, 1000)]


def same_bits(a: Any, b: Any) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


def affine(shape: tuple[int, int], code_dtype: Any, scale_dtype: Any, seed: int = 0) -> tuple[Any, Any, Any]:
    """Random codes and zero points over their whole range, scales from subnormal to overflowing."""
    generator = np.random.default_rng(seed)
    info = np.iinfo(code_dtype)
    codes = generator.integers(info.min, info.max + 1, shape).astype(code_dtype)
    zero_point = generator.integers(info.min, info.max + 1, shape[0]).astype(code_dtype)
    return codes, (10 ** generator.uniform(-7.5, 3, shape[0])).astype(scale_dtype), zero_point


@pytest.mark.parametrize("scale_dtype", [np.float16, np.float32])
@pytest.mark.parametrize("code_dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", SHAPES)
def test_affine_is_bit_identical_to_coremltools(
    shape: tuple[int, int], code_dtype: Any, scale_dtype: Any
) -> None:
    codes, scale, zero_point = affine(shape, code_dtype, scale_dtype)
    for offset in (zero_point, None):
        wide = None if offset is None else offset[:, None]
        with np.errstate(over="ignore"):
            old = ct_utils.dequantize_by_scale_and_zp(codes, scale[:, None], wide)
            new = constexpr_blockwise_shift_scale.decompress(
                codes, scale[:, None], None if wide is None else wide.astype(scale_dtype)
            )
        decoded = decode_affine(codes, scale, offset)
        same_bits(decoded, old)
        same_bits(decoded, new)
        same_bits(decoded, naive.decode(codes, scale, offset))


@settings(max_examples=40 if naive.JIT else 10, deadline=None)
@given(pattern=st.integers(1, 0x7BFF), zero=st.integers(-128, 127))
def test_affine_of_any_float16_scale(pattern: int, zero: int) -> None:
    codes = np.arange(-128, 128).astype(np.int8)[None]
    scale = np.array([pattern], np.uint16).view(np.float16)
    zero_point = np.array([zero], np.int8)
    same_bits(decode_affine(codes, scale, zero_point), naive.decode(codes, scale, zero_point))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_lut(shape: tuple[int, int], dtype: Any) -> None:
    generator = np.random.default_rng(1)
    lut = generator.integers(-100, 100, (shape[0], 16)).astype(dtype)
    codes = generator.integers(0, 16, shape).astype(np.uint8)
    decoded = decode_lut(lut, codes)
    assert decoded.dtype == lut.dtype
    for g in range(shape[0]):
        np.testing.assert_array_equal(decoded[g], lut[g][codes[g]])
    same_bits(decode_vectors(lut[..., None], codes)[..., 0], decoded)


def test_lut_is_what_coremltools_decodes() -> None:
    generator = np.random.default_rng(2)
    lut = generator.standard_normal((6, 8)).astype(np.float16)
    codes = generator.integers(0, 8, (6, 20)).astype(np.uint8)
    same_bits(decode_lut(lut, codes), ct_utils.lut_to_dense(codes, lut.reshape(6, 1, 8, 1)))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 8, 12])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_vectors(width: int, dtype: Any) -> None:
    generator = np.random.default_rng(width)
    lut = generator.standard_normal((3, 32, width)).astype(dtype)
    codes = generator.integers(0, 32, (3, 50)).astype(np.uint8)
    decoded = decode_vectors(lut, codes)
    same_bits(decoded, np.stack([lut[g][codes[g]] for g in range(3)]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_error_sums(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    original = generator.standard_normal((3, naive.few(100_000, 1000))).astype(dtype)
    decoded = (original + generator.standard_normal(original.shape) * 0.01).astype(dtype)
    exact = original.astype(np.float64), decoded.astype(np.float64)
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
        results.append(error_sums(original, decoded))
    assert results[0] == results[1]
    signal, noise, largest = results[0]
    assert signal == pytest.approx((exact[0] ** 2).sum(), rel=1e-12)
    assert noise == pytest.approx(((exact[0] - exact[1]) ** 2).sum(), rel=1e-12)
    assert largest == pytest.approx(np.abs(exact[0] - exact[1]).max(), rel=1e-6)
    assert error_sums(original, original)[1:] == (0, 0)
    assert error_sums(original[:0], decoded[:0]) == (0, 0, 0)
    assert error_sums(original.astype(np.float32), decoded)[0] == signal


def test_error_sums_of_what_does_not_fit_float16() -> None:
    original = np.full(1000, 60000, np.float16)
    assert error_sums(original, -original) == (3.6e12, 1.44e13, 120000)
    tiny = np.full(10, 1e-30, np.float32)
    assert error_sums(tiny, 0 * tiny)[1] == pytest.approx(1e-59)


def test_long_groups_decode_in_blocks() -> None:
    length = decode.BLOCK * 2 + 77 if naive.JIT else 77
    codes, scale, zero_point = affine((2, length), np.uint8, np.float16)
    with np.errstate(over="ignore"):
        expected = ct_utils.dequantize_by_scale_and_zp(codes, scale[:, None], zero_point[:, None])
    same_bits(decode_affine(codes, scale, zero_point), expected)


def test_strided_and_read_only_inputs() -> None:
    codes, scale, zero_point = affine((6, 40), np.int8, np.float16)
    for array in (codes, scale, zero_point):
        array.flags.writeable = False
    same_bits(
        decode_affine(codes[::2, ::3], scale[::2], zero_point[::2]),
        naive.decode(codes[::2, ::3], scale[::2], zero_point[::2]),
    )


def test_wrong_arguments_are_named() -> None:
    codes = np.zeros((2, 3), np.uint8)
    scale = np.ones(2, np.float16)
    with pytest.raises(TypeError, match="codes must be int8 or uint8, but got int32"):
        decode_affine(codes.astype(np.int32), scale)
    with pytest.raises(TypeError, match="scale must be float16 or float32, but got float64"):
        decode_affine(codes, scale.astype(np.float64))
    with pytest.raises(ValueError, match=r"got \(2, 3\), \(3,\) and \(3,\)"):
        decode_affine(codes, np.ones(3, np.float16))
    with pytest.raises(ValueError, match="codes must be below 4, the entries of a table, but got 4"):
        decode_lut(np.ones((2, 4), np.float16), codes + 4)
    with pytest.raises(TypeError, match="codes must be uint8, but got int8"):
        decode_lut(np.ones((2, 4), np.float16), codes.astype(np.int8))
    with pytest.raises(ValueError, match="do not match"):
        decode_lut(np.ones((3, 4), np.float16), codes)
    with pytest.raises(ValueError, match="must have one shape"):
        error_sums(scale, scale[:1])
