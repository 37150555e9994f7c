"""Small models that many tests share, and ways to look into them."""

import warnings
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb

TARGETS = {"iOS16": ct.target.iOS16, "iOS17": ct.target.iOS17, "iOS18": ct.target.iOS18}


def random(shape: tuple[int, ...], seed: int = 0, scale: float = 0.1) -> np.ndarray:
    """Gaussian weights."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def conv_linear_program(target: Any = ct.target.iOS18, seed: int = 0) -> Any:
    """A convolution, a pooling and a linear op: two weights and two biases."""
    mb.name_count.clear()  # a conversion that failed leaves its counters

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 32, 16, 16))], opset_version=target)
    def program(x: Any) -> Any:
        y = mb.conv(x=x, weight=random((64, 32, 3, 3), seed), bias=random((64,), seed + 1), name="conv1")
        y = mb.reduce_mean(x=mb.relu(x=y), axes=[2, 3])
        return mb.linear(x=y, weight=random((96, 64), seed + 2), name="fc")

    return program


def weights_program(*weights: np.ndarray, target: Any = ct.target.iOS18, op: str = "linear") -> Any:
    """One linear (or matmul) op for each weight, on one input each as wide as the weight wants."""
    wide = weights[0].shape[-1] if op == "linear" else weights[0].shape[-2]

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, wide))], opset_version=target)
    def program(x: Any) -> Any:
        outputs = []
        for index, weight in enumerate(weights):
            if op == "linear":
                outputs.append(mb.linear(x=x, weight=weight, name=f"linear{index}"))
            else:
                outputs.append(mb.matmul(x=x, y=weight, name=f"matmul{index}"))
        return tuple(outputs)

    return program


def convert(program: Any, target: Any = ct.target.iOS18, **options: Any) -> Any:
    """``ct.convert`` without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ct.convert(program, minimum_deployment_target=target, **options)


def materialize(op: Any) -> Any:
    """``op.materialized_val_inference()``, also where the op takes a table from another constexpr op.

    coremltools' own method reads the table's value, which a constexpr variable does not have.
    """
    if op.op_type != "constexpr_lut_to_dense" or op.lut.val is not None:
        return op.materialized_val_inference()
    axis = None if op.vector_axis is None else op.vector_axis.val
    return op.decompress(op.indices.val, op.lut.op.materialized_val_inference(), axis)


def constexprs(model: Any) -> dict[str, Any]:
    """The compressed weights of a model's program: name -> the op that gives the weight."""
    found: dict[str, Any] = {}
    for function in model._mil_program.functions.values():
        for op in function.operations:
            if op.op_type.startswith("constexpr_") and not any(
                user.op_type.startswith("constexpr_") for output in op.outputs for user in output.child_ops
            ):
                found[op.name] = op
    return found
