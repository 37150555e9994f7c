"""The engine: precision, observers, control flow, states, images, classifiers, functions and bad input."""

import gc
import weakref
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types

from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter, InterpreterError, supported_ops

RNG = np.random.default_rng(1)


def make(*specs: Any, target: Any = ct.target.iOS17) -> Any:
    """Decorator: a program of inputs given as (shape, type)."""
    return mb.program(input_specs=[mb.TensorSpec(shape=s, dtype=d) for s, d in specs], opset_version=target)


@make(((2, 3), types.fp16), ((3,), types.int32))
def mixed(x: Any, n: Any) -> Any:
    return mb.mul(x=mb.exp(x=x), y=mb.cast(x=n, dtype="fp16"))


def test_each_result_is_rounded_once_to_its_declared_type() -> None:
    x, n = RNG.standard_normal((2, 3)).astype(np.float32), np.array([3, 5, 7], np.int32)
    inputs = {"x": x, "n": n}
    half = x.astype(np.float16).astype(np.float32)
    declared = Interpreter(mixed).run(inputs)
    step = np.exp(half).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(next(iter(declared.values())), (step * n).astype(np.float16))
    exact = next(iter(Interpreter(mixed, precision="float32").run(inputs).values()))
    assert exact.dtype == np.float32
    np.testing.assert_allclose(exact, np.exp(x) * n, rtol=1e-6)


def test_observers_see_inputs_and_outputs_of_nested_ops_too() -> None:
    @make(((1,), types.fp32))
    def loop(x: Any) -> Any:
        return mb.while_loop(
            _cond=lambda v: mb.squeeze(x=mb.less(x=v, y=[10.0])),
            _body=lambda v: mb.mul(x=v, y=[2.0]),
            loop_vars=(x,),
        )

    seen: list[Any] = []

    def observe(op: Any, inputs: Any, outputs: Any) -> None:
        if op.op_type == "mul":
            seen.append((float(inputs["x"][0]), float(outputs[0][0])))

    (result,) = Interpreter(loop).run({"x": [3.0]}, observers=[observe]).values()
    assert result == [12.0]
    assert seen == [(3.0, 6.0), (6.0, 12.0)]


def test_values_are_freed_after_their_last_use() -> None:
    @make(((64,), types.fp32))
    def chain(x: Any) -> Any:
        for _ in range(6):
            x = mb.sin(x=x)
        return x

    alive: list[Any] = []
    counts: list[int] = []

    def observe(op: Any, inputs: Any, outputs: Any) -> None:
        gc.collect()
        counts.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(outputs[0]))

    Interpreter(chain).run({"x": np.ones(64, np.float32)}, observers=[observe])
    assert max(counts) <= 1  # the op's own input


def test_branches_and_lists() -> None:
    @make(((2,), types.fp32), ((1,), types.bool))
    def branch(x: Any, flag: Any) -> Any:
        chosen = mb.cond(
            pred=mb.squeeze(x=flag),
            _true_fn=lambda: mb.add(x=x, y=1.0),
            _false_fn=lambda: mb.mul(x=x, y=-1.0),
        )
        ls = mb.make_list(init_length=1, elem_shape=(2,))
        ls = mb.list_write(ls=ls, index=0, value=chosen)
        ls = mb.list_scatter(ls=ls, indices=[2, 3], value=np.array([[1, 2], [3, 4]], np.float32))
        return mb.list_gather(ls=ls, indices=[0, 1, 3]), mb.list_length(ls=ls), mb.list_read(ls=ls, index=2)

    for flag, first in ((True, [6, 7]), (False, [-5, -6])):
        gathered, length, read = Interpreter(branch).run({"x": [5.0, 6.0], "flag": [flag]}).values()
        np.testing.assert_array_equal(gathered, [first, [0, 0], [3, 4]])
        assert int(length) == 4
        np.testing.assert_array_equal(read, [1, 2])


def test_random_ops_repeat_with_their_seed() -> None:
    @make(((1,), types.fp32))
    def noise(x: Any) -> Any:
        return mb.random_normal(shape=[200], mean=1.0, stddev=2.0, seed=-1), mb.random_uniform(
            shape=[200], seed=3
        )

    first, again, other = (list(Interpreter(noise, seed=s).run({"x": [0.0]}).values()) for s in (7, 7, 8))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], other[1])
    assert not np.array_equal(first[0], other[0])
    assert abs(first[0].mean() - 1) < 0.6
    assert first[1].min() >= 0
    assert first[1].max() < 1


def test_classifier_outputs() -> None:
    @make(((1, 3), types.fp32))
    def classifier(x: Any) -> Any:
        return mb.softmax(x=x, name="probs")

    config = ct.ClassifierConfig(["cat", "dog", "eel"], predicted_feature_name="label")
    model = ct.convert(
        classifier,
        classifier_config=config,
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    label, probabilities = Interpreter(model).run({"x": [[0.0, 2.0, 1.0]]}).values()
    assert label == "dog"
    assert sum(probabilities.values()) == pytest.approx(1)
    assert max(probabilities, key=probabilities.__getitem__) == "dog"


def test_multifunction_packages(tmp_path: Any) -> None:
    program = Program()
    for name, factor in (("double", 2.0), ("triple", 3.0)):
        with Function({"x": mb.placeholder((2,))}, opset_version=ct.target.iOS18) as function:
            function.set_outputs([mb.mul(x=function.inputs["x"], y=factor, name="y")])
        program.add_function(name, function)
    program.default_function_name = "double"
    program.export_as_multifunction = True
    model = ct.convert(
        program,
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
        compute_precision=ct.precision.FLOAT32,
    )
    path = tmp_path / "m.mlpackage"
    model.save(str(path))
    for name, factor in (("double", 2), ("triple", 3)):
        assert Interpreter(path, name).run({"x": [1.0, 4.0]})["y"].tolist() == [factor, 4 * factor]
    assert Interpreter(path).function_name == "double"
    with pytest.raises(InterpreterError, match="no function 'main'; the program has double, triple"):
        Interpreter(path, "main")


def test_image_outputs_and_gray_inputs(convert: Any) -> None:
    torch = pytest.importorskip("torch")

    class Planes(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.cat([x, x * 0.5, x + 300], 1)

    model = convert(
        Planes(),
        torch.zeros(1, 1, 2, 2),
        inputs=[ct.ImageType("x", (1, 1, 2, 2), color_layout="G")],
        outputs=[ct.ImageType("y", color_layout="BGR")],
    )
    image = np.array([[0, 10], [100, 200]], np.uint8)
    result = Interpreter(model).run({"x": image})["y"]
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.stack([np.full((2, 2), 255), image // 2, image], -1))
    with pytest.raises(InterpreterError, match=r"input 'x': an image must be .*uint8.*got float64"):
        Interpreter(model).run({"x": image / 255})


def test_weights_need_not_be_kept() -> None:
    interpreter = Interpreter(mixed, keep_weights=False)
    inputs = {"x": np.ones((2, 3)), "n": [1, 2, 3]}
    first, second = (next(iter(interpreter.run(inputs).values())) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(interpreter.constants) == 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": np.ones((2, 3))}, "missing n: the inputs are x, n"),
        ({"x": np.ones((2, 3)), "m": [1]}, "missing n; unknown m: the inputs are x, n"),
        ({"x": np.ones((3, 2)), "n": [1, 2, 3]}, r"input 'x' must have shape \(2, 3\), got \(3, 2\)"),
        ({"x": np.ones((2, 3)), "n": [1.0, 2.0, 3.0]}, "input 'n' must be int32, got float64: round it"),
        ({"x": np.ones((2, 3)), "n": [1, 2, 2**40]}, "input 'n' must be int32, got values outside its range"),
        ({"x": [["a"] * 3] * 2, "n": [1, 2, 3]}, "input 'x' must be float16, got an array of <U1"),
    ],
)
def test_bad_inputs_give_one_clear_error(inputs: Any, message: str) -> None:
    with pytest.raises(InterpreterError, match=message):
        Interpreter(mixed).run(inputs)


def test_missing_ops_are_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from milpasses.interpreter import registry

    monkeypatch.delitem(registry._RULES, "exp")
    with pytest.raises(InterpreterError, match="the interpreter has no op exp"):
        Interpreter(mixed)


def test_states_are_required_and_checked() -> None:
    @mb.program(
        input_specs=[mb.TensorSpec((2,)), mb.StateTensorSpec((2,), types.fp16)], opset_version=ct.target.iOS18
    )
    def counter(x: Any, total: Any) -> Any:
        value = mb.add(x=mb.read_state(input=total), y=mb.cast(x=x, dtype="fp16"))
        return mb.coreml_update_state(state=total, value=value)

    interpreter = Interpreter(counter)
    state = interpreter.make_state()
    for _ in range(3):
        (result,) = interpreter.run({"x": [1.0, 2.0]}, state).values()
    np.testing.assert_array_equal(result, np.array([3, 6], np.float16))
    with pytest.raises(
        InterpreterError, match=r"has states \(total\): pass state=interpreter.make_state\(\)"
    ):
        interpreter.run({"x": [1.0, 2.0]})
    with pytest.raises(InterpreterError, match="has no states"):
        Interpreter(mixed).run({"x": np.ones((2, 3)), "n": [1, 2, 3]}, state)


def test_flexible_shapes_keep_to_the_package(convert: Any) -> None:
    torch = pytest.importorskip("torch")
    relu = torch.nn.ReLU()
    ranged = ct.TensorType("x", (1, ct.RangeDim(2, 5)))
    listed = ct.TensorType("x", ct.EnumeratedShapes([(1, 2), (1, 4)]))
    model = convert(relu, torch.zeros(1, 2), inputs=[ranged])
    with pytest.raises(InterpreterError, match=r"input 'x' takes 2 to 5 along axis 1, got shape \(1, 6\)"):
        Interpreter(model).run({"x": np.zeros((1, 6))})
    model = convert(relu, torch.zeros(1, 2), inputs=[listed])
    with pytest.raises(
        InterpreterError, match=r"must have one of the shapes \(1, 2\), \(1, 4\), got \(1, 3\)"
    ):
        Interpreter(model).run({"x": np.zeros((1, 3))})
    assert next(iter(Interpreter(model).run({"x": -np.ones((1, 4))}).values())).shape == (1, 4)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nowhere.mlpackage", "nowhere.mlpackage: no such file or folder"),
        (3, "expected a Program, an MLModel .* got int"),
    ],
)
def test_what_cannot_be_loaded(what: Any, message: str) -> None:
    with pytest.raises(MilpassesError, match=message):
        Interpreter(what)


def test_a_failing_op_is_named() -> None:
    @make(((3,), types.fp32), ((1,), types.int32))
    def gather(x: Any, i: Any) -> Any:
        return mb.gather(x=x, indices=i, name="pick")

    with pytest.raises(InterpreterError, match=r"op gather 'pick': .*out of bounds"):
        Interpreter(gather).run({"x": [1.0, 2.0, 3.0], "i": [7]})


def test_every_core_op_of_coremltools_is_there() -> None:
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    core = set(SSAOpRegistry.core_ops)
    assert core - set(supported_ops()) == {"_const_symbolic"}
