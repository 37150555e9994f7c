"""Weights and biases are fitted to the inputs that they will have: 8-bit ones."""

from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder, types

import milpasses as mp
from milpasses.activations.grid import grid_of
from milpasses.calibration import sources
from milpasses.data.moments import Statistics

mb: Any = Builder


def model() -> Any:
    start = mb.TensorSpec(shape=(1, 32), dtype=types.fp16)
    weight = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float16)

    @mb.program(input_specs=[start], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=weight, bias=np.zeros(16, np.float16), name="result")

    return ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)


def rows(count: int) -> list[dict[str, Any]]:
    """One channel a hundred times as large as the others: in 8 bits those are 0."""
    data = np.random.default_rng(1).normal(size=(count, 1, 32))
    data[:, :, 0] = np.linspace(-1, 1, count)[:, None] * 1000
    return [{"x": row.astype(np.float16)} for row in data]


@pytest.mark.parametrize("text", ["int8", "int8 + a8"])
def test_error_feedback_is_a_candidate_for_8_bit_inputs(text: str) -> None:
    """Inputs of few directions: what one weight loses others make up for, and held-out rows bear that out."""
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(4, 32))
    data = [{"x": (row @ directions)[None].astype(np.float16)} for row in rng.normal(size=(96, 4))]
    found = mp.compress(model(), f"{text}; min_elements=0 -> int8", calibration=data)
    (record,) = (record for record in found.report if record.status == "compressed")
    assert ("gptq" in record.method) == ("a8" in text)


@pytest.mark.parametrize("text", ["int8", "int8 + a8"])
def test_statistics_are_of_what_ops_take(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Statistics] = []
    collect = sources.collect

    def spy(*arguments: Any, **options: Any) -> Statistics:
        seen.append(collect(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(sources, "collect", spy)
    data = rows(12)
    found = mp.compress(model(), f"{text}; min_elements=0 -> int8", calibration=data)
    (record,) = (record for record in found.report if record.status == "compressed")
    inputs = np.stack([row["x"][0] for index, row in enumerate(data) if index % 4 != 1]).astype(np.float32)
    if "a8" in text:
        (activation,) = found.report.activations
        assert activation.low is not None
        assert activation.high is not None
        inputs = grid_of(activation.low, activation.high).round_trip(inputs).astype(np.float16)
        assert not inputs[:, 1:].any()
    expected = (inputs.astype(np.float64) ** 2).sum(axis=0)
    np.testing.assert_allclose(seen[0].weights[record.name].square_sum[0], expected, rtol=1e-6)
