"""Ops that stay float because 8 bits there cost too much."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder, types
from test_form import NETWORKS, residual, samples, saved_model

import milpasses as mp
from milpasses.activations.fallback import Fallback
from milpasses.interpreter import Interpreter
from milpasses.program.opening import open_program

mb: Any = Builder
BAD = "fragile"


def outliers(x: Any) -> Any:
    """Of the op called fragile one channel in eight decides the outputs, and the others fill its range."""
    rng = np.random.default_rng(0)
    x = mb.relu(x=mb.conv(x=x, weight=rng.normal(size=(8, 3, 1, 1)).astype(np.float16), name="first"))
    wide = rng.normal(size=(8, 8, 1, 1)).astype(np.float16)
    wide[1:] *= np.float16(300)
    x = mb.conv(x=x, weight=wide, name="second")
    narrow = rng.normal(size=(4, 8, 1, 1)).astype(np.float16)
    narrow[:, 1:] = 0
    x = mb.conv(x=x, weight=narrow, name=BAD)
    return mb.conv(x=x, weight=rng.normal(size=(4, 4, 1, 1)).astype(np.float16), name="last")


def sqnr(reference: Any, other: Any) -> float:
    signal = noise = 0.0
    for sample in samples(6, 5):
        exact, given = (
            Interpreter(each).run(sample)["result"].astype(np.float64) for each in (reference, other)
        )
        signal, noise = signal + (exact**2).sum(), noise + ((exact - given) ** 2).sum()
    return 10 * np.log10(signal / noise)


def kept(report: Any) -> set[str]:
    return {record.name for record in report.activations if record.status == "float"}


def pairs_in(model: Any) -> list[str]:
    """Names of the ops of pairs."""
    (function,) = open_program(model).functions
    kinds = ("quantize", "dequantize")
    return [function.op_name(op) for op in function.body() if function.op_type(op) in kinds]


def test_what_costs_most_stays_float_and_says_why() -> None:
    model = saved_model(outliers)
    every = mp.compress(model, "a8", calibration=samples(16), equalize=False)
    assert kept(every.report) == set()
    assert sqnr(model, every) < 15
    found = mp.compress(model, "a8", calibration=samples(16), equalize=False, fallback="30 dB")
    assert kept(found.report) == {"second"}
    assert sqnr(model, found) > 28
    (record,) = (record for record in found.report.activations if record.status == "float")
    assert record.uses == (f"{BAD}:conv.x",)
    assert record.refusal is not None
    assert record.refusal.code == "costs-outputs"
    assert dict(record.refusal.details)["snr_db"] < 20
    assert "held-out outputs" in str(record)
    quantized = [record for record in found.report.activations if record.status == "quantized"]
    assert {use.split(":")[0] for record in quantized for use in record.uses} == {"first", "second", "last"}
    assert not any("second" in line for line in pairs_in(found))
    assert sum("quantize" in line for line in pairs_in(every)) > sum(
        "quantize" in line for line in pairs_in(found)
    )
    again = mp.compress(model, "a8", calibration=samples(16), equalize=False, fallback=1)
    assert again.report.activations == found.report.activations


def test_what_keeps_the_limit_stays_8_bit() -> None:
    found = mp.compress(saved_model(residual), "a8", calibration=samples(16), fallback="10 dB")
    assert kept(found.report) == set()


def test_a_concat_stays_float_as_a_whole() -> None:
    found = mp.compress(saved_model(NETWORKS["concat"]), "a8", calibration=samples(16), fallback=1)
    groups = {record.tensors for record in found.report.activations if record.status == "float"}
    assert len(groups) == 1
    for record in found.report.activations:
        assert (record.status == "float") == (record.tensors in groups)


def pooled(x: Any) -> Any:
    """Pooling takes the values of a relu further; one channel in eight decides, the others fill the range."""
    rng = np.random.default_rng(0)
    wide, narrow = (rng.normal(size=size).astype(np.float16) for size in ((8, 3, 1, 1), (4, 8, 1, 1)))
    wide[1:] *= np.float16(300)
    narrow[:, 1:] = 0
    x = mb.relu(x=mb.conv(x=x, weight=wide), name="made")
    x = mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", name="moved")
    return mb.conv(x=x, weight=narrow, name="last")


def test_what_only_moves_values_stays_float_with_them() -> None:
    found = mp.compress(saved_model(pooled), "a8", calibration=samples(16), equalize=False, fallback=1)
    assert kept(found.report) == {"made", "moved"}


@pytest.mark.parametrize(("value", "wanted"), [("30 dB", 1e-3), ("1 %", 0.01), (3, 3), ("3", 3)])
def test_limits(value: Any, wanted: float) -> None:
    found = Fallback.of(value)
    assert found is not None
    assert (found.loss if found.count is None else found.count) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fallback": "many"}, "fallback=: expected"),
        ({"fallback": 0}, "fallback=: expected"),
        ({"fallback": "120 %"}, "fallback=: expected"),
        ({"fallback": True}, "fallback=: expected"),
        ({"fallback": 40}, "40 of 5 8-bit activations"),
        ({"fallback": "190 dB"}, "cannot be kept while any activation is 8-bit"),
        ({"fallback": 1, "calibration": samples(4)}, "4 samples: it needs 8"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"calibration": samples(16), **options}
    with pytest.raises(mp.MilpassesError, match=words) as error:
        mp.compress(saved_model(outliers), "a8", output=tmp_path / "a.mlpackage", **given)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_statistics_do_not_tell() -> None:
    model = saved_model(outliers)
    with pytest.raises(mp.MilpassesError, match="fallback=: needs calibration=data"):
        mp.compress(model, "a8", statistics=mp.statistics(model, samples()), fallback=1)


def test_the_runs_do_not_grow_with_the_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    original = Interpreter.run

    def counting(self: Any, *arguments: Any, **options: Any) -> Any:
        runs[-1] += 1
        return original(self, *arguments, **options)

    monkeypatch.setattr(Interpreter, "run", counting)
    for depth in (80, 160):
        start = mb.TensorSpec(shape=(1, 8), dtype=types.fp16)
        rng = np.random.default_rng(0)

        @mb.program(input_specs=[start], opset_version=ct.target.iOS17)
        def program(x: Any) -> Any:
            for index in range(depth):  # noqa: B023
                weight = (rng.normal(size=(8, 8)) / 3).astype(np.float16)  # noqa: B023
                x = mb.tanh(x=mb.linear(x=x, weight=weight, name=f"linear_{index}"), name=f"tanh_{index}")
            return x

        model = ct.convert(program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
        rows = np.random.default_rng(0).normal(size=(8, 1, 8)).astype(np.float16)
        runs.append(0)
        found = mp.compress(model, "a8", calibration=[{"x": row} for row in rows], equalize=False, fallback=2)
        assert 2 <= len(kept(found.report)) < 2 + depth / 8
    assert abs(runs[0] - runs[1]) <= 4
