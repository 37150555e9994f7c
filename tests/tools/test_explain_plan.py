"""``explain``: what decided, what would change it, and what a recipe would do."""

import json
from pathlib import Path
from typing import Any

import attrs
import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from conftest import Run
from milpasses_tools import explain
from milpasses_tools._explain.why import what_would_change
from models import convert, random, weights_program

import milpasses
from milpasses.errors import REASONS, MilpassesError, Refusal
from milpasses.program.opset import Opset, opset_of
from milpasses.program.weights import Consumer, Site, Weight
from milpasses.recipe.recipe import Recipe
from milpasses.report import read_metadata
from milpasses.rewrite import Rewriter

IOS16, IOS18 = opset_of(7), opset_of(9)
RECIPE = "pal4; op_type=conv max_elements=20000 -> keep; op_type=linear -> int8"


def site(shape: tuple[int, ...] = (100, 64), dtype: str = "float16", **fields: Any) -> Site:
    values = random(shape, scale=1.0).astype(dtype)
    use = (Consumer("linear", "layer", "weight"),)
    weight = Weight("w[0]", shape, dtype, use, load=lambda: values)
    return attrs.evolve(Site(weight, values.nbytes), **fields)


def fate(one: Site, recipe: str, target: Opset = IOS18, **options: bool) -> tuple[str, str]:
    """The reason in the report, and what would change that."""
    read = Recipe.of(recipe)
    record = Rewriter(read, target, **options).rewrite(one).record
    assert record.status != "compressed"
    return record.reason, what_would_change(one, read.decide(one.weight), target, record.refusal)


class TestWhatWouldChange:
    """Each remedy is tried as well, where it is a rule or a scheme."""

    def test_too_small(self):
        one = site((10, 64))
        reason, change = fate(one, "int8")
        assert reason == "640 elements <= weight_threshold 2,048"
        assert change == "min_elements=0 in a Rule: name=w[[]0] min_elements=0 -> int8"
        rule = change.split(": ", 1)[1]
        assert Rewriter(Recipe.of(f"int8; {rule}"), IOS18).rewrite(one).record.status == "compressed"

    def test_kept_by_a_rule(self):
        one = site()
        assert fate(one, "int8; rank=2 -> keep")[1].startswith(
            "another scheme in rule 1, or before it a rule"
        )
        change = fate(one, "keep")[1]
        assert change == "a rule for it: name=w[[]0] -> int8"
        rule = change.split(": ", 1)[1]
        assert Rewriter(Recipe.of(f"keep; {rule}"), IOS18).rewrite(one).record.status == "compressed"

    def test_a_group_size_that_does_not_divide(self):
        reason, change = fate(site(), "pal4-g48", fit_groups=False)
        assert reason == "group_size 48 does not divide 100 channels"
        assert change == "group_size 25 or 50, which divide 100"
        for size in (25, 50):
            rewriter = Rewriter(Recipe.of(f"pal4-g{size}"), IOS18, fit_groups=False)
            assert rewriter.rewrite(site()).record.status == "compressed"

    def test_vectors_that_do_not_divide(self):
        reason, change = fate(site((99, 64)), "pal4-v2")
        assert "2 does not divide 99 channels" in reason
        assert change == "cluster_dim 3, which divides 99"

    def test_a_form_that_saves_nothing(self):
        one = site((8, 512))
        assert fate(one, "pal8-g1")[1] == "fewer bits, or fewer scales and tables: larger groups or blocks"
        assert fate(site(), "sparse5")[1].startswith("a higher sparsity")

    def test_no_remedy_hangs_on_the_words_of_a_refusal(self, monkeypatch: pytest.MonkeyPatch):
        cases = [(site(), "pal4-g48"), (site((99, 64)), "pal4-v2"), (site((8, 512)), "pal8-g1")]
        cases += [(site(), recipe) for recipe in ("sparse5", "unique")]

        def changes() -> list[str]:
            return [fate(one, recipe, fit_groups=False)[1] for one, recipe in cases]

        before = changes()
        assert all(before)
        for code in REASONS:
            monkeypatch.setitem(REASONS, code, "because")
        assert changes() == before
        assert fate(*cases[0], fit_groups=False)[0] == "because"

    def test_values_that_forbid(self):
        assert fate(site(), "unique")[1] == "mode=kmeans (pal8), which makes 256 values of them"
        nan = site()
        values = np.full((100, 64), np.nan, np.float16)
        nan = attrs.evolve(nan, weight=attrs.evolve(nan.weight, load=lambda: values))
        assert fate(nan, "int8")[1] == ""

    def test_nothing_would(self):
        assert fate(site((4096,)), "int8")[1] == ""
        assert fate(site((100, 64), "int8"), "int8")[1] == ""
        unused = site(blocked=Refusal("unused"))
        unused = attrs.evolve(unused, weight=attrs.evolve(unused.weight, consumers=()))
        assert fate(unused, "int8")[1] == "nothing: the model can do without it"

    @pytest.mark.parametrize(
        ("recipe", "target", "expected"),
        [("int4-b32", IOS16, "minimum_deployment_target=ct.target.iOS18"), ("int8", opset_of(6), "")],
    )
    def test_the_target(self, recipe: str, target: Opset, expected: str):
        decision = Recipe.of(recipe).decide(site().weight)
        assert what_would_change(site(), decision, target, None).startswith(expected)


@pytest.fixture(scope="module")
def compressed(digits_packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("plan") / "compressed.mlpackage"
    milpasses.compress(digits_packages["iOS18"], RECIPE, output=output)
    return output


class TestDecided:
    def test_the_rule_is_kept_in_the_model(self, compressed: Path):
        by_shape = {weight.shape: weight for weight in explain(compressed).weights}
        assert by_shape[64, 64, 3, 3].rule == "default: pal4"
        assert by_shape[64, 32, 3, 3].rule == "rule 1: op_type=conv max_elements=20000 -> keep"
        assert by_shape[64, 32, 3, 3].change.startswith("another scheme in rule 1")
        assert by_shape[96, 256].rule == "rule 2: op_type=linear -> int8"
        assert (by_shape[96, 256].compressed, by_shape[96, 256].change) == (True, "")
        assert "min_elements=0" in by_shape[10, 96].change

    def test_a_rule_without_a_text_is_numbered(self, digits_packages: dict[str, Path]):
        recipe = Recipe("int8", [milpasses.Rule("keep", where=lambda weight: weight.shape == (96, 256))])
        model = milpasses.compress(digits_packages["iOS18"], recipe)
        by_shape = {weight.shape: weight for weight in explain(model).weights}
        assert (by_shape[96, 256].rule, by_shape[64, 64, 3, 3].rule) == ("rule 1", "")

    def test_the_metadata_stays_compact_and_old_ones_are_read(self, compressed: Path):
        model = ct.models.MLModel(str(compressed), skip_model_load=True)
        text = model.user_defined_metadata["milpasses.report"]
        report = read_metadata(text)
        assert sorted({record.get("rule", 0) for record in report["weights"]}) == [0, 1, 2]
        for record in report["weights"]:  # as versions before wrote it
            record.pop("rule", None)
        model.user_defined_metadata["milpasses.report"] = json.dumps(report)
        assert explain(model).weights == explain(compressed).weights

    def test_weights_of_which_the_same_is_said_share_an_entry(self, compressed: Path):
        text = ct.models.MLModel(str(compressed), skip_model_load=True).user_defined_metadata[
            "milpasses.report"
        ]
        entries = json.loads(text)["weights"]
        assert max(len(entry["names"]) for entry in entries) > 1
        assert {w.name for w in explain(compressed).weights} == {
            n for entry in entries for n in entry["names"]
        }

    def test_what_was_changed_to_fit_is_noted(self, digits_packages: dict[str, Path]):
        model = milpasses.compress(digits_packages["iOS18"], "pal4-g48")
        by_shape = {weight.shape: weight for weight in explain(model).weights}
        assert by_shape[64, 64, 3, 3].note == "group_size 64: 48 does not divide 64 channels"

    def test_what_coremltools_refuses_is_explained(self, digits_packages: dict[str, Path]):
        config = cto.OptimizationConfig(
            cto.OpPalettizerConfig(nbits=4, granularity="per_grouped_channel", group_size=48)
        )
        plain = ct.models.MLModel(str(digits_packages["iOS18"]), skip_model_load=True)
        found = explain(milpasses.coreml.palettize_weights(plain, config))
        by_shape = {weight.shape: weight for weight in found.weights}
        assert by_shape[64, 64, 3, 3].change == "group_size 32 or 64, which divide 64"


class TestPlan:
    @pytest.mark.parametrize("recipe", ["int8", "pal4-g16", RECIPE, "sparse50+pal4"])
    def test_it_is_what_compress_does(self, digits_packages: dict[str, Path], recipe: str):
        path = digits_packages["iOS18"]
        plan = explain(path, recipe=recipe).plan
        report = milpasses.compress(path, recipe).report
        assert {one.record.name: one.record for one in plan.weights} == {one.name: one for one in report}
        assert plan.totals == report.totals()
        assert plan.refused == ""

    def test_a_target_that_is_too_old(self, digits_packages: dict[str, Path]):
        path = digits_packages["iOS16"]
        plan = explain(path, recipe="int4-b32").plan
        with pytest.raises(MilpassesError) as refusal:
            milpasses.compress(path, "int4-b32")
        assert plan.refused == str(refusal.value)
        large = next(one for one in plan.weights if one.record.shape == (96, 256))
        assert large.record.reason == "per_block quantization needs iOS18; this model targets iOS16"
        assert large.change == "minimum_deployment_target=ct.target.iOS18"
        raised = explain(path, recipe="int4-b32", target=ct.target.iOS18).plan
        assert (raised.refused, raised.target, raised.totals["compressed"]) == ("", "iOS18", 3)

    def test_compressed_already(self, compressed: Path):
        path = compressed
        kept = explain(path, recipe="pal2").plan
        assert kept.totals["compressed"] == 1  # the one that a rule kept
        changes = [one.change for one in kept.weights if "compressed already" in one.record.reason]
        assert changes == ["requantize=True compresses it anew"] * 2
        assert explain(path, recipe="pal2", requantize=True).plan.totals["compressed"] == 3

    def test_nothing_is_written(self, digits_packages: dict[str, Path]):
        path = digits_packages["iOS18"]
        before = {one: one.stat().st_mtime_ns for one in path.rglob("*")}
        explain(path, recipe="int8", units=["gpu"])
        assert {one: one.stat().st_mtime_ns for one in path.rglob("*")} == before


class TestCommand:
    def test_recipe(self, milpasses_command: Run, digits_packages: dict[str, Path]):
        path = digits_packages["iOS16"]
        outcome = milpasses_command("explain", path, "-r", "int4-b32", "--top", 2)
        assert (outcome.status, outcome.err) == (0, "")
        assert "would compress 0 of 14 weights" in outcome.out
        assert "compress would refuse: " in outcome.out
        assert "and 12 more, " in outcome.out
        outcome = milpasses_command("explain", path, "-r", "int4-b32", "--target", "ios18", "--json")
        content = json.loads(outcome.out)
        assert content["plan"]["totals"]["compressed"] == 3
        assert {one["rule"] for one in content["plan"]["weights"]} == {"default: int4-b32"}

    def test_what_cannot_be(self, milpasses_command: Run, digits_packages: dict[str, Path]):
        path = digits_packages["iOS16"]
        for arguments, expected in (
            (["-r", "int5"], "int5"),
            (["--target", "iOS18"], "--target goes with --recipe"),
            (["-r", "int8", "--target", "iOS99"], "there is no target iOS99"),
            (
                ["--for", "npu"],
                "there is no compute unit 'npu'; did you mean gpu?; there are neural-engine, gpu, cpu",
            ),
        ):
            outcome = milpasses_command("explain", path, *arguments)
            assert (outcome.status, outcome.out) == (2, "")
            assert expected in outcome.err


def test_a_model_with_a_weight_of_two_names_has_one_plan():
    weight = random((64, 64))
    model = convert(weights_program(weight, weight))
    assert explain(model, recipe="int8").plan.totals["compressed"] >= 1
