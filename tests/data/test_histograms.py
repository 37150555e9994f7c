"""Histograms of activations: the same counts in any order, however they are merged, and in files."""

import functools
import operator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder, Program, types
from hypothesis import given, settings
from hypothesis import strategies as st

import milpasses as mp
from milpasses.data.histograms import BINS, Histogram, layout

mb: Any = Builder
numbers = st.one_of(
    st.floats(-65504, 65504, width=32, allow_subnormal=False),
    st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
    st.floats(-(2.0**-99), 2.0**-99, width=32, allow_subnormal=False),
)


def counted(arrays: Any) -> Histogram:
    first = np.asarray(arrays[0], np.float32)
    found = Histogram.empty(float(first.min()), float(first.max()))
    for each in arrays:
        array = np.asarray(each, np.float32)
        found.add(array, float(array.min()), float(array.max()))
    return found


def same(first: Histogram, second: Histogram) -> None:
    assert (first.exponent, first.first, first.fields) == (second.exponent, second.first, second.fields)
    np.testing.assert_array_equal(first.counts, second.counts)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(numbers, min_size=1, max_size=5), min_size=1, max_size=5), st.randoms())
def test_order_and_merging_change_nothing(arrays: Any, random: Any) -> None:
    once = counted(arrays)
    shuffled = list(arrays)
    random.shuffle(shuffled)
    same(counted(shuffled), once)
    same(functools.reduce(operator.or_, [counted([array]) for array in shuffled]), once)
    same(Histogram.of(once.fields, once.counts), once)
    flat = np.concatenate([np.asarray(array, np.float32) for array in arrays]).astype(np.float64)
    assert once.total == flat.size
    places = np.floor(np.ldexp(flat, -once.exponent)) - once.first
    np.testing.assert_array_equal(once.counts, np.bincount(places.astype(int), minlength=BINS))


def test_the_samples_that_coremltools_forgets() -> None:
    """[-5, 9] then [-1, 1] gives [-1, 1] in coremltools 9.0."""
    one, other = np.array([-5.0, 9.0]), np.array([-1.0, 1.0])
    same(counted([one, other]), counted([other, one]))
    assert (counted([one, other]).low, counted([one, other]).high) == (-5, 9)
    assert counted([one, other]).average == (-3, 5)


@given(numbers, numbers)
def test_the_bins_are_as_fine_as_they_can_be(first: float, second: float) -> None:
    low, high = min(first, second), max(first, second)
    exponent, start = layout(low, high)
    assert 0 <= np.floor(np.ldexp(high, -exponent)) - start < BINS
    if high - low > 1e-6 * max(abs(low), abs(high)) and high - low > 1e-35:
        finer = exponent - 1
        assert np.floor(np.ldexp(high, -finer)) - np.floor(np.ldexp(low, -finer)) >= BINS


def test_quantiles() -> None:
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    found = counted([values])
    for share in (0.001, 0.1, 0.5, 0.99, 0.9999):
        assert found.quantile(share) == pytest.approx(np.quantile(values, share), abs=2 * found.width)
    assert found.quantile(0) == pytest.approx(values.min(), abs=found.width)
    assert found.quantile(1) == values.max()


def network() -> Program:
    start = mb.TensorSpec(shape=(1, 8), dtype=types.fp16)

    @mb.program(input_specs=[start], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        weight = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float16)
        return mb.relu(x=mb.linear(x=x, weight=weight, name="linear"), name="relu")

    return program


def test_statistics_keep_them(tmp_path: Path) -> None:
    program = network()
    inputs = [{"x": row[None]} for row in np.random.default_rng(1).normal(size=(8, 8)).astype(np.float16)]
    found = mp.statistics(program, inputs)
    assert set(found.histograms) == {"x", "linear", "relu"}
    assert (found.histograms["x"].total, found.histograms["linear"].total) == (64, 128)
    for name, histogram in found.histograms.items():
        assert (histogram.low, histogram.high) == (found.ranges[name].min, found.ranges[name].max)
    found.save(tmp_path / "statistics.npz")
    loaded = mp.Statistics.load(tmp_path / "statistics.npz")
    halves = [mp.statistics(program, part) for part in (inputs[5:], inputs[:5])]
    merged = halves[0].merge(halves[1])
    for name, histogram in found.histograms.items():
        same(loaded.histograms[name], histogram)
        same(merged.histograms[name], histogram)
    held = mp.statistics(program, inputs, held_out=4)
    assert (held.histograms["x"].total, held.histograms["x"].samples) == (48, 6)
    assert held.held_out_histograms["x"].samples == 2
    twice = held.merge(held)
    assert (twice.histograms["x"].samples, twice.held_out_histograms["x"].samples) == (12, 4)
    held.save(tmp_path / "held.npz")
    loaded = mp.Statistics.load(tmp_path / "held.npz")
    for name, histogram in found.histograms.items():
        same(loaded.histograms[name] | loaded.held_out_histograms[name], histogram)
        same(loaded.held_out_histograms[name], held.held_out_histograms[name])


def test_damaged_ones_are_refused(tmp_path: Path) -> None:
    mp.statistics(network(), "random").save(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as file:
        arrays = dict(file)
    arrays["histograms.1"] = arrays["histograms.1"][:9]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(mp.MilpassesError, match="2048 counts"):
        mp.Statistics.load(tmp_path / "bad.npz")
