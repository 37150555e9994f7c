"""Programs of whatever ops a test of statistics needs."""

from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types


def program(build: Any, *shapes: tuple[int, ...], dtypes: tuple[Any, ...] = ()) -> Any:
    """A program of float32 inputs x0, x1, ... and whatever ``build`` makes of them."""
    dtypes = dtypes or (types.fp32,) * len(shapes)
    mb.name_count.clear()
    specs = [mb.TensorSpec(shape=s, dtype=d) for s, d in zip(shapes, dtypes, strict=True)]
    names = [f"x{index}" for index in range(len(shapes))]
    scope: dict[str, Any] = {"build": build}
    exec(f"def made({', '.join(names)}): return build({', '.join(names)})", scope)
    return mb.program(input_specs=specs, opset_version=ct.target.iOS18)(scope["made"])


def const(value: np.ndarray, name: str = "weight") -> Any:
    return mb.const(val=value, name=name)
