"""Small programs that compare is tried on."""

from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

RNG = np.random.default_rng(11)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def program(build: Any, *shapes: tuple[int, ...], dtype: Any = types.fp32, names: str = "xyz") -> Any:
    """A program of inputs x, y, ... and whatever ``build`` makes of them."""
    specs = [mb.TensorSpec(shape=shape, dtype=dtype) for shape in shapes]
    scope: dict[str, Any] = {"build": build}
    listed = ", ".join(names[: len(shapes)])
    exec(f"def made({listed}): return build({listed})", scope)
    return mb.program(input_specs=specs, opset_version=ct.target.iOS17)(scope["made"])


def scaled(factor: float, offset: float = 0.0, shape: tuple[int, ...] = (1, 4)) -> Any:
    """factor * x + offset, called out."""
    return program(
        lambda x: mb.add(
            x=mb.mul(x=x, y=np.float32(factor), name="product"), y=np.float32(offset), name="out"
        ),
        shape,
    )
