"""``diff``: nothing between equal models, exactly what was changed between others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from coremltools.converters.mil import Builder as mb
from milpasses_tools import diff
from models import conv_linear_program, random
from programs import PROGRAMS, branches, build
from tools_models import rewrite_spec

import milpasses


@pytest.fixture(scope="module")
def plain(conv_linear: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conv-linear model as a package."""
    path = tmp_path_factory.mktemp("diff") / "plain.mlpackage"
    conv_linear("iOS18").save(str(path))
    return path


def chain(*steps: str) -> Any:
    """A program of one unary op after another; each step is ``type`` or ``type:name``."""

    def program(x: Any) -> Any:
        for step in steps:
            kind, _, name = step.partition(":")
            x = getattr(mb, kind)(x=x, **({"name": name} if name else {}))
        return x

    return build(program, (2, 2))


def changes(a: Any, b: Any) -> list[tuple[str, str]]:
    return [(change.kind, change.name) for change in diff(a, b).ops]


class TestSame:
    @pytest.mark.parametrize(
        "name", ["conv_linear", "branches", "loop", "outputs", "sparse50_pal4_ios18", "state"]
    )
    def test_a_program_built_twice(self, name: str):
        found = diff(PROGRAMS[name](), PROGRAMS[name]())
        assert found.same
        assert list(found.lines()) == []

    def test_a_model_its_package_and_its_program(self, conv_linear: Any, plain: Path):
        model = conv_linear("iOS18")
        assert diff(plain, plain).same
        assert diff(plain, model).same
        assert diff(model._mil_program, plain).same


class TestStructure:
    def test_added_and_removed(self):
        a, b = chain("relu:a", "exp:b", "sin:c"), chain("relu:a", "sin:c")
        assert changes(a, b) == [("removed", "b"), ("changed", "c")]
        assert diff(a, b).ops[1].details == ("x %b -> %a",)
        assert changes(b, a) == [("added", "b"), ("changed", "c")]

    def test_a_new_name_is_matched_by_structure(self):
        (change,) = diff(chain("relu:a", "exp:b"), chain("relu:other", "exp:b")).ops
        assert (change.kind, change.name, change.details) == ("changed", "a", ("name a -> other",))

    def test_another_type(self):
        (change,) = diff(chain("relu:a", "exp:b"), chain("relu6:a", "exp:b")).ops
        assert change.details == ("type relu -> relu6",)

    def test_attributes(self):
        def program(strides: list[int]) -> Any:
            return build(
                lambda x: mb.max_pool(
                    x=x, kernel_sizes=[2, 2], strides=strides, pad_type="valid", name="pool"
                ),
                (1, 2, 9, 9),
            )

        (change,) = diff(program([1, 1]), program([2, 2])).ops
        assert change.details == (
            "strides [1, 1] -> [2, 2]",
            "gives pool: float32[1,2,8,8] -> pool: float32[1,2,4,4]",
        )

    def test_moved(self):
        def program(first: str) -> Any:
            def body(x: Any) -> Any:
                made = dict.fromkeys(("a", "b", "c"))
                for name in sorted(made, key=lambda name: name != first):
                    made[name] = mb.relu(x=x, name=name)
                return made["a"], made["b"], made["c"]

            return build(body, (2, 2))

        found = diff(program("a"), program("c"))
        assert [(change.kind, change.name) for change in found.ops] == [("moved", "c")]
        assert not found.interface

    def test_inside_blocks(self):
        a, b = branches(), branches()
        cond = next(op for op in b.functions["main"].operations if op.op_type == "cond")
        block = cond.blocks[1]
        relu = block.outputs[0].op
        with block:
            new = mb.exp(x=relu.inputs["x"], before_op=relu, name="instead")
        block.set_outputs([new])
        block.remove_ops([relu])
        found = diff(a, b)
        assert [(change.kind, change.name) for change in found.ops] == [
            ("removed", "rectified"),
            ("added", "instead"),
            ("changed", "chosen"),
        ]

    def test_interface(self, plain: Path, tmp_path: Path):
        def change(spec: Any) -> None:
            spec.description.output[0].type.multiArrayType.shape[1] = 97
            spec.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions[2].constant.size = 17

        found = diff(plain, rewrite_spec(plain, tmp_path / "other.mlpackage", change))
        assert found.interface == (
            "main: output fc: float32 1x96 -> float32 1x97",
            "main: inputs x: float32[1,32,16,16] -> x: float32[1,32,17,16]",
        )


class TestWeights:
    @pytest.mark.parametrize("recipe", ["int8", "pal4-g16", "sparse50"])
    def test_compressing_changes_only_the_weights_it_rewrote(self, plain: Path, recipe: str, tmp_path: Path):
        model = milpasses.compress(plain, recipe, output=tmp_path / "small.mlpackage")
        found = diff(plain, tmp_path / "small.mlpackage")
        assert not found.ops
        assert not found.interface
        records = {record.name: record for record in model.report if record.status == "compressed"}
        assert {change.name for change in found.weights} == set(records)
        for change in found.weights:
            assert records[change.name].form in str(change.b)
            assert change.sqnr_db == pytest.approx(records[change.name].sqnr_db)
            assert change.bits_b == pytest.approx(records[change.name].bits_per_weight)

    def test_two_forms_of_a_weight(self, plain: Path, tmp_path: Path):
        one, other = tmp_path / "one.mlpackage", tmp_path / "other.mlpackage"
        milpasses.compress(plain, "int8", output=one)
        milpasses.compress(plain, "int4", output=other)
        assert {(change.kind, change.name) for change in diff(one, other).weights} == {
            ("changed", "conv1_weight_0_to_fp16"),
            ("changed", "fc_weight_0_to_fp16"),
        }

    def test_one_element(self):
        other = conv_linear_program()
        op = next(op for op in other.functions["main"].operations if op.name == "fc_weight_0")
        op.outputs[0].val[5, 7] += 1
        found = diff(conv_linear_program(), other)
        (change,) = found.weights
        assert (found.ops, change.name) == ((), "fc_weight_0")
        weight = random((96, 64), 2)
        assert change.sqnr_db == pytest.approx(10 * np.log10((weight.astype(float) ** 2).sum()), abs=1e-3)

    def test_added(self):
        def program(bias: bool) -> Any:
            extra = {"bias": random((16,), 3)} if bias else {}
            return build(lambda x: mb.linear(x=x, weight=random((16, 8)), name="fc", **extra), (2, 8))

        found = diff(program(False), program(True))
        assert [change.details for change in found.ops] == [
            ("bias %fc_bias_0 -> %fc_bias_0",)
        ] or not found.ops
        assert found.weights


class TestCommand:
    def test_status_and_text(self, milpasses_command: Run, plain: Path, tmp_path: Path):
        small = tmp_path / "small.mlpackage"
        milpasses.compress(plain, "int8", output=small)
        same = milpasses_command("diff", plain, plain)
        assert same == (0, "", "")
        other = milpasses_command("diff", plain, small)
        assert (other.status, other.err) == (1, "")
        lines = other.out.splitlines()
        assert lines[:2] == [f"--- {plain}", f"+++ {small}"]
        assert lines[2].startswith(
            "~ weight conv1_weight_0_to_fp16: 64x32x3x3 dense float16, 16 bits -> 64x32x3x3 int8 per_channel"
        )
        assert lines[-1] == "# ops: 0 added, 0 removed, 0 changed, 0 moved; weights: 2 differ"

    def test_json(self, milpasses_command: Run, plain: Path, tmp_path: Path):
        milpasses.compress(plain, "int8", output=tmp_path / "small.mlpackage")
        outcome = milpasses_command("diff", plain, tmp_path / "small.mlpackage", "--json")
        content = json.loads(outcome.out)
        assert (outcome.status, content["same"], content["ops"]) == (1, False, [])
        assert [weight["name"] for weight in content["weights"]] == [
            "conv1_weight_0_to_fp16",
            "fc_weight_0_to_fp16",
        ]

    def test_what_cannot_be_compared(self, milpasses_command: Run, plain: Path, tmp_path: Path):
        outcome = milpasses_command("diff", plain, tmp_path / "none.mlpackage")
        assert (outcome.status, outcome.out) == (2, "")
        assert "no such file" in outcome.err
