"""Faults of coremltools and of the format that must not be inherited: a test each."""

from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from models import constexprs, conv_linear_program, convert, random, weights_program

import milpasses as mp
from milpasses.errors import Refusal

EVERY4 = mp.Palettize(nbits=4, weight_threshold=100)


def compressed(values: np.ndarray, scheme: Any, **options: Any) -> tuple[mp.Record, np.ndarray]:
    """The record and the decoded value of one float16 weight."""
    from milpasses.program.opset import opset_of
    from milpasses.program.weights import Site
    from milpasses.rewrite import Rewriter

    weight = mp.Weight(
        "w", values.shape, values.dtype.name, (mp.Consumer("linear", "l", "weight"),), load=lambda: values
    )
    rewriter = Rewriter(mp.Recipe(default=scheme), opset_of(9), **options)
    rewritten = rewriter.rewrite(Site(weight, values.nbytes))
    return rewritten.record, values if rewritten.encoding is None else rewritten.encoding.decode()


def half(values: Any) -> np.ndarray:
    return np.asarray(values, np.float16)


def test_zero_point_of_a_lopsided_range() -> None:
    values = half(np.linspace(-20, 600, 4096).reshape(64, 64))
    record, decoded = compressed(
        values, mp.Quantize(mode="linear", granularity="per_tensor", method="minmax")
    )
    assert record.max_error is not None
    assert record.max_error < 2.5  # a step is 2.43; clipped negatives would be off by 20
    assert decoded.min() < -17


def test_scale_of_a_huge_range_is_finite() -> None:
    values = half(np.linspace(-40000, 40000, 4096).reshape(64, 64))
    for mode in ("linear", "linear_symmetric"):
        for dtype in ("int8", "int4"):
            record, decoded = compressed(
                values, mp.Quantize(dtype=dtype, mode=mode, granularity="per_tensor")
            )
            assert np.isfinite(decoded).all()
            assert record.sqnr_db is not None
            assert record.sqnr_db > 15


def test_scale_of_a_tiny_range_is_not_zero() -> None:
    for size in (3e-6, 1e-5):
        values = half(np.linspace(-size, size, 4096).reshape(64, 64))
        record, decoded = compressed(values, mp.Quantize(granularity="per_tensor"))
        assert decoded.any()
        assert record.sqnr_db is not None
        assert record.sqnr_db > 20


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("recipe", ["int8", "pal4", "pal4-g16", "sparse50", "pal4-v2", "sparse50+pal4"])
def test_nan_and_inf_are_skipped_with_a_reason(bad: float, recipe: str) -> None:
    values = half(random((64, 64)))
    values[3, 3] = bad
    record, decoded = compressed(values, mp.Recipe.of(recipe).default)
    assert record.status == "skipped"
    assert ("1 NaN" if np.isnan(bad) else "1 infinite") in record.reason
    assert decoded.tobytes() == values.tobytes()


@pytest.mark.parametrize("mode", ["uniform", "kmeans"])
def test_constant_tensors(mode: str) -> None:
    for value in (0.0, 0.25, -3.0):
        record, decoded = compressed(half(np.full((64, 64), value)), mp.Palettize(nbits=4, mode=mode))
        assert record.max_error == 0
        assert (decoded == value).all()
    record, decoded = compressed(half(np.zeros((64, 64))), mp.Quantize())
    assert (decoded == 0).all()


def test_ties_are_pruned_to_the_exact_count() -> None:
    values = half(np.where(np.arange(4096).reshape(64, 64) % 2, 1, -1))
    record, decoded = compressed(values, mp.Prune(target_sparsity=0.3))
    assert record.status == "compressed"
    assert abs(np.count_nonzero(decoded == 0) - 0.3 * 4096) <= 1


def test_large_float16_tensors_are_pruned() -> None:
    values = half(random((512, 512)))
    record, decoded = compressed(values, mp.Prune(target_sparsity=0.75))
    assert abs(np.count_nonzero(decoded == 0) / decoded.size - 0.75) < 1e-4
    assert record.bytes_after < 0.32 * record.bytes_before


def test_sparse_only_where_it_pays() -> None:
    values = half(random((64, 64)))
    record, _ = compressed(values, mp.Prune(target_sparsity=0.05))
    assert record.status == "skipped"
    assert "bytes" in record.reason


def test_the_table_is_not_spent_on_the_zeros() -> None:
    values = half(random((64, 64)))
    scheme = mp.Prune(target_sparsity=0.5) + mp.Palettize(nbits=2)
    _, decoded = compressed(values, scheme)
    assert len(np.unique(decoded)) == 5  # four entries and zero


def test_live_constants_are_never_mutated() -> None:
    values = half(random((64, 64)))
    before = values.copy()
    for scheme in (
        mp.Palettize(
            nbits=4, enable_per_channel_scale=True, granularity="per_grouped_channel", group_size=16
        ),
        mp.Prune(target_sparsity=0.5) + mp.Quantize(),
    ):
        compressed(values, scheme)
        assert values.tobytes() == before.tobytes()


def test_more_codes_than_vectors() -> None:
    record, _ = compressed(
        half(random((16, 16))),
        mp.Palettize(nbits=8, cluster_dim=2, weight_threshold=0),
        only_if_smaller=False,
    )
    assert record.status == "compressed"
    assert record.max_error == 0


def test_groups_that_divide_nothing_take_the_nearest_divisor() -> None:
    record, _ = compressed(
        half(random((24, 256))), mp.Palettize(nbits=4, granularity="per_grouped_channel", group_size=16)
    )
    assert record.form == "lut4 per_grouped_channel(12)"
    assert record.reason == "group_size 12: 16 does not divide 24 channels"
    record, _ = compressed(
        half(random((64, 40))), mp.Quantize(dtype="int4", granularity="per_block", block_size=32)
    )
    assert "block_size 40: 32 does not divide 40 channels" in record.reason


def test_a_custom_table_of_a_wrong_size() -> None:
    record, _ = compressed(
        half(random((64, 64))), mp.Palettize(mode="custom", lut_function=lambda w: np.zeros(10))
    )
    assert record.status == "skipped"
    assert "a table is a vector of 2, 4, 8, 16, 64 or 256 entries" in record.reason


def test_big_tables_need_no_big_memory() -> None:
    import tracemalloc

    values = half(random((1024, 1024)))
    compressed(values[:64], mp.Palettize(nbits=8))
    tracemalloc.start()
    compressed(values, mp.Palettize(nbits=8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * values.nbytes  # indexing by broadcasting takes 256 copies


def test_fusions_are_made_before_compression() -> None:
    torch = pytest.importorskip("torch")

    net = torch.nn.Sequential(torch.nn.Conv2d(16, 64, 3), torch.nn.BatchNorm2d(64), torch.nn.ReLU()).eval()
    traced = torch.jit.trace(net, torch.zeros(1, 16, 8, 8))
    pipeline = mp.pipeline("pal4")
    model = convert(traced, inputs=[ct.TensorType(shape=(1, 16, 8, 8))], pass_pipeline=pipeline)
    kinds = [op.op_type for op in model._mil_program.functions["main"].operations]
    assert "batch_norm" not in kinds
    assert kinds.count("constexpr_lut_to_dense") == 1
    assert [r.dtype for r in pipeline.report if r.status == "compressed"] == ["float16"]


def test_whatever_the_base_pipeline_compression_is_last() -> None:
    for base in (ct.PassPipeline.DEFAULT, ct.PassPipeline.CLEANUP, ct.PassPipeline.EMPTY):
        pipeline = mp.pipeline(EVERY4, base=base)
        assert pipeline.passes[-1] == "milpasses::compress_weights"
        assert pipeline.passes[:-1] == base.passes
        convert(conv_linear_program(), pass_pipeline=pipeline)
        assert pipeline.report.count("compressed") == 2


def test_a_value_inferred_from_a_weight_blocks_it() -> None:
    table = random((64, 32))

    @mb.program(input_specs=[mb.TensorSpec(shape=(4, 32))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        rows = mb.gather(x=table, indices=np.arange(4, dtype=np.int32), axis=0, name="rows")
        return mb.add(x=x, y=rows)

    pipeline = mp.pipeline(EVERY4, base=ct.PassPipeline.EMPTY)
    model = convert(program, pass_pipeline=pipeline)
    assert "rows (gather) has a value that was inferred from it" in pipeline.report.records[0].reason
    assert constexprs(model) == {}


def test_a_weight_that_a_block_returns_stays() -> None:
    from milpasses.program.memory import MemoryProgram

    @mb.program(input_specs=[mb.TensorSpec(shape=(4, 32))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        weight = mb.const(val=random((64, 32)), name="weight")
        return mb.linear(x=x, weight=weight), weight

    blocked = {site.weight.name: site.blocked for site in MemoryProgram(program).sites()}
    assert blocked["weight"] == Refusal("returned-by-block")


def test_a_shared_weight_follows_the_first_rule_that_fits() -> None:
    table = random((64, 32))

    @mb.program(input_specs=[mb.TensorSpec(shape=(4, 32))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        tied = mb.const(val=table, name="tied")
        head = mb.linear(x=x, weight=tied, name="head")
        rows = mb.gather(
            x=tied, indices=mb.cast(x=mb.reduce_argmax(x=x, axis=1), dtype="int32"), axis=0, name="emb"
        )
        return head, rows

    model = convert(program)
    rules = [
        mp.Rule(op_type="gather", scheme="int8", min_elements=0),
        mp.Rule(op_type="linear", scheme="pal4", min_elements=0),
    ]
    for order, form in ((rules, "int8 per_channel"), (rules[::-1], "lut4 per_tensor")):
        small = mp.compress(model, mp.Recipe(default=mp.Keep(), rules=order))
        assert [r.form for r in small.report if r.status == "compressed"] == [form]
        assert len(constexprs(small)) == 1


def test_integers_and_masks_are_not_weights() -> None:
    mask = (np.arange(4096).reshape(64, 64) % 2).astype(np.int8)

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1,), dtype=ct.converters.mil.mil.types.int32)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any) -> Any:
        return mb.cast(x=mb.gather(x=mb.const(val=mask, name="mask"), indices=x, axis=0), dtype="fp32")

    small = mp.compress(convert(program), mp.Palettize(nbits=1, weight_threshold=0))
    assert small.report["mask"].reason == "int8 constants are not weights"


def test_options_are_checked_when_they_are_set() -> None:
    pipeline = mp.pipeline("int8")
    pipeline.append_pass("milpasses::palettize_weights")
    with pytest.raises(mp.MilpassesError, match=r"no option 'nbit'; accepted are .*nbits"):
        pipeline.set_options("milpasses::palettize_weights", {"nbit": 4})
    with pytest.raises(mp.MilpassesError, match="set its option recipe"):
        pipeline.set_options("milpasses::compress_weights", {})
    plain = ct.PassPipeline.DEFAULT
    plain.append_pass("milpasses::palettize_weights")
    plain.set_options("milpasses::palettize_weights", {"nbits": 5})
    with pytest.raises(mp.MilpassesError, match="1, 2, 3, 4, 6 and 8 bits"):
        convert(conv_linear_program(), pass_pipeline=plain)
    plain = ct.PassPipeline.DEFAULT
    plain.append_pass("milpasses::compress_weights")
    with pytest.raises(mp.MilpassesError, match="set its option recipe"):
        convert(conv_linear_program(), pass_pipeline=plain)


def test_targets_that_have_no_compressed_weights() -> None:
    with pytest.raises(mp.TargetError, match="ML Program for iOS16 or later"):
        ct.convert(conv_linear_program(ct.target.iOS15), pass_pipeline=mp.pipeline("int8"))
    with pytest.raises(mp.TargetError, match='leave convert_to at its default "mlprogram"'):
        ct.convert(
            conv_linear_program(ct.target.iOS14),
            convert_to="neuralnetwork",
            pass_pipeline=mp.pipeline("int8"),
        )


def test_kmeans_workers_do_not_matter() -> None:
    from coremltools.optimize.coreml import OpPalettizerConfig, OptimizationConfig

    config = OptimizationConfig(OpPalettizerConfig(nbits=2, num_kmeans_workers=2, weight_threshold=100))
    model = convert(weights_program(random((64, 64))))
    for _ in range(2):
        assert mp.coreml.palettize_weights(model, config).report.count("compressed") == 1
