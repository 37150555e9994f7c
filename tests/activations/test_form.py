"""Pairs stand where coremltools' own passes put them: op for op, input for input, from the same ranges."""

from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil.passes.graph_pass import PassOption
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from coremltools.optimize import coreml as cto

import milpasses as mp
from milpasses import _coremltools as host
from milpasses.activations.grid import grid_of

RNG = np.random.default_rng(0)
FP16 = ct.converters.mil.mil.types.fp16


def weight(*shape: int) -> Any:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float16)


def conv(x: Any, channels: int, size: int = 3) -> Any:
    return mb.conv(x=x, weight=weight(channels, x.shape[1], size, size), pad_type="same")


def convnet(x: Any) -> Any:
    x = mb.relu(x=conv(x, 8))
    x = mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
    x = mb.sigmoid(x=conv(x, 8))
    x = mb.avg_pool(x=conv(x, 6), kernel_sizes=[4, 4], pad_type="valid")
    x = mb.linear(x=mb.reshape(x=x, shape=[1, -1]), weight=weight(5, x.shape[1] * x.shape[2] * x.shape[3]))
    return mb.softmax(x=x)


def residual(x: Any) -> Any:
    x = mb.relu(x=conv(x, 8))
    for _ in range(2):
        branch = conv(mb.relu(x=conv(x, 8)), 8)
        x = mb.relu(x=mb.add(x=branch, y=x))
    x = mb.add(x=x, y=np.float16(0.5))
    return mb.reduce_mean(x=conv(x, 4), axes=[2, 3])


def concat(x: Any) -> Any:
    a, b = mb.relu(x=conv(x, 4)), conv(x, 6, 1)
    joined = mb.concat(values=[a, b, x], axis=1)
    again = mb.concat(values=[conv(joined, 4), a], axis=1)
    return mb.reduce_mean(x=conv(again, 3), axes=[2, 3])


def transformer(x: Any) -> Any:
    x = mb.reshape(x=x, shape=[1, 12, 16])
    q, k, v = (mb.linear(x=x, weight=weight(16, 16)) for _ in range(3))
    scores = mb.softmax(x=mb.matmul(x=q, y=k, transpose_y=True))
    x = mb.add(x=mb.linear(x=mb.matmul(x=scores, y=v), weight=weight(16, 16)), y=x)
    x = mb.layer_norm(
        x=x, axes=[-1], gamma=np.ones(16, np.float16), beta=np.zeros(16, np.float16), epsilon=np.float16(1e-3)
    )
    hidden = mb.gelu(x=mb.linear(x=x, weight=weight(32, 16)))
    return mb.softmax(x=mb.add(x=mb.linear(x=hidden, weight=weight(16, 32)), y=x))


NETWORKS: dict[str, Callable[[Any], Any]] = {
    "convnet": convnet, "residual": residual, "concat": concat, "transformer": transformer,
}  # fmt: skip


def program_of(network: Callable[[Any], Any]) -> Any:
    global RNG  # the same weights whenever it is built
    RNG = np.random.default_rng(0)
    spec = mb.TensorSpec(shape=(1, 3, 8, 8), dtype=FP16)

    @mb.program(input_specs=[spec], opset_version=ct.target.iOS17)
    def prog(x: Any) -> Any:
        return mb.identity(x=network(x), name="result")

    return prog


def saved_model(network: Callable[[Any], Any]) -> Any:
    return ct.convert(
        program_of(network), convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17,
        pass_pipeline=ct.PassPipeline.EMPTY, skip_model_load=True,
    )  # fmt: skip


def samples(count: int = 4, seed: int = 1) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float16)} for _ in range(count)]


def program_in(model: Any) -> Any:
    return host.load_program(model.get_spec(), model.get_spec().specificationVersion, model.weights_dir)


def described(program: Any) -> list[Any]:
    """Every op that reaches an output, and what each of its inputs is: an op of this list, or a constant."""
    (block,) = program.functions.values()
    live: set[Any] = set()
    waiting = [variable.op for variable in block.outputs]
    while waiting:
        op = waiting.pop()
        if op is None or op in live:
            continue
        live.add(op)
        bound = [
            var for each in op.inputs.values() for var in (each if isinstance(each, list | tuple) else [each])
        ]
        waiting += [var.op for var in bound if var is not None]
    known: dict[Any, Any] = {var: ("input", name) for name, var in block.inputs.items()}
    lines: list[Any] = []
    for op in block.operations:
        if op not in live:
            continue
        if op.op_type == "const":
            known[op.outputs[0]] = (
                "const",
                np.asarray(op.outputs[0].val).tobytes(),
                str(op.outputs[0].dtype),
            )
            continue
        inputs: dict[str, Any] = {}
        for param, bound in sorted(op.inputs.items()):
            if bound is None:
                continue
            many = bound if isinstance(bound, list | tuple) else [bound]
            inputs[param] = [known[var] for var in many]
            if param == "zero_point" and not np.any(many[0].val):
                del inputs[param]  # MIL: no zero point is 0
        dtype = [str(var.dtype) for var in op.outputs]
        form = (op.op_type, tuple(sorted((p, repr(v)) for p, v in inputs.items())), tuple(dtype))
        known.update({var: hash((form, i)) for i, var in enumerate(op.outputs)})
        lines.append(form)
    return sorted(lines)  # by inputs and all that leads to them: the order of independent ops is free


def theirs(program: Any, ranges: Any, config: Any) -> Any:
    stats = {name: {"rmin": span.min, "rmax": span.max} for name, span in ranges.items()}
    groups = [
        [var.name for var in op.values] + [op.outputs[0].name]
        for function in program.functions.values()
        for op in function.operations
        if op.op_type == "concat"
    ]
    from coremltools.optimize.coreml.experimental._post_training_quantization import (
        _adjust_concat_surrounding_activation_stats,
    )

    _adjust_concat_surrounding_activation_stats(groups, stats)
    for name in ("insert_prefix_quantize_dequantize_pair", "insert_suffix_quantize_dequantize_pair"):
        found = PASS_REGISTRY[f"compression::{name}"]
        found.set_options([PassOption("config", config), PassOption("activation_stats", stats)])
        found.apply(program)
    # What the default pipeline does on the way back to a model: q(dq) goes. Of symmetric int8 the first pass
    # writes no zero point and the second 0, which hides that from it until 0 is made none.
    cleaning = ["dequantize_quantize_pair_elimination"]
    if config.global_config.mode == "LINEAR_SYMMETRIC":
        cleaning.insert(0, "nullify_redundant_quantization_zero_point")
    for name in cleaning:
        PASS_REGISTRY[f"common::{name}"].apply(program)
    return program


@pytest.mark.parametrize("text", ["a8-sym", "a8-asym", "a8-uint8-sym", "a8-uint8-asym"])
@pytest.mark.parametrize("name", NETWORKS)
def test_op_for_op_as_coremltools(name: str, text: str) -> None:
    model = saved_model(NETWORKS[name])
    statistics = mp.statistics(model, samples())
    statistics.histograms.clear()  # then ranges are the smallest and the largest value, as there
    activations = mp.Recipe.of(text).activations
    assert activations is not None
    config = cto.OptimizationConfig(
        cto.OpLinearQuantizerConfig(mode=activations.mode, dtype=activations.dtype)
    )
    expected = described(theirs(program_in(model), statistics.ranges, config))
    saved = mp.compress(model, text, statistics=statistics)
    assert described(program_in(saved)) == expected
    kinds = [line[0] for line in expected]
    assert kinds.count("quantize") == saved.report.totals()["quantized_activations"] or name != "convnet"
    assert kinds.count("quantize") > 3

    memory = program_in(model)
    found = PASS_REGISTRY["milpasses::quantize_activations"]
    found.set_options([PassOption("statistics", statistics), PassOption("recipe", text)])
    found.apply(memory)
    assert described(memory) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_a_second_run_adds_nothing(name: str) -> None:
    model = mp.compress(saved_model(NETWORKS[name]), "a8", calibration=samples())
    before = [line[0] for line in described(program_in(model))]
    again = mp.compress(model, "int8+a8", calibration=samples())
    assert not again.report.activations
    assert not again.report.unmatched
    after = [line[0] for line in described(program_in(again)) if not line[0].startswith("constexpr_")]
    assert after == before


@pytest.mark.parametrize("mode", ["linear_symmetric", "linear"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_grids_are_those_of_coremltools(mode: str, dtype: str) -> None:
    from coremltools.converters.mil.mil import types
    from coremltools.optimize import _utils

    rng = np.random.default_rng(3)
    for low, high in np.sort(rng.standard_normal((300, 2)) * 10 ** rng.uniform(-1, 2, (300, 1)), axis=1):
        span = np.array([low, high], np.float16)
        _, scale, zero = _utils.quantize_weight_by_dtype(
            span, 0, types.string_to_builtin(dtype), mode.upper()
        )
        grid = grid_of(low, high, mode, dtype)
        assert grid.scale == float(np.float16(scale))
        assert grid.zero_point == (0 if zero is None else int(zero))


def test_the_mode_of_each_tensor_is_the_one_with_the_finer_step() -> None:
    for low, high in ((0, 6), (-0.2, 4), (-7, 0), (-1, 3)):
        assert grid_of(low, high, "auto") == grid_of(low, high, "linear")
        assert grid_of(low, high, "auto").scale < 0.8 * grid_of(low, high).scale
    for low, high in ((-6, 6), (-5.5, 6), (-6, 5), (0, 0)):
        assert grid_of(low, high, "auto") == grid_of(low, high)
    made = mp.compress(saved_model(residual), "a8", calibration=samples())
    records = {record.low: record for record in made.report.activations}
    assert len({record.zero_point == 0 for record in records.values()}) == 2  # both occur here
    for record in records.values():
        assert record.low is not None
        assert record.high is not None
        smaller, larger = sorted((abs(record.low), abs(record.high)))
        assert (record.zero_point != 0) == (smaller < 0.8 * larger)


def test_a_wide_range_keeps_its_negatives() -> None:
    grid = grid_of(-20, 600, "linear")
    assert grid.zero_point == -120  # coremltools: -128, and all below 0 is lost
    assert abs(grid.round_trip(np.float32([-20]))[0] + 20) < grid.scale
    assert grid_of(0, 0).scale == 1
    assert grid_of(0, 1e-9).scale > 0
    assert np.isfinite(grid_of(-6e4, 6e4).scale)


def test_ties_go_to_even_and_codes_saturate() -> None:
    grid = grid_of(-127, 127)
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 300, -300], np.float32)
    assert grid.round_trip(values).tolist() == [0, 2, 2, 0, -2, 126, 127, -128]


def test_all_else_stays_as_it_is() -> None:
    """Ops keep their messages but for the inputs that take a pair; weights and interface keep theirs."""
    model = saved_model(residual)
    spec, other = model.get_spec(), mp.compress(model, "a8", calibration=samples()).get_spec()
    blocks = [each.mlProgram.functions["main"].block_specializations["CoreML7"] for each in (spec, other)]
    before, after = ({op.outputs[0].name: op for op in block.operations} for block in blocks)
    assert blocks[0].outputs[:] == blocks[1].outputs[:]
    assert spec.description.output == other.description.output
    order = [name for name in after if name in before]
    assert order == list(before)
    rebound = 0
    for name, op in before.items():
        new = after[name]
        for param in op.inputs:
            if new.inputs[param] != op.inputs[param]:
                rebound += 1
                new.inputs[param].CopyFrom(op.inputs[param])
        assert new == op
    kinds = [op.type for op in blocks[1].operations]
    assert rebound == kinds.count("dequantize") > kinds.count("quantize")
