"""Resuming a run from any op, overriding constants, and what there is to know of a program for that."""

from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from milpasses.interpreter import Interpreter, InterpreterError

RNG = np.random.default_rng(3)
WEIGHT = RNG.standard_normal((6, 6)).astype(np.float16)
INNER = RNG.standard_normal((6,)).astype(np.float16)
INPUT = {"x": RNG.standard_normal((2, 6)).astype(np.float16)}


def make(build: Callable[..., Any], *more: Any, target: Any = ct.target.iOS18) -> Any:
    specs = [mb.TensorSpec((2, 6), types.fp16), *more]
    return mb.program(input_specs=specs, opset_version=target)(build)


def network(x: Any) -> Any:
    """Straight ops, a branch, a loop and a list; a constant that only the branch reads, and one returned."""
    weight = mb.const(val=WEIGHT, name="weight")
    inner = mb.const(val=INNER, name="inner")
    packed = mb.constexpr_blockwise_shift_scale(
        data=np.arange(36, dtype=np.int8).reshape(6, 6),
        scale=np.full((6, 1), 0.125, np.float16),
        name="packed",
    )
    h = mb.relu(x=mb.linear(x=x, weight=weight, name="first"), name="second")
    positive = mb.greater(x=mb.reduce_sum(x=h, axes=[0, 1], keep_dims=False), y=np.float16(0))
    h = mb.cond(
        pred=positive,
        _true_fn=lambda: mb.mul(x=h, y=inner, name="scaled"),
        _false_fn=lambda: mb.sub(x=h, y=inner),
        name="branch",
    )
    h, count = mb.while_loop(
        _cond=lambda v, i: mb.less(x=i, y=3),
        _body=lambda v, i: (mb.sin(x=v), mb.add(x=i, y=1)),
        loop_vars=(h, mb.const(val=0)),
        name="loop",
    )
    ls = mb.list_write(ls=mb.make_list(init_length=2, elem_shape=(2, 6), dtype="fp16"), index=1, value=h)
    h = mb.add(x=mb.list_read(ls=ls, index=1), y=mb.list_read(ls=ls, index=0))
    return mb.matmul(x=h, y=packed, name="last"), mb.softmax(x=h, name="soft"), count, x


@pytest.fixture(scope="module")
def program() -> Any:
    return make(network)


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return list(first) == list(second) and all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes()
        for name in first
    )


def test_a_run_from_any_op_on_is_the_whole_run_bit_for_bit(program: Any) -> None:
    interpreter = Interpreter(program)
    whole = interpreter.run(INPUT)
    outputs, snapshot = interpreter.record(INPUT)
    assert snapshot is not None
    assert same(outputs, whole)
    for start in range(len(interpreter.operations) + 1):
        assert same(interpreter.resume(snapshot, start), whole), start


def test_observers_see_the_ops_that_run(program: Any) -> None:
    interpreter = Interpreter(program)
    seen: list[str] = []
    _, snapshot = interpreter.record(INPUT, [lambda op, inputs, outputs: seen.append(op.name)])
    assert snapshot is not None
    assert {"first", "second", "scaled", "branch", "loop", "last"} <= set(seen)
    place = [op.name for op in interpreter.operations].index("loop")
    seen.clear()
    interpreter.resume(snapshot, place, [lambda op, inputs, outputs: seen.append(op.name)])
    assert not {"first", "second", "scaled", "branch"} & set(seen)
    assert {"loop", "last"} <= set(seen)


@pytest.mark.parametrize(
    ("name", "reader", "value"),
    [
        ("weight", "first", WEIGHT * np.float16(1.5)),
        ("inner", "branch", INNER * np.float16(-2)),
        ("packed", "last", np.ones((6, 6), np.float16)),
    ],
)
@pytest.mark.parametrize("keep", [True, False])
def test_overrides_are_seen_from_their_first_reader_on(
    program: Any, name: str, reader: str, value: np.ndarray, keep: bool
) -> None:
    """``inner`` is read inside the blocks of an op alone: that op is its reader."""
    interpreter = Interpreter(program, keep_weights=keep)
    before, snapshot = interpreter.record(INPUT)
    assert snapshot is not None
    start = interpreter.first_reader([name])
    assert interpreter.operations[start].name == reader
    interpreter.override({name: value})
    changed = interpreter.resume(snapshot, start)
    assert same(changed, interpreter.run(INPUT))
    assert not same(changed, before)
    assert same(interpreter.resume(snapshot, len(interpreter.operations)), before)  # no op reads it then
    interpreter.override({})
    assert same(interpreter.resume(snapshot, start), before)


def test_what_there_is_to_run(program: Any) -> None:
    interpreter = Interpreter(program)
    names = [op.name for op in interpreter.operations]
    assert names[:2] == ["first", "second"]
    assert names.index("branch") < names.index("loop") < names.index("last") < names.index("soft")
    assert not {"weight", "inner", "packed", "scaled"} & set(names)
    assert interpreter.first_reader(["nothing"]) == interpreter.first_reader([]) == len(names)
    assert interpreter.first_reader(["packed", "inner"]) == names.index("branch")
    assert interpreter.first_reader(["x"]) == 0
    makers = interpreter.output_ops
    assert list(makers) == interpreter.output_names
    assert [op and op.op_type for op in makers.values()] == ["matmul", "softmax", "while_loop", None]
    assert interpreter.function is program.functions["main"]


def test_a_snapshot_that_would_be_too_large_is_none(program: Any) -> None:
    interpreter = Interpreter(program)
    outputs, snapshot = interpreter.record(INPUT)
    assert snapshot is not None
    again, fits = interpreter.record(INPUT, limit=snapshot.nbytes)
    assert fits is not None
    assert same(again, outputs)
    again, too_large = interpreter.record(INPUT, limit=snapshot.nbytes - 1)
    assert too_large is None
    assert same(again, outputs)


def test_states_and_random_ops_cannot_be_resumed(program: Any) -> None:
    def counter(x: Any, total: Any) -> Any:
        return mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=x))

    def noise(x: Any) -> Any:
        return mb.add(x=x, y=mb.random_normal(shape=[2, 6], mean=np.float16(0), stddev=np.float16(1)))

    def noisy_branch(x: Any) -> Any:
        flag = mb.greater(x=mb.reduce_sum(x=x, axes=[0, 1], keep_dims=False), y=np.float16(0))
        return mb.cond(pred=flag, _true_fn=lambda: noise(x), _false_fn=lambda: mb.identity(x=x))

    for made in (make(counter, mb.StateTensorSpec((2, 6), types.fp16)), make(noise), make(noisy_branch)):
        interpreter = Interpreter(made)
        assert not interpreter.resumable
        with pytest.raises(InterpreterError, match="states or random ops cannot be resumed"):
            interpreter.record(INPUT)
    assert Interpreter(program).resumable


def test_what_is_no_place_to_resume_from(program: Any) -> None:
    interpreter = Interpreter(program)
    _, snapshot = interpreter.record(INPUT)
    assert snapshot is not None
    count = len(interpreter.operations)
    for start in (-1, count + 1):
        with pytest.raises(InterpreterError, match=f"start must be 0 to {count}, the number of ops"):
            interpreter.resume(snapshot, start)
    with pytest.raises(InterpreterError, match="the snapshot is of another program"):
        Interpreter(make(network)).resume(snapshot, 0)


def test_altered_values_reach_the_op_that_takes_them_alone(program: Any) -> None:
    interpreter = Interpreter(program)
    before = interpreter.run(INPUT)
    seen: dict[str, Any] = {}

    def observe(op: Any, inputs: Any, outputs: Any) -> None:
        seen[op.name] = {name: np.copy(value) for name, value in inputs.items() if name in ("x", "y")}

    interpreter.alter({("scaled", "second"): lambda value: value + np.float32(1 / 3)})
    interpreter.run(INPUT, observers=[observe])
    unaltered = np.maximum(seen["second"]["x"], 0)
    rounded = (unaltered + np.float32(1 / 3)).astype(np.float16).astype(np.float32)  # to the declared type
    np.testing.assert_array_equal(seen["scaled"]["x"], rounded)
    interpreter.alter({})
    assert same(interpreter.run(INPUT), before)


def test_altering_what_no_op_takes_is_refused(program: Any) -> None:
    with pytest.raises(InterpreterError, match="no op second takes nothing"):
        Interpreter(program).alter({("second", "nothing"): np.abs})
