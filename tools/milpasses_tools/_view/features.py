"""What goes into a model and comes out of it, as its description says, in words."""

from typing import Any, cast

import attrs

from milpasses_tools._output import shape_text


@attrs.frozen
class Function:
    """A function of the program: what goes in, what comes out, what stays between calls. Name to type."""

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    states: dict[str, str]


def functions_of(description: Any, names: list[str]) -> tuple[Function, ...]:
    """The functions with their features; a model of one function describes it at the top."""
    several = {function.name: function for function in description.functions}
    return tuple(
        Function(name, _features(one.input), _features(one.output), _features(one.state))
        for name, one in ((name, several.get(name, description)) for name in names)
    )


def _features(features: Any) -> dict[str, str]:
    return {feature.name: type_text(feature.type) for feature in features}


def type_text(feature: Any) -> str:
    """A feature's type in a few words: ``float16 1x3x224x224``, ``RGB image 224x224``."""
    kind = cast(str, feature.WhichOneof("Type") or "no type")
    optional = " (optional)" if feature.isOptional else ""
    if kind == "stateType":
        return _array_text(feature.stateType.arrayType)
    if kind == "multiArrayType":
        return _array_text(feature.multiArrayType) + optional
    if kind == "imageType":
        image = feature.imageType
        space = _name(type(image).ColorSpace, image.colorSpace)
        return f"{space} image {image.width}x{image.height}{_flexible(image)}{optional}"
    return kind.removesuffix("Type") + optional


def _array_text(array: Any) -> str:
    dtype = _name(type(array).ArrayDataType, array.dataType).lower()
    shape = shape_text(array.shape) if array.shape else "unknown"
    return f"{dtype} {shape}{_flexible(array)}"


def _name(kinds: Any, number: int) -> str:
    """The name of a number among ``kinds``; the number where it has none: a damaged or a newer model."""
    return str(kinds.Name(number)) if number in kinds.values() else f"type{number}"


def _flexible(feature: Any) -> str:
    """The other shapes or sizes that a feature takes."""
    which = feature.WhichOneof("ShapeFlexibility" if hasattr(feature, "shape") else "SizeFlexibility")
    if which == "enumeratedShapes":
        return f", one of {' '.join(shape_text(one.shape) for one in feature.enumeratedShapes.shapes)}"
    if which == "shapeRange":
        return f", {'x'.join(_range(one) for one in feature.shapeRange.sizeRanges)}"
    if which == "enumeratedSizes":
        return f", one of {' '.join(f'{one.width}x{one.height}' for one in feature.enumeratedSizes.sizes)}"
    if which == "imageSizeRange":
        sizes = feature.imageSizeRange
        return f", {_range(sizes.widthRange)}x{_range(sizes.heightRange)}"
    return ""


def _range(sizes: Any) -> str:
    if sizes.lowerBound == sizes.upperBound:
        return str(sizes.lowerBound)
    return f"({sizes.lowerBound}..{'any' if sizes.upperBound < 0 else sizes.upperBound})"
