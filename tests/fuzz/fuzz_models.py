"""Sound models of every kind, saved once a process: what mutants are made of."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from milpasses_tools._trace.keep import capture
from models import convert, random
from pipeline_models import detector_pipeline

import milpasses as mp


def _network(target: Any) -> Any:
    """A convolution, a branch and a linear op; small."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 4, 6, 6))], opset_version=target)
    def program(x: Any) -> Any:
        y = mb.relu(x=mb.conv(x=x, weight=random((8, 4, 3, 3)), bias=random((8,), 1), name="conv"))
        y = mb.reshape(x=y, shape=[1, 128])
        large = mb.greater(x=mb.reduce_sum(x=y, axes=[0, 1], keep_dims=False), y=0.0)
        weight = random((16, 128), 2)
        y = mb.cond(
            pred=large,
            _true_fn=lambda: mb.linear(x=y, weight=weight, name="yes"),
            _false_fn=lambda: mb.linear(x=mb.relu(x=y), weight=weight, name="no"),
        )
        return mb.softmax(x=y, name="scores")

    return program


def _stateful() -> Any:
    half = types.fp16

    @mb.program(
        input_specs=[mb.TensorSpec((2, 12), half), mb.StateTensorSpec((2, 12), half)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, memory: Any) -> Any:
        old = mb.read_state(input=memory)
        mb.coreml_update_state(state=memory, value=mb.add(x=x, y=old))
        return mb.linear(x=old, weight=random((8, 12)).astype(np.float16), name="y")

    return program


def _legacy(path: Path) -> None:
    """A neural network of three kinds of layers."""
    features = [("x", datatypes.Array(4, 6, 6))]
    builder = NeuralNetworkBuilder(features, [("y", None)], disable_rank5_shape_mapping=False)
    kernel = random((3, 3, 4, 8))
    builder.add_convolution(
        "conv", 4, 8, 3, 3, 1, 1, "valid", 1, kernel, random((8,), 1), True, input_name="x", output_name="a"
    )
    builder.add_activation("relu", "RELU", "a", "b")
    builder.add_flatten("flat", 0, "b", "c")
    builder.add_inner_product("fc", random((5, 128), 2), random((5,), 3), 128, 5, True, "c", "y")
    ct.models.utils.save_spec(builder.spec, str(path))


def _kept(path: Path) -> None:
    """What trace keeps of a pass that failed, for replay."""
    path.mkdir()
    kept = capture(_network(ct.target.iOS18))
    kept.save(path, "common::const_elimination", None, "default", [], "ValueError: planted")


@cache
def sound_models() -> dict[str, Path]:
    """Packages and ``.mlmodel`` files by name."""
    folder = Path(tempfile.mkdtemp(prefix="sound-"))
    models: dict[str, Path] = {}

    def add(name: str, save: Any, suffix: str = ".mlpackage") -> None:
        models[name] = folder / f"{name}{suffix}"
        save(models[name])

    everything = "{0}; min_elements=0 -> {0}"
    for target in ("iOS16", "iOS18"):
        dense = convert(_network(ct.target[target]), ct.target[target], skip_model_load=True)
        add(f"dense-{target}", lambda path, dense=dense: dense.save(str(path)))
        for recipe in ("int8", "pal4", "sparse50") + (
            "sparse50+pal4",
            "sparse50+int4-b2",
            "pal2-v2",
            "pal4+int8",
        ) * (target == "iOS18"):
            add(
                f"{recipe}-{target}",
                lambda path, dense=dense, recipe=recipe: mp.compress(
                    dense, everything.format(recipe), output=path
                ),
            )
    stateful = ct.convert(
        _stateful(),
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
        compute_precision=ct.precision.FLOAT32,
    )
    add("state", lambda path: stateful.save(str(path)))
    add("functions", lambda path: _functions(models["dense-iOS18"], path))
    add("pipeline", lambda path: detector_pipeline().save(str(path)))
    samples = [
        {"x": np.random.default_rng(i).standard_normal((1, 4, 6, 6)).astype(np.float32)} for i in range(2)
    ]
    add("a8", lambda path: mp.compress(models["dense-iOS18"], "int8+a8", calibration=samples, output=path))
    add("legacy", _legacy, ".mlmodel")
    add("kept", _kept, "")
    return models


def _functions(one: Path, path: Path) -> None:
    description = ct.utils.MultiFunctionDescriptor()
    for name in ("first", "second"):
        description.add_function(str(one), "main", name)
    description.default_function_name = "first"
    ct.utils.save_multifunction(description, str(path))


__all__ = ["sound_models"]
