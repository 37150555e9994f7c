"""A folder of images as the input of a model.

Images in sub-folders belong to the class that the sub-folder is named after, and classes take turns, so that
the first few samples hold all of them. Images directly in the folder have no label. Hidden files and files
that are no images by their suffix are passed over.

Each image is turned upright (EXIF), scaled to fill the model's size and cropped around its centre, with
bilinear interpolation, as Vision's ``centerCrop`` does, though not bit for bit. It goes to the model's image
input, in the colours and with the scale and bias that the model declares; or, where the only input is a float
tensor [1, 3, height, width], as RGB values 0..1 (pixel / 255), [1, 1, height, width] as luminance 0..1.
"""

from collections.abc import Callable, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.errors import SampleError
from milpasses.interpreter import Feature

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
Files = list[tuple[Path, str | None]]


def read_folder(
    folder: Path, features: Mapping[str, Feature]
) -> tuple[Files, Callable[[Path], dict[str, Any]]]:
    """The images of ``folder`` with their labels, and how to read one of them as the model's inputs.

    Raises ``SampleError``: Pillow is not installed, the model takes no image, no image or an empty class.
    """
    try:
        import PIL  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise SampleError(f"{folder}: reading images needs Pillow: pip install 'milpasses[images]'") from None
    feature = _image_input(folder, features)
    size = _size(folder, feature)
    is_gray = feature.image.is_gray if feature.image is not None else feature.shape[1] == 1

    def read(path: Path) -> dict[str, Any]:
        pixels = _read_image(path, size, "L" if is_gray else "RGB")
        if feature.image is not None:
            return {feature.name: pixels}
        planes = pixels[None] if is_gray else pixels.transpose(2, 0, 1)
        return {feature.name: planes[None].astype(np.float32) / np.float32(255)}

    return _files(folder), read


def _files(folder: Path) -> Files:
    direct = _images_in(folder)
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if direct and classes:
        raise SampleError(
            f"{folder}: holds images ({direct[0].name}, ...) beside class folders ({classes[0].name}, ...): "
            "move either away"
        )
    if not direct and not classes:
        raise SampleError(f"{folder}: holds no image ({', '.join(SUFFIXES)})")
    by_class = [[(path, name.name) for path in _images_in(name)] for name in classes]
    for name, files in zip(classes, by_class, strict=True):
        if not files:
            raise SampleError(f"{name}: a class folder without an image ({', '.join(SUFFIXES)})")
    turns = chain.from_iterable(zip_longest(*by_class))
    return [(path, None) for path in direct] or [entry for entry in turns if entry is not None]


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _image_input(folder: Path, features: Mapping[str, Feature]) -> Feature:
    """The input that takes the images: the one image input, else the only input if it can hold an image."""
    needed = [f for f in features.values() if f.kind != "state" and f.default is None]
    images = [feature for feature in needed if feature.image is not None]
    if len(needed) == 1:
        feature = needed[0]
        floats = np.issubdtype(feature.dtype, np.floating)
        if images or (floats and len(feature.shape) == 4 and feature.shape[0] in (1, None)
                      and feature.shape[1] in (1, 3)):  # fmt: skip
            return feature
    listed = ", ".join(f"{f.name} ({'image' if f.image else f.shape})" for f in needed)
    raise SampleError(
        f"{folder}: a folder of images needs a model with one image input, or one float input (1, 3, height, "
        f"width); this one takes {listed}: give its inputs as an .npz file or a function"
    )


def _size(folder: Path, feature: Feature) -> tuple[int, int] | None:
    """(width, height) to bring images to; None: the model takes any, each keeps its own."""
    height, width = feature.allowed[0][2:] if feature.allowed else feature.shape[2:]
    if height is None and width is None:
        return None
    if height is None or width is None:
        raise SampleError(
            f"{folder}: input {feature.name} leaves one side of the image free: "
            "give its arrays as an .npz file"
        )
    return width, height


def _read_image(path: Path, size: tuple[int, int] | None, mode: str) -> NDArray[np.uint8]:
    """uint8 [height, width, 3], or [height, width] in mode L."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SampleError(f"{path}: cannot be read as an image ({error})") from error
    if size is not None:
        width, height = size
        scale = max(width / image.width, height / image.height)
        kept = min(width / scale, image.width), min(height / scale, image.height)
        left, top = (image.width - kept[0]) / 2, (image.height - kept[1]) / 2
        box = (left, top, min(left + kept[0], image.width), min(top + kept[1], image.height))
        image = image.resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(image, np.uint8)
