"""Calibrated compression corrects biases: the arithmetic, what it gains, and which biases it leaves alone."""

from typing import Any

import attrs
import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from models import convert

import milpasses as mp
from milpasses.calibration import Inputs
from milpasses.calibration.encode import encode_calibrated
from milpasses.calibration.outputs import Loss, correct, difference
from milpasses.data.moments import Moments
from milpasses.encoding.encoder import Encoder
from milpasses.errors import Refusal
from milpasses.interpreter import Interpreter
from milpasses.program.flows import Flow
from milpasses.program.package import open_package
from milpasses.program.proto import read_value
from milpasses.program.saved import SavedProgram, walk
from milpasses.program.weights import Consumer, Weight

LINEAR = Consumer("linear", "op", "weight")
SMALL = mp.Recipe(mp.Palettize(nbits=2, weight_threshold=50))


def moments(rows: np.ndarray, full: bool = True) -> Moments:
    """Of rows [groups, rows, width]."""
    flow = Flow(rows.shape[0], rows.shape[2], 1, 1, [rows.astype(np.float64)])
    found = Moments.empty(flow, full, "op")
    found.add(flow)
    return found


def rows(seed: int, groups: int = 1, width: int = 12, mean: float = 0.8, count: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(width, width)) / 3 + np.eye(width)
    centre = np.random.default_rng(8).normal(mean, 0.3, size=(groups, 1, width))
    return rng.normal(size=(groups, count, width)) @ mixing + centre


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("full", [True, False])
def test_the_shift_and_what_remains_are_those_of_the_outputs(groups: int, full: bool) -> None:
    rng = np.random.default_rng(0)
    fit, check = rows(1, groups), rows(2, groups)
    if not full:  # inputs that are uncorrelated but for their means, as is assumed then: every sign once
        signs = np.array([[1 - 2 * (row >> k & 1) for k in range(4)] for row in range(16)])
        fit, check = (x[:, :16, :4] * 0 + x[:, :1, :4] + signs * [1.0, 0.5, 2.0, 0.1] for x in (fit, check))
    width = fit.shape[-1]
    value = rng.normal(size=(6 * groups, width)).astype(np.float16)
    decoded = (value + 0.1 * rng.normal(size=value.shape)).astype(np.float16)
    bias = rng.normal(size=6 * groups).astype(np.float32)
    consumer = Consumer("conv" if groups > 1 else "linear", "op", "weight", groups=groups)
    inputs = Inputs(moments(fit, full), moments(check, full))
    change = difference(value, decoded, inputs.fit, consumer)
    found = correct(bias, change, Loss.of(change, inputs.validation), inputs)
    assert found is not None

    lost = value.astype(np.float64) - decoded
    parts = lost.reshape(groups, 6, width)
    shift = np.concatenate([(x @ part.T).mean(0) for x, part in zip(fit, parts, strict=True)])
    np.testing.assert_allclose(found.bias, bias + shift, rtol=1e-5, atol=1e-6)
    outputs = np.concatenate([x @ part.T for x, part in zip(check, parts, strict=True)], axis=1)
    remains = ((outputs - (found.bias.astype(np.float64) - bias)) ** 2).sum(1).mean()
    assert found.error == pytest.approx(remains, rel=1e-4)
    assert Loss.of(change, inputs.validation).error == pytest.approx((outputs**2).sum(1).mean(), rel=1e-4)


def test_what_was_fitted_is_validated_as_if_it_met_other_rows() -> None:
    """With nothing held out, the mean of a few rows suits them better than those that come."""
    rng = np.random.default_rng(1)
    change, bias = rng.normal(size=(1, 5, 12)).astype(np.float32), np.zeros(5, np.float32)
    expected, met = [], []
    for seed in range(200):
        few, others = rows(seed, count=8), rows(1000 + seed, count=8)
        fit, other = moments(few), moments(others)
        found = correct(bias, change, Loss.of(change, fit), Inputs(fit))
        against = correct(bias, change, Loss.of(change, other), Inputs(fit, other))
        assert found is not None
        assert against is not None
        expected.append(found.error)
        met.append(against.error)
    assert np.mean(expected) == pytest.approx(np.mean(met), rel=0.05)
    one = moments(rows(0, count=1))
    assert correct(bias, change, Loss.of(change, one), Inputs(one)) is None


def calibrated(value: np.ndarray, inputs: Inputs, bias: Any) -> Any:
    encoder = Encoder(Weight("w", value.shape, value.dtype.name, (LINEAR,)))
    return encode_calibrated(encoder, value, mp.Palettize(nbits=2, weight_threshold=0), inputs, bias)


def test_kept_only_where_the_held_out_error_falls() -> None:
    value = np.random.default_rng(3).normal(size=(16, 12)).astype(np.float16)
    bias = np.ones(16, np.float16)
    fit = moments(rows(1))
    good = calibrated(value, Inputs(fit, moments(rows(2))), bias)
    without = calibrated(value, Inputs(fit, moments(rows(2))), None)
    assert good.method.endswith(" + bias")
    assert good.bias is not None
    assert good.bias.dtype == np.float16
    assert good.output_sqnr_db > without.output_sqnr_db + 0.5
    turned = calibrated(value, Inputs(fit, moments(-rows(2))), bias)
    assert turned.bias is None
    assert "bias" not in turned.method
    shared = Refusal("bias-shared", name="b")
    told = calibrated(value, Inputs(fit, moments(rows(2))), shared)
    assert (told.bias, told.method) == (None, without.method)
    assert told.output_sqnr_db == without.output_sqnr_db
    assert Refusal("bias-not-corrected", reason="b has other uses") in told.notes
    assert calibrated(value, Inputs(fit, moments(-rows(2))), shared).notes == ()


def test_a_bias_that_would_overflow_stays() -> None:
    value = np.random.default_rng(3).normal(size=(16, 12)).astype(np.float16)
    inputs = Inputs(moments(rows(1, mean=9000.0)), moments(rows(2, mean=9000.0)))
    full = np.where(np.arange(16) % 2, -65504, 65504).astype(np.float16)
    assert calibrated(value, inputs, full).bias is None
    assert calibrated(value, inputs, full.astype(np.float32)).bias is not None
    assert calibrated(value, inputs, np.full(16, np.nan, np.float16)).bias is None


def const(name: str, *shape: int, scale: float = 0.2) -> Any:
    rng = np.random.default_rng(sum(map(ord, name)))
    return mb.const(val=(rng.standard_t(5, shape) * scale).astype(np.float16), name=name)


def network(bias_first: bool = False, shared: bool = False) -> Any:
    """Two convolutions, the second grouped, and a linear; what flows into the last two is never negative."""
    mb.name_count.clear()

    def pair(name: str, *shape: int, bias: str = "") -> dict[str, Any]:
        made: dict[str, Any] = {}
        for kind in ("bias", "weight") if bias_first else ("weight", "bias"):
            own = (name + "_weight", *shape) if kind == "weight" else (bias or name + "_bias", shape[0])
            made[kind] = const(*own)
        return made

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, 8, 9, 9), dtype=types.fp16)], opset_version=ct.target.iOS18
    )
    def built(x: Any) -> Any:
        x = mb.relu(x=mb.conv(x=x, **pair("one", 16, 8, 3, 3), name="one"))
        two = pair("two", 16, 8, 3, 3)
        x = mb.relu(x=mb.conv(x=x, **two, groups=2, pad_type="same", name="two"))
        x = mb.reshape(x=mb.reduce_mean(x=x, axes=[2]), shape=[7, 16])
        last = pair("last", 16, 16)
        if shared:
            last["bias"] = two["bias"]
        few = mb.linear(x=x, weight=const("few_weight", 6, 16), bias=const("few_bias", 6), name="few")
        return mb.concat(values=[mb.linear(x=x, **last, name="last"), few], axis=1, name="y")

    return built


def samples(seed: int = 0, count: int = 16) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0.5, 1, size=(1, 8, 9, 9)).astype(np.float32)} for _ in range(count)]


def saved(**options: Any) -> Any:
    return convert(network(**options), pass_pipeline=ct.PassPipeline.EMPTY)


@pytest.fixture(scope="module")
def model() -> Any:
    return saved()


@pytest.fixture(scope="module")
def statistics(model: Any) -> mp.Statistics:
    return mp.statistics(model, samples, full=True, held_out=4)


def loss(model: Any, small: Any) -> float:
    sides = [Interpreter(one, precision="float32") for one in (model, small)]
    outputs = [np.stack([side.run(one)["y"] for one in samples(99)]) for side in sides]
    return float(((outputs[0] - outputs[1]) ** 2).mean())


def constants(model: Any) -> dict[str, np.ndarray]:
    """The dense constants of a saved model's weight file."""
    package = open_package(model.package_path)
    ops = [op for function in SavedProgram(package).functions for op in walk(function.block)]
    stored = [op for op in ops if op.type == "const"]
    stored = [op for op in stored if op.attributes["val"].WhichOneof("value") == "blobFileValue"]
    return {op.outputs[0].name: np.array(read_value(package, op.attributes["val"])[0]) for op in stored}


def test_outputs_come_nearer_at_the_same_bytes(model: Any, statistics: mp.Statistics) -> None:
    small = mp.compress(model, SMALL, statistics=statistics)
    rule = mp.Rule(name="*_bias", min_elements=0, scheme=mp.Keep())
    without = mp.compress(model, attrs.evolve(SMALL, rules=[rule]), statistics=statistics)
    assert loss(model, small) < 0.5 * loss(model, without)
    for one in (small, without):
        assert (one.report.count("compressed"), one.report.count("kept")) == (4, 3)
        assert one.report.bytes_after == without.report.bytes_after
    before, after = constants(model), constants(small)
    for name in ("one", "two", "last"):
        weight, bias = small.report[f"{name}_weight"], small.report[f"{name}_bias"]
        assert weight.method.endswith("kmeans + bias")
        assert weight.output_sqnr_db is not None
        assert weight.output_sqnr_db > (without.report[f"{name}_weight"].output_sqnr_db or 0)
        assert "a rule keeps" in without.report[f"{name}_weight"].reason
        assert (bias.status, bias.form) == ("kept", "dense")
        assert bias.reason == "bias corrected: + (W - W') E[x]"
        assert bias.bytes_after == bias.bytes_before
        moved = after[f"{name}_bias"].astype(np.float64) - before[f"{name}_bias"]
        assert bias.max_error == np.abs(moved).max() > 0
    np.testing.assert_array_equal(constants(without)["one_bias"], before["one_bias"])
    few = small.report["few_weight"]  # whose bias of six elements is in the program's text
    assert few.status == "compressed"
    assert "bias" not in few.method


def test_a_second_run_changes_nothing(model: Any, statistics: mp.Statistics) -> None:
    small = mp.compress(model, SMALL, statistics=statistics)
    again = mp.compress(small, SMALL, statistics=statistics)
    assert again.report.count("compressed") == 0
    ours, theirs = constants(small), constants(again)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])


@pytest.mark.parametrize("bias_first", [False, True])
def test_both_doors_emit_the_same(bias_first: bool) -> None:
    plain = saved(bias_first=bias_first)
    found = mp.statistics(plain, samples, full=True, held_out=4)
    compressed = mp.compress(plain, SMALL, statistics=found)
    pipeline = mp.pipeline(SMALL, base=ct.PassPipeline.EMPTY, statistics=found)
    converted = convert(network(bias_first=bias_first), pass_pipeline=pipeline)
    assert [record.row() for record in compressed.report] == [record.row() for record in pipeline.report]
    assert sum(record.reason.startswith("bias corrected") for record in pipeline.report) == 3
    names = [record.name for record in pipeline.report]
    assert names.index("one_bias") == (0 if bias_first else 1)
    sides = [one._mil_program.functions["main"].operations for one in (compressed, converted)]
    wanted = [[op for op in side if op.op_type not in ("const", "cast")] for side in sides]
    assert [op.op_type for op in wanted[0]] == [op.op_type for op in wanted[1]]
    for mine, theirs in zip(*wanted, strict=True):
        assert mine.inputs.keys() == theirs.inputs.keys()
        for param, bound in mine.inputs.items():
            if isinstance(getattr(bound, "val", None), np.ndarray):
                np.testing.assert_array_equal(bound.val, theirs.inputs[param].val)
    dense = constants(compressed)
    assert dense.keys() == constants(converted).keys() >= {"one_bias", "two_bias", "last_bias"}
    for name, values in dense.items():
        np.testing.assert_array_equal(values, constants(converted)[name])
    assert compressed._mil_program.functions["main"].outputs[0].name == "y"


def test_a_shared_bias_is_left_alone() -> None:
    plain = saved(shared=True)
    small = mp.compress(plain, SMALL, calibration=samples)
    assert small.report["one_weight"].method.endswith("+ bias")
    for name in ("two_weight", "last_weight"):
        assert not small.report[name].method.endswith("+ bias")
        assert "bias not corrected: two_bias has other uses" in small.report[name].reason
    np.testing.assert_array_equal(constants(small)["two_bias"], constants(plain)["two_bias"])


def test_functions_that_share_a_bias_get_the_same(model: Any, tmp_path: Any) -> None:
    model.save(str(tmp_path / "one.mlpackage"))
    both = ct.utils.MultiFunctionDescriptor()
    for name in ("first", "second"):
        both.add_function(str(tmp_path / "one.mlpackage"), "main", name)
    both.default_function_name = "first"
    ct.utils.save_multifunction(both, str(tmp_path / "both.mlpackage"))
    found = mp.statistics(model, samples, full=True, held_out=4)
    small = mp.compress(tmp_path / "both.mlpackage", SMALL, statistics=found)
    bias = small.report["two_bias"]
    assert bias.functions == ("first", "second")
    assert bias.reason.startswith("bias corrected")
    functions = small._mil_program.functions.values()
    values = [op.val.val for f in functions for op in f.operations if op.name == "two_bias"]
    assert len(values) == 2
    np.testing.assert_array_equal(*values)
    assert not np.array_equal(values[0], constants(model)["two_bias"])


def test_the_pass_keeps_a_weight_id_of_biases(model: Any, statistics: mp.Statistics) -> None:
    from milpasses.calibration import KnownStatistics
    from milpasses.program.memory import MemoryProgram
    from milpasses.program.opset import opset_of
    from milpasses.rewrite import Rewriter, rewrite_program

    program = network()
    program.add_function("second", network().functions["main"])
    for function in program.functions.values():
        for op in function.operations:
            if op.op_type == "const" and isinstance(op.val.val, np.ndarray) and op.val.val.size >= 10:
                op.weight_id = op.name
    report = mp.Report()
    rewriter = Rewriter(SMALL, opset_of(9), calibration=KnownStatistics(statistics))
    rewrite_program(MemoryProgram(program), rewriter, report)
    program.validate()
    assert report["one_bias"].functions == ("main", "second")
    made = [op for f in program.functions.values() for op in f.operations if op.name == "one_bias"]
    assert [op.weight_id for op in made] == ["one_bias", "one_bias"]
    np.testing.assert_array_equal(made[0].val.val, made[1].val.val)


def test_sequential_calibration_sees_corrected_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    override = Interpreter.override

    def watch(self: Interpreter, values: Any) -> None:
        seen.append(dict(values))
        override(self, values)

    monkeypatch.setattr(Interpreter, "override", watch)
    for bias_first in (False, True):
        seen.clear()
        small = mp.compress(saved(bias_first=bias_first), SMALL, calibration=samples, sequential=True)
        stored = constants(small)
        assert {"one_weight", "one_bias"} <= seen[0].keys()
        for values in seen:
            for name in values.keys() & stored.keys():
                np.testing.assert_array_equal(values[name], stored[name].astype(np.float32))
        assert small.report["two_weight"].method.endswith("+ bias")


def test_second_moments_of_a_caller_know_no_mean(model: Any, statistics: mp.Statistics) -> None:
    known: dict[str, Any] = {name: one.gram for name, one in statistics.weights.items()}
    for given in (known, {name: one.square_sum for name, one in statistics.weights.items()}):
        small = mp.compress(model, SMALL, statistics=given)
        assert small.report.count("compressed") == 4
        assert not [record for record in small.report if "bias" in record.method + record.reason]
        np.testing.assert_array_equal(constants(small)["one_bias"], constants(model)["one_bias"])


def test_a_fitted_recipe_is_corrected_when_applied(model: Any) -> None:
    from milpasses.budget import fit

    candidates = [mp.Palettize(nbits=nbits, weight_threshold=100) for nbits in (2, 3, 4)]
    fitted = fit(model, "6 bits", data=samples(count=8), candidates=candidates)
    small = mp.compress(model, fitted.recipe, calibration=samples)
    assert any(record.reason.startswith("bias corrected") for record in small.report)
    assert loss(model, small) < loss(model, mp.compress(model, fitted.recipe))


def test_ops_that_cannot_be_told_apart_by_name_are_left_alone() -> None:
    from milpasses.calibration import KnownStatistics
    from milpasses.program.opset import opset_of
    from milpasses.program.weights import Site
    from milpasses.rewrite import PairedRewriter, Rewriter

    def site(name: str, shape: tuple[int, ...], param: str, functions: tuple[str, ...] = ("main",)) -> Site:
        use = Consumer("linear", "op", param)
        value = np.random.default_rng(3).normal(size=shape).astype(np.float16)
        return Site(Weight(name, shape, "float16", (use,), functions, lambda: value), value.nbytes)

    fit, check = moments(rows(1)), moments(rows(2))
    found = mp.Statistics({"w": fit, "v": fit}, held_out={"w": check, "v": check})
    rewriter = Rewriter(SMALL, opset_of(9), calibration=KnownStatistics(found))

    def corrected(*sites: Site) -> list[bool]:
        rewriting = PairedRewriter(rewriter, sites)
        return [rewriting.rewrite(one).record.method.endswith("+ bias") for one in sites]

    weight, bias = site("w", (64, 12), "weight"), site("b", (64,), "bias")
    assert corrected(weight, bias) == [True, False]
    assert corrected(bias, weight) == [False, True]
    assert corrected(weight, site("v", (64, 12), "weight"), bias) == [False] * 3
    assert corrected(weight, bias, site("c", (64,), "bias")) == [False] * 3
    assert corrected(weight, site("b", (12,), "bias")) == [False] * 2
    other = site("b", (64,), "bias", ("main", "other"))
    assert corrected(weight, other) == [False] * 2
    # The same names in another function are other ops.
    assert corrected(weight, bias, site("v", (64, 12), "weight", ("other",))) == [True, False, False]
