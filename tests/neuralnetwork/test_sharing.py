"""Equal constants of a program's text, kept once: what goes, what stays, and that nothing else changes."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb

from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork.sharing import share_constants

WEIGHT = np.random.default_rng(0).normal(size=(8, 8, 3, 3)).astype(np.float32)


def branching() -> Any:
    """Three equal convolutions, one of them in a branch, which returns a constant that is there twice."""

    @mb.program(input_specs=[mb.TensorSpec((1, 8, 6, 6)), mb.TensorSpec((1,))], opset_version=ct.target.iOS17)
    def program(x: Any, flag: Any) -> Any:
        y = mb.conv(x=x, weight=WEIGHT, pad_type="same")
        y = mb.conv(x=y, weight=2 * WEIGHT, pad_type="same")
        twice = [mb.const(val=np.float32(0.5), name=name) for name in ("half", "other")]
        chosen = mb.cond(
            pred=mb.cast(x=mb.squeeze(x=flag), dtype="bool"),
            _true_fn=lambda: (mb.conv(x=y, weight=3 * WEIGHT, pad_type="same"), mb.identity(x=twice[1])),
            _false_fn=lambda: (mb.mul(x=y, y=twice[0]), mb.identity(x=twice[0])),
        )
        return mb.add(x=chosen[0], y=chosen[1])

    return ct.convert(program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)


def constants(spec: Any) -> list[tuple[bytes, bool]]:
    """The contents of the constants written in the program; True where a block around has it, too."""
    found: list[tuple[bytes, bool]] = []

    def walk(block: Any, around: frozenset[bytes]) -> None:
        seen = set(around)
        for op in block.operations:
            if op.type == "const" and op.attributes["val"].WhichOneof("value") == "immediateValue":
                content = op.attributes["val"].SerializeToString(deterministic=True)
                found.append((content, content in seen))
                seen.add(content)
            for inner in op.blocks:
                walk(inner, frozenset(seen))

    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            walk(block, frozenset())
    return found


def test_every_constant_stands_once_and_the_program_computes_the_same(tmp_path: Path) -> None:
    model = branching()
    spec = model.get_spec()
    before = constants(spec)
    gone = share_constants(spec.mlProgram)
    after = constants(spec)
    assert gone == len(before) - len(after) > 10
    assert share_constants(spec.mlProgram) == 0
    assert {content for content, _ in after} == {content for content, _ in before}
    assert any(again for _, again in before)
    assert not any(again for _, again in after)
    path = tmp_path / "shared.mlpackage"
    ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(path))
    reloaded = ct.models.MLModel(str(path), skip_model_load=True)
    assert reloaded.get_spec().mlProgram == spec.mlProgram
    x = np.random.default_rng(1).normal(size=(1, 8, 6, 6)).astype(np.float32)
    for flag in (0.0, 1.0):
        inputs = {"x": x, "flag": np.array([flag], np.float32)}
        wanted, found = Interpreter(model).run(inputs), Interpreter(path).run(inputs)
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name])


def test_a_constant_that_a_block_returns_stays() -> None:
    spec = ct.proto.MIL_pb2.Program()
    block = spec.functions["main"].block_specializations["CoreML7"]
    for name in ("a", "b", "c"):
        op = block.operations.add(type="const")
        op.outputs.add(name=name)
        op.attributes["val"].immediateValue.tensor.ints.values.append(3)
    user = block.operations.add(type="add")
    for param, name in (("x", "b"), ("y", "c")):
        user.inputs[param].arguments.add(name=name)
    block.outputs.append("c")
    assert share_constants(spec) == 1
    assert [op.outputs[0].name for op in block.operations if op.type == "const"] == ["a", "c"]
    assert user.inputs["x"].arguments[0].name == "a"
    assert user.inputs["y"].arguments[0].name == "c"
