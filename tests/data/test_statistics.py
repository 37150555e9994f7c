"""What flows into weights, against sums over loops, and against the outputs that the weights give."""

import itertools
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from statistics_programs import const, program

import milpasses
from milpasses.data.collect import Moments, statistics
from milpasses.errors import MilpassesError, Refusal, SampleError
from milpasses.interpreter import Interpreter
from milpasses.program.opening import open_program

RNG = np.random.default_rng(3)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def patches(x: np.ndarray, kernel: Any, strides: Any, pads: Any, dilations: Any, groups: int) -> np.ndarray:
    """im2col by loops: [groups, positions, channels of a group * taps]."""
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    sizes = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    wide = x.shape[1] // groups
    rows: list[list[list[float]]] = [[] for _ in range(groups)]
    for image in x:
        for position in itertools.product(*map(range, sizes)):
            for group in range(groups):
                row = []
                for channel in range(group * wide, (group + 1) * wide):
                    for tap in itertools.product(*map(range, kernel)):
                        at = tuple(
                            p * s + t * d
                            for p, s, t, d in zip(position, strides, tap, dilations, strict=True)
                        )
                        row.append(image[(channel, *at)])
                rows[group].append(row)
    return np.array(rows)


def check(moments: Moments, rows: np.ndarray) -> None:
    """``rows`` [groups, rows, width] are what the sums are of."""
    assert moments.rows == rows.shape[1]
    np.testing.assert_allclose(moments.sum, rows.sum(1), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(moments.square_sum, (rows**2).sum(1), rtol=1e-6)
    np.testing.assert_allclose(moments.mean, rows.mean(1), atol=1e-6)
    np.testing.assert_allclose(moments.second_moment, (rows**2).mean(1), rtol=1e-6)
    if moments.gram is not None:
        np.testing.assert_allclose(moments.gram, rows.transpose(0, 2, 1) @ rows, rtol=1e-5, atol=1e-4)


CONVS = {
    "1d": ((2, 4, 9), (6, 4, 3), {"strides": [2], "pad_type": "custom", "pad": [2, 0]}, [(2, 0)]),
    "2d": ((2, 3, 6, 7), (4, 3, 3, 2), {"strides": [1, 2], "dilations": [2, 1], "pad_type": "valid"}, None),
    "grouped": (
        (1, 6, 5, 5),
        (4, 3, 3, 3),
        {"groups": 2, "pad_type": "custom", "pad": [1, 0, 2, 1]},
        [(1, 0), (2, 1)],
    ),
    "depthwise": (
        (1, 4, 5, 5),
        (4, 1, 3, 3),
        {"groups": 4, "strides": [2, 2], "pad_type": "same"},
        [(1, 1), (1, 1)],
    ),
    "3d": ((1, 2, 3, 4, 3), (3, 2, 2, 2, 1), {"pad_type": "valid", "dilations": [1, 2, 1]}, None),
}


class TestRows:
    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize("case", CONVS)
    def test_conv(self, case: str, full: bool, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("milpasses.program.flows.BLOCK", 64)  # several blocks even here
        shape, kernel, options, pads = CONVS[case]
        weight, x = draw(*kernel), [draw(*shape) for _ in range(2)]
        model = program(lambda x0: mb.conv(x=x0, weight=const(weight), **options), shape)
        found = statistics(model, [{"x0": one} for one in x], full=full)
        rank, groups = len(shape) - 2, options.get("groups", 1)
        strides, dilations = options.get("strides", [1] * rank), options.get("dilations", [1] * rank)
        rows = [patches(one, kernel[2:], strides, pads or [(0, 0)] * rank, dilations, groups) for one in x]
        moments = found["weight"]
        check(moments, np.concatenate(rows, axis=1))
        assert (moments.gram is not None) == full
        assert (moments.axis, moments.taps) == (1, np.prod(kernel[2:]))

    @pytest.mark.parametrize("case", CONVS)
    def test_the_gram_predicts_the_output(self, case: str):
        shape, kernel, options, _ = CONVS[case]
        weight, x = draw(*kernel), draw(*shape)
        model = program(lambda x0: mb.conv(x=x0, weight=const(weight), **options), shape)
        moments = statistics(model, [{"x0": x}], full=True)["weight"]
        assert moments.gram is not None
        split = weight.reshape(len(moments.gram), -1, moments.gram.shape[-1]).astype(np.float64)
        (output,) = Interpreter(model).run({"x0": x}).values()
        energy = np.einsum("gok,gkl,gol->", split, moments.gram, split)
        assert energy == pytest.approx((output.astype(np.float64) ** 2).sum(), rel=1e-5)

    def test_channels_are_means_over_their_taps(self):
        weight, x = draw(2, 3, 2, 2), draw(1, 3, 4, 4)
        model = program(lambda x0: mb.conv(x=x0, weight=const(weight), pad_type="valid"), x.shape)
        moments = statistics(model, [{"x0": x}])["weight"]
        rows = patches(x, (2, 2), (1, 1), [(0, 0)] * 2, (1, 1), 1).reshape(-1, 3, 4)
        np.testing.assert_allclose(moments.channel_mean, rows.mean((0, 2)), atol=1e-6)
        np.testing.assert_allclose(moments.channel_second_moment, (rows**2).mean((0, 2)), rtol=1e-6)

    def test_linear_with_batches_and_blocks(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("milpasses.program.flows.BLOCK", 16)
        weight, x = draw(5, 7), draw(2, 3, 7)
        model = program(lambda x0: mb.linear(x=x0, weight=const(weight)), x.shape)
        check(statistics(model, [{"x0": x}], full=True)["weight"], x.reshape(1, -1, 7))

    @pytest.mark.parametrize("transpose_weight", [False, True])
    @pytest.mark.parametrize("transpose_other", [False, True])
    @pytest.mark.parametrize("side", ["x", "y"])
    def test_matmul(self, side: str, transpose_other: bool, transpose_weight: bool):
        width, rows, outputs = 6, 4, 3
        x = draw(2, rows, width)  # rows that meet the weight
        given = np.swapaxes(x, -1, -2) if (side == "y") == transpose_other else x
        weight = draw(outputs, width) if (side == "x") != transpose_weight else draw(width, outputs)
        other = "x" if side == "y" else "y"
        flags = {f"transpose_{other}": transpose_other, f"transpose_{side}": transpose_weight}
        model = program(lambda x0: mb.matmul(**{other: x0, side: const(weight)}, **flags), given.shape)
        moments = statistics(model, [{"x0": given}], full=True)["weight"]
        check(moments, x.reshape(1, -1, width))
        assert weight.shape[moments.axis] == width
        assert moments.gram is not None
        flat = np.moveaxis(weight, moments.axis, -1).astype(np.float64)
        (output,) = Interpreter(model).run({"x0": given}).values()
        assert np.einsum("ok,kl,ol->", flat, moments.gram[0], flat) == pytest.approx(
            (output**2.0).sum(), rel=1e-5
        )

    @pytest.mark.parametrize("stack", [(3,), (2, 3), (2, 1)])
    def test_stacked_matrices_are_groups(self, stack: tuple[int, ...]):
        weight, x = draw(*stack, 5, 4), draw(2, 3, 2, 5)
        model = program(lambda x0: mb.matmul(x=x0, y=const(weight)), x.shape)
        moments = statistics(model, [{"x0": x}], full=True)["weight"]
        groups = int(np.prod(stack))
        full = np.broadcast_to(np.arange(groups).reshape(stack), (2, 3))
        rows = np.array([x[full == group].reshape(-1, 5) for group in range(groups)])
        check(moments, rows)
        assert moments.axis == weight.ndim - 2

    def test_conv_transpose_by_input_channels(self):
        weight, x = draw(6, 2, 3, 3), draw(2, 6, 3, 4)
        model = program(
            lambda x0: mb.conv_transpose(x=x0, weight=const(weight), groups=3, strides=[2, 2]), x.shape
        )
        moments = statistics(model, [{"x0": x}], full=True)["weight"]
        rows = np.array([np.moveaxis(x[:, 2 * g : 2 * g + 2], 1, -1).reshape(-1, 2) for g in range(3)])
        check(moments, rows)
        assert (moments.axis, moments.taps) == (0, 1)

    def test_recurrent_inputs(self):
        x, size = draw(4, 2, 5), 3
        model = program(
            lambda x0: mb.lstm(
                x=x0,
                initial_h=np.zeros((2, size), np.float32),
                initial_c=np.zeros((2, size), np.float32),
                weight_ih=const(draw(4 * size, 5), "ih"),
                weight_hh=const(draw(4 * size, size), "hh"),
            )[0],
            x.shape,
        )
        found = statistics(model, [{"x0": x}])
        check(found["ih"], x.reshape(1, -1, 5))
        assert "hidden states" in str(found.skipped["hh"])
        assert list(found) == ["ih"]

    def test_gather_counts_its_reads(self):
        table = draw(6, 4)
        model = program(
            lambda x0: mb.gather(x=const(table), indices=x0, axis=0), (2, 3), dtypes=(types.int32,)
        )
        samples = [{"x0": [[0, 5, 5], [1, -1, 0]]}, {"x0": [[2, 2, 2], [2, 2, 2]]}]
        found = statistics(model, samples)
        np.testing.assert_array_equal(found.lookups["weight"], [2, 1, 6, 0, 0, 3])
        with pytest.raises(KeyError, match="lookups"):
            found["weight"]

    def test_gathers_that_cannot_be_added_up(self):
        def build(x0: Any) -> Any:
            table = const(draw(2, 6), "table")
            batched = mb.gather(x=const(draw(2, 6), "batched"), indices=x0, axis=1, batch_dims=1, name="many")
            rows, columns = (mb.gather(x=table, indices=x0, axis=axis, name=f"g{axis}") for axis in (0, 1))
            return batched, rows, columns

        steps: list[Any] = []
        model = program(build, (2, 3), dtypes=(types.int32,))
        found = statistics(model, "random", limit=2, progress=lambda *step: steps.append(step))
        reasons = {name: str(refusal) for name, refusal in found.skipped.items()}
        assert reasons["batched"] == "gather many: gather with batch_dims reads a table of each batch"
        assert reasons["table"] == "gather g1 reads it along another axis than g0"
        assert found.lookups == {}
        assert steps == [(1, 2, "random[0]"), (2, 2, "random[1]")]


class TestUses:
    def test_a_weight_that_several_ops_use_adds_up(self):
        weight, x, y = draw(4, 4), draw(2, 4), draw(3, 4)

        def build(x0: Any, x1: Any) -> Any:
            shared = const(weight)
            return mb.linear(x=x0, weight=shared, name="a"), mb.linear(x=x1, weight=shared, name="b")

        found = statistics(program(build, x.shape, y.shape), [{"x0": x, "x1": y}])
        check(found["weight"], np.concatenate([x, y])[None])
        assert found["weight"].used_by == ("linear a", "linear b")

    def test_along_different_channels_is_skipped(self):
        weight = draw(4, 4)

        def build(x0: Any) -> Any:
            shared = const(weight)
            return mb.matmul(x=mb.linear(x=x0, weight=shared, name="a"), y=shared, name="b")

        found = statistics(program(build, (2, 4)), "random", limit=2)
        assert "weight" not in found
        assert str(found.skipped["weight"]) == "matmul b uses it along other channels than linear a"

    def test_what_is_not_covered_says_why(self):
        def build(x0: Any) -> Any:
            x0 = mb.add(x=x0, y=const(draw(4, 4), "offset"))
            x0 = mb.mul(x=x0, y=const(draw(4), "vector"))
            branch = mb.reduce_max(x=x0, keep_dims=False)
            return mb.cond(
                pred=mb.less(x=branch, y=np.float32(-1e9)),
                _true_fn=lambda: mb.linear(x=x0, weight=const(draw(4, 4), "never"), name="dead"),
                _false_fn=lambda: mb.linear(x=x0, weight=const(draw(4, 4), "always"), name="alive"),
            )

        found = statistics(program(build, (4, 4)), "random", limit=1)
        assert list(found) == ["always"]
        assert str(found.skipped["never"]) == "no sample reached linear dead"
        assert str(found.skipped["offset"]).endswith("add has no rule for its y")
        assert "vector" not in found.skipped
        dotted = program(lambda x0: mb.matmul(x=x0, y=const(draw(4, 4)), name="dot"), (4,))
        refusal = statistics(dotted, "random", limit=1).skipped["weight"]
        assert refusal == Refusal("vector-operand", op_type="matmul", op="dot")
        assert str(refusal) == "matmul dot: one side of the matmul is a vector"
        with pytest.raises(KeyError, match="no sample reached"):
            found["never"]
        with pytest.raises(KeyError, match="no such weight"):
            found["bogus"]

    def test_full_for_some(self):
        def build(x0: Any) -> Any:
            return mb.linear(x=mb.linear(x=x0, weight=const(draw(4, 4), "a")), weight=const(draw(4, 4), "b"))

        model = program(build, (2, 4))
        found = statistics(model, "random", limit=1, full=["b"])
        assert found["a"].gram is None
        assert found["b"].gram is not None
        with pytest.raises(MilpassesError, match="no weight c; the model has a, b"):
            statistics(model, "random", limit=1, full=["b", "c"])


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three linears, two of them with weights of the same bytes: plain, and compressed."""
    folder = tmp_path_factory.mktemp("names")
    same = draw(32, 32)

    def build(x0: Any) -> Any:
        x0 = mb.relu(x=mb.linear(x=x0, weight=const(same, "one"), name="first"))
        x0 = mb.tanh(x=mb.linear(x=x0, weight=const(same.copy(), "two"), name="second"))
        return mb.linear(x=x0, weight=const(draw(64, 32), "three"), name="third")

    passes = ct.PassPipeline.DEFAULT
    passes.remove_passes(["common::const_deduplication"])
    model = ct.convert(
        program(build, (2, 32)),
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=passes,
        skip_model_load=True,
    )
    paths = {"plain": folder / "plain.mlpackage", "small": folder / "small.mlpackage"}
    model.save(str(paths["plain"]))
    milpasses.compress(paths["plain"], "int8; min_elements=0 -> int8", output=paths["small"])
    return paths


class TestNames:
    @pytest.mark.parametrize("which", ["plain", "small"])
    def test_are_those_of_reports(self, packages: dict[str, Path], which: str):
        found = statistics(packages[which], "random", limit=2)
        sites = {site.weight.name: site.weight for site in open_program(packages[which]).sites()}
        assert set(found) == {name for name, weight in sites.items() if weight.rank == 2}
        assert sorted(len(found[name].used_by) for name in found) == [1, 2]
        for name in found:
            assert len(found[name].used_by) == len(sites[name].consumers)

    def test_compression_keeps_them(self, packages: dict[str, Path]):
        report = milpasses.compress(packages["plain"], "int8").report
        assert set(statistics(packages["plain"], "random", limit=1)) <= {record.name for record in report}

    def test_models_in_memory(self, packages: dict[str, Path]):
        model = ct.models.MLModel(str(packages["plain"]), skip_model_load=True)
        by_path, by_model = (statistics(one, "random", limit=1) for one in (packages["plain"], model))
        assert by_path.weights.keys() == by_model.weights.keys()
        for name in by_path:
            np.testing.assert_array_equal(by_path[name].sum, by_model[name].sum)
        assert len(statistics(Interpreter(model), "random", limit=1)) == 3


class TestEditedModels:
    """A model whose specification was edited in memory is run as it is there, not as its file."""

    @pytest.fixture
    def edited(self, packages: dict[str, Path]) -> Any:
        model = ct.models.MLModel(str(packages["plain"]), skip_model_load=True)
        ct.utils.rename_feature(model._spec, "x0", "tokens")
        return model

    def test_the_new_name_of_an_input_is_what_counts(self, edited: Any, packages: dict[str, Path]):
        x = [draw(2, 32) for _ in range(3)]
        known = statistics(packages["plain"], [{"x0": one} for one in x], full=True)
        found = statistics(edited, [{"tokens": one} for one in x], full=True)
        assert list(found) == list(known)
        for name in known:
            np.testing.assert_array_equal(found[name].gram, known[name].gram)
        assert ("tokens" in found.ranges, "x0" in found.ranges) == (True, False)
        assert len(statistics(Interpreter(edited), [{"tokens": x[0]}])) == 3
        with pytest.raises(SampleError, match="x0"):
            statistics(edited, [{"x0": x[0]}])

    def test_samples_are_checked_against_it(self, edited: Any):
        samples = milpasses.Samples.of({"tokens": draw(4, 2, 32)}, edited)
        assert len(list(samples)) == 4
        with pytest.raises(SampleError, match="x0 unknown"):
            milpasses.Samples.of({"x0": draw(4, 2, 32)}, edited)

    def test_an_output_that_was_dropped_is_given_no_more(self):
        def build(x0: Any) -> Any:
            return mb.linear(x=x0, weight=const(draw(8, 8), "a"), name="first"), mb.linear(
                x=x0, weight=const(draw(8, 8), "b"), name="second"
            )

        model = ct.convert(
            program(build, (2, 8)), minimum_deployment_target=ct.target.iOS18, skip_model_load=True
        )
        (function,) = model._spec.mlProgram.functions.values()
        (block,) = function.block_specializations.values()
        del block.outputs[1]
        del model._spec.description.output[1]
        assert set(statistics(model, "random", limit=2)) == {"a_to_fp16", "b_to_fp16"}
        assert len(Interpreter(model).output_names) == 1


class TestRanges:
    def test_of_inputs_and_every_activation(self):
        model = program(lambda x0: mb.mul(x=mb.relu(x=x0, name="positive"), y=-2.0, name="product"), (3,))
        found = statistics(model, [{"x0": [-1.0, 0.5, 2.0]}, {"x0": [-3.0, 0.0, 0.0]}])
        spans = {name: (span.min, span.max, span.nonfinite) for name, span in found.ranges.items()}
        assert spans == {"x0": (-3, 2, 0), "positive": (0, 2, 0), "product": (-4, 0, 0)}

    def test_count_what_is_not_finite(self):
        model = program(lambda x0: mb.log(x=x0, epsilon=0.0, name="log"), (3,))
        found = statistics(model, [{"x0": [0.0, 1.0, -1.0]}, {"x0": [0.0, 0.0, 0.0]}])
        span = found.ranges["log"]
        assert (span.min, span.max, span.nonfinite) == (0, 0, 5)

    def test_a_weights_input_must_be_finite(self):
        model = program(
            lambda x0: mb.linear(x=mb.log(x=x0, epsilon=0.0), weight=const(draw(4, 3)), name="fc"), (1, 3)
        )
        with pytest.raises(MilpassesError, match=r"item\[1\]: the input of linear fc is not finite"):
            statistics(model, [{"x0": [[1.0, 1.0, 1.0]]}, {"x0": [[0.0, 1.0, 1.0]]}])
