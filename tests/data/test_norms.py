"""Second moments that normalizations tell without data, against those of a run on normal inputs."""

import math
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

import milpasses as mp
from milpasses.data.moments import Statistics
from milpasses.errors import Refusal
from milpasses.interpreter import Interpreter

RNG = np.random.default_rng(0)
C = 24
GAMMA = np.exp(RNG.normal(0, 0.7, C)).astype(np.float32)
BETA = RNG.normal(0, 0.5, C).astype(np.float32)
FACTOR = np.exp(RNG.normal(0, 0.5, C)).astype(np.float32)


def weight(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) / math.sqrt(shape[-1])).astype(np.float32)


def rms(x: Any, divided: bool = False) -> Any:
    mean = mb.reduce_mean(x=mb.mul(x=x, y=x) if divided else mb.pow(x=x, y=2.0), axes=[-1], keep_dims=True)
    if divided:
        return mb.real_div(x=x, y=mb.sqrt(x=mb.add(x=mean, y=1e-6)))
    return mb.mul(x=x, y=mb.rsqrt(x=mb.add(x=mean, y=1e-6), epsilon=1e-12))


def layer_norm(x: Any) -> Any:
    return mb.layer_norm(x=x, axes=[-1], gamma=GAMMA, beta=BETA)


def batch_norm(x: Any) -> Any:
    return mb.batch_norm(
        x=x, mean=np.zeros(C, np.float32), variance=np.ones(C, np.float32), gamma=GAMMA, beta=BETA
    )


def linear(x: Any) -> Any:
    return mb.linear(x=x, weight=weight(8, C))


ROWS, IMAGE = (1, 64, C), (1, C, 12, 12)
NETWORKS: dict[str, tuple[tuple[int, ...], Any]] = {
    "layer norm": (ROWS, lambda x: linear(layer_norm(x))),
    "gelu": (ROWS, lambda x: linear(mb.gelu(x=layer_norm(x), mode="EXACT"))),
    "silu, scaled": (ROWS, lambda x: linear(mb.mul(x=mb.silu(x=layer_norm(x)), y=FACTOR))),
    "shifted": (ROWS, lambda x: linear(mb.sub(x=layer_norm(x), y=np.float32(0.25)))),
    "rms": (ROWS, lambda x: linear(mb.mul(x=GAMMA, y=rms(x)))),
    "rms, divided": (ROWS, lambda x: linear(mb.mul(x=rms(x, True), y=GAMMA))),
    "reshaped": (ROWS, lambda x: linear(mb.reshape(x=layer_norm(x), shape=[64, C]))),
    "matmul": (ROWS, lambda x: mb.matmul(x=layer_norm(x), y=weight(C, 8))),
    "matmul, turned": (ROWS, lambda x: mb.matmul(x=weight(8, C), y=layer_norm(x), transpose_y=True)),
    "turned": (
        ROWS,
        lambda x: mb.conv(
            x=mb.expand_dims(x=mb.transpose(x=layer_norm(x), perm=[0, 2, 1]), axes=[2]),
            weight=weight(8, C, 1, 1),
        ),
    ),
    "batch norm": (IMAGE, lambda x: mb.conv(x=mb.relu(x=batch_norm(x)), weight=weight(8, C, 3, 3))),
    "groups": (IMAGE, lambda x: mb.conv(x=batch_norm(x), weight=weight(C, C // 4, 1, 1), groups=4)),
    "prelu": (
        IMAGE,
        lambda x: mb.conv_transpose(x=mb.prelu(x=batch_norm(x), alpha=FACTOR), weight=weight(C, 8, 2, 2)),
    ),
}  # fmt: skip


def converted(shape: tuple[int, ...], build: Any, **options: Any) -> Any:
    @mb.program(input_specs=[mb.TensorSpec(shape)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return build(x)

    return ct.convert(
        program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True,
        compute_precision=ct.precision.FLOAT32, **options,
    )  # fmt: skip


def ran(model: Any, shape: tuple[int, ...]) -> Statistics:
    """Moments of normal inputs."""
    rng = np.random.default_rng(1)
    name = next(iter(Interpreter(model).inputs))
    data = [{name: rng.normal(size=shape).astype(np.float32)} for _ in range(40)]
    return mp.statistics(model, data)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_moments_are_those_of_a_run(network: str) -> None:
    shape, build = NETWORKS[network]
    model = converted(shape, build)
    told, seen = mp.statistics(model, "norms"), ran(model, shape)
    assert list(told.weights) == list(seen.weights) != []
    for name, moments in told.weights.items():
        assert moments.layout == seen[name].layout
        wanted = seen[name].second_moment  # sampling leaves a few percent; rare values are few points
        np.testing.assert_allclose(moments.square_sum, wanted, rtol=0.12, atol=0.02 * wanted.mean())


def test_what_stands_behind_no_norm_is_told(tmp_path: Any) -> None:
    shared = weight(C, C)
    model = converted(
        ROWS,
        lambda x: mb.linear(x=mb.linear(x=linear(layer_norm(x)), weight=weight(C, 8)), weight=shared),
    )
    found = mp.statistics(model, "norms")
    assert (len(found.weights), len(found.skipped)) == (1, 2)
    assert set(found.skipped.values()) == {Refusal("no-normalization")}
    report = mp.compress(model, mp.Palettize(nbits=4, weight_threshold=0), calibration="norms").report
    methods = [record.method for record in report if record.status == "compressed"]
    assert sum(bool(method) for method in methods) == 1
    assert sum("no normalization before it" in record.reason for record in report) == 2
    path = tmp_path / "norms.npz"
    found.save(path)
    assert Statistics.load(path).weights.keys() == found.weights.keys()


def test_a_model_without_norms_is_refused() -> None:
    powers = np.where(np.arange(C) % 2, 2, 4).astype(np.float32)

    def unlike(x: Any) -> Any:  # of other powers than squares
        mean = mb.reduce_mean(x=mb.pow(x=x, y=powers), axes=[-1], keep_dims=True)
        return linear(mb.mul(x=x, y=mb.rsqrt(x=mean, epsilon=1e-6)))

    with pytest.raises(mp.MilpassesError, match="stands behind a normalization"):
        mp.statistics(converted(ROWS, unlike), "norms")
    model = converted(ROWS, linear)
    with pytest.raises(mp.MilpassesError, match="stands behind a normalization: run it on data"):
        mp.compress(model, "pal4", calibration="norms")
    with pytest.raises(mp.MilpassesError, match="sequential"):
        mp.compress(model, "pal4", calibration="norms", sequential=True)


def test_outputs_come_nearer_through_both_doors() -> None:
    own = weight(64, C) / GAMMA  # as training makes up for scales
    wide = lambda x: mb.linear(x=layer_norm(x), weight=own)  # noqa: E731 (one line, used twice)
    scheme = mp.Palettize(nbits=3, weight_threshold=0)
    model = converted(ROWS, wide)
    told = mp.compress(model, scheme, calibration="norms")
    piped = converted(ROWS, wide, pass_pipeline=mp.pipeline(scheme, statistics="norms"))
    x = {next(iter(Interpreter(model).inputs)): np.random.default_rng(2).normal(size=ROWS).astype(np.float32)}

    def output(one: Any) -> np.ndarray:
        return next(iter(Interpreter(one).run(x).values()))

    exact = output(model)
    plain, ours, theirs = (
        float(((output(one) - exact) ** 2).sum()) for one in (mp.compress(model, scheme), told, piped)
    )
    assert ours < 0.85 * plain
    assert ours == theirs
    given = mp.compress(model, scheme, statistics="norms")  # the same, said as the pipeline does
    assert output(given).tobytes() == output(told).tobytes()
