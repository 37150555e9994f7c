"""Where a program is cut, and that its blocks make up the whole of it."""

from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

pytest.importorskip("torch")
from milpasses.interpreter import Interpreter
from milpasses.interpreter.batch import BatchRun
from milpasses.tuning.cuts import find_cuts

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@mb.program(input_specs=[mb.TensorSpec(shape=(1, 8)), mb.TensorSpec(shape=(1, 8))])
def program(x: Any, mask: Any) -> Any:
    given = mb.mul(x=mask, y=2.0, name="made_of_an_input_alone")
    y = mb.linear(x=x, weight=weight(8, 8), name="first")
    y = mb.relu(x=y, name="after_first")
    inner = mb.linear(x=y, weight=weight(8, 8), name="second")
    inner = mb.mul(x=inner, y=given, name="masked")
    inner = mb.linear(x=inner, weight=weight(8, 8), name="third")
    y = mb.add(x=inner, y=y, name="sum")
    y = mb.linear(x=mb.tanh(x=y, name="after_sum"), weight=weight(8, 8), name="fourth")
    return mb.sigmoid(x=y, name="out")


def run_of(interpreter: Interpreter, *names: str, given: Any = None) -> BatchRun:
    variables = {var.name: var for step in interpreter.main_plan.steps for var in step.outputs}
    variables |= {var.name: var for var in interpreter.main_plan.inputs}
    return BatchRun(
        interpreter, [variables[name] for name in names], given and [variables[name] for name in given]
    )


def weights_of(run: BatchRun, *ops: str) -> set[str]:
    return {step.op.inputs["weight"].name for step in run.steps if step.op.name in ops}


@pytest.mark.parametrize(
    ("ops", "most", "expected"),
    [
        (("first", "second", "third", "fourth"), 9, ["after_first", "after_sum"]),
        (("first", "second", "third", "fourth"), 2, ["after_sum"]),  # one op with two, two ops with one
        (("first", "second", "third", "fourth"), 1, []),
        (("second", "third"), 9, ["masked"]),  # what passes beside it is the same in the float program
        (("first", "fourth"), 9, ["after_sum"]),
        (("first",), 9, []),
    ],
)
def test_a_program_is_cut_before_the_next_weight_where_one_tensor_flows(
    ops: tuple[str, ...], most: int, expected: list[str]
) -> None:
    run = run_of(Interpreter(program, device="cpu"), "out")
    cuts = find_cuts(run.steps, run.variables, weights_of(run, *ops), most)
    assert [var.name for var in cuts] == expected


def test_an_output_before_the_end_stands_beside_all_later_cuts() -> None:
    run = run_of(Interpreter(program, device="cpu"), "after_first", "out")
    learned = weights_of(run, "first", "second", "third", "fourth")
    assert [var.name for var in find_cuts(run.steps, run.variables, learned, 9)] == ["after_first"]


def test_the_blocks_one_after_another_give_what_the_program_gives() -> None:
    interpreter = Interpreter(program, device="cpu")
    samples = [{"x": weight(1, 8), "mask": weight(1, 8)} for _ in range(3)]
    whole = run_of(interpreter, "out")
    inputs = whole.stack(samples)
    seen, names = dict(inputs), ["after_first", "after_sum", "out"]
    for before, name in zip(["", *names], names, strict=False):
        block = run_of(interpreter, name, given=["x", "mask", *([before] if before else [])])
        seen = {**inputs, name: block(seen)[0]}
        assert [step.op.name for step in block.steps][-1] == name
    assert np.array_equal(seen["out"], whole(inputs)[0])
