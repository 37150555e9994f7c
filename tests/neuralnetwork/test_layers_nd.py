"""Layers of the N-dimensional generation, one at a time, against NumPy and torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder

from milpasses.interpreter import Interpreter

torch = pytest.importorskip("torch")
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
Y = RANDOM.standard_normal((3, 1)).astype(np.float32)
ONES = np.array([[0, 1, 2], [1, 0, -3]], np.float32)

Build = Callable[[Any], Any]
Case = tuple[str, Build, dict[str, Any], Any]


def run(build: Build, inputs: dict[str, Any], outputs: int = 1) -> list[Any]:
    """Outputs ``y`` (``y0``, ``y1`` ... where there are several) of a network of one layer."""
    names = ["y"] if outputs == 1 else [f"y{i}" for i in range(outputs)]
    builder = NeuralNetworkBuilder(
        [(name, datatypes.Array(*value.shape)) for name, value in inputs.items()],
        [(name, None) for name in names],
        disable_rank5_shape_mapping=True,
    )
    build(builder)
    found = Interpreter(builder.spec).run(inputs)
    return [found[name] for name in names]


def case(name: str, build: Build, expected: Any, **inputs: Any) -> Case:
    return name, build, inputs or {"x": X}, expected


def method(name: str, *args: Any, **options: Any) -> Build:
    """``builder.add_NAME("l", "x", "y", ...)``."""
    return lambda builder: getattr(builder, f"add_{name}")("l", "x", "y", *args, **options)


def several(name: str, given: list[str], **options: Any) -> Build:
    """The same for layers that take a list of inputs."""
    return lambda builder: getattr(builder, f"add_{name}")("l", given, "y", **options)


UNIT = np.clip(X, -0.95, 0.95)
T = torch.from_numpy(X)
CASES: list[Case] = [
    *(
        case(name, method(name), getattr(np, reference)(values), x=values)
        for name, reference, values in (
            ("ceil", "ceil", X), ("floor", "floor", X), ("sign", "sign", X), ("round", "round", X * 3),
            ("exp2", "exp2", X), ("sin", "sin", X), ("cos", "cos", X), ("tan", "tan", X),
            ("asin", "arcsin", UNIT), ("acos", "arccos", UNIT), ("atan", "arctan", X),
            ("sinh", "sinh", X), ("cosh", "cosh", X), ("tanh", "tanh", X),
            ("asinh", "arcsinh", X * 5), ("acosh", "arccosh", np.abs(X) + 1), ("atanh", "arctanh", UNIT),
        )
    ),
    case("erf", method("erf"), torch.erf(T).numpy()),
    case("gelu", method("gelu", mode="EXACT"), torch.nn.functional.gelu(T).numpy()),
    case(
        "gelu_tanh",
        method("gelu", mode="TANH_APPROXIMATION"),
        torch.nn.functional.gelu(T, approximate="tanh").numpy(),
    ),
    case("clip", method("clip", min_value=-0.5, max_value=0.25), np.clip(X, -0.5, 0.25)),
    case(
        "clamped_relu",
        method("clamped_relu", alpha=0.1, beta=0.5),
        np.minimum(np.where(X > 0, X, 0.1 * X), 0.5),
    ),
    case("greater", several("greater_than", ["x"], alpha=0.2), (X > 0.2).astype(np.float32)),
    case("less_equal", several("less_than", ["x", "z"], use_less_than_equal=True),
         (X <= Y).astype(np.float32), x=X, z=Y),
    case("not_equal", several("not_equal", ["x"], alpha=1.0), (ONES != 1).astype(np.float32), x=ONES),
    case("or", several("logical", ["x", "z"], mode="OR"), np.float32([[1, 1, 1], [1, 0, 1]]),
         x=ONES, z=np.float32([[5], [0]])),
    case("xor", several("logical", ["x", "z"], mode="XOR"), np.float32([[1, 0, 0], [1, 0, 1]]),
         x=ONES, z=np.float32([[5], [0]])),
    case("not", several("logical", ["x"], mode="NOT"), (ONES == 0).astype(np.float32), x=ONES),
    case("mod", several("mod_broadcastable", ["x", "z"]), np.mod(X, Y), x=X, z=Y),
    case("floor_div", several("floor_div_broadcastable", ["x", "z"]), np.floor_divide(X, Y), x=X, z=Y),
    case("divide", several("divide_broadcastable", ["x", "z"]), X / Y, x=X, z=Y),
    case("pow", several("pow_broadcastable", ["x", "z"]), np.abs(X) ** Y, x=np.abs(X), z=Y),
    case("subtract", several("subtract_broadcastable", ["x", "z"]), X - Y, x=X, z=Y),
    case("max3", several("max_broadcastable", ["x", "z", "w"]), np.maximum(np.maximum(X, Y), 0.3),
         x=X, z=Y, w=np.float32([0.3])),
    case("where", several("where_broadcastable", ["c", "x", "z"]), np.where(X > 0, X, Y),
         c=(X > 0).astype(np.float32), x=X, z=Y),
    case("squeeze_all", method("squeeze", squeeze_all=True), np.float32([7]), x=np.full((1, 1, 1), 7.0)),
    case("squeeze", method("squeeze", axes=[-1]), Y[:, 0], x=Y),
    case("expand_dims", method("expand_dims", axes=[0, -1]), X[None, ..., None]),
    case("flatten", method("flatten_to_2d", axis=-1), X.reshape(6, 4)),
    case("reshape", method("reshape_static", output_shape=[4, -1]), X.reshape(4, 6)),
    case("reshape_like", several("reshape_like", ["x", "z"]), X.reshape(4, 6), x=X, z=np.zeros((4, 6))),
    case("reshape_dynamic", several("reshape_dynamic", ["x", "s"]), X.reshape(6, 4),
         x=X, s=np.float32([6, 4])),
    case("rank_preserving", method("rank_preserving_reshape", output_shape=[0, 2, -1]), X.reshape(2, 2, 6)),
    case("shape", method("get_shape"), np.float32([2, 3, 4])),
    case("transpose", lambda b: b.add_transpose("l", [2, 0, 1], "x", "y"), X.transpose(2, 0, 1)),
    case("broadcast", method("broadcast_to_static", output_shape=[2, 3, 5]),
         np.broadcast_to(Y, (2, 3, 5)), x=Y),
    case("broadcast_like", several("broadcast_to_like", ["x", "z"]), np.broadcast_to(Y, X.shape), x=Y, z=X),
    case("broadcast_dynamic", several("broadcast_to_dynamic", ["x", "s"]), np.broadcast_to(Y, (2, 3, 4)),
         x=Y, s=np.float32([2, 3, 4])),
    case("tile", lambda b: b.add_tile("l", "x", "y", reps=[2, 1, 3]), np.tile(X, (2, 1, 3))),
    case("stack", several("stack", ["x", "z"], axis=-1), np.stack([X, -X], -1), x=X, z=-X),
    case("concat", several("concat_nd", ["x", "z"], axis=1), np.concatenate([X, -X], 1), x=X, z=-X),
    case("interleave", several("concat_nd", ["x", "z"], axis=2, interleave=True),
         np.stack([X, -X], -1).reshape(2, 3, 8), x=X, z=-X),
    case("pad", several("constant_pad", ["x"], value=2.0, pad_amounts=[0, 1, 2, 0, 0, 3]),
         np.pad(X, ((0, 1), (2, 0), (0, 3)), constant_values=2)),
    case("pad_to", several("constant_pad", ["x"], pad_to_given_output_size_mode=True,
                           pad_amounts=[0, 0, 5, 0, 0, 6]), np.pad(X, ((0, 0), (2, 0), (0, 2)))),
    case("slice", method("slice_static", begin_ids=[1, 0, -1], end_ids=[0, 2, 0], strides=[1, 1, -2],
                         begin_masks=[False] * 3, end_masks=[True, False, True],
                         squeeze_masks=[True, False, False]), X[1, 0:2, -1::-2]),
    case("slice_dynamic", several("slice_dynamic", ["x", "b", "e"], strides=[1, 1, 2]), X[1:2, 0:2, 1:4:2],
         x=X, b=np.float32([1, 0, 1]), e=np.float32([2, 2, 4])),
    case("slice_by_size", lambda b: b.add_slice_by_size("l", ["x", "b"], "y", axis=1, size=2), X[:, 1:3],
         x=X, b=np.float32([1])),
    case("windows", method("sliding_windows", axis=-1, window_size=2, step=1),
         np.stack([X[..., i : i + 2] for i in range(3)], 2)),
    case("reverse", method("reverse", reverse_dim=[True, False, True]), X[::-1, :, ::-1]),
    case("reverse_sequence", several("reverse_sequence", ["x", "n"], batch_axis=0, seq_axis=-1),
         np.stack([X[0][:, [1, 0, 2, 3]], X[1][:, ::-1]]), x=X, n=np.float32([2, 4])),
    case("range", several("range_dynamic", ["e", "s"], step=2), np.float32([1, 3, 5]),
         e=np.float32([6]), s=np.float32([1])),
    case("gather", several("gather", ["x", "i"], axis=1), X[:, [[2, 0]]], x=X, i=np.float32([[2, 0]])),
    case("gather_nd", several("gather_nd", ["x", "i"]), X[[1, 0], [2, 1]], x=X,
         i=np.float32([[1, 2], [0, 1]])),
    case("gather_along", several("gather_along_axis", ["x", "i"], axis=2),
         np.take_along_axis(X, np.argsort(X, 2), 2), x=X, i=np.argsort(X, 2).astype(np.float32)),
    case("scatter_add", several("scatter", ["x", "i", "u"], axis=0, mode="ADD"),
         X + np.stack([np.zeros((3, 4)), np.ones((3, 4))]), x=X, i=np.float32([1]), u=np.ones((1, 3, 4))),
    case("argmax", method("argmax", axis=1, keepdims=False), X.argmax(1)),
    case("argmin", method("argmin", axis=-1, keepdims=True), X.argmin(-1)[..., None]),
    case("argsort", method("argsort", axis=1, descending=True), np.argsort(-X, 1)),
    case("one_hot", several("one_hot", ["x"], one_hot_vector_size=3, axis=-1, on_value=2.0, off_value=-1.0),
         np.eye(3)[[2, 0]] * 3 - 1, x=np.float32([2, 0])),
    case("cumsum", several("cumsum", ["x"], axis=1, reverse=True, exclusive=True),
         np.cumsum(X[:, ::-1], 1)[:, ::-1] - X),
    case("nonzero", method("where_nonzero"), np.argwhere(ONES), x=ONES),
    case("constant", lambda b: (b.add_load_constant_nd("c", "c", X, X.shape),
                                b.add_add_broadcastable("l", ["x", "c"], "y")), 2 * X),
    case("fill_like", method("fill_like", value=3.0), np.full(X.shape, 3)),
    case("fill_dynamic", method("fill_dynamic", value=3.0), np.full((2, 5), 3), x=np.float32([2, 5])),
    *(
        case(f"reduce_{name}", method(f"reduce_{name}", axes=[0, 2], keepdims=False), expected, x=np.abs(X))
        for name, expected in (
            ("sum", np.abs(X).sum((0, 2))), ("mean", np.abs(X).mean((0, 2))), ("max", np.abs(X).max((0, 2))),
            ("min", np.abs(X).min((0, 2))), ("prod", np.abs(X).prod((0, 2))), ("l1", np.abs(X).sum((0, 2))),
            ("l2", np.sqrt((X**2).sum((0, 2)))), ("sumsquare", (X**2).sum((0, 2))),
            ("logsum", np.log(np.abs(X).sum((0, 2)))),
            ("logsumexp", np.log(np.exp(np.abs(X)).sum((0, 2)))),
        )
    ),
    case("reduce_all", method("reduce_sum", reduce_all=True, keepdims=False), X.sum(keepdims=True).ravel()),
    case("softmax", method("softmax_nd", axis=1), torch.softmax(T, 1).numpy()),
    case("layer_norm", lambda b: b.add_layer_normalization(
        "l", "x", "y", normalized_shape=[3, 4], gamma=X[0], beta=X[1], eps=1e-3),
        torch.nn.functional.layer_norm(T, (3, 4), T[0], T[1], 1e-3).numpy()),
    case("band", method("matrix_band_part", num_lower=1, num_upper=0), np.triu(np.tril(X), -1)),
    *(case(f"lower{k}", method("lower_triangular", k=k), np.tril(X, k)) for k in (-1, 0, 1)),
    *(case(f"upper{k}", method("upper_triangular", k=k), np.triu(X, k)) for k in (-1, 0, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "build", "inputs", "expected"), CASES, ids=[case[0] for case in CASES])
def test_layer(name: str, build: Build, inputs: dict[str, Any], expected: Any) -> None:
    (found,) = run(build, inputs)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
