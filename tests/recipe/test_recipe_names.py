"""Names in either spelling; and rules that decide no weight are said, with what may have been meant."""

import warnings
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil.passes.defs.preprocess import NameSanitizer
from models import conv_linear_program, convert, random

import milpasses as mp
from milpasses.program.weights import Consumer, Weight
from milpasses.recipe import Recipe, Rule, literal
from milpasses.recipe.unmatched import unmatched_rules


def weight(name: str, op_type: str = "linear", op_name: str = "op") -> Weight:
    return Weight(name, (64, 64), "float16", (Consumer(op_type, op_name, "weight"),))


GIVEN, SAVED = "layers.1.weight_to_fp16", "layers_1_weight_to_fp16"


class TestSpellings:
    @pytest.mark.parametrize(
        "name",
        [
            "layers.1.weight",
            "layers_1_weight",
            GIVEN,
            SAVED,
            "layers.?.weight",
            "layers_[0-9]_w*",
            "*.weight",
        ],
    )
    @pytest.mark.parametrize("here", [GIVEN, SAVED, "layers.1.weight", "layers_1_weight"])
    def test_a_name_matches_as_given_and_as_saved(self, name: str, here: str) -> None:
        assert Rule("int8", name=name).matches(weight(here))

    @pytest.mark.parametrize(
        "name", ["layers.2.weight", "layers_1", "layers.1.weight_to", "1_weight", "*.bias"]
    )
    def test_other_names_do_not(self, name: str) -> None:
        assert not Rule("int8", name=name).matches(weight(GIVEN))
        assert not Rule("int8", name=name).matches(weight(SAVED))

    @pytest.mark.parametrize("name", ["0_weight*", "0.weight", "op_0_weight_to_fp16", "_0_weight"])
    def test_a_digit_at_the_start(self, name: str) -> None:
        assert Rule("int8", name=name).matches(weight("0.weight_to_fp16"))
        if name != "_0_weight":
            assert Rule("int8", name=name).matches(weight("op_0_weight_to_fp16"))

    def test_a_suffix_behind_a_wildcard_stays_a_condition(self) -> None:
        assert not Rule("int8", name="*_to_fp16").matches(weight("w"))

    @pytest.mark.parametrize("name", ["a.b/c:0", "0.weight", "w[1]", "é*?", "x y"])
    def test_saved_names_are_as_coremltools_writes_them(self, name: str) -> None:
        saved = NameSanitizer(prefix="op_").sanitize_name(name)
        assert Rule("int8", name=literal(name)).matches(weight(saved))
        assert Rule("int8", name=literal(saved)).matches(weight(name))
        assert Rule("int8", name=saved).matches(weight(f"{name}_to_fp16"))

    @pytest.mark.parametrize("name", ["input.3", "input_3", "input_3_cast_fp16"])
    def test_names_of_ops(self, name: str) -> None:
        for here in ("input.3", "input_3_cast_fp16", "input.3_cast_fp16"):
            assert Rule("int8", op_name=name).matches(weight("w", op_name=here))

    def test_with_a_content_only_the_name_as_it_is(self) -> None:
        """A fitted recipe has a rule for each weight: it is told by its values where it was renamed."""
        here = weight("a_b")
        assert Rule("int8", name="a_b", content="64x64:0123456789abcdef").matches(here)
        assert not Rule("int8", name="a.b", content="64x64:0123456789abcdef").matches(here)


class TestUnmatched:
    WEIGHTS = (weight("stem.conv.weight", "conv", "stem"), weight("head.weight", "linear", "fc"))

    @pytest.mark.parametrize(
        ("rule", "text"),
        [
            (
                "name=stem.cnv.weight -> int8",
                "(name=stem.cnv.weight) matches no weight; nearest names: stem.conv.weight, head.weight",
            ),
            (
                "name=stem.cnv.* -> keep",
                "(name=stem.cnv.*) matches no weight; nearest names: stem.conv.weight",
            ),
            ("name=zzz -> keep", "(name=zzz) matches no weight"),
            (
                "op_type=conv3d -> int8",
                "(op_type=conv3d) matches no weight; weights are used by conv, linear",
            ),
            ("op_name=stm -> int8", "(op_name=stm) matches no weight; nearest names of ops: stem"),
            ("param=y -> int8", "(param=y) matches no weight; weights are used as weight"),
            ("op_type=conv rank=4 -> int8", "(op_type=conv, rank=4) matches no weight"),
        ],
    )
    def test_says_what_there_is(self, rule: str, text: str) -> None:
        assert unmatched_rules(Recipe.parse(f"pal4; {rule}"), self.WEIGHTS) == [f"rule 1 {text}"]

    def test_matched_rules_are_not_said(self) -> None:
        recipe = Recipe.parse("pal4; op_type=conv -> int8; name=head* -> keep")
        assert unmatched_rules(recipe, self.WEIGHTS) == unmatched_rules(Recipe.of("int8"), []) == []

    def test_a_rule_behind_others(self) -> None:
        recipe = Recipe.parse(
            "pal4; op_type=conv -> int8; op_type=linear -> int4; rank=2 -> keep; name=stem* -> keep"
        )
        assert unmatched_rules(recipe, self.WEIGHTS) == [
            "rule 3 (rank=2) matches only weights that rule 1 and rule 2 take",
            "rule 4 (name=stem*) matches only weights that rule 1 takes",
        ]

    def test_a_key_is_the_name_of_a_weight_or_of_an_op(self) -> None:
        config = cto.OptimizationConfig(
            global_config=cto.OpPalettizerConfig(nbits=4),
            op_name_configs={
                name: cto.OpPalettizerConfig(nbits=6) for name in ("head.weight", "stem", "gone")
            },
        )
        texts = unmatched_rules(Recipe.from_coremltools(config), self.WEIGHTS)
        assert len(texts) == 1
        assert "name=gone" in texts[0]


class TestEntryPoints:
    RECIPE = "int8; name=conv1_wheight* -> keep; op_type=lstm -> keep"
    MESSAGE = "rule 1 .name=conv1_wheight.. matches no weight; nearest names: conv1_weight_0"

    def test_compress(self) -> None:
        model = convert(conv_linear_program(), skip_model_load=True)
        with pytest.warns(mp.UnmatchedRuleWarning, match=self.MESSAGE) as caught:
            report = mp.compress(model, self.RECIPE).report
        assert sum(issubclass(warning.category, mp.UnmatchedRuleWarning) for warning in caught) == 1
        assert len(report.unmatched) == 2
        assert report.unmatched[1] in str(report)
        assert report.unmatched[1] in report.to_json()
        assert report.unmatched[1] in report.to_metadata()

    def test_strict_writes_nothing(self, tmp_path: Path) -> None:
        model = convert(conv_linear_program(), skip_model_load=True)
        with pytest.raises(mp.RecipeError, match=self.MESSAGE):
            mp.compress(model, self.RECIPE, output=tmp_path / "small.mlpackage", strict=True)
        assert not list(tmp_path.iterdir())
        assert mp.compress(model, "int8; op_type=conv -> keep", strict=True).report.unmatched == []

    def test_pipeline(self) -> None:
        pipeline = mp.pipeline(self.RECIPE)
        with pytest.warns(mp.UnmatchedRuleWarning, match=self.MESSAGE):
            ct.convert(
                conv_linear_program(),
                pass_pipeline=pipeline,
                minimum_deployment_target=ct.target.iOS18,
                skip_model_load=True,
            )
        assert len(pipeline.report.unmatched) == 2
        with pytest.raises(mp.RecipeError, match=self.MESSAGE):
            convert(conv_linear_program(), pass_pipeline=mp.pipeline(self.RECIPE, strict=True))

    def test_coremltools_configurations(self) -> None:
        config = cto.OptimizationConfig(
            op_type_configs={
                "linear": cto.OpPalettizerConfig(nbits=4),
                "gru": cto.OpPalettizerConfig(nbits=4),
            },
            op_name_configs={"conv1": cto.OpPalettizerConfig(nbits=4)},
        )
        model = convert(conv_linear_program(), skip_model_load=True)
        with pytest.warns(mp.UnmatchedRuleWarning, match=r"op_type=gru\) matches no weight"):
            small = mp.coreml.palettize_weights(model, config)
        assert len(small.report.unmatched) == 1

    def test_a_name_of_the_package_in_a_conversion_and_back(self) -> None:
        """What is read off a saved package works in ``ct.convert``, and a module's name on the package."""

        def two_layers(x: Any) -> Any:
            y = mb.linear(x=x, weight=mb.const(val=random((64, 64)), name="layers.0.weight"))
            return mb.linear(x=mb.relu(x=y), weight=mb.const(val=random((64, 64), 1), name="layers.1.weight"))

        def program() -> Any:
            spec = mb.TensorSpec(shape=(4, 64))
            return mb.program(input_specs=[spec], opset_version=ct.target.iOS18)(two_layers)

        for name in ("layers.1.weight", "layers_1_weight_to_fp16"):
            pipeline = mp.pipeline(f"int8; name={name} -> keep", strict=True)
            convert(program(), pass_pipeline=pipeline, skip_model_load=True)
            model = mp.compress(
                convert(program(), skip_model_load=True), f"int8; name={name} -> keep", strict=True
            )
            for report in (pipeline.report, model.report):
                statuses = [record.status for record in report if record.shape == (64, 64)]
                assert statuses == ["compressed", "kept"]

    def test_no_warning_without_a_cause(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", mp.UnmatchedRuleWarning)
            mp.compress(convert(conv_linear_program(), skip_model_load=True), "int8; op_type=conv -> pal4")


def test_readme_example_matches(tmp_path: Path) -> None:
    """``torch.nn.Sequential`` names its first weight ``0.weight``: saved, ``op_0_weight_to_fp16``."""
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 8, 3)
    ).eval()
    traced = torch.jit.trace(network, torch.zeros(1, 3, 16, 16))
    options: dict[str, Any] = {"inputs": [ct.TensorType("x", (1, 3, 16, 16))], "skip_model_load": True}
    recipe = "pal4; op_type=conv min_elements=0 name=0_weight* -> int8"
    pipeline = mp.pipeline(recipe, strict=True)
    convert(traced, pass_pipeline=pipeline, **options)
    saved = mp.compress(convert(traced, **options), recipe, strict=True).report
    for report in (pipeline.report, saved):
        assert [record.rule_index for record in report if np.prod(record.shape) == 1728] == [0]
