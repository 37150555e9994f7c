"""``half``: float32 weights stored as float16; and the other forms in programs with float32 weights."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from models import TARGETS, constexprs, convert, random

import milpasses as mp
from milpasses.interpreter import Interpreter

FLOAT32 = {"compute_precision": ct.precision.FLOAT32}
TINY = np.float32(2.0**-20)


def program(target: Any, *, conv: Any = None, small: Any = None) -> Any:
    mb.name_count.clear()

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 32, 8, 8))], opset_version=target)
    def built(x: Any) -> Any:
        weight = random((64, 32, 3, 3)) if conv is None else conv
        y = mb.conv(x=x, weight=weight, bias=random((64,), 1), name="conv1")
        y = mb.reduce_mean(x=mb.relu(x=y), axes=[2, 3])
        return mb.linear(x=y, weight=random((16, 64), 2) if small is None else small, name="fc")

    return built


def inputs() -> dict[str, Any]:
    return {"x": random((1, 32, 8, 8), 5, 1.0)}


def both(recipe: str, target: str = "iOS18", **weights: Any) -> list[tuple[Any, mp.Report]]:
    """The program compressed through each entry point, and the reports."""
    pipeline = mp.pipeline(recipe)
    converted = convert(
        program(TARGETS[target], **weights), TARGETS[target], pass_pipeline=pipeline, **FLOAT32
    )
    plain = convert(program(TARGETS[target], **weights), TARGETS[target], **FLOAT32)
    compressed = mp.compress(plain, recipe)
    return [(converted, pipeline.report), (compressed, compressed.report)]


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_half(target: str, tmp_path: Path) -> None:
    want = Interpreter(convert(program(TARGETS[target]), TARGETS[target], **FLOAT32)).run(inputs())
    for model, report in both("half", target):
        ops = constexprs(model).values()
        assert [op.op_type for op in ops] == ["constexpr_cast"] * 2
        assert {op.outputs[0].dtype for op in ops} == {ct.converters.mil.mil.types.fp32}
        forms = {record.form for record in report if record.status == "compressed"}
        assert forms == {"float16 cast"}
        assert [record.refusal.code for record in report if record.refusal] == ["vector"] * 2
        for record in report:
            if record.status == "compressed":
                assert 2 * record.bytes_after == record.bytes_before
                assert record.sqnr_db is not None
                assert record.sqnr_db > 70
        got = Interpreter(model).run(inputs())
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-3 * np.abs(value).max())
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.mlpackage"
        model.save(str(path))
        again = mp.compress(path, "half")
        assert again.report.count("compressed") == 0
        dense = mp.decompress(path)
        assert constexprs(dense) == {}
        np.testing.assert_array_equal(
            next(iter(Interpreter(dense).run(inputs()).values())), next(iter(got.values()))
        )
        smaller = mp.compress(path, "int8", requantize=True)
        assert {op.op_type for op in constexprs(smaller).values()} >= {
            "constexpr_affine_dequantize" if target == "iOS16" else "constexpr_blockwise_shift_scale"
        }


def test_the_rest() -> None:
    for model, report in both("int8; rest=half"):
        kinds = [op.op_type for op in constexprs(model).values()]
        assert kinds == ["constexpr_blockwise_shift_scale", "constexpr_cast"]
        assert report.recipe == "int8; rest=half"
        small = next(record for record in report if record.form == "float16 cast")
        assert small.scheme == "half()"
        assert "the rest, as quantize(dtype=int8) was refused: 1,024 elements" in small.rule
    for model, _ in both("int8; op_type=linear -> keep; rest=half"):
        assert [op.op_type for op in constexprs(model).values()] == ["constexpr_blockwise_shift_scale"]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (np.full((64, 32, 3, 3), 1e5, np.float32), "half-overflow"),
        (random((64, 32, 3, 3)) * TINY, "half-underflow"),
        (np.full((64, 32, 3, 3), np.inf, np.float32), "nonfinite"),
    ],
)
def test_what_float16_cannot_hold_is_refused(value: Any, code: str) -> None:
    for _, report in both("half", conv=value):
        refused = [record for record in report if record.refusal and record.refusal.code != "vector"]
        assert [record.refusal.code for record in refused if record.refusal] == [code]
        assert refused[0].form == "dense"


def test_few_tiny_values_do_no_harm() -> None:
    value = random((64, 32, 3, 3))
    value[0] *= TINY
    for _, report in both("half", conv=value):
        assert report.count("compressed") == 2


def test_float16_weights_are_left() -> None:
    model = mp.compress(convert(program(ct.target.iOS18)), "half")
    assert model.report.count("compressed") == 0
    assert {record.refusal.code for record in model.report if record.refusal} == {"half-already", "vector"}


def test_text_and_yaml() -> None:
    assert mp.Recipe.of("half").default == mp.Half()
    recipe = mp.Recipe.of("int8; op_type=conv -> pal4; rest=half")
    assert recipe.rest == mp.Half()
    assert len(recipe.rules) == 1
    assert mp.Recipe.parse(recipe.to_text()) == recipe
    assert recipe.to_text() == str(recipe) == "int8; op_type=conv -> pal4; rest=half"
    assert mp.Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert mp.Recipe.of({"default": "int8", "rest": {"half": {"weight_threshold": 100}}}).rest == mp.Half(100)
    assert mp.Recipe.of("int8; rest=half(weight_threshold=100)").rest == mp.Half(100)
    with pytest.raises(mp.RecipeError, match="rest: expected half"):
        mp.Recipe.of("int8; rest=pal4")
    with pytest.raises(mp.RecipeError, match="cannot join"):
        mp.Recipe.of("sparse50+half")


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("recipe", ["int8", "pal4", "sparse50", "int8-asym"])
def test_other_forms_of_float32_weights_stay_float32(recipe: str, target: str) -> None:
    want = Interpreter(convert(program(TARGETS[target]), TARGETS[target], **FLOAT32)).run(inputs())
    outputs: list[Any] = []
    for model, report in both(recipe, target):
        (op,) = constexprs(model).values()
        assert op.outputs[0].dtype == ct.converters.mil.mil.types.fp32
        for name in ("scale", "lut", "nonzero_data"):
            stored = op.inputs.get(name)
            assert stored is None or stored.val.dtype == np.float32
        assert report.count("compressed") == 1
        outputs.append(Interpreter(model).run(inputs()))
    for name, value in want.items():
        assert outputs[0][name].dtype == np.float32
        np.testing.assert_array_equal(outputs[0][name], outputs[1][name])
        if recipe.startswith("int8"):
            assert np.abs(outputs[0][name] - value).max() < 0.02 * np.abs(value).max()
