"""How an op meets a weight: one entry of the table is all that a new op needs."""

from collections.abc import Iterator
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Operation, types
from coremltools.converters.mil.mil.input_type import InputSpec, TensorInputType
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from statistics_programs import const, program

import milpasses as mp
from milpasses.budget.layer_error import LayerOutputError
from milpasses.calibration import KnownStatistics, output_error
from milpasses.calibration.sources import gram_bytes
from milpasses.encoding.encoder import Encoder
from milpasses.errors import Refusal
from milpasses.interpreter import registry as interpreter_registry
from milpasses.program.flows import Array, MatrixLayout, OpCall, matrix_rows
from milpasses.program.memory import MemoryProgram
from milpasses.program.opset import opset_of
from milpasses.program.weight_uses import WEIGHT_USES, WeightUse, flow_of, weight_use
from milpasses.program.weights import Consumer, Site, Weight
from milpasses.rewrite import Rewriter

WIDTH, OUTPUTS, GROUPS = 48, 32, 2
RNG = np.random.default_rng(8)
MIXING = RNG.normal(size=(WIDTH, WIDTH)) / 6 + np.eye(WIDTH)


def grouped_rows(call: OpCall, layout: MatrixLayout) -> Iterator[Array]:
    x = call.arguments["rows"]
    return matrix_rows(np.moveaxis(x.reshape(-1, layout.groups, layout.width), 1, 0))


# y = rows @ kernel in two groups: kernel [in, out / groups], with the groups along its inputs.
MIXER = WeightUse(
    axes=lambda rank, transposed: (1, 0),
    matrices=lambda shape, axis, groups: MatrixLayout(groups, shape[0] // groups, axis, inputs_first=True),
    rows=grouped_rows,
    input="rows",
    groups_param="parts",
    structured=True,
)


def mix(rows: Any, kernel: Any, parts: Any) -> Any:
    sides = zip(np.split(rows, int(parts), -1), np.split(kernel, int(parts)), strict=True)
    return np.concatenate([x @ w for x, w in sides], -1).astype(np.float32)


@pytest.fixture
def mixer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An op that coremltools and the interpreter know, and of which milpasses knows one entry."""

    class mixer(Operation):
        input_spec = InputSpec(
            rows=TensorInputType(type_domain="T"),
            kernel=TensorInputType(const=True, type_domain="T"),
            parts=TensorInputType(const=True, type_domain=types.int32),
        )
        type_domains = {"T": (types.fp16, types.fp32)}  # noqa: RUF012 (as coremltools' ops)

        def type_inference(self) -> Any:
            size = self.kernel.shape[1] * self.parts.val
            return types.tensor(self.rows.dtype, (*self.rows.shape[:-1], size))

    monkeypatch.setattr(mb, "mixer", None, raising=False)
    SSAOpRegistry.register_op(mixer, opset_version=ct.target.iOS13)
    rule = interpreter_registry.Rule(mix, False, False)
    monkeypatch.setitem(interpreter_registry._RULES, "mixer", rule)
    monkeypatch.setitem(WEIGHT_USES, ("mixer", "kernel"), MIXER)
    yield
    del SSAOpRegistry.core_ops["mixer"]


def kernel() -> np.ndarray:
    return (np.random.default_rng(1).standard_t(5, (WIDTH, OUTPUTS // GROUPS)) / 7).astype(np.float32)


def network(before: Any = lambda x: x) -> Any:
    """A program with one made-up op."""
    return program(
        lambda x0: mb.mixer(rows=before(x0), kernel=const(kernel()), parts=GROUPS, name="mix"), (16, WIDTH)
    )


def samples(seed: int, count: int = 12) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x0": (rng.normal(size=(16, WIDTH)) @ MIXING).astype(np.float32)} for _ in range(count)]


def site_of(model: Any) -> Site:
    """The weight of the made-up op, as the search for weights finds it."""
    (site,) = MemoryProgram(model).sites()
    assert site.weight.consumers == (Consumer("mixer", "mix", "kernel", groups=GROUPS),)
    return site


@pytest.mark.usefixtures("mixer")
class TestAnOpByOneEntry:
    def test_rules_and_encoders(self) -> None:
        weight = site_of(network()).weight
        assert weight.channel_axes == (1, 0)
        assert mp.Rule("int8", min_channels=OUTPUTS // GROUPS).matches(weight)
        assert not mp.Rule("int8", min_channels=OUTPUTS).matches(weight)
        assert Encoder(weight).encode(weight.value, mp.Quantize(dtype="int8")).scale.shape == (1, 16)
        pruned = Encoder(weight).encode(weight.value, mp.Prune(n_m_ratio=(1, 2)))
        assert np.count_nonzero(pruned.mask) == weight.size // 2
        with pytest.raises(Refusal, match="cluster_dim"):  # vectors of 16 rows do not fit into groups of 24
            Encoder(weight, fit_groups=False).encode(
                weight.value, mp.Palettize(nbits=2, cluster_dim=16, channel_axis=0)
            )

    def test_statistics(self) -> None:
        data = samples(2, 3)
        moments = mp.statistics(network(), data, full=True)["weight"]
        rows = np.concatenate([sample["x0"] for sample in data]).astype(np.float64)
        rows = np.stack(np.split(rows, GROUPS, 1))
        assert moments.layout == (GROUPS, WIDTH // GROUPS, 0, 1)
        np.testing.assert_allclose(moments.sum, rows.sum(1), atol=1e-4)
        np.testing.assert_allclose(moments.gram, rows.transpose(0, 2, 1) @ rows, rtol=1e-4, atol=1e-3)
        assert moments.used_by == ("mixer mix",)
        assert gram_bytes(site_of(network()).weight) == moments.gram.nbytes

    def test_norms(self) -> None:
        gamma = np.linspace(0.5, 2, WIDTH).astype(np.float32)
        model = network(lambda x: mb.layer_norm(x=x, axes=[-1], gamma=gamma))
        moments = mp.statistics(model, "norms")["weight"]
        np.testing.assert_allclose(moments.square_sum, (gamma**2).reshape(GROUPS, -1), rtol=1e-3)

    def test_calibration_and_budget(self) -> None:
        model = network()
        site, statistics = site_of(model), mp.statistics(model, samples(2), full=True, held_out=4)
        source = KnownStatistics(statistics)
        source.check([site.weight])
        recipe = mp.Recipe.of(mp.Palettize(nbits=2, method="gptq", weight_threshold=0))
        calibrated = Rewriter(recipe, opset_of(9), calibration=source).rewrite(site)
        assert calibrated.record.method.startswith("gptq")
        plain = Rewriter(mp.Recipe.of(mp.Palettize(nbits=2, weight_threshold=0)), opset_of(9)).rewrite(site)
        before = site.weight.value
        meter = LayerOutputError.of(site.weight, before, statistics)
        assert meter.basis == "statistics"
        errors = []
        for rewritten in (plain, calibrated):
            assert rewritten.encoding is not None
            after = rewritten.encoding.decode()
            exact, changed = (
                np.stack([mix(one["x0"], w, GROUPS) for one in samples(2)[1::4]]).astype(np.float64)
                for w in (before, after)
            )
            noise = ((changed - exact) ** 2).sum()
            rows = statistics.held_out["weight"].rows
            use = site.weight.consumers[0]
            found = output_error(before, after, statistics.held_out["weight"], use)
            assert found == pytest.approx(noise / rows, rel=1e-3)
            assert meter.relative(after) == pytest.approx(noise / (exact**2).sum(), rel=1e-3)
            errors.append(noise)
        assert errors[1] < 0.8 * errors[0]


def test_a_made_up_op_without_an_entry_is_said_to_have_none() -> None:
    call = OpCall("made_up", "op", {"x": np.zeros((2, 3)), "kernel": np.zeros((3, 4))})
    refusal = flow_of(call, "kernel")
    assert refusal == Refusal("no-use-rule", op_type="made_up", op="op", param="kernel")
    assert str(refusal) == "made_up op: made_up has no rule for its kernel"
    assert Consumer("made_up", "op", "kernel").channel_axes(4) == (0, 1)
    hidden = flow_of(OpCall("lstm", "op", {}), "weight_hh_back")
    assert str(hidden) == "lstm op: the hidden states that it meets stay inside the op"


@pytest.mark.parametrize(
    ("consumer", "shape", "layout"),
    [
        (Consumer("linear", "op", "weight"), (8, 5), MatrixLayout(1, 5)),
        (Consumer("conv", "op", "weight", groups=2), (8, 3, 2, 2), MatrixLayout(2, 12, 1, 4)),
        (
            Consumer("conv_transpose", "op", "weight", groups=2),
            (6, 4, 2),
            MatrixLayout(2, 3, 0, inputs_first=True),
        ),
        (Consumer("matmul", "op", "y"), (2, 5, 4), MatrixLayout(2, 5, 1, inputs_first=True)),
        (Consumer("matmul", "op", "x"), (4, 5), MatrixLayout(1, 5)),
        (Consumer("matmul", "op", "x", transposed=True), (5, 4), MatrixLayout(1, 5, 0, inputs_first=True)),
        (Consumer("lstm", "op", "weight_hh"), (8, 5), MatrixLayout(1, 5)),
    ],
)
def test_layouts(consumer: Consumer, shape: tuple[int, ...], layout: MatrixLayout) -> None:
    assert consumer.layout(shape) == layout
    weight = Weight("w", shape, "float16", (consumer,))
    assert gram_bytes(weight) == 8 * layout.groups * layout.width**2


def test_what_a_use_is_asked() -> None:
    conv = Consumer.of("conv", "op", "weight", {"groups": 4}.get)
    assert (conv.groups, conv.groups_along(0), conv.groups_along(1)) == (4, 4, 1)
    turned = Consumer.of("matmul", "op", "y", {"transpose_x": False, "transpose_y": True}.get)
    assert turned.transposed
    assert turned.channel_axes(3) == (1, 2)
    assert [key for key, use in WEIGHT_USES.items() if use.bias] == [("linear", "weight"), ("conv", "weight")]
    assert [key for key, use in WEIGHT_USES.items() if use.is_lookup] == [("gather", "x")]
    assert not weight_use("gather", "indices").is_lookup


def test_what_calibrates_a_weight_is_the_use_of_which_most_is_known() -> None:
    added, table = Consumer("add", "a", "y"), Consumer("gather", "g", "x")
    product = Consumer("matmul", "m", "y")
    assert Weight("w", (4, 6), "float16", (table, added, product)).product == product
    assert Weight("w", (4, 6), "float16", (table, added)).product == added
    assert Weight("w", (4, 6), "float16", (table,)).product is None
    assert gram_bytes(Weight("w", (4, 6), "float16", (table,))) == 0
    statistics = mp.statistics(
        program(
            lambda x0: mb.add(x=mb.matmul(x=x0, y=(w := const(np.ones((4, 6), np.float32)))), y=w), (4, 4)
        ),
        "random",
    )
    weight = Weight("weight", (4, 6), "float32", (added, product))
    KnownStatistics(statistics).check([weight])  # whichever use comes first
