"""N-dimensional layers with several outputs, volumes, random numbers, loops and branches."""

from typing import Any

import numpy as np
import pytest
from coremltools.models import MLModel, datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from test_layers_nd import X, run

from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import LayerError, NeuralNetworkError, quantize_weights, read

torch = pytest.importorskip("torch")


def test_splits() -> None:
    parts = run(lambda b: b.add_split_nd("l", "x", ["y0", "y1", "y2"], 2, num_splits=3), {"x": X}, 3)
    for found, expected in zip(parts, np.array_split(X, 3, 2), strict=True):
        np.testing.assert_array_equal(found, expected)
    parts = run(lambda b: b.add_split_nd("l", "x", ["y0", "y1"], 1, split_sizes=[1, 2]), {"x": X}, 2)
    np.testing.assert_array_equal(parts[1], X[:, 1:])


@pytest.mark.parametrize("bottom", [False, True])
def test_top_k_with_a_count_of_the_run(bottom: bool) -> None:
    def build(builder: Any) -> None:
        builder.add_topk("l", ["x", "k"], ["y0", "y1"], axis=1, use_bottom_k=bottom)

    values, indices = run(build, {"x": X, "k": np.float32([2])}, 2)
    expected = np.argsort(X if bottom else -X, 1)[:, :2]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(X, expected, 1))


def test_non_maximum_suppression() -> None:
    boxes = np.float32([[[0, 0, 1, 1], [0.1, 0, 1, 1], [5, 5, 1, 1], [0, 0, 0.1, 0.1]]])
    scores = np.float32([[[0.5], [0.9], [0.8], [0.01]]])

    def build(builder: Any) -> None:
        outputs = ["y0", "y1", "y2", "y3"]
        builder.add_nms("l", ["b", "s"], outputs, iou_threshold=0.5, score_threshold=0.1, max_boxes=3)

    found = run(build, {"b": boxes, "s": scores}, 4)
    np.testing.assert_array_equal(found[2][0][:2], [1, 2])
    np.testing.assert_array_equal(found[1][0][:2, 0], np.float32([0.9, 0.8]))
    np.testing.assert_array_equal(found[0][0][:2], boxes[0][[1, 2]])
    assert found[3].tolist() == [2]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("deconvolution", [False, True])
def test_convolution_of_volumes(groups: int, deconvolution: bool) -> None:
    x = np.random.default_rng(1).standard_normal((1, 4, 5, 6, 7)).astype(np.float32)
    shape = (4, 6 // groups, 3, 2, 3) if deconvolution else (6, 4 // groups, 3, 2, 3)
    weight = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    bias = np.arange(6, dtype=np.float32)
    given_weight = np.moveaxis(weight, 0, 1) if deconvolution else weight  # the builder turns it

    def build(builder: Any) -> None:
        builder.add_convolution3d(
            "l", 4, 6, 3, 2, 3, given_weight, bias, True, groups, 2, 1, 2, 1, 1, 1,
            is_deconv=deconvolution, padding_mode="custom", padding_front=1, padding_back=1,
            padding_left=1, padding_right=1, input_name="x", output_name="y",
        )  # fmt: skip

    (found,) = run(build, {"x": x})
    op = torch.nn.functional.conv_transpose3d if deconvolution else torch.nn.functional.conv3d
    given = [torch.from_numpy(one) for one in (x, weight, bias)]
    expected = op(*given, stride=(2, 1, 2), padding=(1, 0, 1), groups=groups).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["MAX", "AVERAGE"])
def test_pooling_of_volumes(kind: str) -> None:
    x = np.random.default_rng(1).standard_normal((1, 2, 6, 6, 6)).astype(np.float32)
    pool = torch.nn.functional.max_pool3d if kind == "MAX" else torch.nn.functional.avg_pool3d

    def build(builder: Any) -> None:
        builder.add_pooling3d("l", "x", "y", kind, 2, 3, 2, 2, 1, 2, padding_mode="valid")

    (found,) = run(build, {"x": x})
    expected = pool(torch.from_numpy(x), (2, 3, 2), (2, 1, 2)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    (found,) = run(lambda b: b.add_global_pooling3d("l", "x", "y", kind), {"x": x})
    expected = (x.max if kind == "MAX" else x.mean)((2, 3, 4), keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_random_numbers_have_their_distribution() -> None:
    shape = np.zeros((100, 200), np.float32)
    (normal,) = run(lambda b: b.add_random_normal_like("l", "x", "y", 3.0, 2.0, seed=1), {"x": shape})
    assert normal.shape == shape.shape
    assert (abs(normal.mean() - 3), abs(normal.std() - 2)) < (0.1, 0.1)
    (coins,) = run(lambda b: b.add_random_bernoulli_like("l", "x", "y", 0.2, seed=1), {"x": shape})
    assert set(np.unique(coins)) == {0, 1}
    assert abs(coins.mean() - 0.2) < 0.02
    size = np.float32([50, 400])
    (flat,) = run(lambda b: b.add_random_uniform_dynamic("l", "x", "y", -1.0, 2.0, seed=1), {"x": size})
    assert flat.shape == (50, 400)
    assert flat.min() >= -1
    assert flat.max() <= 2
    assert abs(flat.mean() - 0.5) < 0.05


def test_embedding_quantized_and_not() -> None:
    weights, bias = X.reshape(4, 6), np.float32([1, 2, 3, 4])
    builder = NeuralNetworkBuilder(
        [("x", datatypes.Array(2, 1))], [("y", None)], disable_rank5_shape_mapping=True
    )
    builder.add_embedding_nd("l", "x", "y", 6, 4, weights, bias)
    indices = np.float32([[5], [0]])
    found = Interpreter(builder.spec).run({"x": indices})["y"]
    np.testing.assert_allclose(found, weights[:, [5, 0]].T + bias, rtol=1e-6)
    small = quantize_weights(MLModel(builder.spec, skip_model_load=True), 8, "linear")
    found = Interpreter(small.get_spec()).run({"x": indices})["y"]
    np.testing.assert_allclose(found, weights[:, [5, 0]].T + bias, atol=0.03)


def looping(limit: int | None, **inputs: Any) -> tuple[Any, Any]:
    """A builder with x, copied to ``s``, and the builder of the body of a loop."""
    builder = NeuralNetworkBuilder(
        [("x", datatypes.Array(2))] + [(name, datatypes.Array(1)) for name in inputs],
        [("y", None)],
        disable_rank5_shape_mapping=True,
    )
    builder.add_copy("start", "x", "s")
    layer = builder.add_loop("loop", input_name=next(iter(inputs), None), max_iterations=limit)
    return builder, layer


def double(network: Any) -> Any:
    body = NeuralNetworkBuilder(nn_spec=network)
    body.add_activation("double", "LINEAR", "s", "t", [2, 0])
    body.add_copy("back", "t", "s")
    return body


def finished(builder: Any, **inputs: Any) -> Any:
    builder.add_copy("end", "s", "y")
    return Interpreter(builder.spec).run({"x": np.float32([1, 3]), **inputs})["y"].tolist()


def test_loops_of_a_number() -> None:
    builder, layer = looping(3)
    double(layer.loop.bodyNetwork)
    assert finished(builder) == [8, 24]
    builder, layer = looping(None, n=1)
    double(layer.loop.bodyNetwork)
    assert finished(builder, n=np.float32([2])) == [4, 12]


def test_loops_with_a_condition() -> None:
    for limit, expected in ((None, [64, 192]), (2, [4, 12])):
        builder, layer = looping(limit)
        layer.loop.conditionVar = "small"
        check = NeuralNetworkBuilder(nn_spec=layer.loop.conditionNetwork)
        check.add_reduce_max("largest", "s", "m", reduce_all=True, keepdims=False)
        check.add_less_than("check", ["m"], "small", alpha=100)
        double(layer.loop.bodyNetwork)
        assert finished(builder) == expected


def test_loops_whose_condition_is_known_at_first() -> None:
    builder = NeuralNetworkBuilder(
        [("x", datatypes.Array(2))], [("y", None)], disable_rank5_shape_mapping=True
    )
    builder.add_copy("start", "x", "s")
    builder.add_load_constant_nd("zero", "n", np.float32([0]), (1,))
    loop = builder.add_loop("loop").loop
    loop.conditionVar = "go"
    NeuralNetworkBuilder(nn_spec=loop.conditionNetwork).add_less_than("check", ["n"], "go", alpha=3)
    body = double(loop.bodyNetwork)
    body.add_load_constant_nd("one", "step", np.float32([1]), (1,))
    body.add_elementwise("next", ["n", "step"], "m", "ADD")
    body.add_copy("keep", "m", "n")
    assert finished(builder) == [8, 24]


@pytest.mark.parametrize("jump", ["break", "continue"])
def test_leaving_a_loop_and_an_iteration(jump: str) -> None:
    builder, layer = looping(5)
    body = double(layer.loop.bodyNetwork)
    body.add_reduce_max("largest", "s", "m", reduce_all=True, keepdims=False)
    body.add_greater_than("check", ["m"], "big", alpha=20)
    leave = body.add_branch("leave", "big")
    getattr(NeuralNetworkBuilder(nn_spec=leave.branch.ifBranch), f"add_loop_{jump}")("jump")
    body.add_activation("again", "LINEAR", "s", "t2", [2, 0])
    body.add_copy("back2", "t2", "s")
    steps = np.float32([1, 3])
    for _ in range(5):
        steps = steps * 2
        if steps.max() > 20:
            if jump == "break":
                break
            continue
        steps = steps * 2
    assert finished(builder) == steps.tolist()


def test_branches() -> None:
    for predicate, expected in ((2.0, [2, 6]), (0.0, [0, 2]), (1e-7, [0, 2])):
        builder = NeuralNetworkBuilder(
            [("x", datatypes.Array(2)), ("p", datatypes.Array(1))],
            [("y", None)],
            disable_rank5_shape_mapping=True,
        )
        layer = builder.add_branch("branch", "p")
        for side, (scale, shift) in ((layer.branch.ifBranch, (2, 0)), (layer.branch.elseBranch, (1, -1))):
            NeuralNetworkBuilder(nn_spec=side).add_activation("one", "LINEAR", "x", "s", [scale, shift])
        assert finished(builder, p=np.float32([predicate])) == expected


@pytest.mark.parametrize("chosen", [True, False])
def test_a_branch_known_before_the_run_leaves_the_other_side_out(chosen: bool) -> None:
    builder = NeuralNetworkBuilder(
        [("x", datatypes.Array(2))], [("y", None)], disable_rank5_shape_mapping=True
    )
    builder.add_load_constant_nd("p", "p", np.float32([chosen]), (1,))
    builder.add_load_constant_nd("size", "size", np.float32([-3]), (1,))
    branch = builder.add_branch("branch", "p").branch
    sides = (branch.ifBranch, branch.elseBranch)
    possible, impossible = sides if chosen else sides[::-1]
    NeuralNetworkBuilder(nn_spec=possible).add_activation("one", "LINEAR", "x", "s", [2, 0])
    NeuralNetworkBuilder(nn_spec=impossible).add_fill_dynamic("one", "size", "s", 1)
    assert finished(builder) == [2, 6]


def test_says_what_cannot_be() -> None:
    builder = NeuralNetworkBuilder(
        [("x", datatypes.Array(2))], [("y", None)], disable_rank5_shape_mapping=True
    )
    builder.add_loop_break("stray")
    builder.add_copy("end", "x", "y")
    with pytest.raises(NeuralNetworkError, match=r"layer 0 'stray' \(loopBreak\): stands outside of a loop"):
        read(builder.spec)
    with pytest.raises((LayerError, NeuralNetworkError), match="takes 6 amounts and has 4"):
        run(lambda b: b.add_constant_pad("l", ["x"], "y", pad_amounts=[1, 1, 1, 1]), {"x": X})
