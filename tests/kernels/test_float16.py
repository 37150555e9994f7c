"""float16 by integer steps, against NumPy: all patterns one way, what may go wrong the other way."""

import naive
import numpy as np
import pytest
from milpasses_kernels import _float16
from milpasses_kernels._float16 import float_to_half, half_to_float, halves_to_floats, round_to_half
from milpasses_kernels._jit import njit, njit_sums
from numpy.typing import NDArray

ALL = np.arange(1 << 16, dtype=np.uint16)


@njit
def floats_to_halves(floats: NDArray[np.float32], halves: NDArray[np.uint16]) -> None:
    for i in range(floats.size):
        halves[i] = float_to_half(floats[i])


def expected_halves(floats: NDArray[np.float32]) -> NDArray[np.uint16]:
    with np.errstate(over="ignore"):
        return floats.astype(np.float16).view(np.uint16)


def hard_floats() -> NDArray[np.float32]:
    """Float16 values, the midpoints between them, the floats next to these, and random bit patterns."""
    values = np.arange(0, 0x7C00, naive.few(1, 61), dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    edge = np.array([65504, 65519.996, 65520, 65536, 1e30, 2.0**-25, 2.0**-26, 1e-40], np.float32)
    around = [np.nextafter(middles, np.float32(to)) for to in (np.inf, 0)]
    patterns = np.random.default_rng(0).integers(0, 1 << 32, naive.few(1_000_000, 2000), np.uint32)
    random = patterns.view(np.float32)
    positive = np.concatenate([values.astype(np.float32), middles, *around, edge])
    return np.concatenate([positive, -positive, random[np.isfinite(random)]])


def test_every_half_becomes_its_float() -> None:
    floats = np.empty(ALL.size, np.float32)
    halves_to_floats(ALL, floats)
    expected = ALL.view(np.float16).astype(np.float32)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(floats[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    assert np.isnan(floats[~numbers]).all()


@njit
def _step_by_step(floats: NDArray[np.float32], halves: NDArray[np.uint16], back: NDArray[np.float32]) -> None:
    for i in range(floats.size):
        halves[i] = _float16._float_to_half(floats[i])
        back[i] = _float16._half_to_float(halves[i])


def test_integer_steps_are_what_the_instructions_do() -> None:
    floats = hard_floats()
    halves, back, rounded = np.empty(floats.size, np.uint16), np.empty_like(floats), np.empty_like(floats)
    _step_by_step(floats, halves, back)
    _round_all(floats, rounded)
    np.testing.assert_array_equal(halves, expected_halves(floats))
    np.testing.assert_array_equal(back.view(np.uint32), rounded.view(np.uint32))
    for value in floats[:: naive.few(999, 99)]:
        assert np.float32(_float16._round_to_half(value)) == halves_value(value)


def halves_value(value: np.float32) -> np.float32:
    return np.float32(expected_halves(np.array([value]))[:1].view(np.float16)[0])


def test_floats_round_half_to_even() -> None:
    floats = hard_floats()
    halves = np.empty(floats.size, np.uint16)
    floats_to_halves(floats, halves)
    np.testing.assert_array_equal(halves, expected_halves(floats))


def test_not_a_number_and_infinity_survive() -> None:
    floats = np.array([np.nan, -np.nan, np.inf, -np.inf], np.float32)
    halves = np.empty(4, np.uint16)
    floats_to_halves(floats, halves)
    np.testing.assert_array_equal(halves.view(np.float16), floats)


@njit
def _round_all(floats: NDArray[np.float32], rounded: NDArray[np.float32]) -> None:
    for i in range(floats.size):
        rounded[i] = round_to_half(floats[i])


@njit_sums
def _round_and_sum(floats: NDArray[np.float32], rounded: NDArray[np.float32]) -> float:
    total = 0.0
    for i in range(floats.size):
        rounded[i] = round_to_half(floats[i])
        total += half_to_float(np.uint16(i & 0x3FFF)) + np.float64(floats[i])
    return total


@pytest.mark.parametrize("loop", [_round_and_sum, _round_all])
def test_rounding_in_place_is_the_round_trip_under_either_policy(loop: object) -> None:
    floats = hard_floats()
    rounded = np.empty_like(floats)
    assert callable(loop)
    loop(floats, rounded)
    with np.errstate(over="ignore"):
        expected = floats.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(rounded.view(np.uint32), expected.view(np.uint32))
