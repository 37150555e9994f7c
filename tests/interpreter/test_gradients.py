"""One definition of each op on NumPy's arrays and on tensors: the same values, and true gradients."""

from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from gradient_cases import CASES, IN_PROGRAMS, WITHOUT_GRADIENT

from milpasses.interpreter import Interpreter, InterpreterError, supported_ops
from milpasses.interpreter.registry import rule

torch = pytest.importorskip("torch")

from milpasses.interpreter.batch import BatchRun  # noqa: E402
from milpasses.interpreter.numpy_kernels import NumpyBackend  # noqa: E402
from milpasses.interpreter.tensors import TensorArray  # noqa: E402
from milpasses.interpreter.torch_kernels import TorchBackend  # noqa: E402


class Wide(TensorArray):
    """A tensor of float64 that stays so: finite differences need it."""

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        return self if np.dtype(dtype) == np.float32 else super().astype(dtype, copy)


class Call:
    """The context of an op on its own."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend


def _call(name: str, backend: Any, arguments: dict[str, Any]) -> list[Any]:
    found = rule(name)
    assert found is not None
    result = found.function(*([Call(backend)] if found.wants_context else []), **arguments)
    return list(result) if isinstance(result, list | tuple) else [result]


def _drawn(given: Any, rng: np.random.Generator) -> Any:
    """An array for a shape: different values between -1 and 1, in random order."""
    if isinstance(given, np.ndarray):
        return given.astype(np.float64)
    count = int(np.prod(given))
    return rng.permutation(np.linspace(-0.97, 0.93, count)).reshape(given)


def _labels() -> list[str]:
    return [f"{name}-{place}" for place, (name, _, _) in enumerate(CASES)]


@pytest.mark.parametrize(("name", "floats", "others"), CASES, ids=_labels())
def test_an_op_gives_the_same_on_tensors_and_true_gradients(
    name: str, floats: dict[str, Any], others: dict[str, Any]
) -> None:
    rng = np.random.default_rng(11)
    drawn = {
        key: [_drawn(v, rng) for v in value] if isinstance(value, list) else _drawn(value, rng)
        for key, value in floats.items()
    }
    flat = [v for value in drawn.values() for v in (value if isinstance(value, list) else [value])]

    def arguments(arrays: list[Any]) -> dict[str, Any]:
        left = list(arrays)
        return {
            key: [left.pop(0) for _ in value] if isinstance(value, list) else left.pop(0)
            for key, value in drawn.items()
        }

    with np.errstate(over="ignore"):  # as the engine runs ops
        expected = _call(name, NumpyBackend(), arguments([v.astype(np.float32) for v in flat]) | others)
    single = [TensorArray(torch.tensor(v, dtype=torch.float32)) for v in flat]
    got = _call(name, TorchBackend(), arguments(single) | others)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(np.asarray(a), b, rtol=2e-5, atol=2e-6)

    def run(*tensors: Any) -> Any:
        outputs = _call(name, TorchBackend(), arguments([Wide(t) for t in tensors]) | others)
        return tuple(o.tensor for o in outputs if isinstance(o, TensorArray) and o.tensor.requires_grad)

    tensors = tuple(torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in flat)
    assert run(*tensors), "no gradient leaves it"
    assert torch.autograd.gradcheck(run, tensors, eps=1e-6, atol=1e-5, rtol=1e-4)
    gradients = torch.autograd.grad([o.sum() for o in run(*tensors)], tensors, allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in gradients)


def program(build: Any, *shapes: tuple[int, ...], half: bool = False, states: Any = ()) -> Any:
    kind = types.fp16 if half else types.fp32
    specs = [mb.TensorSpec(shape, kind) for shape in shapes]
    return mb.program(input_specs=[*specs, *states], opset_version=ct.target.iOS18)(build)


WEIGHT = np.random.default_rng(2).standard_normal((5, 6)).astype(np.float32)


def network(x: Any) -> Any:
    """A branch, a loop and a list on the way."""
    h = mb.linear(x=x, weight=mb.const(val=WEIGHT, name="weight"), name="first")
    h = mb.cond(
        pred=mb.greater(x=mb.reduce_sum(x=h, keep_dims=False), y=np.float32(100)),
        _true_fn=lambda: mb.mul(x=h, y=np.float32(-1)),
        _false_fn=lambda: mb.mul(x=h, y=np.float32(0.5)),
    )
    h, _ = mb.while_loop(
        _cond=lambda v, i: mb.less(x=i, y=3),
        _body=lambda v, i: (mb.sin(x=v), mb.add(x=i, y=1)),
        loop_vars=(h, mb.const(val=0)),
    )
    ls = mb.list_write(ls=mb.make_list(init_length=1, elem_shape=(2, 5)), index=0, value=h)
    return mb.reduce_sum(x=mb.square(x=mb.list_read(ls=ls, index=0)), keep_dims=False, name="loss")


def test_the_gradient_of_a_program_with_blocks_by_central_differences() -> None:
    made = program(network, (2, 6))
    inputs = {"x": np.random.default_rng(3).standard_normal((2, 6)).astype(np.float32)}
    plain, tensors = Interpreter(made, backend="numpy"), Interpreter(made, gradients=True)
    assert float(tensors.run(inputs)["loss"]) == pytest.approx(float(plain.run(inputs)["loss"]), rel=1e-5)
    weight = torch.tensor(WEIGHT, requires_grad=True)
    tensors.override({"weight": weight})
    tensors.run(inputs)["loss"].backward()
    for place in ((0, 0), (2, 3), (4, 5)):
        moved = np.zeros_like(WEIGHT)
        moved[place] = 1e-2
        losses = []
        for sign in (1, -1):
            plain.override({"weight": WEIGHT + sign * moved})
            losses.append(float(plain.run(inputs)["loss"]))
        slope = (losses[0] - losses[1]) / 2e-2
        assert float(weight.grad[place]) == pytest.approx(slope, rel=2e-2, abs=2e-3)


def test_rounding_to_float16_is_exact_and_lets_the_gradient_through() -> None:
    made = program(lambda x: mb.exp(x=mb.mul(x=x, y=np.float16(1.5)), name="y"), (2, 40), half=True)
    x = np.random.default_rng(4).uniform(-20, 12, (2, 40)).astype(np.float16)
    tensors = Interpreter(made, gradients=True)
    free = torch.tensor(x.astype(np.float32), requires_grad=True)
    run = BatchRun(tensors, made.functions["main"].outputs)
    (y,) = run({"x": free[None]})
    expected = Interpreter(made, backend="numpy").run({"x": x})["y"].astype(np.float32)
    both = y[0].detach().numpy()
    assert np.isinf(expected).any()
    np.testing.assert_allclose(both, expected, rtol=2**-10)
    finite = np.isfinite(expected)
    (slope,) = torch.autograd.grad(y[0][torch.from_numpy(finite)].sum(), free)
    np.testing.assert_allclose(slope.numpy(), np.where(finite, 1.5 * expected, 0), rtol=2e-3, atol=1e-7)


def test_an_op_at_which_the_gradient_ends_is_named() -> None:
    def build(x: Any) -> Any:
        h = mb.linear(x=x, weight=mb.const(val=WEIGHT, name="weight"))
        return mb.mul(x=mb.round(x=h, name="steps"), y=np.float32(2)), mb.reduce_argmax(x=h, name="best")

    tensors = Interpreter(program(build, (2, 6)), gradients=True)
    tensors.override({"weight": torch.tensor(WEIGHT, requires_grad=True)})
    steps, best = tensors.run({"x": np.ones((2, 6), np.float32)}).values()
    assert not steps.requires_grad
    assert best.dtype == np.int32  # no float: it comes from NumPy
    assert tensors.values.cuts == {"steps": "round", "best": "reduce_argmax"}


def test_states_carry_a_gradient_from_step_to_step() -> None:
    def build(x: Any, total: Any) -> Any:
        h = mb.linear(x=x, weight=mb.const(val=WEIGHT, name="weight"))
        h = mb.add(x=mb.mul(x=mb.read_state(input=total), y=np.float16(0.5)), y=mb.cast(x=h, dtype="fp16"))
        return mb.cast(x=mb.coreml_update_state(state=total, value=h), dtype="fp32", name="y")

    made = program(build, (2, 6), states=[mb.StateTensorSpec((2, 5), types.fp16)])
    inputs = {"x": np.ones((2, 6), np.float32)}
    plain, tensors = Interpreter(made, backend="numpy"), Interpreter(made, gradients=True)
    on_device = Interpreter(made, device="cpu")
    weight = torch.tensor(WEIGHT, requires_grad=True)
    tensors.override({"weight": weight})
    state, expected, given = (i.make_state() for i in (tensors, plain, on_device))
    for _ in range(3):
        y = tensors.run(inputs, state)["y"]
        want = plain.run(inputs, expected)["y"]
        np.testing.assert_allclose(on_device.run(inputs, given)["y"], want, rtol=2e-3)
    assert isinstance(given.values["total"], np.ndarray)
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=2e-3)
    y.sum().backward()
    np.testing.assert_allclose(weight.grad.numpy(), 2 * (1 + 0.5 + 0.25), rtol=1e-6)
    with pytest.raises(InterpreterError, match="takes its samples in sequence"):
        BatchRun(tensors, made.functions["main"].outputs)


def test_a_batch_is_each_sample_on_its_own_and_runs_what_is_asked_for() -> None:
    def build(x: Any) -> Any:
        h = mb.linear(x=x, weight=mb.const(val=WEIGHT, name="weight"), name="first")
        return mb.softmax(x=h, name="soft"), mb.reduce_argmax(x=h, name="best")

    made = program(build, (2, 6))
    outputs = dict(zip(("soft", "best"), made.functions["main"].outputs, strict=True))
    rng = np.random.default_rng(6)
    samples = [{"x": rng.standard_normal((2, 6)).astype(np.float32)} for _ in range(5)]
    expected = [Interpreter(made, backend="numpy").run(sample) for sample in samples]
    tensors = Interpreter(made, gradients=True)
    run = BatchRun(tensors, [outputs["soft"]])
    assert [step.op.name for step in run.steps] == ["first", "soft"]
    stacked = run.stack(samples)
    gradients = []
    for mapped in (None, True):
        assert run.mapped is mapped
        weight = torch.tensor(WEIGHT, requires_grad=True)
        tensors.override({"weight": weight})
        (soft,) = run(stacked)
        np.testing.assert_allclose(soft.detach(), [e["soft"] for e in expected], rtol=1e-5)
        gradients.append(torch.autograd.grad(soft.square().sum(), weight)[0])
    torch.testing.assert_close(*gradients)
    both = BatchRun(tensors, list(outputs.values()))  # NumPy takes the maximum: one by one
    assert np.array_equal(both(stacked)[1], [e["best"] for e in expected])
    assert both.mapped is False
    assert np.array_equal(both(stacked)[1], [e["best"] for e in expected])
    with pytest.raises(InterpreterError, match="a batch needs an interpreter with a device"):
        BatchRun(Interpreter(made), list(outputs.values()))


def test_bad_devices_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made = program(lambda x: mb.relu(x=x), (2, 6))
    with pytest.raises(InterpreterError, match=r"^no device 'tpu9': torch has cpu"):
        Interpreter(made, device="tpu9")
    with pytest.raises(InterpreterError, match="the backend 'numpy' has none"):
        Interpreter(made, backend="numpy", gradients=True)
    monkeypatch.setattr("milpasses.interpreter.backend_choice.find_spec", lambda name: None)
    with pytest.raises(InterpreterError, match=r"torch is not installed: pip install 'milpasses\[torch\]'"):
        Interpreter(made, gradients=True)


def test_looking_on_a_device_shows_numpy_and_a_run_can_be_resumed() -> None:
    made = program(network, (2, 6))
    inputs = {"x": np.random.default_rng(3).standard_normal((2, 6)).astype(np.float32)}
    tensors = Interpreter(made, device="cpu")
    seen: list[Any] = []
    outputs, snapshot = tensors.record(
        inputs, [lambda op, given, made: seen.extend([*given.values(), *made])]
    )
    assert snapshot is not None
    assert not any(isinstance(value, TensorArray | torch.Tensor) for value in seen)
    assert all(isinstance(value, np.ndarray) for value in outputs.values())
    for start in range(len(tensors.operations) + 1):
        assert tensors.resume(snapshot, start)["loss"] == outputs["loss"]


def test_every_op_is_differentiated_or_listed_as_having_no_gradient() -> None:
    covered = {name for name, _, _ in CASES}
    every = {name for name in supported_ops() if not name.startswith("constexpr_")}
    assert every == covered | WITHOUT_GRADIENT | IN_PROGRAMS
    assert not covered & WITHOUT_GRADIENT
