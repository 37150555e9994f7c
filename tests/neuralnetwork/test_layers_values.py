"""Elementwise layers, activations and layers that move values, each against NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nn_models import Array, network, normal, positive, run_layer, run_spec

from milpasses.neuralnetwork import LayerError

X = normal(2, 1, 4, 6, 8)  # [Seq, Batch, C, H, W]
P = positive(2, 1, 4, 6, 8)
A, B = positive(4, seed=1), positive(4, seed=2)


def channels(values: Array) -> Array:
    return values.reshape(-1, 1, 1)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, tuple[Any, Callable[[Array], Array]]] = {
    "LINEAR": ([2.0, -1.0], lambda x: 2 * x - 1),
    "RELU": (None, lambda x: np.maximum(x, 0)),
    "LEAKYRELU": ([0.3], lambda x: np.where(x < 0, 0.3 * x, x)),
    "THRESHOLDEDRELU": (0.4, lambda x: np.where(x >= 0.4, x, 0)),
    "PRELU": (A, lambda x: np.where(x < 0, channels(A) * x, x)),
    "TANH": (None, np.tanh),
    "SCALED_TANH": ([1.5, 0.7], lambda x: 1.5 * np.tanh(0.7 * x)),
    "SIGMOID": (None, sigmoid),
    "SIGMOID_HARD": ([0.3, 0.4], lambda x: np.clip(0.3 * x + 0.4, 0, 1)),
    "ELU": (0.8, lambda x: np.where(x < 0, 0.8 * np.expm1(x), x)),
    "SOFTSIGN": (None, lambda x: x / (1 + np.abs(x))),
    "SOFTPLUS": (None, lambda x: np.log1p(np.exp(x))),
    "PARAMETRICSOFTPLUS": ([A, B], lambda x: channels(A) * np.log1p(np.exp(channels(B) * x))),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation(kind: str) -> None:
    params, wanted = ACTIVATIONS[kind]
    out = run_layer(lambda b: b.add_activation("a", kind, "x", "out", params), {"x": X})["out"]
    np.testing.assert_allclose(out, wanted(X), rtol=1e-4, atol=1e-5)


def test_one_slope_for_all_channels() -> None:
    build: Any = lambda b: b.add_activation("a", "PRELU", "x", "out", np.array([0.2], np.float32))  # noqa: E731
    np.testing.assert_allclose(run_layer(build, {"x": X})["out"], np.where(X < 0, 0.2 * X, X), rtol=1e-5)


UNARY: dict[str, Callable[[Array], Array]] = {
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x + 1e-2),
    "inverse": lambda x: 1 / (x + 1e-2),
    "power": lambda x: x**1.5,
    "exp": np.exp,
    "log": lambda x: np.log(x + 1e-2),  # as coremltools' tests of its own conversion expect
    "abs": np.abs,
    "threshold": lambda x: np.maximum(x, 1.5),
}


@pytest.mark.parametrize("kind", UNARY)
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.25, 2.0)])
def test_unary(kind: str, shift: float, scale: float) -> None:
    build: Any = lambda b: b.add_unary("u", "x", "out", kind, 1.5, shift, scale, 1e-2)  # noqa: E731
    wanted = UNARY[kind](scale * P + shift)
    np.testing.assert_allclose(run_layer(build, {"x": P})["out"], wanted, rtol=1e-4)


Y = normal(2, 1, 4, 6, 8, seed=5)
Z = normal(1, 1, 4, 1, 1, seed=6)
ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "ADD": lambda x, y, z: x + y + z,
    "MULTIPLY": lambda x, y, z: x * y * z,
    "AVE": lambda x, y, z: (x + y + z) / 3,
    "MAX": lambda x, y, z: np.maximum(np.maximum(x, y), z),
    "MIN": lambda x, y, z: np.minimum(np.minimum(x, y), z),
}


@pytest.mark.parametrize("mode", ELEMENTWISE)
def test_elementwise_with_broadcast(mode: str) -> None:
    inputs = {"x": X, "y": Y, "z": Z}
    out = run_layer(lambda b: b.add_elementwise("e", list(inputs), "out", mode), inputs)["out"]
    np.testing.assert_allclose(out, ELEMENTWISE[mode](X, Y, Z), rtol=1e-5, atol=1e-6)


V, W = normal(2, 1, 5, 1, 1), normal(2, 1, 5, 1, 1, seed=1)
DOT = (V * W).sum(2, keepdims=True)
LENGTHS = np.linalg.norm(V, axis=2, keepdims=True) * np.linalg.norm(W, axis=2, keepdims=True)

# name: (what adds the layer, inputs, wanted)
LAYERS: dict[str, tuple[Callable[[Any], Any], dict[str, Array], Array]] = {
    "add a number": (lambda b: b.add_elementwise("e", ["x"], "out", "ADD", 1.5), {"x": X}, X + 1.5),
    "multiply": (lambda b: b.add_elementwise("e", ["x"], "out", "MULTIPLY", 1.5), {"x": X}, X * 1.5),
    "dot": (lambda b: b.add_elementwise("e", ["x", "y"], "out", "DOT"), {"x": V, "y": W}, DOT),
    "cosine": (lambda b: b.add_elementwise("e", ["x", "y"], "out", "COS"), {"x": V, "y": W}, DOT / LENGTHS),
    "scale": (
        lambda b: b.add_scale("s", A, B, True, "x", "out", [4], [4]),
        {"x": X},
        X * channels(A) + channels(B),
    ),
    "scale by one": (lambda b: b.add_scale("s", A[:1], None, False, "x", "out", [1]), {"x": X}, X * A[0]),
    "scale images": (
        lambda b: b.add_scale("s", P[0, 0], P[1, 0, :1], True, "x", "out", [4, 6, 8], [1, 6, 8]),
        {"x": X},
        X * P[0, 0] + P[1, 0, :1],
    ),
    "bias": (lambda b: b.add_bias("s", A, "x", "out", [4]), {"x": X}, X + channels(A)),
    "bias images": (lambda b: b.add_bias("s", P[0, 0], "x", "out", [4, 6, 8]), {"x": X}, X + P[0, 0]),
    "concat": (lambda b: b.add_elementwise("e", ["x", "y"], "out", "CONCAT"), {"x": X, "y": Y},
               np.concatenate([X, Y], 2)),
    "concat sequences": (
        lambda b: b.add_elementwise("e", ["x", "z"], "out", "SEQUENCE_CONCAT"),
        {"x": X, "z": Y[:1]},
        np.concatenate([X, Y[:1]]),
    ),
    "slice": (lambda b: b.add_slice("s", "x", "out", "channel", 1, -1, 2), {"x": X}, X[:, :, 1:-1:2]),
    "slice rows": (lambda b: b.add_slice("s", "x", "out", "height", 2, -1), {"x": X}, X[:, :, :, 2:-1]),
    "slice columns": (lambda b: b.add_slice("s", "x", "out", "width", 1, 9**9, 3), {"x": X}, X[..., 1::3]),
    "crop": (lambda b: b.add_crop("c", 1, 2, 3, 0, [0, 0], ["x"], "out"), {"x": X}, X[:, :, :, 3:, 1:-2]),
    "crop as large": (
        lambda b: b.add_crop("c", 0, 0, 0, 0, [2, 1], ["x", "y"], "out"),
        {"x": X, "y": Y[..., :3, :5]},
        X[..., 2:5, 1:6],
    ),
    "flatten": (lambda b: b.add_flatten("f", 0, "x", "out"), {"x": X}, X.reshape(2, 1, -1, 1, 1)),
    "flatten channels last": (
        lambda b: b.add_flatten("f", 1, "x", "out"),
        {"x": X},
        X.transpose(0, 1, 3, 4, 2).reshape(2, 1, -1, 1, 1),
    ),
    "reshape": (lambda b: b.add_reshape("r", "x", "out", (8, 2, 12), 0), {"x": X}, X.reshape(2, 1, 8, 2, 12)),
    "reshape channels last": (
        lambda b: b.add_reshape("r", "x", "out", (8, 2, 12), 1),
        {"x": X},
        X.transpose(0, 1, 3, 4, 2).reshape(2, 1, 2, 12, 8).transpose(0, 1, 4, 2, 3),
    ),
    "reshape sequence": (
        lambda b: b.add_reshape("r", "x", "out", (4, 4, 3, 8), 0),
        {"x": X},
        X.reshape(4, 1, 4, 3, 8),
    ),
    "permute": (lambda b: b.add_permute("p", (0, 3, 1, 2), "x", "out"), {"x": X}, X.transpose(0, 1, 4, 2, 3)),
    "permute sequence": (
        lambda b: b.add_permute("p", (3, 1, 2, 0), "x", "out"),
        {"x": X},
        X.transpose(4, 1, 2, 3, 0),
    ),
    "repeat": (lambda b: b.add_sequence_repeat("r", 3, "x", "out"), {"x": X}, np.tile(X, (3, 1, 1, 1, 1))),
    "space to depth": (
        lambda b: b.add_reorganize_data("r", "x", "out", "SPACE_TO_DEPTH", 2),
        {"x": X},
        X.reshape(2, 1, 4, 3, 2, 4, 2).transpose(0, 1, 4, 6, 2, 3, 5).reshape(2, 1, 16, 3, 4),
    ),
    "depth to space": (
        lambda b: b.add_reorganize_data("r", "x", "out", "DEPTH_TO_SPACE", 2),
        {"x": X},
        X.reshape(2, 1, 2, 2, 1, 6, 8).transpose(0, 1, 4, 5, 2, 6, 3).reshape(2, 1, 1, 12, 16),
    ),
    "pixel shuffle": (
        lambda b: b.add_reorganize_data("r", "x", "out", "PIXEL_SHUFFLE", 2),
        {"x": X},
        X.reshape(2, 1, 1, 2, 2, 6, 8).transpose(0, 1, 2, 5, 3, 6, 4).reshape(2, 1, 1, 12, 16),
    ),
    "pad": (
        lambda b: b.add_padding("p", 1, 2, 3, 0, 0.5, "x", "out", "constant"),
        {"x": X},
        np.pad(X, ((0, 0),) * 3 + ((3, 0), (1, 2)), constant_values=0.5),
    ),
}  # fmt: skip
PAD = ((0, 0),) * 3 + ((2, 1), (1, 3))
for _mode, _numpy in (("reflection", "reflect"), ("replication", "edge")):
    LAYERS[_mode] = (
        lambda b, mode=_mode: b.add_padding("p", 1, 3, 2, 1, 0, "x", "out", mode),
        {"x": X},
        np.pad(X, PAD, mode=_numpy),  # pyright: ignore
    )


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    build, inputs, wanted = LAYERS[name]
    out = run_layer(build, inputs)["out"]
    assert out.shape == wanted.shape
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)


REDUCTIONS: dict[str, Callable[..., Array]] = {
    "sum": np.sum,
    "avg": np.mean,
    "prod": np.prod,
    "logsum": lambda x, axis, keepdims: np.log(x + 1e-6).sum(axis, keepdims=keepdims),
    "sumsquare": lambda x, axis, keepdims: (x**2).sum(axis, keepdims=keepdims),
    "L1": lambda x, axis, keepdims: np.abs(x).sum(axis, keepdims=keepdims),
    "L2": lambda x, axis, keepdims: np.sqrt((x**2).sum(axis, keepdims=keepdims)),
    "max": np.max,
    "min": np.min,
}
AXES = {"CHW": (2, 3, 4), "HW": (3, 4), "C": (2,), "H": (3,), "W": (4,)}


@pytest.mark.parametrize("mode", REDUCTIONS)
@pytest.mark.parametrize("axis", AXES)
def test_reduce(mode: str, axis: str) -> None:
    out = run_layer(lambda b: b.add_reduce("r", "x", "out", axis, mode), {"x": P})["out"]
    np.testing.assert_allclose(out, REDUCTIONS[mode](P, axis=AXES[axis], keepdims=True), rtol=1e-4)


def test_reduce_to_the_place_of_the_maximum() -> None:
    out = run_layer(lambda b: b.add_reduce("r", "x", "out", "C", "argmax"), {"x": X})["out"]
    np.testing.assert_array_equal(out, X.argmax(2)[:, :, None])
    assert out.dtype == np.float32


def test_split() -> None:
    names = ("a", "b")
    out = run_layer(lambda b: b.add_split("s", "x", list(names)), {"x": X}, names)
    np.testing.assert_array_equal(np.concatenate([out["a"], out["b"]], 2), X)


def test_constants_become_of_rank_5() -> None:
    def build(b: Any) -> None:
        b.add_load_constant("c", "c", P[0, 0], [4, 6, 8])
        b.add_elementwise("e", ["x", "c"], "out", "ADD")

    np.testing.assert_allclose(run_layer(build, {"x": X})["out"], X + P[0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "result"),
    [((5,), (3,)), ((2, 5), (2, 3)), ((2, 4, 5), (2, 4, 3)), ((2, 5, 1, 1), (2, 3, 1, 1)),
     ((2, 2, 5, 1, 1), (2, 2, 3, 1, 1))],
)  # fmt: skip
def test_inner_product_of_each_rank(shape: tuple[int, ...], result: tuple[int, ...]) -> None:
    x, weight, bias = normal(*shape), normal(3, 5), normal(3)

    def build(b: Any) -> None:
        b.add_inner_product("i", weight, bias, 5, 3, True, "x", "out")

    out = run_layer(build, {"x": x}, exact=True)["out"]
    assert out.shape == result
    wanted = x.reshape(-1, 5) @ weight.T + bias
    np.testing.assert_allclose(out.reshape(-1, 3), wanted, rtol=1e-4, atol=1e-5)


def test_inner_product_flattens_images() -> None:
    weight = normal(3, 4 * 6 * 8)
    out = run_layer(lambda b: b.add_inner_product("i", weight, None, 192, 3, False, "x", "out"), {"x": X})[
        "out"
    ]
    np.testing.assert_allclose(out.reshape(2, 3), X.reshape(2, -1) @ weight.T, rtol=1e-4, atol=1e-4)


def test_embedding() -> None:
    weight, bias = normal(5, 7), normal(5)
    indices = np.array([0, 6, 3], np.float32).reshape(3, 1, 1, 1, 1)
    out = run_layer(lambda b: b.add_embedding("e", weight, bias, 7, 5, True, "x", "out"), {"x": indices})[
        "out"
    ]
    np.testing.assert_allclose(out.reshape(3, 5), weight.T[[0, 6, 3]] + bias, rtol=1e-6)


@pytest.mark.parametrize(("ta", "tb"), [(False, False), (True, True)])
def test_batched_matmul(ta: bool, tb: bool) -> None:
    a, c = normal(2, 3, 4), normal(4, 5)
    inputs = {"x": a.swapaxes(1, 2).copy() if ta else a, "y": c.T.copy() if tb else c}

    def build(b: Any) -> None:
        b.add_batched_mat_mul("m", ["x", "y"], "out", transpose_a=ta, transpose_b=tb)

    np.testing.assert_allclose(run_layer(build, inputs, exact=True)["out"], a @ c, rtol=1e-4, atol=1e-5)


def test_batched_matmul_with_weights() -> None:
    x, weight, bias = normal(2, 3, 4), normal(4, 5), normal(5)

    def build(b: Any) -> None:
        b.add_batched_mat_mul(
            "m", ["x"], "out", weight_matrix_rows=4, weight_matrix_columns=5, W=weight, bias=bias
        )

    out = run_layer(build, {"x": x}, exact=True)["out"]
    np.testing.assert_allclose(out, x @ weight + bias, rtol=1e-4, atol=1e-5)


def changed(b: Any, shape: list[int]) -> None:
    """A bias of a shape that the builder would not take."""
    params = b.add_bias("s", A, "x", "out", [4]).bias
    params.shape[:] = shape


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda b: b.add_slice("s", "x", "out", "channel", 3, 2),
            r"layer 0 's' \(slice\): takes 3 to 2 of 4",
        ),
        (lambda b: b.add_reshape("s", "x", "out", (1, 1, 5), 0), r"cannot bring .* to \(1, 1, 1, 1, 5\)"),
        (lambda b: changed(b, [2, 2]), "1 or 3 dimensions"),
        (lambda b: b.add_inner_product("s", A, None, 4, 1, False, "x", "out"), "takes 4 values"),
        (lambda b: changed(b, [5]), "4 values are stored"),
    ],
)
def test_a_layer_that_makes_no_sense_is_named(build: Any, message: str) -> None:
    x = X[0, 0]
    with pytest.raises(LayerError, match=message):
        run_spec(network(build, {"x": x.shape}), {"x": x})
