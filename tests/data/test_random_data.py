"""Random samples: what they are drawn from, and what makes them be drawn again."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from milpasses import SampleError, Samples
from milpasses.data.random_data import DISTRIBUTIONS, all_finite, is_random
from milpasses.interpreter import Feature

FEATURES = {
    "x": Feature("x", "tensor", np.float32, (64, 8)),
    "ids": Feature("ids", "tensor", np.int32, (16,)),
}


def values(data: str, **options: Any) -> Any:
    return np.stack([sample.inputs["x"] for sample in Samples.of(data, FEATURES, **options)])


def logarithm(inputs: Mapping[str, Any]) -> dict[str, Any]:
    with np.errstate(invalid="ignore"):
        return {"y": np.log(inputs["x"] + np.float32(1e-3))}


def test_each_distribution_is_what_it_says():
    normal, uniform, positive = (values(f"random:{name}") for name in DISTRIBUTIONS)
    assert abs(normal.mean()) < 0.1
    assert abs(normal.std() - 1) < 0.1
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.05
    assert positive.min() >= 2.0**-10
    np.testing.assert_array_equal(positive, np.maximum(np.abs(normal), np.float32(2.0**-10)))


def test_without_a_name_it_is_normal_and_each_sample_its_own():
    np.testing.assert_array_equal(values("random"), values("random:normal"))
    np.testing.assert_array_equal(values("random:uniform", limit=3), values("random:uniform", limit=9)[:3])
    assert not np.array_equal(values("random:uniform"), values("random:uniform", seed=1))
    assert {sample.inputs["ids"].dtype for sample in Samples.of("random:uniform", FEATURES)} == {
        np.dtype(np.int32)
    }


def test_what_there_is_none_of_is_said():
    with pytest.raises(SampleError, match=r"random:gauss: random data is random:normal, random:uniform, ran"):
        Samples.of("random:gauss", FEATURES)
    assert is_random("random:uniform")
    assert not is_random("randoms.npz")
    assert not is_random(None)


def test_what_makes_the_model_nan_is_drawn_again_and_said():
    drawn = Samples.of("random", FEATURES, limit=3, seed=5)
    again = drawn.finite(logarithm)
    assert again is not drawn
    assert "in [0, 1), seed 5 (normal data makes the model itself NaN or infinite)" in again.description
    assert again.random
    assert len(again) == 3
    expected = values("random:uniform", limit=3, seed=5)
    np.testing.assert_array_equal(np.stack([sample.inputs["x"] for sample in again]), expected)


def test_it_stays_where_it_works_was_asked_for_or_nothing_helps():
    drawn = Samples.of("random", FEATURES)
    assert drawn.finite(lambda inputs: {"y": inputs["x"]}) is drawn
    assert drawn.finite(lambda inputs: {"y": np.array([np.nan])}) is drawn
    asked = Samples.of("random:normal", FEATURES)
    assert asked.finite(logarithm) is asked
    given = Samples.of({"x": -np.ones((2, 64, 8), np.float32), "ids": np.ones((2, 16), np.int32)}, FEATURES)
    assert given.finite(logarithm) is given


def test_samples_made_of_random_samples_can_be_drawn_again():
    first = Samples.of(Samples.of("random", FEATURES), FEATURES, limit=2)
    assert len(first.finite(logarithm)) == 2
    assert "in [0, 1)" in first.finite(logarithm).description


def test_finite_outputs():
    assert all_finite({"a": np.ones(3), "b": np.array(["cat"]), "c": {"cat": 0.5}, "d": np.array([1])})
    assert not all_finite({"c": {"cat": float("nan")}})
    assert not all_finite({"a": np.array([1, np.inf])})
