"""Calibrated compression, from samples and from statistics: what it gains, records and refuses."""

from pathlib import Path
from typing import Any

import attrs
import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import milpasses as mp
from milpasses.calibration import Inputs, output_error
from milpasses.calibration.feedback import feed_back
from milpasses.calibration.matrices import Layout, layout_of
from milpasses.data.moments import Moments
from milpasses.encoding.encoder import Encoder
from milpasses.encoding.encodings import Palettized
from milpasses.errors import Refusal
from milpasses.interpreter import Interpreter
from milpasses.program.flows import Flow
from milpasses.program.weights import Consumer, Weight

WIDTH = 48
MIXING = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)) / 6 + np.eye(WIDTH)


def samples(seed: int, count: int = 12) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": (rng.normal(size=(16, WIDTH)) @ MIXING).astype(np.float32)} for _ in range(count)]


def program() -> Any:
    """Two linears, a matmul with (in, out) weights and one that is a gather's table, too."""
    rng = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> Any:
        return mb.const(val=(rng.standard_t(5, shape) / 7).astype(np.float16), name=name)

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(16, WIDTH), dtype=ct.converters.mil.mil.types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def built(x: Any) -> Any:
        first = mb.linear(x=x, weight=weight("first", 64, WIDTH), name="op_first")
        second = mb.linear(x=mb.tanh(x=first), weight=weight("second", 64, 64), name="op_second")
        third = mb.matmul(x=mb.tanh(x=second), y=weight("third", 64, 64), name="op_third")
        table = mb.gather(x=weight("table", 64, 64), indices=np.arange(16, dtype=np.int32), axis=0)
        return mb.add(x=third, y=table, name="y")

    return built


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("calibration") / "model.mlpackage"
    ct.convert(
        program(), minimum_deployment_target=ct.target.iOS18, pass_pipeline=ct.PassPipeline.EMPTY
    ).save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def statistics(model: str) -> mp.Statistics:
    return mp.statistics(model, lambda: samples(2), full=True, held_out=4)


def error(first: Any, second: Any) -> float:
    """Of the outputs, on samples that nothing was fitted to."""
    sides = [Interpreter(one, precision="float32") for one in (first, second)]
    outputs = [np.stack([side.run(inputs)["y"] for inputs in samples(99, 4)]) for side in sides]
    return float(((outputs[0] - outputs[1]) ** 2).mean())


SCHEMES = ("int4", "int4-b16", "pal3-g16", "pal4-v2", "sparse50", "sparse50+pal3", "sparse50+int4")


@pytest.mark.parametrize("name", SCHEMES)
def test_outputs_come_nearer_at_the_same_bytes(name: str, model: str, statistics: mp.Statistics) -> None:
    asked = "+".join(f"{part}-{'obs' if 'sparse' in part else 'gptq'}" for part in name.split("+"))
    recipe = mp.Recipe.of(asked)
    assert str(mp.Recipe.of(str(recipe))) == str(recipe)
    plain = mp.compress(model, name)
    calibrated = mp.compress(model, asked, statistics=statistics)
    assert calibrated.report.count("compressed") == plain.report.count("compressed") == 4
    # A mask that keeps other weights may meet zeros of its own: never more bytes, mostly the same.
    assert calibrated.report.bytes_after <= plain.report.bytes_after
    assert error(model, calibrated) < 0.75 * error(model, plain)  # the table of gather has its share
    wanted = "obs" if name == "sparse50" else "obs + gptq" if "+" in name else "gptq"
    for weight in ("first", "second", "third"):
        record = calibrated.report[weight]
        assert record.method.startswith(wanted)
        assert record.output_sqnr_db is not None
        assert record.output_sqnr_db > 0
        assert f"outputs {record.output_sqnr_db:.1f} dB" in record.reason
    assert "gather" in calibrated.report["table"].reason
    assert calibrated.report["table"].method == ""


def test_samples_and_statistics_agree(model: str, statistics: mp.Statistics, tmp_path: Path) -> None:
    statistics.save(tmp_path / "statistics.npz")
    from_file = mp.compress(model, "pal3-gptq", statistics=tmp_path / "statistics.npz")
    live = mp.compress(model, "pal3-gptq", calibration=lambda: samples(2))
    for one in (from_file, live):
        assert [r.method for r in one.report] == [r.method for r in live.report]
        assert one.report["first"].output_sqnr_db == pytest.approx(
            live.report["first"].output_sqnr_db, abs=0.2
        )
    loaded = mp.Statistics.load(tmp_path / "statistics.npz")
    assert loaded.held_out.keys() == statistics.held_out.keys() == statistics.weights.keys()
    assert statistics["first"].rows == 3 * statistics.held_out["first"].rows == 9 * 16
    doubled = statistics.merge(loaded)
    assert doubled.held_out["first"].rows == 2 * statistics.held_out["first"].rows


def test_statistics_improve_schemes_that_do_not_ask(model: str, statistics: mp.Statistics) -> None:
    plain, weighted = mp.compress(model, "pal3"), mp.compress(model, "pal3", statistics=statistics)
    assert {r.method for r in weighted.report if r.method} <= {"kmeans", "weighted kmeans"}
    assert "weighted kmeans" in {r.method for r in weighted.report}
    assert error(model, weighted) <= error(model, plain)
    untouched = mp.compress(model, "int8-minmax", statistics=statistics)
    assert {r.method for r in untouched.report} == {""}


def test_sequential_layers_see_what_came_before(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    override = Interpreter.override

    def watch(self: Interpreter, values: Any) -> None:
        seen.append(set(values))
        override(self, values)

    monkeypatch.setattr(Interpreter, "override", watch)
    apart = mp.compress(model, "pal2-gptq", calibration=lambda: samples(2))
    every = {"first", "second", "third", "table"}
    assert seen == [set(), every, every, set()]  # the outputs of the model, without and with calibration
    seen.clear()
    sequential = mp.compress(model, "pal2-gptq", calibration=lambda: samples(2), sequential=True)
    layers, outputs = seen[: seen.index(set())], seen[seen.index(set()) :]
    assert layers == [{"first"}, {"first", "second"}, {"first", "second", "third"}][: len(layers)]
    assert len(layers) >= 2
    assert outputs[:3] == [set(), every, every]
    assert sequential.report["first"] == apart.report["first"]
    assert error(model, sequential) < 1.15 * error(model, apart)


def test_while_converting() -> None:
    plain = ct.convert(program(), minimum_deployment_target=ct.target.iOS18)
    found = mp.statistics(plain, lambda: samples(2), full=True, held_out=4)
    pipeline = mp.pipeline("pal3-gptq", statistics=found)
    small = ct.convert(program(), minimum_deployment_target=ct.target.iOS18, pass_pipeline=pipeline)
    methods = [record.method for record in pipeline.report if record.name in found.weights]
    assert len(methods) == 3
    assert all(method.startswith("gptq") for method in methods)
    assert error(plain, small) < 0.75 * error(plain, mp.compress(plain, "pal3"))


def test_second_moments_by_name(model: str, statistics: mp.Statistics) -> None:
    grams = {
        name: moments.gram[0] for name, moments in statistics.weights.items() if moments.gram is not None
    }
    full = mp.compress(model, "int4-gptq", statistics=grams)
    assert full.report["first"].method == "gptq"
    diagonals = {name: np.diagonal(gram) for name, gram in grams.items()}
    diagonal = mp.compress(model, "int4-gptq", statistics=diagonals)
    assert diagonal.report["first"].method == "weighted search"
    assert "no full second moment" in diagonal.report["first"].reason
    assert error(model, full) < error(model, diagonal)


def test_few_samples_are_said_and_do_no_harm(model: str) -> None:
    one = mp.compress(model, "int4-gptq", calibration=lambda: samples(2, 1))
    assert "only 16 rows reach its 48 inputs: give more samples" in one.report["first"].reason
    assert "nothing held out" in one.report["first"].reason
    two = mp.compress(model, "int4-gptq", calibration=lambda: samples(2, 2))
    assert error(model, two) <= 1.02 * error(model, mp.compress(model, "int4"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass calibration=data"),
        ({"statistics": {}, "calibration": "random"}, "give one of the two"),
        ({"statistics": {}, "sequential": True}, "only with calibration"),
        ({"statistics": {"other": np.eye(3)}}, "belong to another model"),
        ({"statistics": {"first": np.eye(47)}}, "48 inputs: they belong to another model"),
        ({"statistics": {"first": np.full((48, 48), np.nan)}}, "NaN"),
        ({"statistics": {"first": -np.eye(48)}}, "negative"),
        ({"statistics": {"first": np.ones((2, 48, 47))}}, r"expected \(K, K\)"),
        ({"statistics": 3}, "expected milpasses.Statistics"),
        ({"statistics": "nowhere.npz"}, "no such file"),
        ({"calibration": list}, "no sample"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str, model: str) -> None:
    with pytest.raises(mp.MilpassesError, match=message):
        mp.compress(model, "int4-gptq", **options)


def test_statistics_of_no_rows_or_not_finite(model: str, statistics: mp.Statistics) -> None:
    for field, value, message in (
        ("rows", 0, "no rows"),
        ("square_sum", np.full((1, 48), np.inf), "infinity"),
    ):
        broken = attrs.evolve(statistics, weights=dict(statistics.weights))
        broken.weights["first"] = attrs.evolve(statistics["first"], **{field: value})
        with pytest.raises(mp.MilpassesError, match=message):
            mp.compress(model, "int4-gptq", statistics=broken)
    with pytest.raises(mp.MilpassesError, match="held_out"):
        mp.statistics(model, lambda: samples(1, 1), held_out=1)


def test_a_singular_moment_is_rounded_plainly(model: str, statistics: mp.Statistics) -> None:
    indefinite = np.eye(WIDTH)
    indefinite[0, 1] = indefinite[1, 0] = 5.0
    found = mp.compress(model, "int4-gptq", statistics={"first": indefinite})
    assert "plain rounding: the second moment is not positive" in found.report["first"].reason
    assert "gptq" not in found.report["first"].method


LAYOUTS = [
    (
        Consumer("conv", "op", "weight", groups=2),
        (8, 3, 2, 2),
        Moments(1, 4, 0, np.zeros((2, 12)), np.zeros(0)),
    ),
    (
        Consumer("conv_transpose", "op", "weight", groups=2),
        (6, 4, 2),
        Moments(0, 1, 0, np.zeros((2, 3)), np.zeros(0)),
    ),
    (Consumer("matmul", "op", "y"), (2, 5, 4), Moments(1, 1, 0, np.zeros((2, 5)), np.zeros(0))),
    (Consumer("matmul", "op", "y", transposed=True), (4, 5), Moments(1, 1, 0, np.zeros((1, 5)), np.zeros(0))),
    (Consumer("lstm", "op", "weight_ih"), (8, 5), Moments(1, 1, 0, np.zeros((1, 5)), np.zeros(0))),
]


@pytest.mark.parametrize(("consumer", "shape", "moments"), LAYOUTS)
def test_layouts_go_there_and_back(consumer: Consumer, shape: tuple[int, ...], moments: Moments) -> None:
    weight = Weight("w", shape, "float16", (consumer,))
    layout = layout_of(weight, moments)
    value = np.arange(np.prod(shape)).reshape(shape)
    matrices = layout.split(value)
    assert matrices.shape == (*moments.sum.shape[:1], value.size // moments.sum.size, moments.sum.shape[1])
    np.testing.assert_array_equal(layout.join(matrices), value)
    if consumer.op_type == "conv":
        np.testing.assert_array_equal(matrices[1], value[4:].reshape(4, 12))
    if consumer.op_type == "conv_transpose":
        np.testing.assert_array_equal(matrices[1], value[3:].reshape(3, 8).T)
    if shape == (2, 5, 4):
        np.testing.assert_array_equal(matrices[1], value[1].T)
    wrong = attrs.evolve(moments, sum=np.zeros((1, 7)))
    with pytest.raises(mp.MilpassesError, match="another model"):
        layout_of(weight, wrong)


def test_convolutions(tmp_path: Path) -> None:
    """Grouped, plain and transposed; tables of the grouped one span its groups, scales do not."""
    rng = np.random.default_rng(7)
    shapes = {"grouped": (32, 16, 3, 3), "plain": (24, 32, 3, 3), "turned": (24, 16, 2, 3)}
    values = {name: (rng.normal(size=shape) / 8).astype(np.float16) for name, shape in shapes.items()}

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, 32, 8, 8), dtype=ct.converters.mil.mil.types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def built(x: Any) -> Any:
        x = mb.conv(x=x, weight=mb.const(val=values["grouped"], name="grouped"), groups=2, pad_type="same")
        x = mb.conv(x=mb.tanh(x=x), weight=mb.const(val=values["plain"], name="plain"), strides=[1, 2])
        return mb.conv_transpose(
            x=mb.tanh(x=x), weight=mb.const(val=values["turned"], name="turned"), name="y"
        )

    def smooth(seed: int) -> list[dict[str, Any]]:
        coarse = np.random.default_rng(seed).normal(size=(24, 1, 32, 4, 4)).astype(np.float32)
        return [{"x": one} for one in coarse.repeat(2, axis=3).repeat(2, axis=4)]

    target = ct.target.iOS18
    model = ct.convert(built, minimum_deployment_target=target, pass_pipeline=ct.PassPipeline.EMPTY)
    sides = [model]
    for name in ("int4", "int4-gptq", "pal2", "pal2-gptq"):
        sides.append(mp.compress(model, name, calibration=lambda: smooth(1)))
        if name.endswith("gptq"):
            assert all(record.method.startswith("gptq") for record in sides[-1].report)
    outputs = [
        np.stack([Interpreter(side, precision="float32").run(inputs)["y"] for inputs in smooth(2)[:4]])
        for side in sides
    ]
    errors = [float(((outputs[0] - other) ** 2).mean()) for other in outputs[1:]]
    assert errors[1] < 0.8 * errors[0]
    assert errors[3] < 0.8 * errors[2]


def full_moments(x: np.ndarray) -> Moments:
    flow = Flow(1, x.shape[1], 1, 1, [x[None].astype(np.float64)])
    moments = Moments.empty(flow, True, "linear op")
    moments.add(flow)
    return moments


def test_the_output_error_is_the_mean_squared_change_of_the_output() -> None:
    rng = np.random.default_rng(4)
    x, before = rng.normal(0.5, 1, size=(50, 6)), rng.normal(size=(4, 6)).astype(np.float32)
    after = before + 0.1 * rng.normal(size=before.shape).astype(np.float32)
    expected = ((x @ (after - before).T) ** 2).sum() / 50
    moments, consumer = full_moments(x), Consumer("linear", "op", "weight")
    assert output_error(before, after, moments, consumer) == pytest.approx(expected, rel=1e-5)
    moments = attrs.evolve(moments, gram=None)
    change = (after - before).astype(np.float64)
    diagonal = ((change**2) @ x.var(0)).sum() + ((change @ x.mean(0)) ** 2).sum()
    assert output_error(before, after, moments, consumer) == pytest.approx(diagonal, rel=1e-5)


def test_decibels_over_plain_tables_and_over_the_textbook() -> None:
    """The figures that the methods are known for, on correlated inputs that neither saw."""
    rng, width = np.random.default_rng(5), 256
    mixing = (0.08 * rng.normal(size=(width, width)) + np.eye(width)) * np.exp(rng.normal(0, 0.7, width))
    fit, check, test = (full_moments(rng.normal(size=(8 * width, width)) @ mixing) for _ in range(3))
    value = (rng.standard_t(3, (width, width)) / 16).astype(np.float16)
    consumer = Consumer("linear", "op", "weight")
    encoder, inputs = Encoder(Weight("w", value.shape, "float16", (consumer,))), Inputs(fit, check)

    def decibels(encoding: Any) -> float:
        return -10 * np.log10(output_error(value, encoding.decode(), test, consumer))

    from milpasses.calibration.encode import encode_calibrated

    for bits in (2, 3, 4):
        plain = mp.Palettize(nbits=bits, granularity="per_grouped_channel", group_size=16)
        asked = attrs.evolve(plain, method="gptq")
        ours = encode_calibrated(encoder, value, asked, inputs)
        assert decibels(ours.encoding) > decibels(encoder.encode(value, plain)) + 3
        assert ours.encoding.nbytes == encoder.encode(value, plain).nbytes
    minmax = encoder.encode(value, mp.Quantize(dtype="int4", method="minmax"))
    layout = Layout(value.shape, 1, width, False)
    assert fit.gram is not None
    textbook, _ = feed_back(minmax, value, layout, fit.gram, 0.01, refitted=False, descents=0)
    ours = encode_calibrated(encoder, value, mp.Quantize(dtype="int4", method="gptq"), inputs)
    assert decibels(ours.encoding) > decibels(textbook) + 2


@pytest.mark.parametrize("groups", [1, 2])
def test_vectors_of_outputs_that_taps_keep_apart(groups: int) -> None:
    rng = np.random.default_rng(8)
    value = rng.normal(size=(24, 8, 3, 3)).astype(np.float16)  # in, out of a group, taps
    consumer = Consumer("conv_transpose", "op", "weight", groups=groups)
    plain = Encoder(Weight("w", value.shape, "float16", (consumer,))).encode(
        value, mp.Palettize(nbits=4, cluster_dim=2, channel_axis=1)
    )
    layout = Layout(value.shape, groups, 24 // groups, True)
    mixing = rng.normal(size=(groups, 24 // groups, 24 // groups)) / 4 + np.eye(24 // groups)
    gram = mixing @ mixing.swapaxes(1, 2)
    fed, _ = feed_back(plain, value, layout, gram, 0.01)

    def lost(encoding: Any) -> float:
        change = layout.split(value.astype(np.float64) - encoding.decode())
        return float(np.einsum("goi,gij,goj->", change, gram, change))

    assert isinstance(fed, Palettized)
    assert isinstance(plain, Palettized)
    assert fed.codes.shape == plain.codes.shape
    assert fed.vector_axis == plain.vector_axis == 1
    assert lost(fed) < 0.8 * lost(plain)


def test_vectors_along_the_inputs_have_no_feedback() -> None:
    rng = np.random.default_rng(6)
    value = rng.normal(size=(64, 64)).astype(np.float16)
    scheme = mp.Palettize(nbits=4, cluster_dim=2, channel_axis=1)
    encoding = Encoder(Weight("w", value.shape, "float16", ())).encode(value, scheme)
    with pytest.raises(Refusal, match="not outputs"):
        feed_back(encoding, value, Layout(value.shape, 1, 64, False), np.eye(64)[None], 0.01)
