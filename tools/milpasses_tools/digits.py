"""The demo: a small convolutional network for handwritten digits, with images it has never seen.

83,456 weights in every shape that matters to compression: a plain, a depthwise, a pointwise, a grouped and
a residual 3x3 convolution, each with its batch norm, then two linears. Weights and images are package data,
made by ``scripts/train_digits.py``; neither torch nor scikit-learn is needed here.
"""

import importlib.resources
from typing import Any, NamedTuple

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder, Program, Var

mb: Any = Builder  # its methods, one an op, are registered at run time
INPUT, OUTPUT = "image", "scores"


class Digits(NamedTuple):
    """The held-out images and what they show.

    ``images``: float32 (360, 1, 8, 8), values 0..1, ready for the network. ``labels``: int64 (360,), 0..9.
    """

    images: np.ndarray
    labels: np.ndarray


def arrays() -> dict[str, np.ndarray]:
    """Return the arrays of the data file by name: weights, ``images``, ``labels``, and the text ``about``."""
    path = importlib.resources.files("milpasses_tools") / "demo_data" / "digits.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        return dict(data)


def load() -> Digits:
    """Return the 360 held-out images, scaled to the network's input range, and their labels."""
    data = arrays()
    return Digits(data["images"][:, None].astype(np.float32) / 16, data["labels"].astype(np.int64))


def program(target: "str | ct.target" = "iOS18", batch: int = 1) -> Program:
    """Build the network as a MIL program: input ``image`` (batch, 1, 8, 8), output ``scores`` (batch, 10).

    ``target``: ``"iOS16"``, ``"iOS17"``, ``"iOS18"`` or the ``ct.target``; it decides the op versions.
    Batch norms are ops of their own, as a converter's frontend leaves them; the default pipeline folds them.
    """
    data = {name: value.astype(np.float32) for name, value in arrays().items() if value.dtype.kind == "f"}

    def conv(x: Var, name: str, groups: int = 1, skip: Var | None = None) -> Var:
        weight = mb.const(val=data[f"{name}.weight"], name=f"{name}_weight")
        x = mb.conv(x=x, weight=weight, pad_type="same", groups=groups, name=name)
        norm = f"{name}_norm"
        x = mb.batch_norm(
            x=x,
            mean=data[f"{norm}.running_mean"],
            variance=data[f"{norm}.running_var"],
            gamma=data[f"{norm}.weight"],
            beta=data[f"{norm}.bias"],
            name=norm,
        )
        if skip is not None:
            x = mb.add(x=x, y=skip, name=f"{name}_add")
        return mb.relu(x=x, name=f"{name}_relu")

    def linear(x: Var, name: str) -> Var:
        weight = mb.const(val=data[f"{name}.weight"], name=f"{name}_weight")
        return mb.linear(x=x, weight=weight, bias=data[f"{name}.bias"], name=name)

    def halve(x: Var, name: str) -> Var:
        return mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", name=name)

    image = mb.TensorSpec(shape=(batch, 1, 8, 8))

    @mb.program(input_specs=[image], opset_version=_target(target))
    def digits(image: Var) -> Var:
        x = conv(image, "stem")
        x = conv(x, "depthwise", groups=32)
        x = halve(conv(x, "pointwise"), "pool_4x4")
        x = conv(x, "grouped", groups=2)
        x = halve(conv(x, "residual", skip=x), "pool_2x2")
        x = mb.reshape(x=x, shape=[batch, 256], name="flat")
        x = mb.relu(x=linear(x, "hidden"), name="hidden_relu")
        return linear(x, OUTPUT)

    return digits


def convert(
    pass_pipeline: "ct.PassPipeline | None" = None, target: "str | ct.target" = "iOS18", **options: Any
) -> "ct.models.MLModel":
    """Convert the network with ``ct.convert`` in float16, through ``pass_pipeline`` if one is given.

    Other ``options`` go to ``ct.convert`` as they are; ``skip_model_load`` is True unless one says otherwise.
    """
    options = {"compute_precision": ct.precision.FLOAT16, "skip_model_load": True, **options}
    model: Any = ct.convert(
        program(target),
        convert_to="mlprogram",
        minimum_deployment_target=_target(target),
        pass_pipeline=pass_pipeline,
        **options,
    )
    return model


def _target(target: "str | ct.target") -> "ct.target":
    return ct.target[target] if isinstance(target, str) else target
