"""Calibration never makes an output of the model worse, on samples held out, than no calibration."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from hypothesis import given, settings
from hypothesis import strategies as st

import milpasses as mp
from milpasses.calibration import chosen
from milpasses.calibration.encode import Calibrated, encode_calibrated
from milpasses.calibration.sources import OnlineStatistics
from milpasses.calibration.validation import Alternatives, Decoded, validate
from milpasses.data.held_out import HeldOutRuns
from milpasses.interpreter import Interpreter
from milpasses.report import read_metadata

LAYERS = 6


def network(seed: int = 0, two_outputs: bool = True) -> ct.models.MLModel:
    """Six linear layers with relu, an output in the middle and one at the end."""
    draw = np.random.default_rng(seed)
    weights = [(draw.standard_normal((48, 48)) / 7).astype(np.float32) for _ in range(LAYERS)]
    biases = [(draw.standard_normal(48) / 4).astype(np.float32) for _ in range(LAYERS)]

    @mb.program(input_specs=[mb.TensorSpec((1, 48), types.fp32)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        middle = None
        for layer in range(LAYERS):
            x = mb.linear(x=x, weight=weights[layer], bias=biases[layer], name=f"layer{layer}")
            x = mb.relu(x=x, name=f"act{layer}")
            middle = x if layer == 2 else middle
        return (middle, x) if two_outputs else x

    return ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)


def samples(count: int, seed: int = 1) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    return [{"x": draw.standard_normal((1, 48)).astype(np.float32)} for _ in range(count)]


def held_out_errors(model: Any, other: Any, data: list[dict[str, Any]]) -> dict[str, float]:
    """Of each output the relative squared error on what calibration holds out, from the saved models."""
    exact, changed = Interpreter(model), Interpreter(other)
    energy: dict[str, float] = {}
    lost: dict[str, float] = {}
    for sample in data[1::4]:
        before, after = exact.run(sample), changed.run(sample)
        for name in before:
            y, z = before[name].astype(np.float64), after[name].astype(np.float64)
            energy[name] = energy.get(name, 0.0) + float((y**2).sum())
            lost[name] = lost.get(name, 0.0) + float(((y - z) ** 2).sum())
    return {name: lost[name] / energy[name] for name in energy}


class MadeUpRuns:
    """Stands in for runs: of each output the error is the sum of what each weight contributes."""

    def __init__(self, gains: Sequence[Mapping[str, float]]) -> None:
        self.gains, self.interpreter, self.trials = gains, self, 0
        self.values: Mapping[str, Any] = {}

    def __len__(self) -> int:
        return 8

    def override(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)

    def errors(self) -> dict[str, float]:
        self.trials += 1
        calibrated = {int(name) for name, value in self.values.items() if np.asarray(value) == 1}
        return {
            name: 100.0 + sum(gain[name] for place, gain in enumerate(self.gains) if place in calibrated)
            for name in ("first", "second")
        }


def alternatives(count: int) -> list[Alternatives]:
    one, zero = Decoded((), lambda: np.ones(())), Decoded((), lambda: np.zeros(()))
    return [Alternatives({str(place): one}, {str(place): zero}) for place in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=24))
def test_no_output_is_worse_whatever_weights_do(pairs: list[tuple[float, float]]) -> None:
    runs = MadeUpRuns([{"first": first, "second": second} for first, second in pairs])
    found = validate(runs, {}, alternatives(len(pairs)))  # pyright: ignore[reportArgumentType]
    for name in ("first", "second"):
        assert found.chosen[name] <= found.plain[name] * (1 + 1e-9) == 100.0 * (1 + 1e-9)
        expected = 100.0 + sum(runs.gains[place][name] for place in found.borne_out)
        assert found.chosen[name] == pytest.approx(expected)
    assert runs.trials <= 1 + 256 // 8
    assert runs.values == {}


@pytest.mark.parametrize("harmful", [(), (5,), (0, 11), (3, 4, 5)])
def test_only_what_does_harm_goes_back(harmful: tuple[int, ...]) -> None:
    gains = [{"first": -1.0, "second": 40.0 if place in harmful else -1.0} for place in range(12)]
    found = validate(MadeUpRuns(gains), {}, alternatives(12))  # pyright: ignore[reportArgumentType]
    assert found.borne_out == set(range(12)) - set(harmful)


@pytest.mark.parametrize("count", [2, 3, 8, 24])
@pytest.mark.parametrize("recipe", ["pal2-g16-gptq", "int4", "sparse75-obs"])
def test_outputs_on_held_out_samples(recipe: str, count: int) -> None:
    model, data = network(count), samples(count)
    plain = mp.compress(model, recipe.removesuffix("-gptq").removesuffix("-obs"))
    calibrated = mp.compress(model, recipe, calibration=data)
    without, with_data = (held_out_errors(model, other, data) for other in (plain, calibrated))
    records = {record.name: record for record in calibrated.report.outputs}
    assert records.keys() == without.keys()
    for name, record in records.items():
        assert with_data[name] <= without[name] * 1.001
        assert record.samples == len(data[1::4])
        assert record.plain_sqnr_db == pytest.approx(-10 * math.log10(without[name]), abs=0.01)
        assert record.sqnr_db == pytest.approx(-10 * math.log10(with_data[name]), abs=0.01)
    assert calibrated.report.bytes_after <= plain.report.bytes_after
    few = [note for note in calibrated.report.notes if "held-out samples that judge" in note]
    assert bool(few) == (count < 16)
    assert mp.compress(model, recipe, calibration=data).report == calibrated.report


def spoil(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let calibration of one weight, and its bias, make the model worse without seeing it."""

    def spoiled(encoder: Any, value: Any, *others: Any) -> Calibrated:
        found = encode_calibrated(encoder, value, *others)
        if encoder.weight.name.startswith(name):
            wrong = encoder.encode((value[::-1]).copy(), others[0])
            return Calibrated(wrong, "gptq + bias", 99.0, (), -np.abs(others[2]) - 1)
        return found

    monkeypatch.setattr("milpasses.rewrite.encode_calibrated", spoiled)


def test_a_weight_that_does_harm_goes_back_with_its_bias(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, data = network(), samples(24)
    spoil(monkeypatch, "layer1")
    made = mp.compress(model, "pal3-gptq", calibration=data)
    plain = mp.compress(model, "pal3")
    back = [record for record in made.report if "worse with it on held-out samples" in record.reason]
    assert [record.name.split("_")[0] for record in back] == ["layer1"]
    assert back[0].method == "kmeans"
    assert back[0].sqnr_db == plain.report[back[0].name].sqnr_db
    assert not any("bias corrected" in r.reason for r in made.report if r.name.startswith("layer1"))
    calibrated = [record for record in made.report if record.method not in ("", "kmeans")]
    assert len(calibrated) >= LAYERS - 2  # of the first layer calibration may keep the plain encoding
    assert made.report.notes[0].startswith(f"1 of {len(calibrated) + 1} calibrated weights went back")
    with_data, without = held_out_errors(model, made, data), held_out_errors(model, plain, data)
    assert all(with_data[name] < without[name] for name in without)
    made.save(str(tmp_path / "made.mlpackage"))
    assert "outputs" in read_metadata(made.user_defined_metadata["milpasses.report"])
    assert "without data" in str(made.report)


def test_runs_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = mp.compress(network(), "pal3-gptq", calibration=samples(1))
    assert one.report.outputs == []
    assert any("not judged by the whole model" in note for note in one.report.notes)
    from_statistics = mp.compress(
        network(), "pal3-gptq", statistics=mp.statistics(network(), samples(8), full=True, held_out=4)
    )
    assert from_statistics.report.outputs == []
    asked: list[OnlineStatistics] = []
    monkeypatch.setattr(OnlineStatistics, "held_out_runs", lambda self: asked.append(self))
    mp.compress(network(), "int8-minmax", calibration=samples(8))  # nothing there to calibrate
    assert not asked
    assert chosen.HELD_OUT == 4


def test_errors_of_outputs() -> None:
    model = network(two_outputs=False)
    interpreter = Interpreter(model)
    runs = HeldOutRuns(interpreter, samples(3))
    (output,) = runs.outputs
    assert runs.errors() == {output: 0.0}
    name = next(var.name for op in interpreter.operations for var in [op.inputs.get("weight")] if var)
    interpreter.override({name: np.full((48, 48), np.inf, np.float32)})
    assert runs.errors() == {output: math.inf}
