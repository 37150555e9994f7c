"""Cropping, padding and resizing of images."""

from typing import Any

import numpy as np

from milpasses.neuralnetwork.reader.layers.convolution import borders, pair
from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value, floats
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb

_SAMPLING = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS")
_BOXES = (
    "CORNERS_HEIGHT_FIRST",
    "CORNERS_WIDTH_FIRST",
    "CENTER_SIZE_HEIGHT_FIRST",
    "CENTER_SIZE_WIDTH_FIRST",
)


@layer("crop")
def crop(layer: Layer) -> Value:
    """Cut amounts from the borders, or a window as large as the second input."""
    value, params = layer.value, layer.params
    x = value.batched()
    if len(layer.inputs) == 1:
        top, bottom, left, right = borders(params.cropAmounts)
        window = [top, left], [-bottom, -right]  # from the end, for sizes that only the run knows
    else:
        offset = pair(params.offset, 0)
        size = layer.inputs[1].shape[-2:]
        window = offset, [offset[0] + size[0], offset[1] + size[1]]
        height, width = x.shape[2:]
        if window[1][0] > height or window[1][1] > width:
            raise LayerError(f"cuts {size} at {tuple(offset)} out of {(height, width)}")
    y = mb.slice_by_index(
        x=x,
        begin=[0, 0, *window[0]],
        end=[0, 0, *window[1]],
        end_mask=[True, True, *(end == 0 for end in window[1])],
        name=layer.name,
    )
    return value.rebatched(y)


@layer("padding")
def pad(layer: Layer) -> Value:
    """Borders of a constant, of the mirrored or of the repeated edge."""
    value, params = layer.value, layer.params
    kind = params.WhichOneof("PaddingType") or "constant"
    mode = {"constant": "constant", "reflection": "reflect", "replication": "replicate"}[kind]
    flat = value.rank == 2  # height and width alone
    y = mb.pad(
        x=floats(value.variable) if flat else value.batched(),
        pad=[*([] if flat else [0] * 4), *borders(params.paddingAmounts)],
        mode=mode,
        constant_val=np.float32(params.constant.value if kind == "constant" else 0),
        name=layer.name,
    )
    return Value.of(y) if flat else value.rebatched(y)


@layer("upsample")
def upsample(layer: Layer) -> Value:
    """By whole factors, or fractional ones where corners are aligned or not by name."""
    value, params = layer.value, layer.params
    x = value.batched()
    if not params.mode:
        factors = pair(params.scalingFactor, 1)
        y = mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=factors[0], scale_factor_width=factors[1], name=layer.name
        )
    elif params.linearUpsampleMode == 0:
        factors = pair(params.scalingFactor, 1)
        y = _resized(x, [size * factor for size, factor in zip(x.shape[2:], factors, strict=True)],
                     "DEFAULT", layer.name)  # fmt: skip
    else:
        stretch = [np.float32(f) for f in params.fractionalScalingFactor or pair(params.scalingFactor, 1)]
        y = mb.upsample_bilinear(
            x=x,
            scale_factor_height=stretch[0],
            scale_factor_width=stretch[1],
            align_corners=params.linearUpsampleMode == 1,
            name=layer.name,
        )
    return value.rebatched(y)


@layer("resizeBilinear")
def resize_bilinear(layer: Layer) -> Value:
    """To a size, on one of four grids."""
    value, params = layer.value, layer.params
    mode = _SAMPLING[params.mode.samplingMethod]
    return value.rebatched(_resized(value.batched(), pair(params.targetSize, 1), mode, layer.name))


def _resized(x: Any, size: list[Any], mode: str, name: str) -> Any:
    return mb.resize_bilinear(
        x=x, target_size_height=size[0], target_size_width=size[1], sampling_mode=mode, name=name
    )


@layer("cropResize")
def crop_resize(layer: Layer) -> Value:
    """[boxes, batch, C, H, W]: every box of every image, resized; a box of five numbers names its image."""
    value, boxes = layer.inputs
    params = layer.params
    target = pair(params.targetSize, 1)
    settings: dict[str, Any] = {
        "target_height": target[0],
        "target_width": target[1],
        "normalized_coordinates": bool(params.normalizedCoordinates),
        "spatial_scale": layer.number(params.spatialScale, 1.0),
        "box_coordinate_mode": _BOXES[params.boxIndicesMode.boxMode],
        "sampling_mode": _SAMPLING[params.mode.samplingMethod],
    }
    count, numbers = boxes.shape[0], boxes.shape[-3]
    x = value.batched()
    if numbers not in (4, 5):
        raise LayerError(f"a box has 4 or 5 numbers, and these have {numbers}")
    if not layer.network.weights.opset.generation.typed:
        y = mb.crop_resize(x=x, roi=boxes.laid((count, 1, numbers, 1, 1)), name=layer.name, **settings)
        return Value.of(y)
    rows = boxes.laid((count, numbers))
    if numbers == 5:
        image = mb.cast(x=mb.slice_by_index(x=rows, begin=[0, 0], end=[count, 1]), dtype="int32")
        corners = mb.slice_by_index(x=rows, begin=[0, 1], end=[count, 5])
        indices = mb.reshape(x=image, shape=[count])
        y = mb.crop_resize(x=x, boxes=corners, box_indices=indices, name=layer.name, **settings)
        return Value(y, (count, 1, *y.shape[1:]))
    crops = [
        mb.crop_resize(x=x, boxes=rows, box_indices=np.full(count, image, np.int32), **settings)
        for image in range(x.shape[0])
    ]
    return Value.of(mb.stack(values=crops, axis=1, name=layer.name))
