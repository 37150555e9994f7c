"""Declared inputs of models, as ``Samples`` are read for them."""

from typing import Any

import numpy as np

from milpasses.interpreter import Feature
from milpasses.interpreter.images import ImageFormat


def tensor(
    *shape: int | None, dtype: Any = np.float32, name: str = "x", **options: Any
) -> dict[str, Feature]:
    return {name: Feature(name, "tensor", dtype, shape, **options)}


def image(height: int | None, width: int | None, layout: Any = "RGB") -> dict[str, Feature]:
    channels = 1 if "GRAY" in layout else 3
    return {"photo": Feature("photo", "image", np.float32, (1, channels, height, width), ImageFormat(layout))}
