"""Scaled forms decode, bit for bit, as coremltools' own op does."""

from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil.ops.defs.iOS18.compression import constexpr_blockwise_shift_scale
from hypothesis import given, settings
from hypothesis import strategies as st

from milpasses.encoding.encodings import Palettized, Quantized, Scaled, Sparse, shift_scale

FLOATS = [np.float16, np.float32]


def numbers(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> Any:
    """Any numbers of an integer type; floats from float16's subnormals to its largest, zeros among them."""
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max + 1, shape).astype(dtype)
    magnitudes = 10 ** rng.uniform(-7, 4.8, shape) * (rng.random(shape) < 0.9)
    return (magnitudes * rng.choice([-1, 1], shape)).astype(dtype)


@st.composite
def operands(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Data, and for each of its blocks a scale and perhaps an offset."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    blocks = draw(st.lists(st.integers(1, 3), min_size=len(counts), max_size=len(counts)))
    shape = tuple(count * block for count, block in zip(counts, blocks, strict=True))

    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    source = draw(st.sampled_from([np.int8, np.uint8, *FLOATS]))
    offset = draw(st.sampled_from([None, source, *FLOATS]))
    scale = draw(st.sampled_from(FLOATS))
    offsets = None if offset is None else numbers(tuple(counts), offset, rng)
    return numbers(shape, source, rng), numbers(tuple(counts), scale, rng), offsets


def expected(data: Any, scale: Any, offset: Any) -> Any:
    """What coremltools' op computes, in the type that it declares for its result: the scale's."""
    with np.errstate(all="ignore"):
        return constexpr_blockwise_shift_scale.decompress(data, scale, offset).astype(scale.dtype)


def same_bits(one: Any, other: Any) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@settings(max_examples=400, deadline=None)
@given(operands())
def test_shift_scale_is_coremltools(inputs: tuple[Any, Any, Any]) -> None:
    assert same_bits(shift_scale(*inputs), expected(*inputs))


@settings(max_examples=100, deadline=None)
@given(operands())
def test_quantized_decodes_as_its_op_whatever_its_types(inputs: tuple[Any, Any, Any]) -> None:
    """Codes may be floats: constexpr_sparse_blockwise_shift_scale of iOS18 takes them."""
    codes, scale, zero_point = inputs
    quantized = Quantized(codes, scale, zero_point, codes.dtype.name)
    decoded = quantized.decode()
    assert np.array_equal(decoded, expected(codes, scale, zero_point), equal_nan=True)
    assert decoded.dtype.name == quantized.result_dtype


def test_a_float16_zero_point_is_subtracted_in_float16() -> None:
    """So does coremltools' op: three times 100 - 0.1 is 299.5 in float16, 299.75 if only that is rounded."""
    codes = np.full((1, 1), 100, np.uint8)
    scale, zero_point = np.full((1, 1), 3, np.float16), np.full((1, 1), 0.1, np.float16)
    decoded = Quantized(codes, scale, zero_point, "uint8").decode()
    assert same_bits(decoded, constexpr_blockwise_shift_scale.decompress(codes, scale, zero_point))
    assert decoded == 299.5


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("entries", [np.int8, np.uint8, np.float16, np.float32])
@pytest.mark.parametrize("offset", [False, True])
def test_scaled_tables_and_masks(dtype: Any, entries: Any, offset: bool) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (6, 8), dtype=np.uint8)
    table = rng.integers(0, 100, (2, 1, 16, 1)).astype(entries)
    scale = rng.uniform(0.01, 2, (3, 4)).astype(dtype)
    zero_point = rng.integers(0, 100, (3, 4)).astype(entries) if offset else None
    palettized = Palettized(codes, table)
    mask = rng.integers(0, 2, codes.shape, dtype=np.uint8)
    for inner in (palettized, Sparse(mask, palettized)):
        decoded = Scaled(inner, scale, zero_point).decode()
        assert same_bits(decoded, expected(inner.decode(), scale, zero_point))
