"""What is compressed by default: what ops multiply and sum with. Grids, strides and masks stay exact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from milpasses_tools._explain.plan import make_plan
from models import constexprs, convert, random

import milpasses as mp
from milpasses.errors import Refusal
from milpasses.program.opening import open_program

BOXES = 2100
CENTRES = np.stack(np.meshgrid(np.arange(70), np.arange(30)), 0).reshape(1, 2, BOXES).astype(np.float32) + 0.5
STRIDES = np.repeat(np.float32([8, 16, 32]), BOXES // 3)[None, None] * np.ones((1, 4, 1), np.float32)
MASK = np.where(np.tri(64, dtype=bool), 0, -1e4).astype(np.float32)


def detector() -> Any:
    """The end of a YOLO: distances to the sides from a convolution, boxes from those, the grid, strides."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64, 30, 70))], opset_version=ct.target.iOS18)
    def program(image: Any) -> Any:
        y = mb.conv(x=image, weight=random((4, 64, 3, 3)), pad_type="same", name="head")
        near, far = mb.split(x=mb.reshape(x=y, shape=(1, 4, BOXES)), num_splits=2, axis=1)
        grid = mb.const(val=CENTRES, name="grid")
        low, high = mb.sub(x=grid, y=near, name="low"), mb.add(x=grid, y=far, name="high")
        middle = mb.real_div(x=mb.add(x=low, y=high), y=2.0)
        boxes = mb.concat(values=(middle, mb.sub(x=high, y=low)), axis=1)
        return mb.mul(x=boxes, y=mb.const(val=STRIDES, name="strides"), name="boxes")

    return program


def attention() -> Any:
    """One mask that is added, and one that an op selects from."""

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(64, 64)), mb.TensorSpec(shape=(64, 64))],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, y: Any) -> Any:
        scores = mb.linear(x=x, weight=random((64, 64)), name="scores")
        added = mb.softmax(x=mb.add(x=scores, y=mb.const(val=MASK, name="mask"), name="masked"))
        other = mb.const(val=MASK.T.copy() / 2, name="other")
        chosen = mb.select(cond=mb.greater(x=y, y=0.0), a=scores, b=other, name="chosen")
        return mb.matmul(x=added, y=mb.softmax(x=chosen))

    return program


@pytest.fixture(params=["memory", "saved"])
def compress(request: pytest.FixtureRequest) -> Callable[[Any, Any], tuple[Any, mp.Report]]:
    """Compresses a program inside ``ct.convert``, or after it: the model, and the report."""

    def apply(program: Any, recipe: Any) -> tuple[Any, mp.Report]:
        if request.param == "memory":
            pipeline = mp.pipeline(recipe)
            return convert(program, pass_pipeline=pipeline, skip_model_load=True), pipeline.report
        model = mp.compress(convert(program, skip_model_load=True), recipe)
        return model, model.report

    return apply


def values(model: Any) -> dict[str, np.ndarray]:
    return {site.weight.name: site.weight.value for site in open_program(model).sites()}


@pytest.mark.parametrize("recipe", ["int8", "int4-b32", "sparse50", "pal4"])
def test_grids_and_strides_stay_exact(recipe: str, compress: Any) -> None:
    model, report = compress(detector(), recipe)
    assert report["grid_to_fp16"].refusal == Refusal("not-multiplied", op_types="add, sub")
    assert str(report["strides_to_fp16"].refusal) == ("no op multiplies and sums with it: a constant of mul")
    found = values(model)
    np.testing.assert_array_equal(found["grid_to_fp16"], CENTRES)
    np.testing.assert_array_equal(found["strides_to_fp16"], STRIDES)
    assert report.count("compressed") == 1


@pytest.mark.parametrize("recipe", ["int8", "sparse75"])
def test_masks_stay_exact(recipe: str, compress: Any) -> None:
    model, report = compress(attention(), recipe)
    assert report.count("compressed") == 1
    assert report["mask_to_fp16"].refusal == Refusal("not-multiplied", op_types="add")
    assert report["other_to_fp16"].refusal == Refusal("not-multiplied", op_types="select")
    np.testing.assert_array_equal(values(model)["mask_to_fp16"], MASK.astype(np.float16))


@pytest.mark.parametrize(
    ("rule", "compressed"),
    [
        ("op_type=add -> int8", 1),
        ("op_type=add,select -> int8", 2),
        ("name=mask* -> int8", 1),
        ("op_name=chosen* param=b -> int8", 1),
        ("rank=2 -> int8", 0),  # names nothing
        ("op_type=add -> keep", 0),
    ],
)
def test_a_rule_that_names_one_compresses_it(rule: str, compressed: int, compress: Any) -> None:
    assert compress(attention(), f"int8; {rule}")[1].count("compressed") == 1 + compressed


@pytest.mark.parametrize(
    "recipe", ["int8; scope=all", mp.Recipe("int8", scope="all"), {"default": "int8", "scope": "all"}]
)
def test_scope_all_takes_every_constant(recipe: Any, compress: Any) -> None:
    assert compress(attention(), recipe)[1].count("compressed") == 3


def test_the_drop_in_does_as_coremltools() -> None:
    model = convert(attention(), skip_model_load=True)
    config = cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig(weight_threshold=2048))
    theirs = cto.linear_quantize_weights(model, config)
    ours = mp.coreml.linear_quantize_weights(model, config)
    assert ours.report.count("compressed") == len(constexprs(theirs)) == 3


class TestScopeInRecipes:
    @pytest.mark.parametrize("text", ["int8; scope=all", "pal4; scope=all; op_type=conv -> int8"])
    def test_text_and_yaml_round_trip(self, text: str, tmp_path: Path) -> None:
        recipe = mp.Recipe.parse(text)
        assert recipe.scope == "all"
        assert recipe.to_text() == text
        assert str(recipe) == str(mp.Recipe.parse(str(recipe)))
        assert mp.Recipe.from_yaml(recipe.to_yaml() + "\n") == recipe

    def test_it_may_stand_behind_rules(self) -> None:
        assert mp.Recipe.parse("int8; op_type=add -> keep; scope = all").to_text() == (
            "int8; scope=all; op_type=add -> keep"
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("int8; scope=some", "scope: expected one of weights, all, not 'some'"),
            ("int8; scope=all; scope=all", "scope given twice"),
        ],
    )
    def test_what_it_takes(self, text: str, message: str) -> None:
        with pytest.raises(mp.RecipeError, match=message):
            mp.Recipe.parse(text)


class TestUses:
    """Through ops that only reshape or scale, a weight is followed to the op that multiplies with it."""

    @staticmethod
    def records(program: Any) -> dict[str, str]:
        report = mp.Report()
        passes = ct.PassPipeline(["milpasses::compress_weights"])
        recipe = "int8; min_elements=0 -> int8"
        passes.set_options("milpasses::compress_weights", {"recipe": recipe, "report": report})
        from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager

        PassPipelineManager.apply_pipeline(program, passes)
        return {record.name: record.status for record in report}

    def test_passed_on(self) -> None:
        @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64, 8, 8))], opset_version=ct.target.iOS18)
        def program(x: Any) -> Any:
            scale = mb.reshape(x=mb.reduce_mean(x=x, axes=[2, 3]), shape=(1, 64, 1, 1))
            weight = mb.mul(x=mb.const(val=random((32, 64, 3, 3)), name="modulated"), y=scale)
            grid = mb.const(val=random((1, 64, 8, 8), 1), name="grid")
            return mb.conv(x=mb.add(x=x, y=grid), weight=weight)

        assert self.records(program) == {"modulated": "compressed", "grid": "skipped"}

    def test_einsum_and_gather(self) -> None:
        @mb.program(
            input_specs=[
                mb.TensorSpec(shape=(1, 8, 4, 16)),
                mb.TensorSpec(shape=(3,), dtype=ct.converters.mil.mil.types.int32),
            ],
            opset_version=ct.target.iOS18,
        )
        def program(x: Any, rows: Any) -> Any:
            factor = mb.const(val=random((1, 16, 4, 8)), name="factor")
            table = mb.const(val=random((20, 16), 1), name="table")
            product = mb.einsum(values=(x, factor), equation="bnhc,bchm->bnhm")
            return product, mb.gather(x=table, indices=rows, axis=0)

        assert self.records(program) == {"factor": "compressed", "table": "compressed"}


def test_explain_says_what_would_change_it() -> None:
    program = open_program(convert(attention(), skip_model_load=True))
    plan = make_plan(program, program.sites(), "int8", program.target)
    changes = {planned.record.name: planned.change for planned in plan.weights}
    assert changes["mask_to_fp16"] == (
        "a rule that names it: name=mask_to_fp16 -> int8; or scope=all in the recipe, for all such"
    )
    rule = changes["mask_to_fp16"].partition(": ")[2].partition(";")[0]
    again = make_plan(program, program.sites(), f"int8; {rule}", program.target)
    assert {planned.record.name: planned.record.status for planned in again.weights}["mask_to_fp16"] == (
        "compressed"
    )


@pytest.mark.parametrize("target", [ct.target.iOS16, ct.target.iOS18])
def test_the_mean_image_of_an_input_is_a_weight(target: Any) -> None:
    """The legacy format's networks begin with one, which is a large part of a small model."""

    def make() -> Any:
        @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3, 32, 32))], opset_version=target)
        def program(x: Any) -> Any:
            y = mb.sub(x=x, y=random((1, 3, 32, 32), 0, 50.0), name="less_mean")
            return mb.add(x=mb.relu(x=y), y=random((1, 3, 32, 32), 1), name="grid")

        return program

    pipeline = mp.pipeline("pal4")
    convert(make(), target, pass_pipeline=pipeline, skip_model_load=True)
    saved = mp.compress(convert(make(), target, skip_model_load=True), "pal4").report
    for report in (pipeline.report, saved):
        fates = [(record.status, record.consumers[0].partition(":")[0]) for record in report]
        assert sorted(fates) == [("compressed", "less_mean_cast_fp16"), ("skipped", "grid_cast_fp16")]
