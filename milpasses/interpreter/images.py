"""Images in and out: PIL images and uint8 HWC arrays against the colour layout that a model declares."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from milpasses.interpreter.backend import Array

ColorLayout = Literal["RGB", "BGR", "GRAYSCALE", "GRAYSCALE_FLOAT16"]


@dataclass(frozen=True)
class ImageFormat:
    """How a model wants its pixels: the order of channels, then value * scale + bias (one for each
    channel).
    """

    layout: ColorLayout
    scale: float = 1.0
    bias: tuple[float, ...] = ()

    @property
    def is_gray(self) -> bool:
        """One channel."""
        return self.layout in ("GRAYSCALE", "GRAYSCALE_FLOAT16")


def from_image(image: ImageFormat, value: Any) -> Array:
    """Bring an image into the model's float32 array [1, channels, height, width].

    Args:
        image: the model's format.
        value: a PIL image, a uint8 array [height, width, 3] in RGB order, or [height, width] for gray ones
            (any number type where the model takes float16 gray values). BGR models get the channels swapped.

    Raises:
        ValueError: neither of these.
    """
    if hasattr(value, "convert"):
        mode = "F" if "FLOAT16" in image.layout else "L" if image.is_gray else "RGB"
        value = np.asarray(value.convert(mode))
    array = np.asarray(value)
    rank = 2 if image.is_gray else 3
    if image.is_gray and array.ndim == 3 and array.shape[-1] == 1:
        array = array[:, :, 0]
    wants = "[height, width]" if image.is_gray else "[height, width, 3] in RGB order"
    if array.ndim != rank or (rank == 3 and array.shape[-1] != 3):
        raise ValueError(f"an image must be a PIL image or a uint8 array {wants}, got shape {array.shape}")
    if array.dtype != np.uint8 and "FLOAT16" not in image.layout:
        raise ValueError(f"an image must be a PIL image or a uint8 array {wants}, got {array.dtype}")
    pixels = array.astype(np.float32)
    planes = pixels[None] if image.is_gray else pixels.transpose(2, 0, 1)
    if image.layout == "BGR":
        planes = planes[::-1]
    if image.scale != 1.0:
        planes = planes * np.float32(image.scale)
    if any(image.bias):
        planes = planes + np.asarray(image.bias, np.float32).reshape(-1, 1, 1)
    return np.ascontiguousarray(planes[None])


def to_image(image: ImageFormat, value: Array) -> Array:
    """A model's image output as uint8 [height, width, 3] in RGB order, or [height, width] if gray.

    Values are rounded and clipped to 0..255; float16 gray images stay float32.
    """
    planes = value[0]
    if image.layout == "BGR":
        planes = planes[::-1]
    if "FLOAT16" not in image.layout:
        planes = np.clip(np.rint(planes), 0, 255).astype(np.uint8)
    return np.array(planes[0] if image.is_gray else planes.transpose(1, 2, 0))
