"""Ranges from histograms, chosen by held-out outputs; runs that are altered equal those of real pairs."""

import random
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder, types
from test_form import NETWORKS, samples, saved_model

import milpasses as mp
from milpasses.activations.altered import AlteredRuns
from milpasses.activations.candidates import METHODS, Candidates
from milpasses.activations.grid import ActivationRange, grid_of
from milpasses.activations.observed import ENOUGH, observe
from milpasses.activations.pairs import Placed
from milpasses.activations.quantize import wanted_points
from milpasses.activations.ranges import ChosenRanges, choose_ranges
from milpasses.data.histograms import Histogram
from milpasses.interpreter import Interpreter
from milpasses.program.opening import open_program
from milpasses.recipe.recipe import Recipe

mb: Any = Builder


def chosen_of(model: Any, data: Any, text: str = "a8") -> ChosenRanges:
    points = wanted_points(Recipe.of(text), open_program(model).functions[0])
    tensors = {name for point, _ in points for name in point.tensors}
    return choose_ranges(observe(Interpreter(model), data, tensors), points)


def counted(values: Any) -> Histogram:
    array = np.asarray(values, np.float32)
    found = Histogram.empty(float(array.min()), float(array.max()))
    found.add(array, found.low, found.high)
    return found


def true_error(values: Any, low: float, high: float, mode: str, dtype: str) -> float:
    rounded = grid_of(low, high, mode, dtype).round_trip(np.asarray(values, np.float32))
    return float(((values - rounded.astype(np.float64)) ** 2).mean())


@pytest.mark.parametrize("mode", ["linear_symmetric", "linear"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_least_squares_beats_every_other_method_by_its_measure(mode: str, dtype: str) -> None:
    values = np.random.default_rng(0).standard_t(3, 200_000) + (1 if mode == "linear" else 0)
    candidates = Candidates(counted(values), mode, dtype)
    ranges = candidates.ranges()
    assert tuple(ranges) == METHODS
    errors = {name: true_error(values, span.low, span.high, mode, dtype) for name, span in ranges.items()}
    assert errors["least squares"] <= 1.02 * min(errors.values())
    assert errors["least squares"] < 0.7 * errors["minmax"]
    for name, span in ranges.items():  # what a record says is what the values lose
        power = (values**2).mean()
        assert span.sqnr_db == pytest.approx(10 * np.log10(power / errors[name]), abs=0.3)


def test_min_max_is_exact_and_percentiles_are_inside() -> None:
    values = np.random.default_rng(1).normal(size=300_000)
    values[0], values[1] = -40, 50
    ranges = Candidates(counted(values)).ranges()
    assert (ranges["minmax"].low, ranges["minmax"].high) == (-40, 50)
    for share, name in ((99.9, "percentile 99.9"), (99.99, "percentile 99.99")):
        tail = (1 - share / 100) / 2
        assert ranges[name].high == pytest.approx(np.quantile(values, 1 - tail), rel=0.05)
        assert ranges[name].low == pytest.approx(np.quantile(values, tail), rel=0.05)
    assert ranges["entropy"].high < 10


def test_a_few_distinct_values_stay_representable() -> None:
    for values in ([0.0, 1.0], [-1.0, 1.0, 1.0], [3.0, 3.0, 4.0]):
        for mode in ("linear_symmetric", "linear"):
            for span in Candidates(counted(values), mode).ranges().values():
                assert span.low <= span.high
                assert np.isfinite([span.low, span.high]).all()


def compared(model: Any, sample: dict[str, Any]) -> Any:
    """The output, or what its softmax takes, less the mean."""
    scores: list[Any] = []

    def watch(op: Any, inputs: Any, outputs: Any) -> None:
        if op.op_type == "softmax":
            scores.append(inputs["x"].astype(np.float64))

    (result,) = Interpreter(model).run(sample, observers=[watch]).values()
    if not scores or scores[-1].shape != result.shape:
        return result.astype(np.float64)
    return scores[-1] - scores[-1].mean(axis=-1, keepdims=True)


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("text", ["a8", "a8-uint8-asym"])
def test_altered_runs_equal_real_pairs(name: str, text: str) -> None:
    model, data = saved_model(NETWORKS[name]), samples(3)
    made = mp.compress(model, text, calibration=data)
    points = [point for point, _ in wanted_points(Recipe.of(text), open_program(model).functions[0])]
    records = {record.name: record for record in made.report.activations}
    runs = AlteredRuns(Interpreter(model), data)
    asked = Recipe.of(text).activations
    assert asked is not None
    placed: list[Placed] = []
    for point in points:
        low, high = records[point.name].low, records[point.name].high
        assert low is not None
        assert high is not None
        placed.append(Placed.of(point, ActivationRange(low, high), asked))
    errors = []
    for sample in data:
        exact, given = compared(model, sample), compared(made, sample)
        errors.append(((exact - given) ** 2).sum() / (exact**2).sum())
    assert runs.error(placed) == pytest.approx(np.mean(errors), rel=1e-12)
    assert runs.error([]) == 0
    assert np.mean(errors) > 0


def outliers(seed: int, count: int) -> list[dict[str, Any]]:
    """Inputs of which one value in a few thousand is fifty times as large as the others."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 1, 256)).astype(np.float16)
    rows[::3, 0, 7] *= 50
    return [{"x": row} for row in rows]


def ignoring() -> Any:
    """No weight takes the channel that has the outliers: clipping them costs the outputs nothing."""
    start = mb.TensorSpec(shape=(1, 256), dtype=types.fp16)
    weight = np.random.default_rng(5).normal(size=(32, 256)).astype(np.float16) / 16
    weight[:, 7] = 0

    @mb.program(input_specs=[start], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        return mb.tanh(x=mb.linear(x=x, weight=weight, name="linear"), name="result")

    return ct.convert(program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)


def test_held_out_outputs_choose_and_gain() -> None:
    model, text = ignoring(), "a8"
    found = chosen_of(model, outliers(0, 64), text)
    assert set(found.methods) == set(METHODS)
    assert found.output_sqnr_db is not None
    assert found.output_sqnr_db >= max(found.methods.values()) - 1e-9
    chosen = mp.compress(model, text, calibration=outliers(0, 64))
    statistics = mp.statistics(model, outliers(0, 64))
    statistics.histograms.clear()  # then ranges are the smallest and the largest value
    plain = mp.compress(model, text, statistics=statistics)
    test = outliers(1, 40)

    def sqnr(given: Any) -> float:
        pairs = [(Interpreter(model).run(x)["result"], Interpreter(given).run(x)["result"]) for x in test]
        noise = sum(((a.astype(np.float64) - b) ** 2).sum() for a, b in pairs)
        return 10 * np.log10(sum((a.astype(np.float64) ** 2).sum() for a, _ in pairs) / noise)

    assert sqnr(chosen) > sqnr(plain) + 6
    assert any(note.startswith("8-bit activations: held-out outputs") for note in chosen.report.notes)
    least = mp.compress(model, text, statistics=mp.statistics(model, outliers(0, 64), held_out=4))
    assert next(iter(least.report.activations)).method == "least squares"
    assert all(record.method in METHODS for record in chosen.report.activations if record.uses)


@pytest.mark.parametrize("count", [2, ENOUGH - 1, 40])
def test_samples_in_any_order_give_the_same_ranges(count: int) -> None:
    model, data = saved_model(NETWORKS["residual"]), samples(count)
    first = chosen_of(model, data)
    assert (first.output_sqnr_db is None) == (count < ENOUGH)
    for seed in range(3):
        mixed = list(data)
        random.Random(seed).shuffle(mixed)
        other = chosen_of(model, mixed)
        assert other.ranges == first.ranges
        assert (other.output_sqnr_db, other.methods) == (first.output_sqnr_db, first.methods)


def test_one_range_for_a_concat() -> None:
    model = saved_model(NETWORKS["concat"])
    points = wanted_points(Recipe.of("a8"), open_program(model).functions[0])
    found = chosen_of(model, samples(12))
    shared = [point for point, _ in points if len(point.tensors) > 1]
    assert shared
    for point in shared:
        assert len({found.ranges[name] for name in point.tensors}) == 1


def test_the_runs_grow_with_samples_not_with_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    run = Interpreter.run

    def counting(self: Any, *arguments: Any, **options: Any) -> Any:
        counts[-1] += 1
        return run(self, *arguments, **options)

    monkeypatch.setattr(Interpreter, "run", counting)
    for depth in (30, 60):
        counts.append(0)
        model = chain(depth)
        rows = np.random.default_rng(0).normal(size=(16, 1, 16)).astype(np.float16)
        chosen_of(model, [{"x": row} for row in rows])
    assert counts[0] == counts[1] <= 16 + 4 * (1 + len(METHODS) + 24 * 2)


def test_what_only_moves_values_shares_their_grid() -> None:
    model = saved_model(NETWORKS["convnet"])
    made = mp.compress(model, "a8", calibration=samples(12))
    grids = {record.name: (record.scale, record.zero_point) for record in made.report.activations}
    points = [point for point, _ in wanted_points(Recipe.of("a8"), open_program(model).functions[0])]
    following = [point for point in points if point.follows]
    assert len(following) == 2  # behind a max_pool, and behind a reshape
    for point in following:
        assert grids[point.name] == grids[point.follows]


def chain(depth: int) -> Any:
    start = mb.TensorSpec(shape=(1, 16), dtype=types.fp16)
    rng = np.random.default_rng(0)

    @mb.program(input_specs=[start], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        for index in range(depth):
            weight = (rng.normal(size=(16, 16)) / 4).astype(np.float16)
            x = mb.tanh(x=mb.linear(x=x, weight=weight, name=f"linear_{index}"), name=f"tanh_{index}")
        return x

    return ct.convert(program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
