"""What goes in and comes out of a function: tensors, images, states and classifier outputs, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from milpasses import _coremltools as host
from milpasses.interpreter.images import ColorLayout, ImageFormat, from_image, to_image
from milpasses.interpreter.program import Loaded
from milpasses.interpreter.registry import Array, InterpreterError

Kind = Literal["tensor", "image", "state"]


def numpy_type(sym_type: Any) -> Any:
    """NumPy type that MIL declares for a tensor or scalar; None for lists, strings, dictionaries and
    states.
    """
    if types.is_tensor(sym_type):
        sym_type = sym_type.get_primitive()
    if not types.is_primitive(sym_type) or sym_type == types.str:
        return None
    declared: Any = host.numpy_type_of(sym_type)
    return None if declared is None else np.dtype(declared).type


@dataclass(frozen=True)
class Feature:
    """One input of a function.

    ``shape`` holds None where a dimension is free; ``allowed`` lists the only shapes that an enumerated
    input takes, ``ranges`` the (lowest, highest) size of each dimension, highest None where unbounded.
    """

    name: str
    kind: Kind
    dtype: Any
    shape: tuple[int | None, ...]
    image: ImageFormat | None = None
    allowed: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    default: float | None = None  # fills an optional input that is not given

    def fixed_shape(self) -> tuple[int, ...]:
        """The shape, free dimensions at their lowest size or 1."""
        lows = [low for low, _ in self.ranges] or [1] * len(self.shape)
        return tuple(low if size is None else size for size, low in zip(self.shape, lows, strict=True))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise InterpreterError if an array of ``shape`` does not fit."""
        wanted = ", ".join("?" if size is None else str(size) for size in self.shape)
        fits = len(shape) == len(self.shape) and all(
            size is None or size == got for size, got in zip(self.shape, shape, strict=True)
        )
        if not fits:
            raise InterpreterError(f"input '{self.name}' must have shape ({wanted}), got {shape}")
        if self.allowed and shape not in self.allowed:
            listed = ", ".join(str(a) for a in self.allowed)
            raise InterpreterError(f"input '{self.name}' must have one of the shapes {listed}, got {shape}")
        for axis, ((low, high), got) in enumerate(zip(self.ranges, shape, strict=bool(self.ranges))):
            if got < low or (high is not None and got > high):
                span = f"at least {low}" if high is None else f"{low} to {high}"
                raise InterpreterError(
                    f"input '{self.name}' takes {span} along axis {axis}, got shape {shape}"
                )


@dataclass(frozen=True)
class State:
    """The states of one sequence of runs: arrays by name, replaced by each run that writes them."""

    values: dict[str, Array]


def describe_function(loaded: Loaded) -> dict[str, Feature]:
    """The inputs of the function, in order."""
    described = {} if loaded.description is None else {d.name: d for d in loaded.description.input}
    images = {t.name: t for t in loaded.input_types if hasattr(t, "color_layout")}
    features: dict[str, Feature] = {}
    for name, var in loaded.function.inputs.items():
        is_state = types.is_state(var.sym_type)
        tensor_type = var.sym_type.wrapped_type() if is_state else var.sym_type
        shape = tuple(None if is_symbolic(size) else int(size) for size in tensor_type.get_shape())
        dtype = numpy_type(tensor_type)
        if is_state:
            features[name] = Feature(name, "state", dtype, shape)
        elif name in described:
            features[name] = _described(name, dtype, shape, described[name])
        elif name in images and len(shape) == 4:
            features[name] = Feature(name, "image", dtype, shape, _declared_image(images[name], var))
        else:
            features[name] = Feature(name, "tensor", dtype, shape)
    return features


def _described(name: str, dtype: Any, shape: tuple[int | None, ...], description: Any) -> Feature:
    """A feature with the constraints that the package states."""
    kind = description.type.WhichOneof("Type")
    if kind == "imageType":
        return Feature(name, "image", dtype, shape, ImageFormat(_layout(description.type.imageType)))
    array = description.type.multiArrayType
    allowed = tuple(tuple(int(n) for n in s.shape) for s in array.enumeratedShapes.shapes)
    ranges = tuple(
        (int(r.lowerBound), None if r.upperBound < 0 else int(r.upperBound))
        for r in array.shapeRange.sizeRanges
    )
    default = None
    if description.type.isOptional:
        which = array.WhichOneof("defaultOptionalValue")
        default = float(getattr(array, which)) if which else 0.0
    known = ranges if len(ranges) == len(shape) else ()
    return Feature(name, "tensor", dtype, shape, None, allowed, known, default)


def _layout(image: Any) -> ColorLayout:
    """The layout that an ``ImageFeatureType`` message states."""
    return host.message_class("FeatureTypes_pb2", "ImageFeatureType.ColorSpace").Name(image.colorSpace)


def _declared_image(declared: Any, var: Any) -> ImageFormat:
    """Format of an ImageType; its scale and bias, unless a pass has put them into the graph already."""
    layout: ColorLayout = declared.color_layout.name
    inserted = any(
        "__scaled__" in out.name or "__biased__" in out.name for op in var.child_ops for out in op.outputs
    )
    if inserted:
        return ImageFormat(layout)
    bias = declared.bias if isinstance(declared.bias, (list, tuple)) else [declared.bias]
    return ImageFormat(layout, float(declared.scale), tuple(float(b) for b in bias if b is not None))


def feed(
    features: Mapping[str, Feature], values: Mapping[str, Any], state: State | None, rounded: bool
) -> dict[str, Array]:
    """The caller's ``values``, checked, as the arrays that the engine computes with."""
    wanted = [f for f in features.values() if f.kind != "state"]
    unknown = sorted(set(values) - {f.name for f in wanted})
    missing = sorted(f.name for f in wanted if f.name not in values and f.default is None)
    if unknown or missing:
        problem = [f"missing {', '.join(missing)}"] if missing else []
        problem += [f"unknown {', '.join(unknown)}"] if unknown else []
        names = ", ".join(f.name for f in wanted)
        raise InterpreterError(f"{'; '.join(problem)}: the inputs are {names or 'none'}")
    _check_state(features, state)
    arrays: dict[str, Array] = {}
    for feature in wanted:
        if feature.name not in values:
            assert feature.default is not None
            arrays[feature.name] = np.full(
                feature.fixed_shape(), feature.default, compute_type(feature.dtype)
            )
        elif feature.image is not None:
            arrays[feature.name] = _image(feature, feature.image, values[feature.name])
        else:
            arrays[feature.name] = _tensor(feature, values[feature.name])
        if rounded and feature.dtype == np.float16:
            from milpasses_kernels.half import round_to_half  # Numba: not before something runs

            arrays[feature.name] = round_to_half(arrays[feature.name])
    return arrays


def _check_state(features: Mapping[str, Feature], state: State | None) -> None:
    states = [f for f in features.values() if f.kind == "state"]
    if not states:
        if state is not None and state.values:
            raise InterpreterError("the function has no states, but a state was given")
        return
    names = ", ".join(f.name for f in states)
    if state is None:
        raise InterpreterError(f"the function has states ({names}): pass state=interpreter.make_state()")
    for feature in states:
        if feature.name not in state.values:
            raise InterpreterError(
                f"the given state has no '{feature.name}': the function's states are {names}"
            )
        feature.check_shape(np.shape(state.values[feature.name]))


def compute_type(declared: Any) -> Any:
    """The type that the engine computes with where MIL declares ``declared``."""
    return np.float32 if np.issubdtype(declared, np.floating) else declared


def _image(feature: Feature, image: ImageFormat, value: Any) -> Array:
    try:
        array = from_image(image, value)
    except ValueError as error:
        raise InterpreterError(f"input '{feature.name}': {error}") from error
    feature.check_shape(array.shape)
    return array.astype(compute_type(feature.dtype), copy=False)


def _tensor(feature: Feature, value: Any) -> Array:
    """An array in the type that the engine computes with; a type that would lose values is an error."""
    array = np.asarray(value)
    wanted = np.dtype(feature.dtype)
    if array.dtype.kind not in "fiub":
        raise InterpreterError(f"input '{feature.name}' must be {wanted}, got an array of {array.dtype}")
    if array.dtype.kind == "f" and wanted.kind != "f":
        raise InterpreterError(
            f"input '{feature.name}' must be {wanted}, got {array.dtype}: round it, then use astype({wanted})"
        )
    feature.check_shape(array.shape)
    if wanted.kind in "iu" and array.size and array.dtype != wanted:
        info = np.iinfo(wanted)
        if int(array.min()) < info.min or int(array.max()) > info.max:
            raise InterpreterError(f"input '{feature.name}' must be {wanted}, got values outside its range")
    return array.astype(compute_type(feature.dtype), copy=False)


def fetch(loaded: Loaded, results: Sequence[Any], rounded: bool) -> dict[str, Any]:
    """The outputs by name, in the types that MIL declares; copies, so that a caller may change them."""
    described = {} if loaded.description is None else {d.name: d for d in loaded.description.output}
    outputs: dict[str, Any] = {}
    for var, value in zip(loaded.function.outputs, results, strict=True):
        declared = numpy_type(var.sym_type)
        if declared is None:
            outputs[var.name] = value
            continue
        described_as = described.get(var.name)
        if described_as is not None and described_as.type.WhichOneof("Type") == "imageType":
            layout = _layout(described_as.type.imageType)
            outputs[var.name] = to_image(ImageFormat(layout), value)
            continue
        exact = np.issubdtype(declared, np.floating) and not rounded
        outputs[var.name] = np.array(value, np.float32 if exact else declared)
    return outputs
