"""One-layer legacy networks made by coremltools' builder, read and run."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder

from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import read

Array = np.ndarray


def normal(*shape: int, seed: int = 0) -> Array:
    """Gaussian float32 values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> Array:
    """Values between 0.5 and 2."""
    return np.random.default_rng([seed, *shape]).uniform(0.5, 2.0, shape).astype(np.float32)


def network(
    build: Callable[[Any], Any],
    inputs: Mapping[str, tuple[int, ...]],
    outputs: tuple[str, ...] = ("out",),
    exact: bool = False,
) -> Any:
    """The specification of a network that ``build(builder)`` fills; ``exact`` turns the rank-5 mapping off.

    An input of rank 5 is declared as its last three dimensions.
    """
    declared = {name: shape if exact or len(shape) < 4 else shape[-3:] for name, shape in inputs.items()}
    features = [(name, datatypes.Array(*shape)) for name, shape in declared.items()]
    builder = NeuralNetworkBuilder(
        features, [(name, None) for name in outputs], disable_rank5_shape_mapping=exact
    )
    build(builder)
    return builder.spec


def run_spec(spec: Any, inputs: Mapping[str, Array], **options: Any) -> dict[str, Array]:
    """The outputs of the network, inputs read with the shapes of the arrays given."""
    reading = read(spec, input_shapes={name: array.shape for name, array in inputs.items()}, **options)
    return Interpreter(reading, backend="numpy").run(inputs)


def run_layer(
    build: Callable[[Any], Any],
    inputs: Mapping[str, Array],
    outputs: tuple[str, ...] = ("out",),
    exact: bool = False,
    **options: Any,
) -> dict[str, Array]:
    """Build, read and run a network."""
    shapes = {name: array.shape for name, array in inputs.items()}
    return run_spec(network(build, shapes, outputs, exact), inputs, **options)
