"""The table of what users reported: its entries, what matches, and that the remedies avoid it."""

import json
import re
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from conftest import Run
from coremltools.converters.mil import Builder as mb
from milpasses_tools import explain
from milpasses_tools._explain.advice import FACTS, UNITS, advise, matches, read_entry, table
from models import convert, random
from programs import state

import milpasses
from milpasses.errors import MilpassesError
from milpasses.recipe.recipe import Recipe

THREAD = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+")
BY_ID = {advice.id: advice for advice in table()}


def found(model: Any, *units: str) -> set[str]:
    return {finding.advice.id for finding in explain(model, units=units or UNITS).findings}


def planned(path: Path, recipe: str, **options: Any) -> set[str]:
    return {finding.advice.id for finding in explain(path, recipe=recipe, units=UNITS, **options).findings}


class TestTable:
    def test_entries_are_whole(self):
        assert len(BY_ID) == len(table()) >= 10
        for advice in table():
            assert re.fullmatch(r"[a-z0-9-]+", advice.id)
            assert all(THREAD.fullmatch(source) for source in advice.sources)
            assert all(text.strip() for text in (advice.says, advice.reported, advice.remedy))
            assert set(advice.when) <= set(FACTS)
            if advice.recipe:
                assert Recipe.parse(advice.recipe).to_text() == advice.recipe

    def test_every_unit_has_one(self):
        assert {unit for advice in table() for unit in advice.units} == set(UNITS)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"units": ["npu"]}, "units must be some of"),
            ({"sources": []}, "sources must be addresses"),
            ({"sources": ["thread 12"]}, "sources must be addresses"),
            ({"when": {}}, "it matches everything"),
            ({"when": {"weight": {"colour": "red"}}}, "nothing is known of weight colour"),
            ({"when": {"layer": {"type": "conv"}}}, "nothing is known of layer"),
            ({"severity": 3}, "its fields must be id, units"),
        ],
    )
    def test_what_is_wrong_is_said(self, change: dict[str, Any], expected: str):
        entry = {
            "id": "x",
            "units": ["gpu"],
            "when": {"op": {"type": "conv"}},
            "says": "s",
            "reported": "r",
            "sources": ["https://github.com/a/b/issues/1"],
            "remedy": "r",
        }
        assert read_entry(entry).recipe == ""
        with pytest.raises(MilpassesError, match=f"advice x: .*{re.escape(expected)}"):
            read_entry({**entry, **change})


class TestMatching:
    def test_conditions(self):
        facts = {"type": "softmax", "first": 12, "rank": None}
        assert matches("op", {"type": "softmax", "first_min": 10}, facts)
        assert matches("op", {"type": ["relu", "softmax"], "first_max": 12}, facts)
        assert matches("op", {"first_no_multiple_of": 5}, facts)
        assert not matches("op", {"first_no_multiple_of": 4}, facts)
        assert not matches("op", {"type": "softmax", "first_min": 13}, facts)
        assert not matches("op", {"rank_min": 0}, facts)  # not known meets nothing
        assert matches("weight", {"kind": "palettized"}, {"kind": ("sparse", "palettized")})

    def test_every_kind_must_match(self):
        norm, inputs = ("n", {"type": "layer_norm"}), ("x", {"shapes": "enumerated"})
        assert "layer-norm-enumerated-shapes" not in {
            one.advice.id for one in advise(["neural-engine"], {"op": [norm]})
        }
        (both,) = (
            one
            for one in advise(["neural-engine"], {"op": [norm], "input": [inputs]})
            if one.advice.id == "layer-norm-enumerated-shapes"
        )
        assert both.matches == {"op": ("n",), "input": ("x",)}


class TestWeights:
    @pytest.mark.parametrize(
        ("recipe", "target", "expected"),
        [
            ("int4-b32", "iOS18", {"per-block-neural-engine"}),
            ("sparse50+int4-b32", "iOS18", {"per-block-neural-engine"}),
            ("int8", "iOS18", set()),
            ("int8", "iOS16", {"signed-int8-ios16"}),
            ("uint8", "iOS16", set()),
            ("pal4", "iOS16", {"pal4-per-tensor"}),
            ("pal4", "iOS18", {"pal4-per-tensor"}),
            ("pal4-g16", "iOS18", set()),
            ("pal6", "iOS18", set()),
            ("sparse50", "iOS18", set()),
        ],
    )
    def test_forms(self, digits_packages: dict[str, Path], recipe: str, target: str, expected: set[str]):
        path = digits_packages[target]
        assert planned(path, recipe) == expected
        assert found(milpasses.compress(path, recipe)) == expected

    @pytest.mark.parametrize("name", [advice.id for advice in table() if advice.recipe])
    def test_the_recipe_of_a_remedy_avoids_it(self, digits_packages: dict[str, Path], name: str):
        advice = BY_ID[name]
        target = "iOS16" if advice.id.endswith("ios16") else "iOS18"
        assert name not in planned(digits_packages[target], advice.recipe)

    def test_a_scaled_table_is_coremltools_own_and_the_drop_in_s(self, digits_packages: dict[str, Path]):
        model = ct.models.MLModel(str(digits_packages["iOS18"]), skip_model_load=True)
        config = cto.OptimizationConfig(
            cto.OpPalettizerConfig(nbits=6, mode="uniform", enable_per_channel_scale=True)
        )
        scaled = cto.palettize_weights(model, config)
        assert found(scaled) == {"scaled-table-neural-engine"}
        assert found(milpasses.coreml.palettize_weights(model, config)) == {"scaled-table-neural-engine"}
        ours = milpasses.Recipe.of(config)
        assert found(milpasses.compress(digits_packages["iOS18"], ours)) == set()

    def test_only_the_units_asked_for(self, digits_packages: dict[str, Path]):
        model = milpasses.compress(digits_packages["iOS18"], "int4-b32")
        assert found(model, "neural-engine") == {"per-block-neural-engine"}
        assert found(model, "gpu", "cpu") == set()
        assert explain(model).findings == ()


def saved(program: Any, tmp_path: Path, **options: Any) -> Path:
    path = tmp_path / "model.mlpackage"
    convert(program, **options).save(str(path))
    return path


def one_op(build: Any, *shapes: tuple[int, ...], dtype: Any = None) -> Any:
    mb.name_count.clear()
    specs = [mb.TensorSpec(shape=shape, **({} if dtype is None else {"dtype": dtype})) for shape in shapes]
    return mb.program(input_specs=specs, opset_version=ct.target.iOS18)(build)


class TestOps:
    def test_recurrent(self, tmp_path: Path):
        def lstm(x: Any) -> Any:
            weights = {"weight_ih": random((16, 8)), "weight_hh": random((16, 4))}
            zeros = np.zeros((2, 4), np.float32)
            return mb.lstm(x=x, initial_h=zeros, initial_c=zeros, **weights, direction="forward")[0]

        assert found(saved(one_op(lstm, (3, 2, 8)), tmp_path)) == {"recurrent-neural-engine"}

    @pytest.mark.parametrize(("batch", "expected"), [(9, set()), (10, {"attention-batch-gpu"})])
    def test_attention_by_its_batch(self, tmp_path: Path, batch: int, expected: set[str]):
        program = one_op(lambda x: mb.softmax(x=x, axis=-1), (batch, 4, 4))
        assert found(saved(program, tmp_path)) == expected

    def test_flexible_inputs(self, tmp_path: Path):
        shapes = {
            "flexible-shapes-neural-engine": ct.Shape((1, ct.RangeDim(1, 8, 4), 4)),
            "enumerated-shapes-neural-engine": ct.EnumeratedShapes([(1, 2, 4), (1, 4, 4)]),
        }
        from coremltools.converters.mil.mil import get_new_symbol

        for expected, shape in shapes.items():
            program = one_op(lambda x: mb.relu(x=x), (1, get_new_symbol(), 4))
            inputs = [ct.TensorType("x", shape)]
            model = convert(program, inputs=inputs)
            assert found(model) == {expected}

    def test_the_width_of_a_state(self, tmp_path: Path):
        assert found(saved(state(), tmp_path)) == {"state-width-neural-engine"}


class TestCommand:
    def test_text(self, milpasses_command: Run, digits_packages: dict[str, Path]):
        path = digits_packages["iOS18"]
        out = milpasses_command("explain", path, "-r", "int4-b32", "--for", "neural-engine").out
        assert "neural-engine: per-block-neural-engine" in out
        assert "https://github.com/apple/coremltools/issues/2510" in out
        assert "(--recipe pal4-g16)" in out
        assert "untried by milpasses' authors" in out
        out = milpasses_command("explain", path, "--for", "gpu", "--for", "cpu").out
        assert "gpu, cpu: none of the reports that milpasses knows" in out

    def test_json(self, milpasses_command: Run, digits_packages: dict[str, Path]):
        path = digits_packages["iOS18"]
        outcome = milpasses_command("explain", path, "-r", "int4-b32", "--for", "neural-engine", "--json")
        content = json.loads(outcome.out)
        assert content["units"] == ["neural-engine"]
        (finding,) = content["findings"]
        assert finding["id"] == "per-block-neural-engine"
        assert len(finding["matches"]["weight"]) == 2
        assert finding["recipe"] == "pal4-g16"
