"""The probe: from where it runs a sample again, and what it keeps for that."""

from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import get_new_symbol, types

from milpasses.budget.probe import Probe
from milpasses.data.samples import Samples
from milpasses.interpreter import Interpreter

RNG = np.random.default_rng(5)
FIRST, SECOND = (RNG.standard_normal((4, 4)).astype(np.float32) for _ in range(2))


def network() -> Any:
    @mb.program(input_specs=[mb.TensorSpec((get_new_symbol(), 4), types.fp32)], opset_version=ct.target.iOS17)
    def build(x: Any) -> Any:
        h = mb.relu(x=mb.linear(x=x, weight=mb.const(val=FIRST, name="first")))
        return mb.linear(x=h, weight=mb.const(val=SECOND, name="second"), name="y")

    return build


def output_error(inputs: list[np.ndarray], values: dict[str, np.ndarray]) -> float:
    """By whole runs of two interpreters."""
    before, after = Interpreter(network()), Interpreter(network())
    after.override(values)
    pairs = [(before.run({"x": x})["y"], after.run({"x": x})["y"]) for x in inputs]
    signal = sum(float(np.sum(a.astype(np.float64) ** 2)) for a, _ in pairs)
    return sum(float(np.sum((a.astype(np.float64) - b) ** 2)) for a, b in pairs) / signal


@pytest.mark.parametrize("room", [1 << 20, 2000, 0])
def test_samples_of_different_sizes_are_each_measured_by_their_own_values(room: int) -> None:
    """Where there is room for the small sample alone, it does not stand in for the large one before it."""
    inputs = [RNG.standard_normal((rows, 4)).astype(np.float32) for rows in (100, 3)]
    interpreter = Interpreter(network())
    probe = Probe(interpreter, list(Samples.of([{"x": x} for x in inputs], interpreter)), room=room)
    assert [snapshot is not None for snapshot in probe._snapshots] == {
        1 << 20: [True, True], 2000: [False, True], 0: [False, False],
    }[room]  # fmt: skip
    for values in ({"second": SECOND * np.float32(0.9)}, {"first": FIRST + 1}, {"first": FIRST}):
        assert probe.output_error(values) == pytest.approx(output_error(inputs, values), rel=1e-12)
    assert probe.output_error({}) == 0
    assert probe.executions == 5


def test_only_ops_from_the_changed_weight_on_run_again() -> None:
    interpreter = Interpreter(network())
    data = [{"x": RNG.standard_normal((3, 4)).astype(np.float32)}]
    probe = Probe(interpreter, list(Samples.of(data, interpreter)))
    starts: list[int] = []
    whole = interpreter.resume

    def resume(snapshot: Any, start: int, observers: Any = ()) -> Any:
        starts.append(start)
        return whole(snapshot, start, observers)

    interpreter.resume = resume  # type: ignore[method-assign]
    probe.output_error({"second": SECOND * 2})
    probe.output_error({"first": FIRST * 2})
    assert [interpreter.operations[start].op_type for start in starts] == ["linear", "linear"]
    assert starts[0] > starts[1] == 0
