"""The demo network against a NumPy reference written from its description, not from its program."""

import functools
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from milpasses_tools import digits

TARGETS = ["iOS16", "iOS17", "iOS18"]
WEIGHTS = {"stem": 288, "depthwise": 288, "pointwise": 2048, "grouped": 18432, "residual": 36864}
WEIGHTS |= {"hidden": 24576, "scores": 960}


def conv(x: np.ndarray, weight: np.ndarray, groups: int = 1) -> np.ndarray:
    """Convolution of x (N, I, H, W) with weight (O, I / groups, K, K), padded to keep H and W."""
    size, margin = weight.shape[-1], weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    windows: Any = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    n, inputs, h, w = x.shape
    windows = windows.reshape(n, groups, inputs // groups, h * w, size * size).transpose(0, 1, 3, 2, 4)
    columns = windows.reshape(n, groups, h * w, -1)
    kernel = weight.reshape(groups, weight.shape[0] // groups, -1)
    return np.matmul(columns, kernel.transpose(0, 2, 1)).transpose(0, 1, 3, 2).reshape(n, -1, h, w)


def halve(x: np.ndarray) -> np.ndarray:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


@functools.cache
def reference() -> np.ndarray:
    """Scores (360, 10) of the held-out images, from the arrays of the data file alone."""
    data = {
        name: value.astype(np.float32) for name, value in digits.arrays().items() if value.dtype.kind == "f"
    }

    def layer(x: np.ndarray, name: str, groups: int = 1) -> np.ndarray:
        norm = {
            key: data[f"{name}_norm.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        }
        centred = conv(x, data[f"{name}.weight"], groups) - norm["running_mean"]
        return centred / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm["bias"]

    x = relu(layer(digits.load().images, "stem"))
    x = relu(layer(x, "depthwise", 32))
    x = halve(relu(layer(x, "pointwise")))
    x = relu(layer(x, "grouped", 2))
    x = halve(relu(x + layer(x, "residual"))).reshape(len(x), -1)
    x = relu(x @ data["hidden.weight"].T + data["hidden.bias"])
    return x @ data["scores.weight"].T + data["scores.bias"]


def run(program: Any, images: np.ndarray) -> np.ndarray:
    """Scores of ``images`` by following the program's ops in order, in float32."""
    values: dict[str, np.ndarray] = {digits.INPUT: images}

    def value(var: Any) -> Any:
        return values.get(var.name, var.val)

    for op in program.functions["main"].operations:
        if op.op_type == "const":
            continue
        x, out = value(op.x), op.outputs[0].name
        match op.op_type:
            case "conv":
                bias = 0 if op.bias is None else op.bias.val.astype(np.float32)[:, None, None]
                values[out] = conv(x, op.weight.val.astype(np.float32), op.groups.val) + bias
            case "batch_norm":
                mean, variance, gamma, beta = (
                    var.val.astype(np.float32)[:, None, None]
                    for var in (op.mean, op.variance, op.gamma, op.beta)
                )
                values[out] = (x - mean) / np.sqrt(variance + op.epsilon.val) * gamma + beta
            case "relu":
                values[out] = relu(x)
            case "add":
                values[out] = x + value(op.y)
            case "max_pool":
                values[out] = halve(x)
            case "reshape":
                values[out] = x.reshape(len(x), *op.shape.val[1:])
            case "linear":
                values[out] = x @ op.weight.val.astype(np.float32).T + op.bias.val.astype(np.float32)
            case "cast":
                values[out] = x
            case other:
                pytest.fail(f"the demo has no op {other}")
    return values[digits.OUTPUT]


def test_load() -> None:
    images, labels = digits.load()
    assert images.shape == (360, 1, 8, 8)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    assert labels.shape == (360,)
    assert labels.dtype == np.int64
    assert set(labels) == set(range(10))


def test_data_file() -> None:
    data = digits.arrays()
    assert {name: data[f"{name}.weight"].size for name in WEIGHTS} == WEIGHTS
    assert all(data[f"{name}.weight"].dtype == np.float16 for name in WEIGHTS)
    assert "scripts/train_digits.py" in str(data["about"])
    assert all(value.dtype != object for value in data.values())


def test_accuracy_of_the_stored_weights() -> None:
    labels = digits.load().labels
    accuracy = (reference().argmax(1) == labels).mean()
    assert accuracy >= 0.97
    assert f"{accuracy:.4f}" in str(digits.arrays()["about"])


@pytest.mark.parametrize("target", TARGETS)
def test_program_computes_the_network(target: str) -> None:
    images, _ = digits.load()
    program = digits.program(target, batch=len(images))
    assert program.functions["main"].opset_version == ct.target[target]
    assert len(program.functions["main"].find_ops(op_type="batch_norm")) == 5
    np.testing.assert_allclose(run(program, images), reference(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_convert(target: str) -> None:
    model = digits.convert(target=target)
    spec, program = model.get_spec(), model._mil_program
    assert spec.specificationVersion == ct.target[target].value
    assert [feature.name for feature in spec.description.input] == [digits.INPUT]
    assert [feature.name for feature in spec.description.output] == [digits.OUTPUT]
    assert not program.functions["main"].find_ops(op_type="batch_norm")
    layers = [op for op in program.functions["main"].operations if op.op_type in ("conv", "linear")]
    assert [op.weight.val.size for op in layers] == list(WEIGHTS.values())
    assert all(op.weight.val.dtype == np.float16 for op in layers)

    images, labels = digits.load()
    scores, expected = run(program, images), reference()
    assert (scores.argmax(1) == labels).mean() >= 0.97
    assert np.abs(scores - expected).max() < 0.02 * np.abs(expected).max()


def test_convert_runs_the_given_pipeline() -> None:
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes({"common::fuse_conv_batchnorm"})
    program = digits.convert(pipeline)._mil_program
    assert len(program.functions["main"].find_ops(op_type="batch_norm")) == 5


def test_unknown_target() -> None:
    with pytest.raises(KeyError, match="iOS99"):
        digits.program("iOS99")
