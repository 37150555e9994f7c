"""``bisect`` on models whose damaged weights are known."""

import json
import math
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from conftest import Run
from coremltools.converters.mil import Builder as mb
from milpasses_tools import bisect, compare
from models import random, weights_program
from programs import branches

import milpasses
from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter, InterpreterError

WIDTH = 16


def chain(weights: list[np.ndarray]) -> Any:
    """Residual linear ops, one after the other."""
    mb.name_count.clear()

    @mb.program(input_specs=[mb.TensorSpec(shape=(4, WIDTH))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        for index, weight in enumerate(weights):
            x = mb.add(x=x, y=mb.tanh(x=mb.linear(x=x, weight=weight, name=f"layer{index}")))
        return mb.identity(x=x, name="out")

    return program


def layers(count: int) -> list[np.ndarray]:
    return [random((WIDTH, WIDTH), seed) for seed in range(count)]


def changed(weights: list[np.ndarray], scales: dict[int, float]) -> list[np.ndarray]:
    """The weights with noise: a hundredth of a percent, but for those in ``scales``."""
    noise = [random(weight.shape, 1000 + index, 1.0) for index, weight in enumerate(weights)]
    return [w + n * scales.get(index, 1e-5) for index, (w, n) in enumerate(zip(weights, noise, strict=True))]


def names(program: Any) -> list[str]:
    """The names of the weights, in order."""
    return [
        op.inputs["weight"].op.name for op in program.functions["main"].operations if op.op_type == "linear"
    ]


class TestOneAtFault:
    @pytest.mark.parametrize("fault", [0, 1, 7, 13, 24, 25, 26, 38, 48, 49])
    def test_it_is_found_in_a_logarithm_of_runs(self, fault: int):
        weights = layers(50)
        original = chain(weights)
        found = bisect(original, chain(changed(weights, {fault: 0.1})), samples=2)
        assert found.differ == 50
        assert found.first == names(original)[fault]
        assert found.keep == (found.first,)
        assert found.executions <= 2 * math.log2(50) + 8
        assert found.all.snr_db < 40 <= found.kept.snr_db
        (row,) = found.weights
        assert (row.name, row.keep) == (found.first, True)

    def test_by_absolute_error(self):
        weights = layers(9)
        original = chain(weights)
        found = bisect(original, chain(changed(weights, {4: 0.1})), max_error=0.01)
        assert (found.keep, found.tolerance) == ((names(original)[4],), "max error 0.01")
        assert found.all.max_error > 0.01 >= found.kept.max_error

    def test_a_nan_is_outside_every_tolerance(self):
        weights = layers(8)
        damaged = changed(weights, {})
        damaged[5][3, 3] = np.nan
        original = chain(weights)
        found = bisect(original, chain(damaged), tolerance=-1000)
        assert found.keep == (names(original)[5],)
        assert found.whole.snr_db == -math.inf
        json.dumps(found.to_dict(), allow_nan=False)


class TestSeveralAtFault:
    def test_two_are_found_by_halves(self):
        weights = layers(50)
        original = chain(weights)
        found = bisect(original, chain(changed(weights, {11: 0.1, 37: 0.1})), samples=2)
        assert set(found.keep) == {names(original)[11], names(original)[37]}
        assert found.first == names(original)[11]
        assert found.executions < 25

    def test_many_are_kept_by_their_damage(self):
        weights = layers(12)
        scales = {index: 0.02 + 0.01 * index for index in range(0, 12, 2)}
        original = chain(weights)
        found = bisect(original, chain(changed(weights, scales)), samples=2)
        assert set(found.keep) == {names(original)[index] for index in scales}
        assert len(found.weights) == 12
        measured = [row.error.snr_db for row in found.weights]
        assert measured == sorted(measured)

    def test_none_of_what_is_kept_can_be_spared(self):
        weights = layers(10)
        damaged = changed(weights, {index: 1e-3 * (1 + index) for index in range(10)})
        original = chain(weights)
        found = bisect(original, chain(damaged), tolerance=35, samples=2)
        kept = {names(original).index(name) for name in found.keep}
        assert 0 < len(kept) < 10

        def snr(keep: set[int]) -> float:
            mixed = [weights[i] if i in keep else damaged[i] for i in range(10)]
            return compare(original, chain(mixed), samples=2)["out"].snr_db

        assert snr(kept) == pytest.approx(found.kept.snr_db)
        assert snr(kept) >= 35
        assert all(snr(kept - {one}) < 35 for one in kept)


class TestNoneAtFault:
    def test_within(self):
        weights = layers(6)
        found = bisect(chain(weights), chain(changed(weights, {})))
        assert (found.within, found.keep, found.first, found.kept) == (True, (), None, None)
        assert found.executions == 3

    def test_the_same_weights(self):
        found = bisect(chain(layers(3)), chain(layers(3)))
        assert (found.differ, found.within, found.all.snr_db) == (0, True, math.inf)

    def test_ops_that_differ_are_said(self):
        weights = layers(3)

        def steeper() -> Any:
            mb.name_count.clear()

            @mb.program(input_specs=[mb.TensorSpec(shape=(4, WIDTH))], opset_version=ct.target.iOS18)
            def program(x: Any) -> Any:
                for index, weight in enumerate(weights):
                    x = mb.mul(x=x, y=mb.tanh(x=mb.linear(x=x, weight=weight, name=f"layer{index}")))
                return mb.identity(x=x, name="out")

            return program

        found = bisect(chain(weights), steeper())
        assert not found.within
        assert found.keep == ()
        assert any(note.startswith("ops differ too") for note in found.notes)

    def test_every_weight_is_measured_if_asked(self):
        weights = layers(5)
        found = bisect(chain(weights), chain(changed(weights, {3: 1e-3})), tolerance=20, every=True)
        assert len(found.weights) == 5
        assert found.weights[0].name == names(chain(weights))[3]


class TestOverride:
    def test_values_come_and_go(self):
        weight = random((WIDTH, WIDTH))
        program = chain([weight])
        interpreter = Interpreter(program)
        (name,) = names(program)
        x = random((4, WIDTH), 5, 1.0)

        def run() -> np.ndarray:
            return interpreter.run({"x": x})["out"]

        before = run()
        interpreter.override({name: -weight})
        np.testing.assert_allclose(run() - x, x - before, atol=1e-6)
        interpreter.override({})
        np.testing.assert_array_equal(run(), before)

    def test_inside_blocks(self):
        program = branches()
        weight = next(
            op.inputs["weight"]
            for block in program.functions["main"].find_ops(op_type="cond")[0].blocks
            for op in block.find_ops(op_type="linear")
        )
        interpreter = Interpreter(program)
        interpreter.override({weight.name: np.zeros((8, 8), np.float32)})
        (output,) = interpreter.run({"x": np.ones((2, 8), np.float32)}).values()
        assert not output.any()

    def test_what_cannot_be_overridden(self):
        program = chain(layers(1))
        interpreter = Interpreter(program)
        (name,) = names(program)
        with pytest.raises(InterpreterError, match="no op reads a constant nothing"):
            interpreter.override({"nothing": np.zeros(3)})
        with pytest.raises(InterpreterError, match=r"has shape \(16, 16\), not \(16, 4\)"):
            interpreter.override({name: np.zeros((16, 4))})


@pytest.fixture(scope="module")
def packages(digits_packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The demo network, and the same with its linear weights at one bit."""
    small = tmp_path_factory.mktemp("bisect") / "small.mlpackage"
    milpasses.compress(digits_packages["iOS18"], "pal6; op_type=linear -> pal1", output=small)
    return digits_packages["iOS18"], small


def test_a_corrected_bias_goes_with_its_weight(digits_packages: dict[str, Path]):
    shape = next(iter(Interpreter(digits_packages["iOS18"]).inputs.values())).fixed_shape()
    name = next(iter(Interpreter(digits_packages["iOS18"]).inputs))
    samples = [{name: abs(random(shape, seed))} for seed in range(12)]
    small = milpasses.compress(digits_packages["iOS18"], "pal2", calibration=samples)
    corrected = [record for record in small.report if "bias corrected" in record.reason]
    assert corrected
    found = bisect(digits_packages["iOS18"], small, samples, tolerance=60)
    assert found.differ == small.report.count("compressed")
    assert found.all.snr_db == pytest.approx(found.whole.snr_db, abs=1e-3)
    assert not set(found.keep) & {record.name for record in corrected}


class TestCommand:
    def test_the_recipe_it_prints_is_enough(self, milpasses_command: Run, packages: Any, tmp_path: Path):
        outcome = milpasses_command("bisect", *packages, "--tolerance", 15)
        assert outcome.status == 1
        assert "executions of the model over 4 samples of random data" in outcome.out
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(outcome.out.split("# the recipe that keeps them\n")[1], encoding="utf-8")
        milpasses.compress(packages[0], recipe, output=tmp_path / "better.mlpackage")
        again = milpasses_command("bisect", packages[0], tmp_path / "better.mlpackage", "--tolerance", 15)
        assert (again.status, again.err) == (0, "")
        assert "within the tolerance" in again.out

    def test_json(self, milpasses_command: Run, packages: Any):
        outcome = milpasses_command("bisect", *packages, "--tolerance", 15, "--json", "--all")
        content = json.loads(outcome.out)
        assert outcome.status == 1
        assert content["keep"] == [content["first"]]
        assert content["rules"] == [f"name={content['first']} -> keep"]
        assert len(content["weights"]) == content["differ"] == 3
        assert content["kept"]["snr_db"] >= 15 > content["whole"]["snr_db"]

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["nowhere"], "no such script, folder or model"),
            (["{a}"], "one model alone; name the compressed one as well"),
            (["{a}", "{b}", "--function", "other"], "no function 'other'"),
            (["{a}", "{b}", "--max-error", "-1"], "give a tolerance"),
            (["{a}", "{b}", "--tolerance", "nan"], "give a tolerance"),
        ],
    )
    def test_what_cannot_be(self, milpasses_command: Run, packages: Any, arguments: list[str], expected: str):
        filled = [text.format(a=packages[0], b=packages[1]) for text in arguments]
        outcome = milpasses_command("bisect", *filled)
        assert (outcome.status, outcome.out) == (2, "")
        assert expected in outcome.err

    def test_models_that_do_not_fit(self):
        with pytest.raises(MilpassesError, match="different inputs"):
            bisect(chain(layers(1)), weights_program(random((4, 8))))
