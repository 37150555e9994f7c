"""``trace`` finds what a pass did, by its name; ``replay`` runs a failing one again."""

import json
import logging
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from conftest import Run
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil.passes import pass_pipeline
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY, register_pass
from milpasses_tools import dump, replay, trace
from models import conv_linear_program, random
from programs import branches, build, loop, outputs, state

import milpasses
from milpasses.errors import MilpassesError

FAULT = "test::fault"


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    """coremltools logs the failures that are meant here."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture
def fault() -> Generator[Callable[..., Any]]:
    """Register a pass that does ``apply``, and give the default pipeline with it at ``index``."""

    def pipeline(apply: Callable[[Any], None], index: int = 40) -> Any:
        register_pass("test", override=True, name="fault")(
            type("fault", (AbstractGraphPass,), {"apply": lambda self, prog: apply(prog), "size": 0})
        )
        found = ct.PassPipeline.DEFAULT
        found.insert_pass(index, FAULT)
        return found

    yield pipeline
    PASS_REGISTRY.passes.pop(FAULT, None)


def run(program: Any, pipeline: Any = None) -> Any:
    return ct.convert(
        program,
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=pipeline or ct.PassPipeline.DEFAULT,
        skip_model_load=True,
    )


def op_named(program: Any, name: str) -> Any:
    return next(op for op in program.functions["main"].operations if op.name == name)


def change_all(program: Any) -> None:
    op_named(program, "fc_weight_0").outputs[0].val[:] *= 2


def change_first(program: Any) -> None:
    op_named(program, "fc_weight_0").outputs[0].val[0, 0] += 1


def change_bias(program: Any) -> None:
    op_named(program, "conv1_bias_0").outputs[0].val[17] = 0.5


def replace_constant(program: Any) -> None:
    old = op_named(program, "fc_weight_0")
    block = old.enclosing_block
    with block:
        new = mb.const(val=np.zeros((96, 64), np.float32), before_op=old, name="zeros")
    block.replace_uses_of_var_after_op(anchor_op=old, old_var=old.outputs[0], new_var=new)


def drop_relu(program: Any) -> None:
    op = op_named(program, "relu_0")
    block = op.enclosing_block
    block.replace_uses_of_var_after_op(anchor_op=op, old_var=op.outputs[0], new_var=op.inputs["x"])
    block.remove_ops([op])


def add_op(program: Any) -> None:
    op = op_named(program, "relu_0")
    block = op.enclosing_block
    with block:
        new = mb.exp(x=op.outputs[0], before_op=op_named(program, "reduce_mean_0"), name="extra")
    block.replace_uses_of_var_after_op(anchor_op=new.op, old_var=op.outputs[0], new_var=new)


def other_type(program: Any) -> None:
    op = op_named(program, "relu_0")
    block = op.enclosing_block
    with block:
        new = mb.relu6(x=op.inputs["x"], before_op=op, name="relu_6")
    block.replace_uses_of_var_after_op(anchor_op=op, old_var=op.outputs[0], new_var=new)
    block.remove_ops([op])


def wrong_flag(program: Any) -> None:
    op_named(program, "reduce_mean_0").inputs["keep_dims"]._sym_val.val = True


def wrong_list(program: Any) -> None:
    op_named(program, "conv1").inputs["pad"].val[:] = 1


def wrong_input(program: Any) -> None:
    fc = op_named(program, "fc")
    with fc.enclosing_block:
        zeros = mb.const(val=np.zeros(96, np.float32), before_op=fc, name="no_bias")
    fc.set_inputs(type_inference=False, bias=zeros)


FAULTS = [
    (change_all, "changed fc_weight_0 (const): val has other values"),
    (change_first, "changed fc_weight_0 (const): val has other values"),
    (change_bias, "changed conv1_bias_0 (const): val has other values"),
    (replace_constant, "changed fc (linear): weight %fc_weight_0 -> %zeros"),
    (drop_relu, "removed relu_0 (relu)"),
    (add_op, "added extra (exp)"),
    (other_type, "added relu_6 (relu6)"),
    (wrong_flag, "changed reduce_mean_0 (reduce_mean): keep_dims false -> true"),
    (wrong_list, "changed conv1 (conv): pad [0, 0, 0, 0] -> [1, 1, 1, 1]"),
    (wrong_input, "changed fc (linear): bias %fc_bias_0 -> %no_bias"),
]


class TestFindsTheFault:
    @pytest.mark.parametrize(("apply", "expected"), FAULTS, ids=[apply.__name__ for apply, _ in FAULTS])
    def test_by_the_name_of_the_pass(self, fault: Any, apply: Any, expected: str):
        program = conv_linear_program()
        pipeline = fault(apply)
        with trace() as found:
            try:
                pass_pipeline.PassPipelineManager.apply_pipeline(program, pipeline)
            except Exception:
                assert apply is wrong_flag or apply is wrong_list  # later passes meet wrong shapes
        before = [one for one in found.changed if one.index <= 41]
        assert [one.name for one in before] == [FAULT]
        assert expected in map(str, before[0].changes)

    def test_what_touched_an_op(self, fault: Any):
        with trace() as found:
            run(conv_linear_program(), fault(wrong_input))
        assert found.touched("fc")[0] == (FAULT, "changed fc (linear): bias %fc_bias_0 -> %no_bias")

    def test_a_single_value_in_place(self, fault: Any):
        def change(program: Any) -> None:
            op_named(program, "conv1_weight_0").outputs[0].val[3, 5, 1, 1] += 1

        pipeline = fault(change)
        pipeline.passes = [*pipeline.passes[:41]]
        with trace() as found:
            pass_pipeline.PassPipelineManager.apply_pipeline(conv_linear_program(), pipeline)
        assert not found.changed
        (note,) = found.notes
        assert note.startswith("constant conv1_weight_0 was changed in place")
        with trace(every_value=True) as found:
            pass_pipeline.PassPipelineManager.apply_pipeline(conv_linear_program(), pipeline)
        assert [one.name for one in found.changed] == [FAULT]
        assert not found.notes

    def test_the_stale_value_trap(self, fault: Any):
        def program(x: Any) -> Any:
            table = mb.const(val=random((16, 8)), name="table")
            return mb.add(x=x, y=mb.gather(x=table, indices=3, axis=0, name="row"))

        def compress(program: Any) -> None:
            old = op_named(program, "table")
            block = old.enclosing_block
            with block:
                new = mb.constexpr_blockwise_shift_scale(
                    data=np.ones((16, 8), np.int8),
                    scale=np.ones((1, 1), np.float32),
                    before_op=old,
                    name="small",
                )
            block.replace_uses_of_var_after_op(
                anchor_op=old,
                old_var=old.outputs[0],
                new_var=new,
                no_check_var_types=True,
                force_replace=True,
            )

        with trace() as found:
            pipeline = fault(compress, index=0)
            pipeline.passes = pipeline.passes[:1]
            made = build(program, (8,))
            pass_pipeline.PassPipelineManager.apply_pipeline(made, pipeline)
        (record,) = found.passes
        assert record.notes == ("row (gather) keeps a value inferred before small was compressed",)


class TestRecords:
    def test_a_conversion(self):
        with trace() as found:
            run(conv_linear_program(), milpasses.pipeline("int8"))
        assert found.failure is None
        changed = {one.name: one for one in found.changed}
        assert changed["common::add_fp16_cast"].counts("added")["cast"] == 12
        last = changed["milpasses::compress_weights"]
        assert last.counts("added")["constexpr_blockwise_shift_scale"] == 2
        assert last.counts("changed") == {"conv": 1, "linear": 1}
        assert len(found.passes) > 100
        assert {one.pipeline for one in found.passes} >= {"default with milpasses"}

    def test_nothing_changes_in_a_second_run(self):
        program = conv_linear_program()
        pass_pipeline.PassPipelineManager.apply_pipeline(program, ct.PassPipeline.CLEANUP)
        with trace() as found:
            pass_pipeline.PassPipelineManager.apply_pipeline(program, ct.PassPipeline.CLEANUP)
        assert found.passes
        assert not found.changed

    def test_coremltools_is_as_it_was(self, fault: Any):
        apply, registry = pass_pipeline.PassPipelineManager.apply_pipeline, pass_pipeline.PASS_REGISTRY

        def fail(program: Any) -> None:
            assert pass_pipeline.PASS_REGISTRY is not registry
            raise ValueError("meant")

        with pytest.raises(ValueError, match="meant"), trace():
            run(conv_linear_program(), fault(fail))
        assert pass_pipeline.PassPipelineManager.apply_pipeline is apply
        assert pass_pipeline.PASS_REGISTRY is registry

    def test_the_model_is_the_same(self, conv_linear: Any):
        with trace():
            model = run(conv_linear_program())
        assert dump(model) == dump(conv_linear("iOS18"))

    def test_dumps(self, tmp_path: Path):
        with trace(
            dump_after_change=tmp_path / "dumps", dump_after=["common::add_fp16_cast", "common::none"]
        ) as found:
            run(conv_linear_program())
        texts = sorted((tmp_path / "dumps").iterdir())
        assert [path.stem for path in texts] == [
            "000-start",
            *(f"{one.index:03d}-{one.name.replace('::', '.')}" for one in found.changed),
        ]
        (record,) = [one for one in found.passes if one.text]
        assert record.name == "common::add_fp16_cast"
        assert texts[1].read_text(encoding="utf-8").endswith(f"{record.text}\n")
        assert "# added x_to_fp16 (cast)\n" in texts[1].read_text(encoding="utf-8")
        assert found.notes == ["pass common::none did not run"]


class TestFailure:
    def test_kept_and_replayed(self, fault: Any, tmp_path: Path):
        def fail(program: Any) -> None:
            if any(op.op_type == "conv" for op in program.functions["main"].operations):
                drop_relu(program)
                raise ValueError("no convolutions")

        with pytest.raises(ValueError, match="no convolutions"), trace(on_failure=tmp_path) as found:
            run(conv_linear_program(), fault(fail))
        assert (found.failure.name, found.failure.folder) == (FAULT, tmp_path)
        assert "relu_0" in (tmp_path / "program.mil").read_text(encoding="utf-8")
        again = replay(tmp_path)
        assert str(again.error) == "no convolutions"
        assert again.to_dict()["same"]
        fault(lambda program: None)
        mended = replay(tmp_path)
        assert mended.error is None
        assert dump(mended.program) == (tmp_path / "program.mil").read_text(encoding="utf-8")

    def test_an_invalid_program_is_the_fault_of_the_pass_that_left_it(self, fault: Any, tmp_path: Path):
        def break_block(program: Any) -> None:
            op = op_named(program, "relu_0")
            op.outputs[0]._child_ops.clear()

        with pytest.raises(Exception), trace(on_failure=tmp_path) as found:  # noqa: B017, PT011  (coremltools')
            run(conv_linear_program(), fault(break_block))
        assert found.failure.name == FAULT
        assert replay(tmp_path).error is not None

    @pytest.mark.parametrize("program", [branches, loop, outputs, state])
    def test_programs_of_every_kind_come_back(self, fault: Any, program: Any, tmp_path: Path):
        def fail(program: Any) -> None:
            raise ValueError("meant")

        with pytest.raises(ValueError, match="meant"), trace(on_failure=tmp_path):
            run(program(), fault(fail, index=0))
        kept = (tmp_path / "program.mil").read_text(encoding="utf-8")
        assert dump(replay(tmp_path).program) == kept == dump(program())

    def test_options(self, fault: Any, tmp_path: Path):
        seen: list[Any] = []

        def fail(program: Any) -> None:
            raise ValueError("meant")

        pipeline = fault(fail)
        pipeline.set_options(FAULT, {"size": "12"})
        with pytest.raises(ValueError, match="meant"), trace(on_failure=tmp_path):
            run(conv_linear_program(), pipeline)
        PASS_REGISTRY.passes[FAULT].set_options = lambda self, options: seen.extend(options or ())
        replay(tmp_path)
        assert [(option.option_name, option.option_val) for option in seen] == [("size", "12")]

    def test_what_cannot_be_replayed(self, fault: Any, tmp_path: Path):
        with pytest.raises(MilpassesError, match="kept no failure here"):
            replay(tmp_path)
        content = {"pass": "a::b", "problem": "", "error": "", "options": {}, "lost_options": []}
        (tmp_path / "replay.json").write_text(json.dumps(content))
        with pytest.raises(MilpassesError, match="there is no pass a::b"):
            replay(tmp_path)


SCRIPT = """
import sys
import coremltools as ct
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import register_pass
sys.path.insert(0, {tests!r})
from models import conv_linear_program

@register_pass("test", override=True)
class fault(AbstractGraphPass):
    def apply(self, prog):
        if sys.argv[1:] == ["fail"]:
            raise ValueError("meant")

if __name__ == "__main__":
    print("arguments", sys.argv[1:])
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.append_pass("test::fault")
    ct.convert(conv_linear_program(), minimum_deployment_target=ct.target.iOS18, pass_pipeline=pipeline)
"""


class TestCommand:
    @pytest.fixture
    def script(self, tmp_path: Path) -> Path:
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1])), encoding="utf-8")
        return path

    def test_a_script(self, milpasses_command: Run, script: Path):
        outcome = milpasses_command("trace", script, "--", "these", "two")
        assert outcome.status == 0
        lines = outcome.out.splitlines()
        assert lines[0].split() == ["pass", "added", "removed", "changed", "seconds", "MiB"]
        assert any("common::add_fp16_cast" in line and "cast:12" in line for line in lines)
        assert "arguments ['these', 'two']" in outcome.err

    def test_json(self, milpasses_command: Run, script: Path):
        content = json.loads(milpasses_command("trace", script, "--json").out)
        assert content["failure"] is content["error"] is None
        assert content["passes"][-1]["pipeline"] == "backend_mlprogram"

    def test_a_failure_and_its_replay(self, milpasses_command: Run, script: Path, tmp_path: Path):
        outcome = milpasses_command("trace", "--on-failure", tmp_path / "kept", script, "fail")
        assert outcome.status == 1
        assert "failed: test::fault: ValueError: meant" in outcome.out
        again = milpasses_command("replay", tmp_path / "kept")  # the script's pass is still registered
        assert (again.status, again.out.splitlines()[0]) == (0, "test::fault: ran without error")
        PASS_REGISTRY.passes.pop(FAULT)
        unknown = milpasses_command("replay", tmp_path / "kept")
        assert (unknown.status, unknown.out) == (2, "")
        assert "there is no pass test::fault" in unknown.err
        assert milpasses_command("replay", tmp_path / "kept", "--import", script).status == 0

    def test_no_script(self, milpasses_command: Run, tmp_path: Path):
        outcome = milpasses_command("trace", tmp_path / "none.py")
        assert (outcome.status, outcome.out) == (2, "")
        assert "no such script" in outcome.err
