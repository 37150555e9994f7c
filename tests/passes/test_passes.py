"""The passes in a pipeline of one's own: counts, numbers, and a second run that does nothing."""

from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from models import constexprs, conv_linear_program, convert, random

import milpasses as mp

CASES = [
    (
        "quantize_weights",
        {"dtype": "int4", "granularity": "per_block", "block_size": "16"},
        "constexpr_blockwise_shift_scale",
    ),
    ("palettize_weights", {"nbits": "4"}, "constexpr_lut_to_dense"),
    ("prune_weights", {"target_sparsity": 0.75}, "constexpr_sparse_to_dense"),
    ("compress_weights", {"recipe": "pal4-g16"}, "constexpr_lut_to_dense"),
]


@pytest.mark.parametrize(("name", "options", "op_type"), CASES)
def test_in_a_pipeline_of_ones_own(name: str, options: dict[str, Any], op_type: str) -> None:
    report = mp.Report()
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.append_pass(f"milpasses::{name}")
    pipeline.set_options(f"milpasses::{name}", {**options, "report": report})
    model = convert(conv_linear_program(), pass_pipeline=pipeline)
    assert [op.op_type for op in constexprs(model).values()] == [op_type] * 2
    assert report.count("compressed") == 2


def run(program: Any, name: str, **options: Any) -> mp.Report:
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption

    report = mp.Report()
    graph_pass = PASS_REGISTRY[f"milpasses::{name}"]
    if name == "decompress_weights":
        graph_pass.report = report
    else:
        graph_pass.set_options([PassOption(k, v) for k, v in {**options, "report": report}.items()])
    graph_pass(program)
    program.validate()
    return report


@pytest.mark.parametrize(("name", "options", "op_type"), CASES)
def test_a_second_run_rewrites_nothing(name: str, options: dict[str, Any], op_type: str) -> None:
    program = conv_linear_program()
    assert run(program, name, **options).count("compressed") == 2
    text = str(program)
    again = run(program, name, **options)
    assert again.count("compressed") == 0
    assert str(program) == text


def test_requantize_and_decompress_in_memory() -> None:
    program = conv_linear_program()
    run(program, "compress_weights", recipe="sparse50+pal4")
    assert run(program, "compress_weights", recipe="pal2", requantize="true").count("compressed") == 2
    kinds = {op.op_type for op in program.functions["main"].operations if op.op_type.startswith("constexpr")}
    assert kinds == {"constexpr_lut_to_dense"}
    report = run(program, "decompress_weights")
    assert report.count("compressed") == 2
    assert not [op for op in program.functions["main"].operations if op.op_type.startswith("constexpr")]
    assert run(program, "decompress_weights").records == []


def test_nested_blocks_are_rewritten() -> None:
    def build() -> Any:
        mb.name_count.clear()
        return mb.program(
            input_specs=[mb.TensorSpec(shape=(1, 64)), mb.TensorSpec(shape=(1,))],
            opset_version=ct.target.iOS18,
        )(two_ways)

    def two_ways(x: Any, flag: Any) -> Any:
        first, second = random((64, 64), 1), random((64, 64), 2)
        return mb.cond(
            pred=mb.squeeze(x=mb.greater(x=flag, y=0.0)),
            _true_fn=lambda: mb.linear(x=x, weight=first, name="yes"),
            _false_fn=lambda: mb.linear(x=x, weight=second, name="no"),
        )

    pipeline = mp.pipeline("pal4")
    model = convert(build(), pass_pipeline=pipeline)
    assert pipeline.report.count("compressed") == 2
    plain = convert(build())
    small = mp.compress(plain, "pal4")
    assert [r.row() for r in small.report] == [r.row() for r in pipeline.report]
    assert mp.compress(model, "pal4").report.count("kept") == 2


def test_weights_with_an_id_share_their_codes() -> None:
    program = conv_linear_program()
    program.add_function("second", conv_linear_program().functions["main"])
    for function in program.functions.values():
        for op in function.operations:
            if op.op_type == "const" and isinstance(op.val.val, np.ndarray) and op.val.val.size > 100:
                op.weight_id = f"id_{op.val.val.size}"
    report = run(program, "compress_weights", recipe="pal4")
    assert report.count("compressed") == 2
    assert {r.functions for r in report if r.status == "compressed"} == {("main", "second")}
    luts = [
        op
        for f in program.functions.values()
        for op in f.operations
        if op.op_type == "constexpr_lut_to_dense"
    ]
    assert len(luts) == 4
    assert len({op.indices.op.weight_id for op in luts}) == 2


def test_a_pass_rewrites_in_linear_time() -> None:
    """Twenty times the ops: the same removals of whole batches, not one for each weight."""
    from milpasses.program import memory as _graph

    flushes = []
    original = _graph._Batch.flush

    def flush(self: Any) -> None:
        flushes.append(len(self.waiting))
        original(self)

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        for index in range(60):
            x = mb.linear(x=x, weight=random((64, 64), index))
        return x

    _graph._Batch.flush = flush
    try:
        assert run(program, "palettize_weights", nbits=2).count("compressed") == 60
    finally:
        _graph._Batch.flush = original
    assert len(flushes) <= 10
