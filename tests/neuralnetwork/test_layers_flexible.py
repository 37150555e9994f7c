"""Layers over dimensions that only the run knows: each network is read once and runs in several shapes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coremltools.models import MLModel
from coremltools.models.neural_network import flexible_shape_utils
from nn_models import Array, network, normal

from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import LayerError, quantize_weights, read

SHAPES = ((1, 1), (2, 5), (4, 3))  # of the flexible dimensions; they range from 1 to 8
TABLE, VECTOR = normal(6, 4), normal(6)


def flexible(build: Callable[[Any], Any], **inputs: tuple[int, ...]) -> Any:
    """A network whose inputs have the shapes given, -1 where they are flexible."""
    small = {name: tuple(abs(size) for size in shape) for name, shape in inputs.items()}
    spec = network(build, small, exact=True)
    for name, shape in inputs.items():
        high = [8 if size == -1 else size for size in shape]
        flexible_shape_utils.set_multiarray_ndshape_range(spec, name, list(small[name]), high)
    return spec


def turned(name: str, *args: Any, **options: Any) -> Callable[[Any], Any]:
    """A layer, and a transpose: which has to know the shape that the layer gave."""

    def build(builder: Any) -> None:
        getattr(builder, f"add_{name}")("l", *args, **options)
        builder.add_transpose("turn", [1, 0, 2], "y", "out")

    return build


INNER = turned("inner_product", TABLE, VECTOR, 4, 6, True, "x", "y")
MATMUL = turned("batched_mat_mul", ["x"], "y", False, False, 4, 6, TABLE.T, VECTOR)
EMBEDDING = turned("embedding_nd", "x", "y", 4, 6, TABLE, VECTOR)


@pytest.mark.parametrize("build", [INNER, MATMUL])
def test_products_keep_two_flexible_dimensions_apart(build: Callable[[Any], Any]) -> None:
    run = Interpreter(flexible(build, x=(-1, -1, 4)))
    for shape in SHAPES:
        x = normal(*shape, 4)
        expected = (x @ TABLE.T + VECTOR).transpose(1, 0, 2)
        np.testing.assert_allclose(run.run({"x": x})["out"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("quantized", "atol"), [(False, 1e-5), (True, 0.03)])
def test_an_embedding_keeps_two_flexible_dimensions_apart(quantized: bool, atol: float) -> None:
    spec = flexible(EMBEDDING, x=(-1, -1, 1))
    if quantized:
        spec = quantize_weights(MLModel(spec, skip_model_load=True), 8, "linear").get_spec()
    run = Interpreter(spec)
    for shape in SHAPES:
        x = np.random.default_rng(0).integers(0, 4, (*shape, 1))
        expected = (TABLE.T[x[..., 0]] + VECTOR).transpose(1, 0, 2)
        np.testing.assert_allclose(run.run({"x": x.astype(np.float32)})["out"], expected, atol=atol)


def test_sums_of_dimensions_that_are_flexible_apart() -> None:
    run = Interpreter(flexible(turned("elementwise", ["x", "m"], "y", "ADD"), x=(-1, -1, 4), m=(-1, -1, 1)))
    for shape in SHAPES:
        x, masks = normal(*shape, 4), [normal(*shape, 1), normal(1, shape[1], 1)]
        for m in masks:
            np.testing.assert_allclose(
                run.run({"x": x, "m": m})["out"], (x + m).transpose(1, 0, 2), rtol=1e-6
            )


def test_sums_of_sizes_that_differ_are_refused() -> None:
    spec = flexible(turned("elementwise", ["x", "m"], "y", "ADD"), x=(-1, 3, 4), m=(-1, 2, 4))
    with pytest.raises(LayerError, match="cannot broadcast sizes"):
        read(spec)


def test_one_of_the_sizes_of_a_flexible_shape() -> None:
    def build(builder: Any) -> None:
        builder.add_get_shape("sizes", "x", "s")
        options = {"begin_masks": [False], "end_masks": [False], "squeeze_masks": [True]}
        builder.add_slice_static("one", "s", "n", [1], [2], [1], **options)
        builder.add_tile("tile", ["v", "n"], "out")

    run = Interpreter(flexible(build, x=(-1, -1, 4), v=(1,)))
    for shape in SHAPES:
        found: Array = run.run({"x": normal(*shape, 4), "v": np.float32([7])})["out"]
        np.testing.assert_array_equal(found, np.full(shape[1], 7))
