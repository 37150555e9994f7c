"""A network's inputs and outputs: MIL variables in and out, and the description of the ML Program.

Names, images, labels and texts stay. What ML Programs do not have is changed, and noted: 64-bit floats become
32-bit ones, single numbers arrays of one element, names that are no identifiers get underscores.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import get_new_symbol, types
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from milpasses.neuralnetwork.reader.registry import identifier
from milpasses.neuralnetwork.reader.values import Shape, Value, floats, reshaped
from milpasses.neuralnetwork.spec.errors import NeuralNetworkError
from milpasses.program.builder import mb

_FLOAT32, _DOUBLE, _INT32, _FLOAT16 = 65568, 65600, 131104, 65552  # ArrayFeatureType.ArrayDataType
_MIL_TYPES = {_FLOAT32: types.fp32, _DOUBLE: types.fp32, _INT32: types.int32, _FLOAT16: types.fp16}
_NAMES = {_INT32: "int32", _FLOAT16: "fp16"}
_GRAY = (10, 40)  # ImageFeatureType.ColorSpace: GRAYSCALE and GRAYSCALE_FLOAT16
_BGR = 30


def channels(image: Any) -> int:
    """Planes of an image feature."""
    return 1 if image.colorSpace in _GRAY else 3


def placeholder(feature: Any, shapes: Mapping[str, Any], notes: list[str]) -> Any:
    """The MIL input of a feature, and its description brought to what ML Programs have.

    ``feature`` is changed: its type, and its shape where ``shapes`` gives one. Flexible dimensions become
    symbols.
    """
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        shape = (1, channels(image), *_image_size(feature.name, image, shapes.get(feature.name)))
        return mb.placeholder(shape=shape, dtype=types.fp32)
    if kind != "multiArrayType":
        raise NeuralNetworkError(f"input '{feature.name}' is of type {kind}: images and arrays can be read")
    array = feature.type.multiArrayType
    shape = _array_shape(feature.name, array, shapes.get(feature.name))
    dtype = _MIL_TYPES.get(array.dataType)
    if dtype is None:
        raise NeuralNetworkError(f"input '{feature.name}' has an array type that ML Programs do not have")
    if array.dataType == _DOUBLE:
        array.dataType = _FLOAT32
        notes.append(f"input '{feature.name}' is float32 now: ML Programs have no 64-bit floats")
    return mb.placeholder(shape=shape, dtype=dtype)


def _image_size(name: str, image: Any, wanted: Any) -> Shape:
    """(height, width): as ``wanted``, as declared, or symbols."""
    if wanted is not None:
        image.height, image.width = int(wanted[-2]), int(wanted[-1])
        image.ClearField("SizeFlexibility")
    flexible = image.WhichOneof("SizeFlexibility")
    if flexible is None:
        return int(image.height), int(image.width)
    if flexible == "enumeratedSizes":
        sizes = [(int(size.height), int(size.width)) for size in image.enumeratedSizes.sizes]
        ranges = [{size[0] for size in sizes}, {size[1] for size in sizes}]
    else:
        limits = image.imageSizeRange.heightRange, image.imageSizeRange.widthRange
        ranges = [{limit.lowerBound, limit.upperBound} for limit in limits]
    return tuple(int(min(r)) if len(r) == 1 else get_new_symbol() for r in ranges)


def _array_shape(name: str, array: Any, wanted: Any) -> Shape:
    """The array's shape: as ``wanted``, as declared, or with symbols."""
    if wanted is not None:
        del array.shape[:]
        array.shape.extend(int(size) for size in wanted)
        array.ClearField("ShapeFlexibility")
    shape = tuple(int(size) for size in array.shape)
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        listed = [tuple(int(n) for n in allowed.shape) for allowed in array.enumeratedShapes.shapes]
        if len({len(allowed) for allowed in listed}) != 1:
            raise NeuralNetworkError(
                f"input '{name}' takes shapes of different ranks, which ML Programs lack: give input_shapes="
            )
        ranges = [set(sizes) for sizes in zip(*listed, strict=True)]
        shape = tuple(min(r) if len(r) == 1 else get_new_symbol() for r in ranges)
    elif flexible == "shapeRange":
        limits = [{r.lowerBound, r.upperBound} for r in array.shapeRange.sizeRanges]
        if len(limits) == 5 and len(shape) in (1, 3):  # sequence and batch, which may be given at runtime
            limits = limits[2 : 2 + len(shape)]
        if len(limits) == len(shape):
            shape = tuple(int(min(r)) if len(r) == 1 else get_new_symbol() for r in limits)
    if not shape:
        raise NeuralNetworkError(f"input '{name}' declares no shape: give it with input_shapes=")
    return shape


def input_value(feature: Any, variable: Any, network: Any) -> Value:
    """An input as the layers of ``network`` see it: mapped to rank 5, or as it is."""
    shape = tuple(variable.shape)
    if feature.type.WhichOneof("Type") == "imageType":
        if len(shape) == 3:  # a pipeline's earlier part gives it without a batch
            shape = (1, *shape)
        return Value(variable, (1, *shape) if network.imageInputShapeMapping == 0 else shape)
    if network.arrayInputShapeMapping == 1:
        return Value(variable, shape)
    if len(shape) == 1:
        return Value(variable, (1, 1, *shape, 1, 1))
    if len(shape) == 3:
        return Value(variable, (1, 1, *shape))
    if len(shape) == 5:
        return Value(variable, shape)
    raise NeuralNetworkError(
        f"input '{feature.name}' has shape {shape}; "
        "this network takes [C], [C, H, W] or [Seq, Batch, C, H, W]"
    )


def preprocessed(feature: Any, value: Value, network: Any) -> Value:
    """The input after the network's own scaling, biases and mean image."""
    images = feature.type.WhichOneof("Type") == "imageType"
    for step in network.preprocessing:
        if not images or step.featureName not in ("", feature.name):
            continue
        planes = value.batched()
        if step.WhichOneof("preprocessor") == "meanImage":
            planes = _less_mean(feature.name, planes, np.array(step.meanImage.meanImage, np.float32))
        else:
            planes = _scaled(feature, planes, step.scaler)
        value = value.rebatched(planes)
    return value


def _less_mean(name: str, planes: Any, mean: Any) -> Any:
    shape = tuple(planes.shape)[1:]
    if any(is_symbolic(size) for size in shape) or mean.size != math.prod(shape):
        raise NeuralNetworkError(f"the mean image of '{name}' has {mean.size:,} values for shape {shape}")
    return mb.sub(x=planes, y=mean.reshape(1, *shape), name=f"{identifier(name)}_mean_image")


def _scaled(feature: Any, planes: Any, scaler: Any) -> Any:
    color = feature.type.imageType.colorSpace
    biases = [scaler.redBias, scaler.greenBias, scaler.blueBias]
    if color in _GRAY:
        biases = [scaler.grayBias]
    elif color == _BGR:
        biases = biases[::-1]
    if scaler.channelScale not in (0.0, 1.0):  # 0 is the field's default: not set
        planes = mb.mul(x=planes, y=np.float32(scaler.channelScale))
    if any(biases):
        planes = mb.add(x=planes, y=np.array(biases, np.float32).reshape(1, -1, 1, 1))
    return planes


def image_output(feature: Any, value: Value) -> Any:
    """The variable [1, channels, height, width] of an image output."""
    planes = value.batched()
    image = feature.type.imageType
    if tuple(planes.shape)[:2] != (1, channels(image)):
        raise NeuralNetworkError(f"output '{feature.name}' is an image, and its tensor has {value.shape}")
    if not any(is_symbolic(size) for size in planes.shape):
        image.height, image.width = planes.shape[2:]
    return planes


def array_output(feature: Any, value: Value, rank5: bool, notes: list[str]) -> Any:
    """The variable of an array output, in its declared shape and type; the description follows."""
    if feature.type.WhichOneof("Type") in ("doubleType", "int64Type"):
        feature.type.multiArrayType.dataType = _FLOAT32
        feature.type.multiArrayType.shape.append(1)
        notes.append(f"output '{feature.name}' is an array of one element: ML Programs have no numbers")
    array = feature.type.multiArrayType
    declared: Shape = tuple(int(size) for size in array.shape)
    if not declared or math.prod(declared) != math.prod(value.shape):
        if declared:
            notes.append(f"output '{feature.name}' is declared as {declared} and has shape {value.shape}")
        lead_ones = rank5 and value.rank == 5 and value.shape[:2] == (1, 1)
        declared = (value.shape[2:] if lead_ones else value.shape) or (1,)
    if array.dataType in (0, _DOUBLE):
        array.dataType = _FLOAT32
    fixed = not any(is_symbolic(size) for size in declared)
    del array.shape[:]
    array.ClearField("ShapeFlexibility")
    if fixed:
        array.shape.extend(declared)
    variable = reshaped(floats(value.variable), declared)
    if value.variable.dtype == types.int32 and array.dataType == _INT32:
        return reshaped(value.variable, declared)
    cast = _NAMES.get(array.dataType)
    return mb.cast(x=variable, dtype=cast) if cast else variable


def classifier_outputs(spec: Any, network: Any, value: Value) -> dict[str, Any]:
    """The label and the probabilities of a classifier, by their names in the description."""
    strings, numbers = list(network.stringClassLabels.vector), list(network.int64ClassLabels.vector)
    labels: list[Any] = strings or [np.int64(number) for number in numbers]
    if len(labels) != math.prod(value.shape):
        raise NeuralNetworkError(
            f"the classifier has {len(labels):,} labels and gives {value.shape} probabilities"
        )
    label, probabilities = mb.classify(
        probabilities=value.laid((1, len(labels))), classes=mb.const(val=_list(labels))
    )
    description = spec.description
    return {
        description.predictedFeatureName: label,
        description.predictedProbabilitiesName: probabilities,
    }


def _list(labels: list[Any]) -> Any:
    from coremltools.converters.mil.mil import mil_list

    return mil_list(labels)
