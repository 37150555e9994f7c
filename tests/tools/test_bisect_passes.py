"""``bisect_passes`` on conversions with a pass that is known to be wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from conftest import Run
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY, register_pass
from milpasses_tools import bisect_passes, trace
from models import conv_linear_program, convert

import milpasses
from milpasses.errors import MilpassesError


def scale_relu(program: Any, factor: float) -> None:
    """Multiply what the first relu gives."""
    function = program.functions["main"]
    relu = function.find_ops(op_type="relu")[0]
    operations = list(function.operations)
    after = operations[operations.index(relu) + 1]
    with function:
        dtype = np.float16 if relu.outputs[0].dtype.__name__ == "fp16" else np.float32
        scaled = mb.mul(x=relu.outputs[0], y=dtype(factor), before_op=after, name="scaled")
    function.replace_uses_of_var_after_op(anchor_op=scaled.op, old_var=relu.outputs[0], new_var=scaled)


@pytest.fixture(autouse=True)
def wrong_passes() -> Iterator[None]:
    """Two passes that break the program: one by an eighth, one by an overflow."""
    for name, factor in (("eighth", 1.125), ("overflow", 60000.0)):

        @register_pass(namespace="wrong", name=name, override=True)
        class wrong(AbstractGraphPass):
            by = factor

            def apply(self, prog: Any) -> None:
                scale_relu(prog, self.by)

    yield
    for name in ("wrong::eighth", "wrong::overflow"):
        PASS_REGISTRY.passes.pop(name)


def conversion(*passes: tuple[int, str]) -> Any:
    """A conversion with passes inserted before the default pipeline's pass of that number."""
    pipeline = ct.PassPipeline.DEFAULT
    for index, name in passes:
        pipeline.insert_pass(index, name)
    return lambda: convert(conv_linear_program(), pass_pipeline=pipeline)


class TestFirst:
    @pytest.mark.parametrize("index", [0, 60])
    def test_the_wrong_pass_is_named(self, index: int):
        found = bisect_passes(conversion((index, "wrong::eighth")))
        assert found.first is not None
        assert (found.first.name, found.between) == ("wrong::eighth", ())
        assert found.first.error.snr_db == pytest.approx(-20 * np.log10(0.125), abs=0.5)
        assert found.nonfinite is None
        assert found.executions <= found.programs

    def test_nothing_is_wrong(self):
        found = bisect_passes(conversion())
        assert (found.first, found.nonfinite) == (None, None)
        assert found.executions == 2

    def test_by_a_tight_tolerance_the_cast_is_first(self):
        assert bisect_passes(conversion(), tolerance=100).first.name == "common::add_fp16_cast"

    def test_compression_is_a_pass_too(self):
        found = bisect_passes(
            lambda: convert(conv_linear_program(), pass_pipeline=milpasses.pipeline("pal2")), max_error=0.1
        )
        assert found.first.name == "milpasses::compress_weights"

    def test_every_pass_is_measured_if_asked(self):
        found = bisect_passes(conversion((0, "wrong::eighth"), (60, "wrong::eighth")), every=True)
        assert len(found.passes) == found.programs == found.executions
        assert found.first.name == found.worst.name == "wrong::eighth"
        assert [one.index for one in found.passes] == sorted(one.index for one in found.passes)
        assert all(one.added_db is not None for one in found.passes[1:])


class TestNonFinite:
    @pytest.mark.parametrize("every", [False, True])
    def test_the_pass_and_the_op_are_named(self, every: bool):
        # Fine in float32; the cast to float16 makes it overflow.
        found = bisect_passes(conversion((0, "wrong::overflow")), np_inputs(), every=every)
        assert found.nonfinite is not None
        assert (found.nonfinite.value, found.nonfinite.op_type) == ("inf", "mul")
        assert found.nonfinite_pass == "common::add_fp16_cast"
        assert found.first.name == "wrong::overflow"
        json.dumps(found.to_dict(), allow_nan=False)


def np_inputs() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((1, 32, 16, 16)).astype(np.float32) * 4}


class TestKept:
    def test_a_folder_of_trace(self, milpasses_command: Run, tmp_path: Path):
        with trace(dump_after_change=tmp_path, keep_programs=True):
            conversion((10, "wrong::eighth"))()
        arrays = list((tmp_path / "constants").glob("*.npy"))
        programs = list(tmp_path.glob("*.json"))
        assert len(programs) == len(list(tmp_path.glob("*.mil")))
        assert len(arrays) < 4 * len(programs)  # each constant is stored once
        outcome = milpasses_command("bisect", tmp_path)
        assert outcome.status == 1
        assert "first outside the tolerance of 40 dB: wrong::eighth" in outcome.out
        content = json.loads(milpasses_command("bisect", tmp_path, "--json", "--all").out)
        assert (content["first"], content["worst"]) == ("wrong::eighth", "wrong::eighth")
        assert len(content["passes"]) == content["programs"] == len(programs)

    def test_programs_that_cannot_be_run_are_passed_over(self, tmp_path: Path):
        with trace(dump_after_change=tmp_path, keep_programs=True):
            conversion((0, "wrong::eighth"))()
        broken = sorted(tmp_path.glob("*.json"))[1]
        assert "wrong.eighth" in broken.name
        broken.write_text("{", encoding="utf-8")
        found = bisect_passes(tmp_path)
        assert found.between == ("wrong::eighth",)
        assert "no program that can be read" in found.passes[1].problem

    def test_the_first_that_can_be_run_is_the_reference(self, tmp_path: Path):
        with trace(dump_after_change=tmp_path, keep_programs=True):
            conversion((0, "wrong::eighth"))()
        (tmp_path / "000-start.json").write_text("[]", encoding="utf-8")
        found = bisect_passes(tmp_path)
        assert found.first is None
        assert found.passes[0].problem

    def test_a_folder_without_programs(self, milpasses_command: Run, tmp_path: Path):
        outcome = milpasses_command("bisect", tmp_path)
        assert outcome.status == 2
        assert "--keep-programs" in outcome.err

    def test_programs_need_a_folder(self):
        with pytest.raises(MilpassesError, match="needs a folder"), trace(keep_programs=True):
            pass

    def test_a_script(self, milpasses_command: Run, tmp_path: Path):
        script = tmp_path / "convert.py"
        script.write_text(
            "import milpasses\n"
            "from models import conv_linear_program, convert\n"
            "convert(conv_linear_program(), pass_pipeline=milpasses.pipeline('pal1'))\n",
            encoding="utf-8",
        )
        outcome = milpasses_command("bisect", script, "--samples", 1)
        assert outcome.status == 1
        assert "first outside the tolerance of 40 dB: milpasses::compress_weights" in outcome.out
        assert "8 programs" in outcome.out

    def test_a_conversion_that_fails_says_so(self):
        def fails() -> None:
            raise MilpassesError("no model")

        with pytest.raises(MilpassesError, match="no model"):
            bisect_passes(fails)
