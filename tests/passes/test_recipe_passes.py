"""Recipes as passes that need no options: hosts that keep only the names of passes can use them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import coremltools as ct
import pytest
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from models import constexprs, conv_linear_program, convert

import milpasses as mp
from milpasses.passes.recipe_passes import SHORT_NAMES
from milpasses.report import METADATA_KEY, read_metadata

README = Path(__file__).resolve().parents[2] / "README.md"


def rebuilt(pass_names: list[str]) -> ct.PassPipeline:
    """A pipeline as ExecuTorch's Core ML backend makes it: names through JSON, options lost."""
    names = json.loads(json.dumps(pass_names).encode("utf-8").decode("utf-8"))
    return ct.PassPipeline(names, pipeline_name="executorch_user_pipeline")


def test_a_host_that_keeps_only_names() -> None:
    passes = ct.PassPipeline.DEFAULT
    passes.append_pass("milpasses::pal4-g16")
    model = convert(conv_linear_program(), pass_pipeline=rebuilt(passes.passes))
    ops = constexprs(model).values()
    assert [op.op_type for op in ops] == ["constexpr_lut_to_dense"] * 2
    assert [op.lut.shape[0] for op in ops] == [4, 6]
    report = read_metadata(model.user_defined_metadata[METADATA_KEY])
    assert report["recipe"] == "pal4-g16"
    assert report["totals"]["compressed"] == 2


def test_any_recipe_can_be_registered() -> None:
    text = "int8; op_type=linear -> pal4"
    name = mp.register_pass(text)
    assert name == f"milpasses::{text}"
    assert mp.register_pass(mp.Recipe.of(text)) == name
    model = convert(conv_linear_program(), pass_pipeline=rebuilt([*ct.PassPipeline.DEFAULT.passes, name]))
    kinds = [op.op_type for op in constexprs(model).values()]
    assert kinds == ["constexpr_blockwise_shift_scale", "constexpr_lut_to_dense"]
    assert mp.register_pass("palettize(nbits=4)") == "milpasses::pal4"


def test_every_short_name_of_the_readme_is_a_pass() -> None:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    names = [name for name in names if not mp.Recipe.of(name).wants_activations]
    assert sorted(SHORT_NAMES) == sorted(names)
    for name in names:
        assert str(PASS_REGISTRY[f"milpasses::{name}"]) == name
        assert mp.register_pass(name) == f"milpasses::{name}"


def test_a_pass_without_options_has_no_ranges_for_activations() -> None:
    with pytest.raises(mp.MilpassesError, match="8-bit activations need ranges"):
        mp.register_pass("int8+a8")
    assert "milpasses::int8+a8" not in PASS_REGISTRY.passes


@pytest.mark.parametrize("name", ["int8", "sparse50+pal4", "pal4-v2"])
def test_a_second_run_rewrites_nothing(name: str) -> None:
    program = conv_linear_program()
    first, second = PASS_REGISTRY[f"milpasses::{name}"], PASS_REGISTRY[f"milpasses::{name}"]
    first(program)
    assert first.report.count("compressed") == 2
    text = str(program)
    second(program)
    assert second.report.count("compressed") == 0
    assert str(program) == text


def test_common_options_are_taken_and_no_others() -> None:
    report = mp.Report()
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.append_pass("milpasses::int8")
    pipeline.set_options("milpasses::int8", {"report": report})
    convert(conv_linear_program(), pass_pipeline=pipeline)
    assert report.count("compressed") == 2
    pipeline.set_options("milpasses::int8", {"recipe": "pal4"})
    with pytest.raises(mp.MilpassesError, match="milpasses::int8: no option 'recipe'"):
        convert(conv_linear_program(), pass_pipeline=pipeline)


def test_recipes_that_need_data_say_so() -> None:
    with pytest.raises(mp.MilpassesError, match="statistics="):
        PASS_REGISTRY["milpasses::int4-b32-gptq"](conv_linear_program())


def test_functions_need_a_name() -> None:
    def wide(weight: mp.Weight) -> bool:
        return weight.shape[0] > 64

    def recipe() -> mp.Recipe:
        return mp.Recipe(default="int8", rules=[mp.Rule("keep", where=wide)])  # type: ignore[arg-type]

    with pytest.raises(mp.RecipeError, match="no text form"):
        mp.register_pass(recipe())
    assert mp.register_pass(recipe(), name="wide-kept") == "milpasses::wide-kept"
    assert mp.register_pass(recipe(), name="wide-kept") == "milpasses::wide-kept"
    with pytest.raises(mp.MilpassesError, match="override=True"):
        mp.register_pass("int4", name="wide-kept")
    mp.register_pass("int4", name="wide-kept", override=True)
    program = conv_linear_program()
    named: Any = PASS_REGISTRY["milpasses::wide-kept"]
    named(program)
    assert {record.form for record in named.report if record.status == "compressed"} == {"int4 per_channel"}


@pytest.mark.parametrize("name", ["", " pal4", "a::b", "compress_weights"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(mp.MilpassesError):
        mp.register_pass("pal4", name=name, override=True)


def test_importing_registers_without_numba() -> None:
    code = (
        "import sys, milpasses\n"
        "from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY\n"
        "assert 'milpasses::pal4-g16' in PASS_REGISTRY\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
