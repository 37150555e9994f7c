"""Packing codes: against one long integer, against coremltools, and there and back."""

from typing import Any

import naive
import numpy as np
import pytest
from coremltools.optimize import _utils as ct_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from milpasses_kernels import bitpack
from milpasses_kernels.bitpack import pack, unpack

DTYPES = [np.uint8, np.int8]


def bounds(nbits: int, dtype: Any) -> tuple[int, int]:
    return (-(1 << nbits - 1), (1 << nbits - 1) - 1) if dtype == np.int8 else (0, (1 << nbits) - 1)


def codes(size: int, nbits: int, dtype: Any) -> Any:
    low, high = bounds(nbits, dtype)
    return np.random.default_rng(size + nbits).integers(low, high + 1, size).astype(dtype)


@settings(max_examples=100 if naive.JIT else 20, deadline=None)
@given(data=st.data(), nbits=st.integers(1, 8), dtype=st.sampled_from(DTYPES))
def test_there_and_back(data: Any, nbits: int, dtype: Any) -> None:
    low, high = bounds(nbits, dtype)
    shape = hnp.array_shapes(min_dims=0, max_dims=3, max_side=20)
    values = data.draw(hnp.arrays(dtype, shape, elements=st.integers(low, high)))
    packed = pack(values, nbits)
    np.testing.assert_array_equal(packed, naive.pack(values, nbits))
    back = unpack(packed, nbits, values.size, signed=dtype == np.int8)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values.ravel())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nbits", range(1, 9))
def test_bytes_are_those_of_coremltools(nbits: int, dtype: Any) -> None:
    for size in (1, 7, 64, 65, naive.few(300_001, 1001)):
        values = codes(size, nbits, dtype)
        packed = pack(values, nbits)
        assert packed.size == -(-size * nbits // 8)
        np.testing.assert_array_equal(packed, ct_utils.pack_elements_into_bits(values, nbits))
        restored = ct_utils.restore_elements_from_packed_bits(packed, nbits, size, dtype == np.int8)
        np.testing.assert_array_equal(unpack(packed, nbits, size, dtype == np.int8), restored)


def test_the_layout_by_hand() -> None:
    assert pack(np.array([1, 2, 3], np.uint8), 4).tolist() == [0x21, 0x03]
    assert pack(np.array([-1, -8, 7], np.int8), 4).tolist() == [0x8F, 0x07]
    assert pack(np.array([1, 2, 3], np.uint8), 3).tolist() == [0b11010001, 0]
    assert pack(np.ones(9, np.uint8), 1).tolist() == [0xFF, 0x01]


def test_nothing() -> None:
    assert pack(np.empty((0, 3), np.uint8), 4).shape == (0,)
    assert unpack(np.empty(0, np.uint8), 4, 0).shape == (0,)


@pytest.mark.parametrize("nbits", [3, 4])
def test_unaligned_strided_and_read_only_codes(nbits: int) -> None:
    values = codes(1000, nbits, np.uint8)
    for view in (values[3:], values[::2], values.reshape(50, 20).T):
        packed = pack(view, nbits)
        np.testing.assert_array_equal(packed, naive.pack(view, nbits))
        shifted = np.concatenate([[0], packed]).astype(np.uint8)[1:]
        shifted.flags.writeable = False
        np.testing.assert_array_equal(unpack(shifted, nbits, view.size), view.ravel())


@pytest.mark.parametrize("nbits", [1, 3, 4, 6])
def test_blocks_meet(nbits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = codes(naive.few(10_000, 500), nbits, np.int8)
    monkeypatch.setattr(bitpack, "_BLOCK", 128)
    for threads in ("1", "3"):
        monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
        packed = pack(values, nbits)
        np.testing.assert_array_equal(packed, naive.pack(values, nbits))
        np.testing.assert_array_equal(unpack(packed, nbits, values.size, signed=True), values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nbits", range(1, 8))
def test_a_value_out_of_range_is_named(nbits: int, dtype: Any) -> None:
    low, high = bounds(nbits, dtype)
    info = np.iinfo(dtype)
    for bad in (info.min, low - 1, high + 1, info.max):
        if not info.min <= bad <= info.max or low <= bad <= high:
            continue  # unsigned codes have nothing below their range
        values = np.zeros(100, dtype)
        values[77] = bad
        with pytest.raises(ValueError, match=rf"must be within {low}\.\.{high}, but got {bad}$"):
            pack(values, nbits)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="packing takes uint8 or int8, but got int32"):
        pack(np.zeros(3, np.int32), 4)
    with pytest.raises(ValueError, match=r"nbits must be within 1\.\.8, but got 0"):
        pack(np.zeros(3, np.uint8), 0)
    with pytest.raises(ValueError, match=r"9 codes of 4 bits take \(5,\) bytes, but got \(4,\)"):
        unpack(np.zeros(4, np.uint8), 4, 9)


def test_eight_bits_are_a_copy() -> None:
    values = codes(10, 8, np.int8)
    packed = pack(values, 8)
    packed[0] += 1
    assert values[0] != packed.view(np.int8)[0]
    back = unpack(packed, 8, 10, signed=True)
    assert not np.shares_memory(back, packed)
